"""Reading flag values; every error names the flag, the value and the remedy."""

import math

from absl import flags

import flax_depthmup as dmup
from flax_depthmup import DepthMupError

LONGEST = 10_000  # values of a grid; more is a slip

#: Shared by every entry point.
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for results.")

PRESETS = {
  "standard": dmup.standard,
  "mup": dmup.mup,
  "depth_mup": dmup.depth_mup,
  "ode": dmup.ode,
  "complete_p": dmup.complete_p,
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


def parametrization(text: str, base_width: int, base_depth: int) -> dmup.Parametrization:
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


def positive(value: float, flag: str) -> None:
  """Raises `DepthMupError` unless `value` is finite and above 0."""
  if not (math.isfinite(value) and value > 0):
    raise DepthMupError(f"--{flag}={value}: expected a positive number")
