"""The flags of feature_diversity, resolved."""

import dataclasses
import itertools
from fractions import Fraction
from typing import Any, NamedTuple

from absl import flags

import flax_depthmup as dmup
from experiments._lib import (
  data,
  described,
  task,
  transfer_config,  # noqa: F401 (its flags parametrizations, depths and seeds)
)
from experiments._lib import flags as reading
from experiments._lib.described import Described
from flax_depthmup import DepthMupError

flags.DEFINE_list("activations", None, "Of the blocks: relu, abs, tanh, gelu, identity.")
flags.DEFINE_list("snapshots", None, "Training steps after which features are looked at.")
flags.DEFINE_float("learning_rate", None, "Of the base net.")
flags.DEFINE_integer("probe_images", None, "Training images whose features are compared.")
#: Shared flags that mean nothing here.
_FOREIGN = "depth activation block_depth pre_nonlinearity norm train_boundary steps window"
_FOREIGN += " head_dim sequence_length patch rules mesh eps weight_decay widths log2_lrs"
_FOREIGN += " log2_multipliers"


class Net(NamedTuple):
  """One architecture of a run, trained from every seed."""

  parametrization: str
  activation: str
  depth: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help."""

  dataset: str
  data_dir: str | None
  parametrizations: tuple[str, ...]
  activations: tuple[str, ...]
  depths: tuple[int, ...]
  seeds: int
  snapshots: tuple[int, ...]
  width: int
  base_width: int
  base_depth: int
  batch_size: int
  optimizer: str
  learning_rate: float
  block_multiplier: float
  probe_images: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type in (int, float):
        reading.positive(getattr(self, field.name), field.name)
    data.check_name(self.dataset, self.data_dir)
    if self.depths[0] < 4:
      raise DepthMupError(
        f"--depths={self.depths[0]}: of fewer than 4 blocks two parts of the depth cannot "
        "be compared; give 4 or more"
      )
    for name in ("parametrizations", "activations"):
      values = getattr(self, name)
      if not values or len(set(values)) != len(values):
        raise DepthMupError(f"--{name}: expected distinct names, at least one")
    if self.optimizer not in task.OPTIMIZERS:
      known = ", ".join(task.OPTIMIZERS)
      raise DepthMupError(f"--optimizer={self.optimizer}: expected one of {known}")
    for net in self.nets():
      self.model(net)  # names a wrong value of the net

  def nets(self) -> list[Net]:
    """All architectures, the depth running fastest."""
    grid = itertools.product(self.parametrizations, self.activations, self.depths)
    return [Net(*values) for values in grid]

  def epsilons(self) -> list[Fraction]:
    """The same for all depths, so that their curves compare: what the least resolves."""
    smallest = Fraction(1, min(256, self.depths[0]))
    return [smallest * 2**i for i in range(8) if smallest * 2**i <= Fraction(1, 2)]

  def title(self) -> str:
    """Of the figure."""
    rate = f"{self.optimizer}, learning rate {self.learning_rate:.3g}"
    seeds = f"{self.seeds} seed{'s' * (self.seeds > 1)}"
    return f"{self.dataset}, width {self.width}, {rate}, {seeds}"

  def described_nets(self) -> list[Described]:
    """The shallowest and the deepest of each parametrization, for --describe."""
    chosen = itertools.product(
      self.parametrizations, self.activations[:1], described.ends(self.depths)
    )
    return [self._described(Net(*values)) for values in chosen]

  def _described(self, net: Net) -> Described:
    model = self.model(net).clone(block_multiplier=self.block_multiplier)
    label = f"{net.parametrization}, width {self.width}, depth {net.depth}"
    return Described(label, model, described.image(self.dataset))

  def model(self, net: Net) -> dmup.ResidualMLP:
    """The paper's: one matrix in a branch, mean subtraction, input and output frozen."""
    p = reading.parametrization(net.parametrization, self.base_width, self.base_depth)
    return dmup.ResidualMLP(
      width=self.width,
      depth=net.depth,
      outputs=data.CLASSES,
      parametrization=p,
      activation=net.activation,
      train_boundary=False,
    )


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("feature_diversity", _FOREIGN.split())
  width = reading.default(f.width, 64)
  return Config(
    dataset=f.dataset or "digits",
    data_dir=f.data_dir,
    parametrizations=tuple(reading.default(f.parametrizations, ("depth_mup", "ode"))),
    activations=tuple(reading.default(f.activations, ("relu", "abs"))),
    depths=reading.integers(reading.default(f.depths, ["32", "64", "128"]), "depths"),
    seeds=reading.default(f.seeds, 2),
    snapshots=_steps(reading.default(f.snapshots, ["0", "20", "50", "200"])),
    width=width,
    base_width=reading.default(f.base_width, width),
    base_depth=reading.default(f.base_depth, 8),
    batch_size=reading.default(f.batch_size, 64),
    optimizer=f.optimizer or "adam",
    learning_rate=reading.default(f.learning_rate, 1e-3),
    block_multiplier=reading.default(f.block_multiplier, 0.5**0.5),
    probe_images=reading.default(f.probe_images, 64),
  )


def _steps(values: Any) -> tuple[int, ...]:
  """Snapshots, increasing; 0 is the initialization."""
  others = [value for value in values if value != "0"]
  start = (0,) if len(others) < len(values) else ()
  if len(values) - len(others) > 1 or not others:
    raise DepthMupError(
      f"--snapshots={','.join(values)!r}: expected distinct steps, one of them above 0, "
      "such as 0,100,500,1000"
    )
  return start + reading.integers(others, "snapshots")
