r"""Which residual block makes the most of depth?

Tensor Programs VI (arXiv 2310.02244), Figures 2 to 6 and 21. Depths and the base depth
count layers, the weight matrices in branches: a block of two has half as many blocks. A
variant is an activation and, joined by +, pre (W phi(x) in the place of phi(W x)), k2 (or
another number of matrices in a block), layer_norm or rms_norm. The first one is expected
to win.

  python -m experiments.architectures --workdir=DIR

trains 8x8 digits, |x| against ReLU. On CIFAR-10, each with

  --dataset=cifar10 --data_dir=FOLDER --width=64 --base_depth=8 --steps=300

Figure 2, pre- against post-nonlinearity, 2 minutes on 2 cores: both transfer, the
former gains nothing from depth.

  python -m experiments.architectures --workdir=DIR --variants=relu,relu+pre \
    --depths=4,8,16,32 --block_multiplier=0.70710678 --log2_lrs=-10.5:-6.5:0.5 --seeds=3

Figure 3, |x| against ReLU, 2 minutes: |x| is better at depth. The paper's a = 2^-1.5
is 2^-1.5 / sqrt(8) = 1/8 here.

  python -m experiments.architectures --workdir=DIR --variants=abs,relu \
    --depths=4,8,16,32 --block_multiplier=0.125 --log2_lrs=-8:-3:0.5 --seeds=3

Figures 4 and 5, one matrix in a block against two, the best over rate and multiplier,
3 and 4 minutes: one is better.

  python -m experiments.architectures --workdir=DIR --variants=relu,relu+k2 \
    --depths=4,32 --log2_lrs=-10:-6:1 --log2_multipliers=-2:2:1 --seeds=3
  python -m experiments.architectures --workdir=DIR --depths=4,32 \
    --variants=abs+layer_norm,abs+layer_norm+k2 --log2_lrs=-10:-5:1 \
    --log2_multipliers=-4:1:1 --seeds=3

Figures 6 and 21, the best rate at a fixed multiplier moves with two matrices, 2 minutes
each:

  python -m experiments.architectures --workdir=DIR --variants=relu+k2 \
    --depths=4,8,16,32,64 --block_multiplier=1 --log2_lrs=-10.5:-5.5:0.5 --seeds=3
  python -m experiments.architectures --workdir=DIR --variants=abs+layer_norm+k2 \
    --depths=4,8,16,32 --block_multiplier=0.25 --log2_lrs=-9:-4:0.5 --seeds=3

At paper scale, on an accelerator, the grids of the paper with --width=256 --seeds=5
--steps=39000 --window=1000 --depths=8,16,32,64,128,256,512,1024
--log2_lrs=-12:-5.5:0.5.

Writes config.json, results.jsonl (a record per net), summary.json (the verdict, under
"architectures") and architectures.png. Interrupted, the same command continues.
"""

from collections.abc import Sequence

from experiments._lib import (
  app,
  architectures_config,
  architectures_figure,
  architectures_table,
  architectures_verdict,
  described,
  sweeps,
)
from experiments._lib import flags as reading
from experiments._lib.workdir import Workdir

_NAME = architectures_config.ENTRY.name


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  architectures = architectures_config.from_flags()
  which = "the smallest and the largest net of each variant"
  if described.stops(_NAME, architectures.described_nets, which):
    return
  reading.positive(sweeps.CHUNK.value, "chunk")
  workdir = Workdir(reading.WORKDIR.value, architectures.described(), claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    architectures_table.show(summary[_NAME])
    return
  records = sweeps.results(architectures.common, workdir, architectures.nets)
  if records is None:
    return  # one process speaks for all
  verdict = architectures_verdict.judge(architectures, records)
  figure = workdir.path / f"{_NAME}.png"
  architectures_figure.draw(records, verdict, architectures.title(), figure)
  workdir.write_summary({_NAME: verdict})
  architectures_table.show(verdict)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
