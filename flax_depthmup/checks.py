"""Checks of numbers that a user gives; numpy's scalars count as numbers.

Layer: standard library only.
"""

import math
from numbers import Integral, Real
from typing import Any

from flax_depthmup.errors import DepthMupError


def check_size(value: Any, name: str) -> None:
  """Raises `DepthMupError` unless `value` is a whole number of at least 1."""
  whole = isinstance(value, Integral) and not isinstance(value, bool)
  if not whole or value < 1:
    raise DepthMupError(f"{name}={value!r}: expected a whole number of at least 1")


def is_number(value: Any) -> bool:
  """Whether `value` is a finite real number, and no boolean."""
  real = isinstance(value, Real) and not isinstance(value, bool)
  return real and math.isfinite(value)


def check_nonnegative(value: Any, name: str) -> None:
  """Raises `DepthMupError` unless `value` is a finite number of at least 0."""
  if not is_number(value) or value < 0:
    raise DepthMupError(f"{name}={value!r}: expected a finite number of at least 0")
