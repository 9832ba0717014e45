r"""How does the loss over learning rate and block multiplier turn with depth?

Tensor Programs VI (arXiv 2310.02244), Figure 7; with --model=transformer Figures 14 to
16. What must be seen with two weight matrices in a block, under Depth-muP: the valley
of the best losses has slope d log2 a / d log2 eta = -2 at small depth, where the updates
of a block's matrices multiply, and -1 at large depth, where they add.

  python -m experiments.heat_map --workdir=DIR

trains 8x8 digits, with one matrix in a block unless --block_depth says otherwise. On
CIFAR-10, 10 minutes on 2 cores:

  python -m experiments.heat_map --workdir=DIR --dataset=cifar10 --data_dir=FOLDER \
    --width=64 --base_depth=8 --depths=2,8,32 --block_depth=2 --activation=abs \
    --norm=layer_norm --log2_lrs=-9.5:-4.5:0.5 --log2_multipliers=-7:0:1 --seeds=3 \
    --steps=200

At paper scale, on an accelerator:

  python -m experiments.heat_map --workdir=DIR --dataset=cifar10 --data_dir=FOLDER \
    --width=256 --base_depth=8 --depths=2,16,1024 --block_depth=2 --activation=abs \
    --norm=layer_norm --log2_lrs=-14:-7.5:0.5 --log2_multipliers=-11:2:1 --seeds=5 \
    --steps=39000 --window=1000

The transformer, on the text that Python ships (other text: prepare_text, --data_dir):

  python -m experiments.heat_map --workdir=DIR --model=transformer --width=64 \
    --base_depth=2 --depths=2,8 --log2_lrs=-10:-5:1 --log2_multipliers=-4:4:2 \
    --seeds=3 --steps=200 --batch_size=4 --sequence_length=16

at the paper's scale --depths=8,16,32,64,128 --steps=3900 --batch_size=256
--sequence_length=4096 on Common Crawl, there with a cosine schedule, here at a constant
rate.

What must be seen there: hardly any dependence on a, and a best learning rate between
Theta(1) and 1/sqrt(L).

`a` is the multiplier at base depth; the paper's multiplies 1/sqrt(L0).

Writes config.json, results.jsonl (a record per net), summary.json (the verdict, under
"heat_map") and heat_map.png. Interrupted, the same command continues.
"""

import functools
from collections.abc import Sequence

from experiments._lib import (
  app,
  described,
  heat_map_figure,
  heat_map_table,
  heat_map_verdict,
  sweeps,
  transfer_config,
)
from experiments._lib import flags as reading
from experiments._lib.workdir import Workdir

_NAME = "heat_map"
ENTRY = transfer_config.Entry(
  name=_NAME,
  parametrizations=("depth_mup",),
  depths=(2, 8, 32),
  seeds=3,
  log2_lrs="-10:-3:1",
  log2_multipliers="-7:1:1",
  refused=("block_multiplier", *transfer_config.ONE_RATE),
)


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = transfer_config.from_flags(ENTRY)
  which = "the smallest and the largest net of each parametrization, at a = 1 of the sweep"
  if described.stops(_NAME, config.described_nets, which):
    return
  reading.positive(sweeps.CHUNK.value, "chunk")
  what = {"experiment": _NAME, **config.described()}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    heat_map_table.show(summary[_NAME], config.size)
    return
  records = sweeps.results(config, workdir, functools.partial(sweeps.grown, config))
  if records is None:
    return  # one process speaks for all
  verdict = heat_map_verdict.judge(records, config.size, config.model, config.block_depth)
  figure = workdir.path / f"{_NAME}.png"
  heat_map_figure.draw(records, verdict["maps"], config.size, config.title(), figure)
  workdir.write_summary({_NAME: verdict})
  heat_map_table.show(verdict, config.size)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
