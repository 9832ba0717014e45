r"""Trains a convolutional residual net on images, any parametrization, on any mesh.

  python -m experiments.train_resnet --workdir=DIR

trains a small one on 8x8 digits. On CIFAR-10 (FOLDER holds its binary version), with the
hyperparameters of a net of width 64 and 6 blocks, on 8 devices of which 2 share each
block, tested on all 10,000 test images:

  python -m experiments.train_resnet --workdir=DIR --dataset=cifar10 --data_dir=FOLDER \
    --base_width=64 --base_depth=6 --width=256 --depth=48 --stages=3 --patch=1 \
    --stem_kernel_size=3 --batch_size=200 --steps=25000 --lr=0.001 --dtype=bfloat16 \
    --eval_every=1000 --eval_batches=50 --save_every=1000 --mesh=data:4,fsdp:2

On several machines, add --distributed: docs/pods.md. Adam with optional decay of the
matrices, no augmentation. Defaults: width 32, 8 blocks of one convolution in one stage,
patches of 2, base net the same, 200 steps of 64 images, lr 2^-10, depth_mup. For
--block_depth=2 or more take complete_p: README.md, "Which parametrization".

Writes config.json, results.jsonl (loss, accuracy, norm of the gradient, learning rate,
images per second and model-FLOP utilization by step; validation, on the test part, by
loss and accuracy), checkpoints/, summary.json and loss.png. Interrupted, by SIGTERM or
otherwise, the same command continues, also on another mesh.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import flax_depthmup as dmup
from experiments._lib import app, data, described, train_flags, train_main
from experiments._lib import flags as reading
from experiments._lib.described import Described
from experiments._lib.loader import Batches, in_order
from experiments._lib.throughput import peak_flops, resnet_flops
from experiments._lib.train_flags import DTYPES, Optimization
from experiments._lib.train_program import Program
from experiments._lib.training import Run, Work
from experiments._lib.workdir import Workdir

_STAGES = flags.DEFINE_integer("stages", 1, "Each but the first halves height and width.")
_KERNEL_SIZE = flags.DEFINE_integer("kernel_size", 3, "Of the convolutions in branches.")
_STEM_KERNEL_SIZE = flags.DEFINE_integer(
  "stem_kernel_size", None, "Of the first convolution; default: --patch, its stride."
)
#: Shared flags that mean nothing here.
_FOREIGN = ("optimizer", "head_dim", "sequence_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What the run is; config.json holds it. See the flags' own help.

  Attributes:
    net: the fields of `ResNet` beside outputs and parametrization.
    optimization: how it is trained.
  """

  dataset: str
  data_dir: str | None
  parametrization: str
  base_width: int
  base_depth: int
  net: dict[str, Any]
  optimization: Optimization

  def model(self) -> dmup.ResNet:
    """The net."""
    return dmup.ResNet(
      outputs=data.CLASSES,
      parametrization=reading.parametrization(
        self.parametrization, self.base_width, self.base_depth
      ),
      remat=flags.FLAGS.remat,
      dtype=DTYPES[self.optimization.dtype],
      **self.net,
    )


def config_from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("train_resnet", _FOREIGN)
  width, depth = reading.default(f.width, 32), reading.default(f.depth, 8)
  reading.positive(width, "width")
  reading.positive(depth, "depth")
  net = {
    "width": width,
    "depth": depth,
    "stages": _STAGES.value,
    "block_depth": reading.default(f.block_depth, 1),
    "kernel_size": _KERNEL_SIZE.value,
    "patch": reading.default(f.patch, 2),
    "stem_kernel_size": _STEM_KERNEL_SIZE.value,
    "activation": f.activation or "relu",
    "pre_nonlinearity": reading.default(f.pre_nonlinearity, False),
    "norm": f.norm,
    "block_multiplier": reading.default(f.block_multiplier, 1.0),
    "train_boundary": reading.default(f.train_boundary, True),
  }
  reading.positive(net["block_multiplier"], "block_multiplier")
  config = Config(
    dataset=f.dataset or "digits",
    data_dir=f.data_dir,
    parametrization=f.parametrization or "depth_mup",
    base_width=reading.default(f.base_width, width),
    base_depth=reading.default(f.base_depth, depth),
    net=net,
    optimization=train_flags.optimization(steps=200, batch_size=64, lr=2**-10),
  )
  data.check_name(config.dataset, config.data_dir)
  config.model()  # names a wrong value of the net
  return config


