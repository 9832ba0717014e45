"""What a coordinate check is made of, from its flags."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

import flax_depthmup as dmup
from experiments._lib import coordinate_faults, data, described, transfer_config
from experiments._lib import flags as reading
from experiments._lib.described import Described
from experiments._lib.sweeps_config import Config
from experiments._lib.task import scaled_direction
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import Training, sizes_of

NAME = "coordinate_check"
flags.DEFINE_list(
  "faults", None, "Mistakes to plant, each in a check of its own; default: all six."
)
flags.DEFINE_float("tolerance", 0.15, "How far a slope may be from theory.")
_ENTRY = transfer_config.Entry(
  name=NAME,
  parametrizations=("depth_mup",),
  depths=(8, 16, 32, 64),
  seeds=5,
  window=1,
  log2_lrs="-10",
  refused=("log2_multipliers", "log2_lrs", "window", "depth", "axis", "mesh", "rules"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What config.json holds.

  Attributes:
    net: the nets, data and rate.
    faults: each is planted in a check of its own, beside the one without.
    weight_decay: decoupled, outside of the scaling.
    eps: of Adam.
    tolerance: see --tolerance.
  """

  net: Config
  faults: tuple[str, ...]
  weight_decay: float
  eps: float
  tolerance: float

  def __post_init__(self):
    for name in self.faults:
      if name not in coordinate_faults.NAMES:
        known = ", ".join(coordinate_faults.NAMES)
        raise DepthMupError(f"--faults: {name!r} is unknown; expected some of {known}")
    if len(set(self.faults)) != len(self.faults):
      raise DepthMupError(f"--faults={','.join(self.faults)}: expected distinct names")
    if self.faults and (self.net.model != "mlp" or self.net.optimizer != "adam"):
      raise DepthMupError(
        "--faults are planted in residual MLPs trained by Adam; give --faults= with "
        f"--model={self.net.model} --optimizer={self.net.optimizer}"
      )
    if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
      raise DepthMupError(f"--weight_decay={self.weight_decay}: expected at least 0")
    if "decay_inside" in self.faults and not self.weight_decay:
      raise DepthMupError("--faults=decay_inside needs a --weight_decay above 0")
    for name in ("eps", "tolerance"):
      reading.positive(getattr(self, name), name)

  @property
  def checks(self) -> dict[str, tuple[str, str | None]]:
    """Name of a check -> parametrization and fault; one without fault for each."""
    names = self.net.parametrizations
    found: dict[str, tuple[str, str | None]] = {name: (name, None) for name in names}
    for name in names:
      p = reading.parametrization(name, self.net.base_width, self.net.base_depth)
      spoilt = [f for f in self.faults if coordinate_faults.spoils(f, p)]
      found |= {f"{name}, {fault}": (name, fault) for fault in spoilt}
    return found

  def model(self, name: str, fault: str | None, width: int, depth: int, vocab: Any) -> Any:
    """The net of one check and size."""
    net = self.net.net(name, width, depth, vocab)
    net = net.clone(block_multiplier=self.net.block_multiplier)
    return coordinate_faults.OF_MODEL.get(fault, lambda model: model)(net)

  def described_nets(self) -> list[Described]:
    """The smallest, the widest and the deepest of each parametrization, for --describe."""
    sizes, net = self.net.sizes, self.net
    chosen = [sizes[0], max(sizes), max(sizes, key=lambda size: size[1])]
    vocab = described.vocabulary(net.data_dir) if net.model == "transformer" else None
    return [
      described.of_config(
        net, f"{name}, width {w}, depth {d}", self.model(name, None, w, d, vocab)
      )
      for name in net.parametrizations
      for w, d in dict.fromkeys(chosen)
    ]

  def optimizer(self, fault: str | None) -> coordinate_faults.Optimizer:
    """That of one check."""
    if fault == "decay_inside":
      return coordinate_faults.decay_inside(self.eps, self.weight_decay)
    name = self.net.optimizer
    hyperparameters = {"eps": self.eps} if name == "adam" else {}

    def make(scales: Any, lr: jax.Array) -> optax.GradientTransformation:
      return optax.chain(
        scaled_direction(name, scales, **hyperparameters),
        optax.add_decayed_weights(self.weight_decay, mask=dmup.trainable(scales)),
        optax.scale_by_learning_rate(lr),
      )

    return coordinate_faults.OF_OPTIMIZER.get(fault, lambda tx: tx)(make)

  def training(self, fault: str | None, dataset: data.Dataset) -> Training:
    """One batch, over and over."""
    n = self.net.batch_size
    x, y = jnp.asarray(dataset.x[:n]), jnp.asarray(dataset.y[:n])

    def loss(logits: jax.Array) -> jax.Array:
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    has_eps = self.net.optimizer == "adam"
    return Training(
      inputs=x,
      loss=loss,
      optimizer=self.optimizer(fault),
      lr=2.0 ** self.net.log2_lrs[0],
      steps=self.net.steps,
      seeds=tuple(range(self.net.seeds)),
      eps=self.eps if has_eps else None,
      name=self.net.optimizer,
    )


def from_flags() -> Settings:
  """The flags as `Settings`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  width = reading.default(f.width, 64)
  widths = reading.integers(reading.default(f.widths, [str(width)]), "widths")
  depths = reading.default(f.depths, [str(d) for d in _ENTRY.depths])
  sizes = sizes_of(widths, reading.integers(depths, "depths"))
  if (f.optimizer or "adam") != "adam":
    reading.refuse(f"coordinate_check --optimizer={f.optimizer}", ("eps",))
  log2_lr = reading.default(f.log2_lr, -10.0)
  if not math.isfinite(log2_lr):
    raise DepthMupError(f"--log2_lr={log2_lr}: expected log2 of a rate, such as -10")
  net = transfer_config.from_flags(
    _ENTRY,
    sizes=tuple(sizes),
    axis="joint",
    log2_lrs=(log2_lr,),
    base_depth=reading.default(f.base_depth, sizes[0][1]),
    steps=reading.default(f.steps, 10),
    batch_size=reading.default(f.batch_size, 32),
    train_boundary=reading.default(f.train_boundary, True),
    block_multiplier=reading.default(f.block_multiplier, 0.7),
  )
  if f.faults is not None:
    faults = tuple(name for name in f.faults if name)
  else:
    faults = coordinate_faults.NAMES
  return Settings(
    net=net,
    faults=faults,
    weight_decay=reading.default(f.weight_decay, 0.1),
    eps=reading.default(f.eps, 1e-8),
    tolerance=f.tolerance,
  )
