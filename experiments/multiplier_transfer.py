r"""Is the best block multiplier of a shallow net still the best of a deep one?

Tensor Programs VI (arXiv 2310.02244), Figure 13: block multipliers are swept at one
learning rate, over depth. What must be seen: under Depth-muP the optimum stays.

  python -m experiments.multiplier_transfer --workdir=DIR

trains 8x8 digits. On CIFAR-10, about 2 minutes on 2 cores:

  python -m experiments.multiplier_transfer --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --parametrizations=depth_mup --width=64 --base_depth=8 \
    --depths=8,16,32,64 --log2_lr=-7 --log2_multipliers=-3.5:0.5:0.5 --seeds=5 --steps=300

(so short a training likes larger rates than 1e-3; with those a larger multiplier is best,
so large that the net explodes at the next one).

At paper scale, on an accelerator (the paper's log2 a runs from -6 to 3 and multiplies
1/sqrt(L0), so that of ours is 1.5 less; 2^-9.966 is 1e-3):

  python -m experiments.multiplier_transfer --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --parametrizations=depth_mup --width=256 --base_depth=8 \
    --depths=8,16,32,64,128,256,512,1024 --log2_lr=-9.966 \
    --log2_multipliers=-7.5:1.5:0.5 --seeds=5 --steps=39000 --window=1000

Any net, parametrizations and axis of lr_transfer, by the same flags.

Writes config.json, results.jsonl (a record per net), summary.json (the verdict, under
"multiplier_transfer") and multiplier_transfer.png. Interrupted, the same command
continues.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments._lib import (
  app,
  described,
  sweeps,
  transfer_config,
  transfer_figure,
  transfer_table,
)
from experiments._lib import flags as reading
from experiments._lib.sweeps_claims import Claim, claim, tell
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import transfer_verdict

_NAME = "multiplier_transfer"
_SWEPT = "log2_multiplier"
_ENTRY = transfer_config.Entry(
  name=_NAME,
  parametrizations=("depth_mup", "standard"),
  depths=(4, 8, 16, 32),
  seeds=3,
  log2_lrs="-8",
  log2_multipliers="-4:2:0.5",
  refused=("log2_lrs", "block_multiplier", "eps", "weight_decay"),
)


def claims(
  records: list[dict[str, Any]], verdicts: dict[str, Any], size: str
) -> dict[str, Claim]:
  """That the optimum stays, where theory says so: at alpha = gamma = 1/2."""
  points = {r["parametrization"]: (r["alpha"], r["gamma"]) for r in records}
  found = {}
  for name, verdict in verdicts.items():
    if points[name] != (0.5, 0.5):
      continue
    words = f"under {name} the best block multiplier does not move with {size} (Figure 13)"
    keys = (f"optimum_{_SWEPT}", "octaves_per_doubling", "ci95")
    measured = {key: verdict[key] for key in keys}
    found[name] = claim(words, measured, verdict["transfers"], verdict["reason"])
  return found


def show(summary: dict[str, Any], size: str) -> None:
  """Prints the verdicts and the claims."""
  transfer_table.show(summary["transfer"], size, _SWEPT)
  tell(summary["claims"])


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  rate = reading.default(flags.FLAGS.log2_lr, -8.0)
  if not math.isfinite(rate):
    raise DepthMupError(f"--log2_lr={rate}: expected log2 of the learning rate, such as -8")
  config = transfer_config.from_flags(_ENTRY, log2_lrs=(rate,))
  which = "the smallest and the largest net of each parametrization, at a = 1 of the sweep"
  if described.stops(_NAME, config.described_nets, which):
    return
  reading.positive(sweeps.CHUNK.value, "chunk")
  what = {"experiment": _NAME, **config.described()}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    show(summary[_NAME], config.size)
    return
  records = sweeps.results(config, workdir, functools.partial(sweeps.grown, config))
  if records is None:
    return  # one process speaks for all
  verdicts = transfer_verdict(records, config.size, _SWEPT)
  figure = workdir.path / f"{_NAME}.png"
  title = f"{config.title()}, learning rate 2^{rate:g}"
  transfer_figure.draw(records, verdicts, config.size, title, figure, _SWEPT)
  found = {"transfer": verdicts, "claims": claims(records, verdicts, config.size)}
  workdir.write_summary({_NAME: found})
  show(found, config.size)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
