"""Exponents of depth, kept exact. Layer: standard library only."""

from fractions import Fraction
from numbers import Rational, Real

from flax_depthmup.errors import DepthMupError

#: Two exponents closer than this are the same exponent when one is a float.
TOLERANCE = 1e-9
#: No parametrization is near it; a power of a size this large would overflow.
LARGEST = 16

Exponent = int | float | str | Fraction


def as_exponent(value: Exponent, name: str) -> Fraction:
  """An exponent as a fraction.

  Rationals and texts such as "1/2" or "0.5" are exact. A float within
  `TOLERANCE` of a fraction of denominator at most 1000 means that fraction, so
  1/3 and 0.1 + 0.4 fall on the boundaries that they are meant to be on.

  Raises:
    DepthMupError: `value` is no finite number within +-16.
  """
  remedy = f'give {name} as a number or a fraction, such as 0.5, "1/2" or 1'
  if isinstance(value, bool) or not isinstance(value, Real | str):
    raise DepthMupError(f"{name}={value!r} is no exponent; {remedy}")
  try:
    if not isinstance(value, Rational | str):
      value = float(value)  # numpy's floats too
    exact = Fraction(value.strip() if isinstance(value, str) else value)
  except (ValueError, OverflowError, ZeroDivisionError):
    raise DepthMupError(f"{name}={value!r} is no finite exponent; {remedy}") from None
  if abs(exact) > LARGEST:
    raise DepthMupError(f"{name}={value!r} is beyond +-{LARGEST}; {remedy}")
  if not isinstance(value, float):
    return exact
  near = exact.limit_denominator(1000)
  return near if abs(exact - near) <= TOLERANCE else exact
