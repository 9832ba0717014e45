"""Reading flag values; every error names the flag, the value and the remedy."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

import flax_depthmup as dmup
from flax_depthmup import DepthMupError

LONGEST = 10_000  # values of a grid; more is a slip

#: Shared by every entry point.
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for results.")
DRAW_SEED = flags.DEFINE_integer("draw_seed", 0, "Of all random draws.")

# Shared by the entry points that train; each has defaults of its own, which its
# module's text states.
flags.DEFINE_string("dataset", None, "digits, mnist, cifar10; text for a transformer.")
flags.DEFINE_string("data_dir", None, "Folder of images, or of prepared token shards.")
flags.DEFINE_integer("width", None, "Width of the net.")
flags.DEFINE_integer("depth", None, "Blocks, or layers, of the net.")
flags.DEFINE_integer("base_width", None, "Width of the base net.")
flags.DEFINE_integer("base_depth", None, "Depth of the base net.")
flags.DEFINE_integer("steps", None, "Training steps.")
flags.DEFINE_integer("batch_size", None, "Examples a step, over all devices.")
flags.DEFINE_string(
  "optimizer", None, "adam, sgd, momentum, adagrad, lion, rmsprop, adafactor or muon."
)
flags.DEFINE_float("log2_lr", None, "The one learning rate, where none is swept.")
flags.DEFINE_float("eps", None, "Adam's, of the base net.")
flags.DEFINE_float("weight_decay", None, "Decoupled; of matrices, see --decay_mode.")
flags.DEFINE_string("activation", None, "relu, abs, tanh, gelu or identity.")
flags.DEFINE_integer("block_depth", None, "Weight matrices in a branch.")
flags.DEFINE_boolean("pre_nonlinearity", None, "W phi(x) blocks.")
flags.DEFINE_string("norm", None, "Of a branch's input: layer_norm or rms_norm.")
flags.DEFINE_float("block_multiplier", None, "Branch multiplier at base depth.")
flags.DEFINE_boolean("train_boundary", None, "Train the input and output layers too.")
flags.DEFINE_integer("head_dim", None, "Size of an attention head; heads grow with width.")
flags.DEFINE_integer("sequence_length", None, "Tokens of a training example.")
flags.DEFINE_integer("patch", None, "Stride of a ResNet's stem.")
flags.DEFINE_string("rules", None, "Changed sharding rules, as in kv_heads:,embed:data.")
flags.DEFINE_string(
  "mesh", None, "Devices by axis: sweep, data, fsdp, model, as in data:2,fsdp:-1."
)

PRESETS = {
  "standard": dmup.standard,
  "mup": dmup.mup,
  "depth_mup": dmup.depth_mup,
  "ode": dmup.ode,
  "complete_p": dmup.complete_p,
  "complete_p_paper": dmup.complete_p_paper,
  "complete_p_eleuther": dmup.complete_p_eleuther,
  "complete_d_p": dmup.complete_d_p,
  "u_mup": dmup.u_mup,
  "mup_package": dmup.mup_package,
  "megatron_depth_mup": dmup.megatron_depth_mup,
  "mini_cpm": dmup.mini_cpm,
}


def grid(text: str, flag: str) -> tuple[float, ...]:
  """ "start:stop:step", stop included, or "a,b,c"; distinct, increasing.

  Raises:
    DepthMupError: not of either form, or of more than 10,000 values.
  """
  remedy = f"write --{flag}=start:stop:step, as in -13:-5:0.5, or a list such as -9,-8"
  try:
    if ":" in text:
      start, stop, step = (float(part) for part in text.split(":"))
      if not (step > 0 and start <= stop and math.isfinite(stop - start)):
        raise ValueError
      count = math.floor((stop - start) / step + 1e-9) + 1
      if count > LONGEST:
        raise ValueError
      values = [start + i * step for i in range(count)]
    else:
      values = [float(part) for part in text.split(",")]
  except ValueError:
    raise DepthMupError(f"--{flag}={text!r} is no grid; {remedy}") from None
  if not all(map(math.isfinite, values)) or len(set(values)) != len(values):
    raise DepthMupError(f"--{flag}={text!r} has infinite or repeated values; {remedy}")
  return tuple(sorted(values))


def integers(values: list[str], flag: str) -> tuple[int, ...]:
  """Distinct positive whole numbers, in increasing order.

  Raises:
    DepthMupError: any other value.
  """
  try:
    numbers = [int(value) for value in values]
  except ValueError:
    numbers = []
  if not numbers or min(numbers) < 1 or len(set(numbers)) != len(numbers):
    raise DepthMupError(
      f"--{flag}={','.join(values)!r}: expected distinct whole numbers of at least 1, "
      "such as 4,8,16"
    )
  return tuple(sorted(numbers))


def parametrization(
  text: str, base_width: int | Mapping[str, int], base_depth: int
) -> dmup.Parametrization:
  """A preset's name, or "alpha:gamma" such as 0.5:0 or 1/2:1/2.

  Raises:
    DepthMupError: neither.
  """
  sizes = {"base_width": base_width, "base_depth": base_depth}
  if text in PRESETS:
    return PRESETS[text](**sizes)
  alpha, colon, gamma = text.partition(":")
  if not colon:
    raise DepthMupError(
      f"--parametrizations: {text!r} is unknown; expected {', '.join(PRESETS)} or "
      "alpha:gamma, such as 0.5:0"
    )
  return dmup.depthwise(alpha=alpha, gamma=gamma, **sizes)


def default(value: Any, otherwise: Any) -> Any:
  """A flag's value, or the entry point's own default where it was not given."""
  return otherwise if value is None else value


def refuse(entry: str, names: Iterable[str]) -> None:
  """Raises `DepthMupError` where a shared flag is given that `entry` has no use for."""
  for name in names:
    value = flags.FLAGS[name].value
    if value is not None:
      raise DepthMupError(f"--{name}={value}: {entry} has none; leave it out")


def positive(value: float, flag: str) -> None:
  """Raises `DepthMupError` unless `value` is finite and above 0."""
  if not (math.isfinite(value) and value > 0):
    raise DepthMupError(f"--{flag}={value}: expected a positive number")
