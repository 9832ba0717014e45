"""Shell patterns of paths, and what they select.

Layer: standard library.
"""

import fnmatch
from collections.abc import Iterable
from typing import Any

from flax_depthmup.errors import DepthMupError


def matches(pattern: str, name: str) -> bool:
  """Whether a shell pattern fits a path; "*/block_*/*" fits at the root too."""
  return any(fnmatch.fnmatchcase(n, pattern) for n in (name, "/" + name))


def as_patterns(value: Any, argument: str) -> tuple[str, ...]:
  """One pattern or several; a text is one.

  Raises:
    DepthMupError: they are no texts.
  """
  patterns = (value,) if isinstance(value, str) else value
  fine = isinstance(patterns, Iterable) and not hasattr(patterns, "keys")
  patterns = tuple(patterns) if fine else (None,)
  if not all(isinstance(p, str) and p.strip("!") for p in patterns):
    raise DepthMupError(
      f"{argument}={value!r}: expected patterns of paths, such as "
      '("*/block_*/*",), or () for none'
    )
  return patterns


def check_used(pattern: str, argument: str, names: Iterable[str]) -> None:
  """Raises `DepthMupError` for a pattern that fits no parameter."""
  names = list(names)
  if not any(matches(pattern.removeprefix("!"), name) for name in names):
    raise DepthMupError(
      f"{argument}: the pattern {pattern!r} fits none of the {len(names)} parameters, "
      f"the first of which is {names[0]}; correct it or drop it"
    )


def select(patterns: tuple[str, ...], argument: str, names: Iterable[str]) -> set[str]:
  """The names that a pattern fits, less those that a pattern after "!" fits.

  Raises:
    DepthMupError: a pattern fits none.
  """
  names = list(names)
  for pattern in patterns:
    check_used(pattern, argument, names)
  return {name for name in names if selects(patterns, name)}


def selects(patterns: Iterable[str], name: str) -> bool:
  """Whether a pattern fits a name and none after "!" does."""
  fits = {p[0] == "!" for p in patterns if matches(p.removeprefix("!"), name)}
  return fits == {False}
