r"""Do finite nets converge to the exact limits, and infinite width to infinite depth?

For each limit of `flax_depthmup.limits`, nets of growing width are trained from many
seeds, or differentiated at initialization, and their rms deviation from the limit must
fall as n^(-1/2) over five doublings of the width (Tensor Programs IV, arXiv 2011.14522,
and VI, arXiv 2310.02244); and where a limit has
a depth, infinite width of depth L must approach infinite depth as 1/L. The nets are
plain code with nothing of the theory in it, but for those of one linear hidden layer
and of Word2Vec: these take the library's own step, the same at every width.

  python -m experiments.limit_convergence --workdir=DIR

looks at all limits, on data made up of normal numbers; there is no larger scale. Fewer,
and other widths:

  python -m experiments.limit_convergence --workdir=DIR \
    --limits=tanh_residual,abs_residual --widths=32,64,128,256,512,1024 --seeds=100

A limit of infinite depth (nonlinear residual nets, the ODE) is confronted with nets of
64 blocks, whose own bias of order 1/64 is below the scatter of nets of width 512: beyond
that the curves bend. The ODE of nonlinear nets is approached as L^(1/2 - alpha), too
slowly for a net, so that only its convergence in depth is shown.

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per limit and width: the rms deviation of
each seed, and the rms of their mean; per limit and depth: the rms deviation),
summary.json (the exponents and the claims, under "limit_convergence"),
limit_convergence_width.png and limit_convergence_depth.png. Interrupted, the same command
continues with the next width.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from experiments._lib import (
  app,
  described,
  limit_convergence_config,
  limit_convergence_figure,
)
from experiments._lib import flags as reading
from experiments._lib.limit_convergence_cases import CASES
from experiments._lib.limit_convergence_config import Config
from experiments._lib.limit_convergence_verdict import Records, by_size, claims
from experiments._lib.limit_slopes import rms
from experiments._lib.sweeps_claims import tell
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError

_NAME = "limit_convergence"


def measure(config: Config, workdir: Workdir) -> Records:
  """All records; what a former call measured is not measured again."""
  found: Records = []
  if (workdir.path / "results.jsonl").exists():
    found = workdir.results()
  sizes = {name: config.of_case(name)[0] for name in config.limits}
  deep = [name for name in config.limits if CASES[name].depths is not None]
  with app.progress(total=sum(map(len, sizes.values())) + len(deep), unit="size") as bar:
    for name in config.limits:
      for width in sizes[name]:
        bar.set_description(f"{name}, width {width}", refresh=False)
        if width not in by_size(found, "width", name):
          found.append(over_width(name, width, config.of_case(name)[1]))
          workdir.write_results(found)
        bar.update()
      if name in deep:
        bar.set_description(f"{name}, depths", refresh=False)
        if not by_size(found, "depth", name):
          found += over_depth(name, config.depths)
          workdir.write_results(found)
        bar.update()
  return workdir.results()


def over_width(name: str, width: int, seeds: int) -> dict:
  """The record of the nets of one width."""
  nets = CASES[name].nets
  assert nets is not None
  deviations = nets(width, seeds)
  if not np.isfinite(deviations).all():
    raise DepthMupError(f"nets of {name}, width {width}, diverge; give wider ones")
  by_seed = np.sqrt(np.square(deviations).mean(axis=1)).tolist()
  own = {"axis": "width", "case": name, "size": width}
  return {**own, "deviations": by_seed, "mean": rms(deviations.mean(axis=0))}


def over_depth(name: str, depths: Sequence[int]) -> Records:
  """A record for each depth of infinite width."""
  solve = CASES[name].depths
  assert solve is not None
  found = solve()
  return [
    {
      "axis": "depth",
      "case": name,
      "size": depth,
      "deviation": rms(found.at(depth) - found.limit),
      "error": found.error,
    }
    for depth in depths
  ]


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  instead = "its nets are plain code with the multipliers and rates of the theory"
  if described.stops_without(_NAME, instead):
    return
  if jax.process_count() > 1:
    raise DepthMupError(f"{_NAME} runs in one process; leave out --distributed")
  config = limit_convergence_config.from_flags()
  what = {"experiment": _NAME, **dataclasses.asdict(config)}
  workdir = Workdir(reading.WORKDIR.value, what)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    limit_convergence_figure.show(workdir.results(), summary[_NAME])
    tell(summary[_NAME])
    return
  records = measure(config, workdir)
  found = claims(records)
  figures = limit_convergence_figure.draw(records, found, workdir.path)
  workdir.write_summary({_NAME: found})
  limit_convergence_figure.show(records, found)
  tell(found)
  print("figures:", *figures)


if __name__ == "__main__":
  app.run(main)
