"""JSON scalars as text to read: sensible digits, true minus signs, – for null."""

import json
import math
from typing import Any

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SHOWN = 20  # items of a list
_LONGEST = 400  # characters of a mapping in one line


def is_scalar(value: Any) -> bool:
  """A JSON value without others inside."""
  return not isinstance(value, dict | list)


def is_number(value: Any) -> bool:
  """A JSON number."""
  return isinstance(value, int | float) and not isinstance(value, bool)


def is_flat(value: Any) -> bool:
  """A scalar or a list of scalars: what fits into a cell."""
  return is_scalar(value) or (isinstance(value, list) and all(map(is_scalar, value)))


def text(value: Any, spec: str | None = None) -> str:
  """Any JSON value in one line, cut off where it gets long.

  Args:
    value: the value.
    spec: format of the numbers in it; default: four significant digits.
  """
  if value is None:
    return "–"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int | float):
    return _number(value, spec)
  if isinstance(value, str):
    return value
  if isinstance(value, list):
    shown = ", ".join(text(v, spec) for v in value[:_SHOWN])
    more = len(value) - _SHOWN
    return f"[{shown}]" if more <= 0 else f"[{shown}, … {more:,} more]"
  return exact(value, _LONGEST)


def exact(value: Any, longest: int | None = None) -> str:
  """Any JSON value as JSON, losing nothing unless it is longer than `longest`."""
  whole = json.dumps(value, ensure_ascii=False)
  return whole if longest is None or len(whole) <= longest else whole[:longest] + " …"


def count(number: int, noun: str) -> str:
  """As in "1 record", "2,000 records"."""
  return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _number(value: float, spec: str | None) -> str:
  if not math.isfinite(value):
    return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
  if spec is not None:
    shown = format(value, spec)
  elif isinstance(value, int):
    shown = format(value, "," if abs(value) >= 10_000 else "")
  elif value == 0 or 1e-4 <= abs(value) < 1e3:
    shown = format(value, ".4g")
  elif 1e3 <= abs(value) < 1e9:
    shown = format(value, ",.0f")
  else:
    mantissa, exponent = format(value, ".3e").split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    shown = f"{mantissa.rstrip('0').rstrip('.')}×10{power}"
  return shown.replace("-", "−")
