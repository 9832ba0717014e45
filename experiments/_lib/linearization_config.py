"""The flags of linearization, resolved."""

import dataclasses
import itertools
from typing import NamedTuple

from absl import flags

import flax_depthmup as dmup
from experiments._lib import (
  data,
  described,
  feature_diversity_config,  # noqa: F401 (its flags learning_rate and probe_images)
  task,
  transfer_config,  # noqa: F401 (its flags parametrizations, depths and seeds)
)
from experiments._lib import flags as reading
from experiments._lib.described import Described
from flax_depthmup import DepthMupError

flags.DEFINE_list("block_depths", None, "Weight matrices in a branch, one net for each.")
#: Shared flags that mean nothing here.
_FOREIGN = "depth block_depth pre_nonlinearity train_boundary window head_dim patch rules"
_FOREIGN += " sequence_length mesh eps weight_decay widths log2_lrs log2_multipliers"
_FOREIGN += " activations snapshots"

#: Blocks whose gradients are compared -> the fields of the net, E[phi']^2 / E[phi'^2] of
#: its nonlinearity behind the weights, and E[phi'^2].
BLOCKS = {
  "relu": ({"activation": "relu"}, 0.5, 0.5),
  "abs": ({"activation": "abs"}, 0.0, 1.0),
  "pre-nonlinearity relu": ({"activation": "relu", "pre_nonlinearity": True}, 1.0, 0.5),
  "identity": ({"activation": "identity"}, 1.0, 1.0),
}


class Net(NamedTuple):
  """One architecture of a run, from every seed."""

  parametrization: str
  block_depth: int
  depth: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help."""

  dataset: str
  data_dir: str | None
  parametrizations: tuple[str, ...]
  block_depths: tuple[int, ...]
  depths: tuple[int, ...]
  seeds: int
  steps: int
  width: int
  base_width: int
  base_depth: int
  batch_size: int
  optimizer: str
  activation: str
  norm: str | None
  learning_rate: float
  block_multiplier: float
  probe_images: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type in (int, float):
        reading.positive(getattr(self, field.name), field.name)
    data.check_name(self.dataset, self.data_dir)
    names = self.parametrizations
    if not names or len(set(names)) != len(names):
      raise DepthMupError("--parametrizations: expected distinct names, at least one")
    if self.depths[-1] < 2:
      raise DepthMupError("--depths=1: one block has no neighbour; give 2 or more")
    if self.optimizer not in task.OPTIMIZERS:
      known = ", ".join(task.OPTIMIZERS)
      raise DepthMupError(f"--optimizer={self.optimizer}: expected one of {known}")
    for net in self.nets():
      self.model(net)  # names a wrong value of the net

  def nets(self) -> list[Net]:
    """All trained architectures, the depth running fastest."""
    grid = itertools.product(self.parametrizations, self.block_depths, self.depths)
    return [Net(*values) for values in grid]

  def described_nets(self) -> list[Described]:
    """The shallowest and the deepest of each kind that is trained, for --describe."""
    chosen = itertools.product(
      self.parametrizations, self.block_depths, described.ends(self.depths)
    )
    return [
      Described(
        f"{name}, block depth {k}, width {self.width}, depth {depth}",
        self.model(Net(name, k, depth)),
        described.image(self.dataset),
      )
      for name, k, depth in chosen
    ]

  def parametrization(self, name: str) -> dmup.Parametrization:
    """By its name, with the base net's sizes."""
    return reading.parametrization(name, self.base_width, self.base_depth)

  def model(self, net: Net) -> dmup.ResidualMLP:
    """A net whose blocks are trained; the boundary stays as it was drawn."""
    return self._net(
      self.parametrization(net.parametrization),
      net.depth,
      block_depth=net.block_depth,
      activation=self.activation,
      norm=self.norm,
    )

  def untrained(self, block: str) -> dmup.ResidualMLP:
    """The deepest net of a kind of block in `BLOCKS`."""
    return self._net(self.parametrization("depth_mup"), self.depths[-1], **BLOCKS[block][0])

  def _net(self, p: dmup.Parametrization, depth: int, **fields: object) -> dmup.ResidualMLP:
    return dmup.ResidualMLP(
      width=self.width,
      depth=depth,
      outputs=data.CLASSES,
      parametrization=p,
      block_multiplier=self.block_multiplier,
      train_boundary=False,
      **fields,
    )

  def title(self) -> str:
    """Of the figure."""
    steps = f"{self.steps} step{'s' * (self.steps > 1)}"
    rate = f"{self.optimizer} at {self.learning_rate:.3g}, {steps}"
    return f"{self.dataset}, width {self.width}, {self.activation}, {rate}"


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("linearization", _FOREIGN.split())
  width = reading.default(f.width, 64)
  names = reading.default(f.parametrizations, ("depth_mup", "ode", "0.5:0"))
  return Config(
    dataset=f.dataset or "digits",
    data_dir=f.data_dir,
    parametrizations=tuple(names),
    block_depths=reading.integers(
      reading.default(f.block_depths, ["1", "2"]), "block_depths"
    ),
    depths=reading.integers(reading.default(f.depths, ["4", "16", "64"]), "depths"),
    seeds=reading.default(f.seeds, 2),
    steps=reading.default(f.steps, 1),
    width=width,
    base_width=reading.default(f.base_width, width),
    base_depth=reading.default(f.base_depth, 4),
    batch_size=reading.default(f.batch_size, 64),
    optimizer=f.optimizer or "adam",
    activation=f.activation or "tanh",
    norm=f.norm or "rms_norm",
    learning_rate=reading.default(f.learning_rate, 2.0**-8),
    block_multiplier=reading.default(f.block_multiplier, 0.5),
    probe_images=reading.default(f.probe_images, 64),
  )
