"""The flags of lr_transfer and of the other sweeps over depth or width, resolved."""

import dataclasses
from typing import Any

from absl import flags

from experiments._lib import flags as reading
from experiments._lib.sweeps_config import Config
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
flags.DEFINE_enum("axis", None, AXES, "What grows: depth (default), width, or both: joint.")
# Each entry point has defaults of its own for these, as its `Entry`.
flags.DEFINE_list(
  "parametrizations",
  None,
  "Names of presets, as in dmup (depth_mup, complete_p), or alpha:gamma.",
)
flags.DEFINE_list("depths", None, "Numbers of blocks, or layers.")
flags.DEFINE_list("widths", None, "Widths, for --axis=width and --axis=joint.")
flags.DEFINE_string(
  "log2_lrs", None, "Learning rates: start:stop:step, stop included, or a list."
)
flags.DEFINE_string(
  "log2_multipliers", None, "Block multipliers at base depth, in the same forms."
)
flags.DEFINE_integer("seeds", None, "Number of seeds: 0, 1, ...")
flags.DEFINE_integer("window", None, "Steps averaged at the end.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """An entry point: the defaults of its flags, and the shared flags it has no use for.

  Attributes:
    name: of its module.
    log2_lrs: default grid of learning rates, as the flag has it.
    log2_multipliers: likewise of block multipliers; None: not swept unless asked.
    refused: flags that mean nothing here.
  """

  name: str
  parametrizations: tuple[str, ...]
  depths: tuple[int, ...]
  seeds: int
  window: int = 50
  log2_lrs: str
  log2_multipliers: str | None = None
  refused: tuple[str, ...] = ()


#: Shared flags of entry points that sweep no learning rate.
ONE_RATE = ("log2_lr", "eps", "weight_decay")
LR_TRANSFER = Entry(
  name="lr_transfer",
  parametrizations=("depth_mup", "0.5:0", "standard"),
  depths=(4, 8, 16, 32, 64),
  seeds=5,
  log2_lrs="-13:-5:0.5",
  refused=("log2_multipliers", *ONE_RATE),
)


def from_flags(entry: Entry = LR_TRANSFER, **fields: Any) -> Config:
  """The flags as a `Config`, `fields` in the place of theirs.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse(entry.name, entry.refused)
  reading.refuse(f"{entry.name} --model={f.model}", _FOREIGN[f.model])
  transformer = f.model == "transformer"
  reading.positive(f.width or 64, "width")
  if f.mesh is None:
    reading.refuse(f"{entry.name} without --mesh", ("rules",))
  sizes = fields.get("sizes")
  axis, sizes = _sizes(f, entry) if sizes is None else (fields["axis"], sizes)
  names = reading.default(f.parametrizations, entry.parametrizations)
  read = {
    "model": f.model,
    "axis": axis,
    "sizes": sizes,
    "dataset": f.dataset or ("text" if transformer else "digits"),
    "data_dir": f.data_dir,
    "parametrizations": tuple(names),
    "base_depth": reading.default(f.base_depth, 4),
    "base_width": reading.default(f.base_width, sizes[0][0]),
    "log2_lrs": reading.grid(reading.default(f.log2_lrs, entry.log2_lrs), "log2_lrs"),
    "seeds": reading.default(f.seeds, entry.seeds),
    "steps": reading.default(f.steps, 100),
    "batch_size": reading.default(f.batch_size, 64),
    "optimizer": f.optimizer or "adam",
    "activation": f.activation or ("gelu" if transformer else "relu"),
    "block_depth": reading.default(f.block_depth, 1),
    "pre_nonlinearity": reading.default(f.pre_nonlinearity, False),
    "norm": f.norm,
    "window": reading.default(f.window, entry.window),
    "train_boundary": reading.default(f.train_boundary, transformer),
    "head_dim": reading.default(f.head_dim, 32),
    "sequence_length": reading.default(f.sequence_length, 64),
    "patch": f.patch,
    **_multipliers(f, entry),
  }
  return Config(**(read | fields))


def _multipliers(f: Any, entry: Entry) -> dict[str, Any]:
  """The grid of block multipliers, or the one."""
  text = reading.default(f.log2_multipliers, entry.log2_multipliers)
  if text is None:
    return {"block_multiplier": reading.default(f.block_multiplier, 1.0)}
  reading.refuse(f"{entry.name} with a grid of block multipliers", ("block_multiplier",))
  grid = reading.grid(text, "log2_multipliers")
  return {"block_multiplier": None, "log2_multipliers": grid}


def _sizes(f: Any, entry: Entry) -> tuple[str, tuple[tuple[int, int], ...]]:
  """The (width, depth) of every net, along the axis that grows."""
  width, depth = (
    reading.default(f.width, 64),
    reading.default(f.depth, reading.default(f.base_depth, 4)),
  )
  axis = f.axis or "depth"
  unused = {"depth": ("depth",), "width": ("width",), "joint": ("width", "depth")}
  reading.refuse(f"{entry.name} --axis={axis}", unused[axis])
  given = reading.default(f.depths, [str(d) for d in entry.depths])
  if axis == "depth":
    if f.widths:
      raise DepthMupError("--widths with --axis=depth: give --width, the one width")
    return axis, tuple((width, d) for d in reading.integers(given, "depths"))
  if not f.widths:
    raise DepthMupError(f"--axis={axis} needs --widths, such as --widths=64,128,256")
  widths = reading.integers(f.widths, "widths")
  if axis == "width":
    return axis, tuple((w, depth) for w in widths)
  depths = reading.integers(given, "depths")
  if len(widths) != len(depths):
    raise DepthMupError(
      f"--axis=joint with {len(widths)} --widths and {len(depths)} --depths: they grow in "
      "pairs, so give as many of each"
    )
  return axis, tuple(zip(widths, depths, strict=True))
