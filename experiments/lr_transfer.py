r"""Is the best learning rate of a shallow net still the best of a deep one?

Tensor Programs VI (arXiv 2310.02244), Figure 10, and by its flags Figures 11, 12 and
20: residual MLPs of growing depth, a grid of learning rates and seeds, for any
parametrizations of the class.

  python -m experiments.lr_transfer --workdir=DIR

trains 8x8 digits. The paper's setting, from the official CIFAR-10 files (the
paper's a = 2 multiplies 1/sqrt(L0); ours is the multiplier at base depth):

  python -m experiments.lr_transfer --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --parametrizations=depth_mup,0.5:0 --width=256 \
    --base_depth=8 --depths=8,16,32,64 --block_multiplier=0.70710678 \
    --log2_lrs=-12.5:-8.5:0.5 --seeds=3 --steps=500 --window=100

Figures 11 (ODE), 12 (pre-LayerNorm and |x|) and 20 (standard fails at depth), each with
--dataset=cifar10 --data_dir=FOLDER --width=64 --base_depth=8 --steps=300, in 5, 5 and 4
minutes on 2 cores; the paper's a is 2^-0.5, 2^-3 and 2:

  python -m experiments.lr_transfer --workdir=DIR --parametrizations=ode,depth_mup \
    --depths=4,8,16,32,64 --block_multiplier=0.25 --log2_lrs=-8:-2:0.5 --seeds=3
  python -m experiments.lr_transfer --workdir=DIR --parametrizations=depth_mup,0.5:0 \
    --depths=4,8,16,32,64 --block_multiplier=0.04419417 --activation=abs \
    --norm=layer_norm --log2_lrs=-8:-1.5:0.5 --seeds=3
  python -m experiments.lr_transfer --workdir=DIR --parametrizations=standard,depth_mup \
    --depths=8,32,128 --block_multiplier=0.70710678 --log2_lrs=-12:-6:1 --seeds=3

At paper scale the same with --width=256 --seeds=5 --steps=39000 --window=1000 and depths
to 512 (Figure 11) or 1024.

Transformers on text and convolutional nets: --model=transformer, --model=resnet. What
grows: --axis=depth, --axis=width with --widths, or both in pairs, --axis=joint:

  python -m experiments.lr_transfer --workdir=DIR --model=transformer --axis=joint \
    --parametrizations=complete_p --widths=64,128,256 --depths=2,4,8 --base_depth=2 \
    --log2_lrs=-11:-6:1 --seeds=3 --steps=300 --batch_size=16

On a pod, members along one axis of the mesh and each member split along the others:
--mesh=sweep:16,fsdp:4 (docs/pods.md).

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net), summary.json (the verdict,
under "transfer") and lr_transfer.png. Interrupted, the same command continues.
"""

import functools
from collections.abc import Sequence

from experiments._lib import (
  app,
  described,
  sweeps,
  transfer_config,
  transfer_figure,
  transfer_table,
)
from experiments._lib import flags as reading
from experiments._lib.workdir import Workdir
from flax_depthmup.diagnostics import transfer_verdict


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = transfer_config.from_flags()
  which = "the smallest and the largest net of each parametrization"
  if described.stops("lr_transfer", config.described_nets, which):
    return
  reading.positive(sweeps.CHUNK.value, "chunk")
  workdir = Workdir(reading.WORKDIR.value, config.described(), claim=False)
  summary = workdir.summary()
  if summary is not None and "transfer" in summary:
    print(f"already done: {workdir.path}")
    transfer_table.show(summary["transfer"], config.size)
    return
  records = sweeps.results(config, workdir, functools.partial(sweeps.grown, config))
  if records is None:
    return  # one process speaks for all
  verdicts = transfer_verdict(records, config.size)
  figure = workdir.path / "lr_transfer.png"
  transfer_figure.draw(records, verdicts, config.size, config.title(), figure)
  workdir.write_summary({"transfer": verdicts})
  transfer_table.show(verdicts, config.size)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
