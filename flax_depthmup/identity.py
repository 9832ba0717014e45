"""What a run is, as nested JSON, and where two differ. Layer: standard library only."""

import json
import math
from typing import Any

from flax_depthmup.errors import DepthMupError

_NOTHING = object()


def as_json(value: Any, name: str) -> Any:
  """A value as JSON gives it back: tuples become lists, keys become text.

  Raises:
    DepthMupError: JSON cannot hold it.
  """
  try:
    return json.loads(json.dumps(value))
  except (TypeError, ValueError) as error:
    raise DepthMupError(
      f"{name} cannot be written as JSON: {error}; give dicts, lists, text, numbers, "
      "booleans and None"
    ) from None


def difference(saved: Any, own: Any) -> str:
  """The first place where two JSON values differ; empty when they are the same.

  Args:
    saved: what was written.
    own: what this run has; its order of keys is the order of the search.

  Returns:
    A half sentence, as "model.depth is 8, this run has 12". Places are dotted:
    keys, and positions in lists.
  """
  found = _first_difference(saved, own, ())
  if found is None:
    return ""
  place, saved, own = found
  name = ".".join(place) or "the whole"
  if own is _NOTHING:
    return f"{name} is {_short(saved)}, this run has no such entry"
  if saved is _NOTHING:
    return f"{name} is missing, this run has {_short(own)}"
  return f"{name} is {_short(saved)}, this run has {_short(own)}"


def _first_difference(
  saved: Any, own: Any, place: tuple[str, ...]
) -> tuple[tuple[str, ...], Any, Any] | None:
  """(place, saved there, own there) of the first difference; None when equal."""
  if isinstance(saved, list) and isinstance(own, list):
    saved, own = _by_position(saved), _by_position(own)
  if not (isinstance(saved, dict) and isinstance(own, dict)):
    return None if _same(saved, own) else (place, saved, own)
  for key in [*own, *(key for key in saved if key not in own)]:
    there = (*place, key)
    if key not in saved or key not in own:
      return there, saved.get(key, _NOTHING), own.get(key, _NOTHING)
    found = _first_difference(saved[key], own[key], there)
    if found is not None:
      return found
  return None


def _by_position(values: list[Any]) -> dict[str, Any]:
  return {str(position): value for position, value in enumerate(values)}


def _same(saved: Any, own: Any) -> bool:
  """1 is 1.0, but neither is True; nan is nan."""
  if isinstance(saved, float) and isinstance(own, float) and math.isnan(saved):
    return math.isnan(own)
  return saved == own and isinstance(saved, bool) == isinstance(own, bool)


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 80 else f"{text[:76]} ..."
