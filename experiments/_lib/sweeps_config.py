"""What a sweep over depth or width is made of: what its config.json holds."""

import dataclasses
import itertools
from typing import Any, NamedTuple

from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib import data, described, task
from experiments._lib import flags as reading
from experiments._lib.described import Described
from flax_depthmup import DepthMupError


class Member(NamedTuple):
  """One training of a net; `log2_multiplier` is None where it is not swept."""

  log2_lr: float
  log2_multiplier: float | None
  seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    sizes: (width, depth) of the nets, growing along `axis`.
    block_multiplier: None where `log2_multipliers` are swept.
  """

  model: str
  axis: str
  sizes: tuple[tuple[int, int], ...]
  dataset: str
  data_dir: str | None
  parametrizations: tuple[str, ...]
  base_depth: int
  base_width: int
  log2_lrs: tuple[float, ...]
  seeds: int
  steps: int
  batch_size: int
  optimizer: str
  activation: str
  block_depth: int
  pre_nonlinearity: bool
  norm: str | None
  block_multiplier: float | None
  window: int
  train_boundary: bool
  head_dim: int
  sequence_length: int
  patch: int | None
  log2_multipliers: tuple[float, ...] | None = None

  def __post_init__(self):
    positive = "base_depth base_width seeds steps batch_size window head_dim"
    for name in (*positive.split(), "sequence_length"):
      reading.positive(getattr(self, name), name)
    if self.log2_multipliers is None:
      reading.positive(self.block_multiplier, "block_multiplier")
    if self.window > self.steps:
      raise DepthMupError(
        f"--window={self.window} is longer than --steps={self.steps}; average over at "
        "most all steps"
      )
    if max(map(abs, self.log2_lrs)) > 126:
      raise DepthMupError("--log2_lrs: 2^-126 to 2^126 are the rates of float32")
    if max(map(abs, self.log2_multipliers or (0,))) > 126:
      raise DepthMupError("--log2_multipliers: float32 holds 2^-126 to 2^126")
    if self.optimizer not in task.OPTIMIZERS:
      known = ", ".join(task.OPTIMIZERS)
      raise DepthMupError(f"--optimizer={self.optimizer}: expected one of {known}")
    if (self.dataset == "text") != (self.model == "transformer"):
      raise DepthMupError(
        f"--dataset={self.dataset} with --model={self.model}: a transformer reads text, "
        "the other nets read images"
      )
    if self.model != "transformer":
      data.check_name(self.dataset, self.data_dir)
    names = self.parametrizations
    if not names or len(set(names)) != len(names):
      raise DepthMupError("--parametrizations: expected distinct names, at least one")
    for name, (width, depth) in itertools.product(names, self.sizes):
      self.net(name, width, depth, vocab=256)  # names a wrong value of the net

  @property
  def size(self) -> str:
    """The column of the results that grows."""
    return "width" if self.axis == "width" else "depth"

  def described(self) -> dict[str, Any]:
    """What config.json holds: runs with one multiplier do not speak of a grid of them."""
    fields = dataclasses.asdict(self)
    if self.log2_multipliers is None:
      del fields["log2_multipliers"]
    return fields

  def members(self) -> list[Member]:
    """The grid that every net is trained at, the seed running fastest."""
    multipliers = self.log2_multipliers or (None,)
    grid = itertools.product(self.log2_lrs, multipliers, range(self.seeds))
    return [Member(*values) for values in grid]

  def described_nets(self) -> list[Described]:
    """The smallest and the largest of each parametrization, for --describe."""
    vocab = None
    if self.model == "transformer":
      vocab = described.vocabulary(self.data_dir)
    return [
      described.of_config(
        self, f"{name}, width {w}, depth {d}", self.net(name, w, d, vocab)
      )
      for name, (w, d) in itertools.product(
        self.parametrizations, described.ends(self.sizes)
      )
    ]

  def title(self) -> str:
    """Of the figure."""
    widths, depths = (sorted(set(v)) for v in zip(*self.sizes, strict=True))
    still = "" if len(widths) > 1 else f", width {widths[0]}"
    still += "" if len(depths) > 1 else f", depth {depths[0]}"
    return f"{self.model} on {self.dataset}{still}, {self.optimizer}, {self.steps} steps"

  def net(self, name: str, width: int, depth: int, vocab: int | None) -> nn.Module:
    """The net of one parametrization and size."""
    if self.model == "transformer":
      return self._transformer(name, width, depth, vocab)
    shared = {
      "width": width,
      "depth": depth,
      "outputs": data.CLASSES,
      "parametrization": reading.parametrization(name, self.base_width, self.base_depth),
      "block_depth": self.block_depth,
      "activation": self.activation,
      "pre_nonlinearity": self.pre_nonlinearity,
      "norm": self.norm,
      "train_boundary": self.train_boundary,
    }
    if self.model == "resnet":
      return dmup.ResNet(**shared, **({} if self.patch is None else {"patch": self.patch}))
    return dmup.ResidualMLP(**shared)

  def _transformer(self, name: str, width: int, depth: int, vocab: int) -> nn.Module:
    def heads(width: int) -> int:
      if width % self.head_dim:
        raise DepthMupError(
          f"--head_dim={self.head_dim} does not divide the width {width}; give one that "
          "divides every width and --base_width"
        )
      return width // self.head_dim

    base = dmup.axis_sizes(width=self.base_width, heads=heads(self.base_width))
    return dmup.Transformer(
      width=width,
      depth=depth,
      vocab=vocab,
      heads=heads(width),
      parametrization=reading.parametrization(name, base, self.base_depth),
      norm=self.norm or "rms_norm",
      activation=self.activation,
    )
