r"""Do linear residual nets trained by SGD reach the exact limit of width, and of depth?

Tensor Programs VI (arXiv 2310.02244), Figures 8 and 9: the rms of the features at layers
0, L/4, L/2, 3L/4 and L after 1, 5 and 10 steps, of nets of growing width under Depth-muP
against the limit n -> infinity of the same depth (Figure 8), and of that limit at growing
depth against its own limit (Figure 9). The input and output layers are frozen.

  python -m experiments.linear_limit --workdir=DIR

trains 120 nets of 64 blocks, widths 64 to 2048, on 8x8 digits. The paper's figures, from
the official MNIST files:

  python -m experiments.linear_limit --workdir=DIR --dataset=mnist --data_dir=FOLDER \
    --widths=128,256,512,1024,2048,4096

--widths=...,8192 needs 17 GB for the weights of a net. The paper's learning rate and
batch are not stated; here they are 1/2 and 4, at which the features move visibly.

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net, step and layer: rms; of a finite net
the rms deviation of all outputs of the run from the limit), summary.json
(the exponents and the claims, under "linear_limit"), linear_limit_width.png and
linear_limit_depth.png. Interrupted, the same command continues with the next net.
"""

import dataclasses
from collections.abc import Sequence

import jax

from experiments._lib import app, data, described, linear_limit_config, linear_limit_figure
from experiments._lib import flags as reading
from experiments._lib.linear_limit_config import Config
from experiments._lib.linear_limit_runs import Batches, Limit, batches, of_net
from experiments._lib.linear_limit_verdict import Records, claims
from experiments._lib.sweeps_claims import tell
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError

_NAME = "linear_limit"


def measure(config: Config, workdir: Workdir, limit: Limit, given: Batches) -> Records:
  """All records; nets that a former call trained are not trained again."""
  records: Records = []
  if (workdir.path / "results.jsonl").exists():
    records = workdir.results()
  else:
    records = limit.records()
    workdir.write_results(records)
  done = {(r["width"], r["seed"]) for r in records}
  nets = [(width, seed) for width in config.widths for seed in range(config.seeds)]
  outputs = limit.solve(config.depth).outputs
  with app.progress(total=len(nets), unit="net") as bar:
    for width, seed in nets:
      bar.set_description(f"width {width}", refresh=False)
      if (width, seed) not in done:
        records += of_net(config, width, seed, given, outputs)
        workdir.write_results(records)
      bar.update()
  return workdir.results()


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  instead = "its nets are plain code with the multiplier and rate of Depth-muP"
  if described.stops_without(_NAME, instead):
    return
  if jax.process_count() > 1:
    raise DepthMupError("linear_limit runs in one process; leave out --distributed")
  config = linear_limit_config.from_flags()
  what = {"experiment": _NAME, **dataclasses.asdict(config)}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    linear_limit_figure.show(workdir.results())
    tell(summary[_NAME])
    return
  given = batches(config, data.load(config.dataset, config.data_dir))
  limit = Limit(config, given)
  limit.solve(config.depth)  # a rate at which it diverges claims no folder
  workdir.claim()
  records = measure(config, workdir, limit, given)
  found = claims(records)
  figures = linear_limit_figure.draw(records, config.title(), workdir.path)
  workdir.write_summary({_NAME: found})
  linear_limit_figure.show(records)
  tell(found)
  print("figures:", *figures)


if __name__ == "__main__":
  app.run(main)
