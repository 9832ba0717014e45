"""The flags of lr_transfer, resolved."""

import dataclasses
import itertools
from typing import Any

from absl import flags
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib import data, task
from experiments._lib import flags as reading
from flax_depthmup import DepthMupError

MODELS = ("mlp", "transformer", "resnet")
AXES = ("depth", "width", "joint")
#: Shared flags that mean nothing to a net.
_FOREIGN = {
  "mlp": ("head_dim", "sequence_length", "patch"),
  "resnet": ("head_dim", "sequence_length"),
  "transformer": ("block_depth", "train_boundary", "patch", "pre_nonlinearity"),
}

flags.DEFINE_enum("model", "mlp", MODELS, "The net.")
flags.DEFINE_enum("axis", "depth", AXES, "What grows: depth, width, or both together.")
flags.DEFINE_list(
  "parametrizations",
  ["depth_mup", "0.5:0", "standard"],
  "Names (standard, mup, depth_mup, ode, complete_p) or alpha:gamma.",
)
flags.DEFINE_list("depths", ["4", "8", "16", "32", "64"], "Numbers of blocks, or layers.")
flags.DEFINE_list("widths", None, "Widths, for --axis=width and --axis=joint.")
flags.DEFINE_string(
  "log2_lrs", "-13:-5:0.5", "Learning rates: start:stop:step, stop included, or a list."
)
flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...")
flags.DEFINE_integer("window", 50, "Steps averaged at the end.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    sizes: (width, depth) of the nets, growing along `axis`.
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
  block_multiplier: float
  window: int
  train_boundary: bool
  head_dim: int
  sequence_length: int
  patch: int | None

  def __post_init__(self):
    positive = "base_depth base_width seeds steps batch_size window head_dim"
    for name in (*positive.split(), "sequence_length", "block_multiplier"):
      reading.positive(getattr(self, name), name)
    if self.window > self.steps:
      raise DepthMupError(
        f"--window={self.window} is longer than --steps={self.steps}; average over at "
        "most all steps"
      )
    if max(map(abs, self.log2_lrs)) > 126:
      raise DepthMupError("--log2_lrs: 2^-126 to 2^126 are the rates of float32")
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


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse(f"lr_transfer --model={f.model}", _FOREIGN[f.model])
  transformer = f.model == "transformer"
  reading.positive(f.width or 64, "width")
  if f.mesh is None:
    reading.refuse("lr_transfer without --mesh", ("rules",))
  axis, sizes = _sizes(f)
  return Config(
    model=f.model,
    axis=axis,
    sizes=sizes,
    dataset=f.dataset or ("text" if transformer else "digits"),
    data_dir=f.data_dir,
    parametrizations=tuple(f.parametrizations),
    base_depth=reading.default(f.base_depth, 4),
    base_width=reading.default(f.base_width, sizes[0][0]),
    log2_lrs=reading.grid(f.log2_lrs, "log2_lrs"),
    seeds=f.seeds,
    steps=reading.default(f.steps, 100),
    batch_size=reading.default(f.batch_size, 64),
    optimizer=f.optimizer or "adam",
    activation=f.activation or ("gelu" if transformer else "relu"),
    block_depth=reading.default(f.block_depth, 1),
    pre_nonlinearity=reading.default(f.pre_nonlinearity, False),
    norm=f.norm,
    block_multiplier=reading.default(f.block_multiplier, 1.0),
    window=f.window,
    train_boundary=reading.default(f.train_boundary, transformer),
    head_dim=reading.default(f.head_dim, 32),
    sequence_length=reading.default(f.sequence_length, 64),
    patch=f.patch,
  )


def _sizes(f: Any) -> tuple[str, tuple[tuple[int, int], ...]]:
  """The (width, depth) of every net, along the axis that grows."""
  width, depth = (
    reading.default(f.width, 64),
    reading.default(f.depth, reading.default(f.base_depth, 4)),
  )
  unused = {"depth": ("depth",), "width": ("width",), "joint": ("width", "depth")}
  reading.refuse(f"lr_transfer --axis={f.axis}", unused[f.axis])
  if f.axis == "depth":
    if f.widths:
      raise DepthMupError("--widths with --axis=depth: give --width, the one width")
    return f.axis, tuple((width, d) for d in reading.integers(f.depths, "depths"))
  if not f.widths:
    raise DepthMupError(f"--axis={f.axis} needs --widths, such as --widths=64,128,256")
  widths = reading.integers(f.widths, "widths")
  if f.axis == "width":
    return f.axis, tuple((w, depth) for w in widths)
  depths = reading.integers(f.depths, "depths")
  if len(widths) != len(depths):
    raise DepthMupError(
      f"--axis=joint with {len(widths)} --widths and {len(depths)} --depths: they grow in "
      "pairs, so give as many of each"
    )
  return f.axis, tuple(zip(widths, depths, strict=True))
