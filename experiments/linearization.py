r"""Do the blocks of a deep net become linear in their own updates?

CompleteP (arXiv 2505.01618), Figure 6, and Tensor Programs VI (arXiv 2310.02244) on
layerwise linearization: after t steps of training a block of depth k >= 2 is at a distance
|F(W + D) - F(W) - J D| / |J D| of order L^(-gamma) from linear in its own update D. Under
Depth-muP (1/2, 1/2) that is L^(-1/2): what its matrices could do together is lost in deep
nets. Under ODE and CompleteP (1, 0) nothing is lost, nor where the update factor is
missing, (1/2, 0). The whole net stays nonlinear in all updates together: L^(1 - alpha -
gamma). Besides, why |x|: the gradients in neighbouring blocks have cosine 1/2 under ReLU,
0 under |x|, 1 in pre-nonlinearity and linear blocks.

  python -m experiments.linearization --workdir=DIR

Nets of width 64 (tanh behind RMS-norm, k = 1 and 2) and 4 to 64 blocks on 8x8 digits,
one step of Adam at 2^-8. On CIFAR-10, from its official files, deeper and wider:

  python -m experiments.linearization --workdir=DIR --dataset=cifar10 --data_dir=FOLDER \
    --depths=4,16,64,256,1024 --width=256 --learning_rate=0.001 --steps=10

k = 1 goes as k = 2 does, by the curvature of the nonlinearity alone. Where that has a kink,
as in --activation=relu, the exponent is -gamma/2 for all k.

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net and seed: mean ratio of the blocks,
distance of the net, and what rounding makes of both; per kind of block and seed: cosine),
summary.json (slopes, cosines and the claims, under "linearization") and
linearization.png. Interrupted, the same command continues.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments._lib import (
  app,
  data,
  described,
  linearization_config,
  linearization_figure,
  linearization_measuring,
  linearization_table,
  linearization_verdict,
)
from experiments._lib import flags as reading
from experiments._lib.linearization_config import BLOCKS, Config, Net
from experiments._lib.linearization_measuring import GRADIENTS
from experiments._lib.workdir import Workdir

_NAME = "linearization"


def measure(
  config: Config, workdir: Workdir, dataset: data.Dataset
) -> list[dict[str, Any]]:
  """The records of all nets; those of a former call are not measured again."""
  records = workdir.results() if (workdir.path / "results.jsonl").exists() else []
  finished = {_what(r) for r in records}
  todo = [*config.nets(), *BLOCKS]
  with app.progress(total=len(todo), unit="net") as bar:
    for what in todo:
      label = ", ".join(map(str, what)) if isinstance(what, Net) else what
      bar.set_description(label, refresh=False)
      if what not in finished:
        kind = linearization_measuring
        measured = kind.linearization if isinstance(what, Net) else kind.gradients
        records += measured(config, what, dataset)
        workdir.write_results(records)
      bar.update()
  return workdir.results()


def _what(record: dict[str, Any]) -> Net | str:
  if record["measure"] == GRADIENTS:
    return record["block"]
  return Net(*(record[field] for field in Net._fields))


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = linearization_config.from_flags()
  which = "the shallowest and the deepest net of each kind that is trained"
  if described.stops(_NAME, config.described_nets, which):
    return
  what = {"experiment": _NAME, **dataclasses.asdict(config)}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    linearization_table.show(workdir.results(), summary[_NAME])
    return
  dataset = data.load(config.dataset, config.data_dir)
  workdir.claim()
  records = measure(config, workdir, dataset)
  ps = {name: config.parametrization(name) for name in config.parametrizations}
  points = {name: (float(p.alpha), float(p.gamma)) for name, p in ps.items()}
  found = linearization_verdict.summarize(records, points, config.activation)
  figure = workdir.path / f"{_NAME}.png"
  linearization_figure.draw(records, config.title(), figure)
  workdir.write_summary({_NAME: found})
  linearization_table.show(records, found)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
