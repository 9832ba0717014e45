"""The flags of super_consistency, resolved."""

import dataclasses
import itertools
from typing import NamedTuple

from absl import flags

import flax_depthmup as dmup
from experiments._lib import (
  data,
  described,
  transfer_config,  # noqa: F401 (its flags axis, parametrizations, widths, depths, seeds)
)
from experiments._lib import flags as reading
from experiments._lib.described import Described
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import adam_threshold, descent_threshold

flags.DEFINE_integer("measure_every", None, "Steps between two measurements.")

OPTIMIZERS = ("sgd", "adam")
#: Shared flags that mean nothing here.
_FOREIGN = "block_depth head_dim sequence_length patch rules mesh eps weight_decay window"
_FOREIGN += " log2_lrs log2_multipliers"
#: Defaults by the axis that grows; of what is compared, the first is to be super
#: consistent. Over depth few steps, for what departs at first meets again at the edge.
_DEFAULTS = {
  "width": {
    "compared": ("depth_mup", "ntk"),
    "log2_lr": 1.0,
    "steps": 150,
    "measure_every": 10,
    "seeds": 5,
  },
  "depth": {
    "compared": ("depth_mup", "depth_mup@2"),
    "log2_lr": 0.5,
    "steps": 60,
    "measure_every": 5,
    "seeds": 3,
  },
}
#: Likewise where Adam, which knows no ntk, takes the place of SGD.
_ADAM = {
  "width": {"compared": ("depth_mup", "standard"), "log2_lr": -3.0},
  "depth": {"log2_lr": -3.0},
}


