"""Exponents of depth, kept exact. Layer: standard library only."""

import math
from fractions import Fraction
from numbers import Rational, Real

from flax_depthmup.errors import DepthMupError

#: Two exponents closer than this are the same exponent when one is a float.
TOLERANCE = 1e-9

Exponent = int | float | str | Fraction


def as_exponent(value: Exponent, name: str) -> Fraction:
  """An exponent as a fraction.

  Rationals and texts such as "1/2" or "0.5" are exact. A float within
  `TOLERANCE` of a fraction of denominator at most 1000 means that fraction, so
  1/3 and 0.1 + 0.4 fall on the boundaries that they are meant to be on.

  Raises:
    DepthMupError: `value` is no finite number.
  """
  remedy = f'give {name} as a number or a fraction, such as 0.5, "1/2" or 1'
  if isinstance(value, bool) or not isinstance(value, Real | str):
    raise DepthMupError(f"{name}={value!r} is no exponent; {remedy}")
  if isinstance(value, Rational):
    return Fraction(value)
  if isinstance(value, str):
    try:
      return Fraction(value.strip())
    except (ValueError, ZeroDivisionError):
      raise DepthMupError(f"{name}={value!r} is no exponent; {remedy}") from None
  if not math.isfinite(value):
    raise DepthMupError(f"{name}={value!r} is not finite; {remedy}")
  near = Fraction(value).limit_denominator(1000)
  return near if abs(value - near) <= TOLERANCE else Fraction(value)
