r"""Do neighbouring blocks of a deep trained net compute different features?

Tensor Programs VI (arXiv 2310.02244), Figures 17, 18 and 19: how far the features move
over a part epsilon of the depth, d(eps) = rms(x^((lambda + eps) L) - x^(lambda L)),
averaged over lambda and scaled to 1 at the smallest eps. Under Depth-muP the curve stays
near sqrt(eps) at every depth; under ODE it moves to eps as L and training go on, which
is to say that neighbouring blocks do the same; |x| is flatter than ReLU.

  python -m experiments.feature_diversity --workdir=DIR

trains nets of width 64 and 32 to 128 blocks on 8x8 digits (Adam at 1e-3, 200 steps; the
paper's a = 2 is a multiplier of 2/sqrt(8) = 0.71 at base depth 8, here the default). The
paper's setting, from the official CIFAR-10 files; a net of 256 blocks takes 13 TFLOP:

  python -m experiments.feature_diversity --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --parametrizations=depth_mup,ode --activations=relu \
    --depths=256,512 --width=256 --snapshots=0,100,500,1000 --seeds=1

and on an accelerator --depths=256,512,1024,2048,4096,8192 and --activations=relu,abs.

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net, seed, step and eps: d, scaled, and
the exponent kappa with its error), summary.json (kappa and the claims, under
"feature_diversity") and feature_diversity.png. Interrupted, the same command continues,
within a net from a state that is kept every two minutes.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

from experiments._lib import (
  app,
  data,
  described,
  feature_diversity_config,
  feature_diversity_figure,
  feature_diversity_table,
  feature_diversity_verdict,
)
from experiments._lib import flags as reading
from experiments._lib.feature_diversity_config import Config, Net
from experiments._lib.feature_diversity_training import Training
from experiments._lib.workdir import Workdir

_NAME = "feature_diversity"


def train(config: Config, workdir: Workdir, dataset: data.Dataset) -> list[dict[str, Any]]:
  """The records of all nets; those that a former call finished are not trained again."""
  records = workdir.results() if (workdir.path / "results.jsonl").exists() else []
  finished = {_net(r) for r in records}
  nets, each = config.nets(), config.seeds * config.snapshots[-1]
  states = workdir.path / "states"
  with app.progress(total=len(nets) * each, unit="step", unit_scale=True) as bar:
    for net in nets:
      bar.set_description(", ".join(map(str, net)), refresh=False)
      if net in finished:
        bar.update(each)
        continue
      training = Training(config, net, dataset)
      own = "-".join(map(str, net)).replace("/", "_")
      records += training.records(states / own, bar.update)
      workdir.write_results(records)
      shutil.rmtree(states, ignore_errors=True)
  return workdir.results()


def _net(record: dict[str, Any]) -> Net:
  return Net(*(record[field] for field in Net._fields))


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = feature_diversity_config.from_flags()
  which = "the shallowest and the deepest net of each parametrization"
  if described.stops(_NAME, config.described_nets, which):
    return
  what = {"experiment": _NAME, **dataclasses.asdict(config)}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    feature_diversity_table.show(workdir.results(), summary[_NAME])
    return
  dataset = data.load(config.dataset, config.data_dir)
  workdir.claim()
  records = train(config, workdir, dataset)
  models = {net.parametrization: config.model(net) for net in config.nets()}
  points = {
    name: (float(m.parametrization.alpha), float(m.parametrization.gamma))
    for name, m in models.items()
  }
  found = feature_diversity_verdict.summarize(records, points)
  figure = workdir.path / f"{_NAME}.png"
  feature_diversity_figure.draw(records, config.title(), figure)
  workdir.write_summary({_NAME: found})
  feature_diversity_table.show(records, found)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