class Images:
  """Labelled images as examples: inputs [height, width, channels] and targets."""

  def __init__(self, dataset: data.Dataset):
    images = dataset.images()
    self._x, self._y = images.x, images.y
    self.shape = self._x.shape[1:]

  def __len__(self) -> int:
    return len(self._x)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    return {"inputs": self._x[i], "targets": self._y[i]}


def loss_of(model: dmup.ResNet):
  """Mean cross-entropy of the label, natural log, and the share of labels guessed."""

  def loss(params: Any, batch: Any) -> dict[str, jax.Array]:
    logits = model.apply({"params": params}, batch["inputs"]).astype(jnp.float32)
    targets = batch["targets"]
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return {"loss": errors.mean(), "accuracy": (logits.argmax(-1) == targets).mean()}

  return loss


def build(config: Config, workdir: Workdir) -> Run:
  """Everything that a run needs, restored to where it was left."""
  how, name = config.optimization, config.dataset
  splits = data.load_splits(name, config.data_dir)
  train, test = Images(splits.train), Images(splits.test)
  model, mesh = config.model(), train_flags.mesh(how.batch_size)
  program = Program(
    model=model,
    example=jnp.zeros((1, *train.shape), jnp.float32),
    loss=loss_of(model),
    optimizer=how.optimizer,
    rate=how.rate(),
    mesh=mesh,
    rules=dmup.make_rules(flags.FLAGS.rules),
    batch_size=how.batch_size,
    accumulate=flags.FLAGS.accumulate,
  )
  place, count = program.batch_place, flags.FLAGS.eval_batches
  peak = peak_flops(jax.devices()[0], flags.FLAGS.peak_tflops)
  return Run(
    program,
    Batches(train, how.batch_size, how.seed, place, f"the training part of {name}"),
    in_order(test, how.batch_size, count, place, f"the test part of {name}"),
    workdir,
    identity(config, program, model, splits.fingerprint),
    steps=how.steps,
    seed=how.seed,
    cadence=train_flags.cadence(how.steps),
    work=Work(
      unit="images",
      units=how.batch_size,
      flops=resnet_flops(model, train.shape),
      peak=peak and peak * mesh.size,
    ),
  )


def identity(
  config: Config, program: Program, model: dmup.ResNet, fingerprint: str
) -> dict[str, Any]:
  """What the run is, as its checkpoints hold it."""
  return {
    "parametrization": model.parametrization.as_dict(),
    "model": {"name": "ResNet", "outputs": model.outputs, **config.net},
    "optimization": dataclasses.asdict(config.optimization),
    "data": {"fingerprint": fingerprint},
    "scales": dmup.scales_as_dict(program.scales),
  }


def described_net(config: Config) -> Described:
  """The net that is trained, for --describe."""
  sizes = "width {width}, depth {depth}".format(**config.net)
  label = f"{config.parametrization}, {sizes}"
  return Described(label, config.model(), described.image(config.dataset, flat=False))


def main(argv: Sequence[str]) -> None:
  """Trains what the flags describe."""
  del argv
  config = config_from_flags()
  train_flags.cadence(config.optimization.steps)
  which = "the net that is trained"
  if described.stops("train_resnet", lambda: [described_net(config)], which):
    return
  train_main.train(config, build)


if __name__ == "__main__":
  app.run(main)