class Net(NamedTuple):
  """One architecture of a run, from every seed."""

  variant: str
  width: int
  depth: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    variants: a parametrization each, and behind an @ its number of weight matrices in
      a branch, 1 where it is left out.
    sizes: (width, depth) of the nets, growing along `axis`.
    batch_size: images that are trained on, all in every step.
  """

  dataset: str
  data_dir: str | None
  axis: str
  variants: tuple[str, ...]
  sizes: tuple[tuple[int, int], ...]
  seeds: int
  steps: int
  measure_every: int
  base_width: int
  base_depth: int
  batch_size: int
  optimizer: str
  log2_lr: float
  activation: str
  pre_nonlinearity: bool
  norm: str | None
  block_multiplier: float
  train_boundary: bool

  def __post_init__(self):
    positive = "seeds steps measure_every base_width base_depth batch_size block_multiplier"
    for name in positive.split():
      reading.positive(getattr(self, name), name)
    if self.steps % self.measure_every or self.steps < 2 * self.measure_every:
      raise DepthMupError(
        f"--measure_every={self.measure_every} with --steps={self.steps}: expected the "
        "steps to be a multiple, twice as many at least"
      )
    if self.optimizer not in OPTIMIZERS:
      known = ", ".join(OPTIMIZERS)
      raise DepthMupError(f"--optimizer={self.optimizer}: expected one of {known}")
    if not abs(self.log2_lr) <= 126:
      raise DepthMupError(
        f"--log2_lr={self.log2_lr}: 2^-126 to 2^126 are the rates of float32"
      )
    data.check_name(self.dataset, self.data_dir)
    names = self.variants
    if not names or len(set(names)) != len(names):
      raise DepthMupError("--parametrizations: expected distinct names, at least one")
    if self.optimizer == "adam" and any(_split(name)[0] == "ntk" for name in names):
      raise DepthMupError(
        "--parametrizations: ntk is defined for sgd here, not for --optimizer=adam; "
        "leave it out"
      )
    for net in self.nets():
      self.model(net)  # names a wrong value of the net

  @property
  def lr(self) -> float:
    """The learning rate eta."""
    return 2.0**self.log2_lr

  @property
  def threshold(self) -> float:
    """The edge of stability."""
    edge = adam_threshold if self.optimizer == "adam" else descent_threshold
    return edge(self.lr)

  def nets(self) -> list[Net]:
    """All architectures, the size running fastest."""
    return [Net(v, *size) for v, size in itertools.product(self.variants, self.sizes)]

  def described_nets(self) -> list[Described]:
    """The smallest and the largest of each variant, for --describe."""
    chosen = itertools.product(self.variants, described.ends(self.sizes))
    return [
      Described(
        f"{variant}, width {width}, depth {depth}",
        self.model(Net(variant, width, depth)),
        described.image(self.dataset),
      )
      for variant, (width, depth) in chosen
    ]

  def model(self, net: Net) -> dmup.ResidualMLP:
    """The net of a variant and a size."""
    name, block_depth = _split(net.variant)
    return dmup.ResidualMLP(
      width=net.width,
      depth=net.depth,
      outputs=data.CLASSES,
      parametrization=_parametrization(name, self.base_width, self.base_depth),
      block_depth=block_depth,
      activation=self.activation,
      pre_nonlinearity=self.pre_nonlinearity,
      norm=self.norm,
      block_multiplier=self.block_multiplier,
      train_boundary=self.train_boundary,
    )

  def title(self) -> str:
    """Of the figure."""
    widths, depths = (sorted(set(v)) for v in zip(*self.sizes, strict=True))
    still = f"depth {depths[0]}" if self.axis == "width" else f"width {widths[0]}"
    batch = f"the same {self.batch_size} images of {self.dataset} in every step"
    return f"{self.optimizer} at {self.lr:.3g} on {batch}, {still}, {self.activation}"


def _split(variant: str) -> tuple[str, int]:
  """Name and block depth of "name@block_depth"."""
  name, mark, text = variant.partition("@")
  if not mark:
    return name, 1
  if not text.isascii() or not text.isdigit() or int(text) < 1:
    raise DepthMupError(
      f"--parametrizations: {variant!r} has no number of matrices in a branch behind "
      "its @; write one, such as depth_mup@2"
    )
  return name, int(text)


def _parametrization(name: str, base_width: int, base_depth: int) -> dmup.Parametrization:
  """As the flag has it, and "ntk".

  The neural tangent parametrization: weights of variance 1 behind multipliers
  1/sqrt(fan_in), one rate for all. Here the multipliers are in the weights, so that
  their gradient descent is divided by the fan-in. In depth it is Depth-muP.
  """
  if name != "ntk":
    return reading.parametrization(name, base_width, base_depth)
  rows = dict(dmup.STANDARD.rows)
  for kind in (dmup.Kind.HIDDEN, dmup.Kind.OUTPUT):
    rows[kind] = dataclasses.replace(rows[kind], update=(-1, 0))
  rule = dmup.WidthRule("ntk", tuple(rows.items()))
  p = dmup.depth_mup(base_width=base_width, base_depth=base_depth)
  return dataclasses.replace(p, name="ntk", width_rule=rule)


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("super_consistency", _FOREIGN.split())
  axis = f.axis or "width"
  optimizer = f.optimizer or "sgd"
  sizes = _sizes(f, axis)
  otherwise = _DEFAULTS[axis]
  if optimizer == "adam":
    otherwise = otherwise | _ADAM[axis]
  return Config(
    dataset=f.dataset or "digits",
    data_dir=f.data_dir,
    axis=axis,
    variants=tuple(reading.default(f.parametrizations, otherwise["compared"])),
    sizes=sizes,
    seeds=reading.default(f.seeds, otherwise["seeds"]),
    steps=reading.default(f.steps, otherwise["steps"]),
    measure_every=reading.default(f.measure_every, otherwise["measure_every"]),
    base_width=reading.default(f.base_width, 1),
    base_depth=reading.default(f.base_depth, 4),
    batch_size=reading.default(f.batch_size, 512),
    optimizer=optimizer,
    log2_lr=reading.default(f.log2_lr, otherwise["log2_lr"]),
    activation=f.activation or "relu",
    pre_nonlinearity=reading.default(f.pre_nonlinearity, False),
    norm=f.norm,
    block_multiplier=reading.default(f.block_multiplier, 0.5),
    train_boundary=reading.default(f.train_boundary, False),
  )


def _sizes(f: flags.FlagValues, axis: str) -> tuple[tuple[int, int], ...]:
  """The (width, depth) of every net."""
  if axis == "joint":
    raise DepthMupError("--axis=joint: super_consistency grows width or depth, one of them")
  depth = axis == "depth"
  reading.refuse(
    f"super_consistency --axis={axis}",
    ("depth", "widths") if depth else ("width", "depths"),
  )
  if depth:
    width = reading.default(f.width, 64)
    depths = reading.default(f.depths, ["8", "16", "32", "64"])
    return tuple((width, d) for d in reading.integers(depths, "depths"))
  widths = reading.default(f.widths, ["32", "64", "128", "256"])
  depth = reading.default(f.depth, 4)
  return tuple((w, depth) for w in reading.integers(widths, "widths"))


def check_batch(config: Config, dataset: data.Dataset) -> None:
  """Raises `DepthMupError` where the data set has too few images for the batch."""
  if config.batch_size > len(dataset.x):
    raise DepthMupError(
      f"--batch_size={config.batch_size}: {config.dataset} has {len(dataset.x)} images in "
      "all; give at most as many"
    )
