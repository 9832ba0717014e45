"""Resolved scales as a JSON file: what a net was made with, readable without the net.

Layer: optax rooms; knows no flax.
"""

import dataclasses
import enum
import json
import os
import pathlib
import types
import typing
from numbers import Integral
from typing import Any, Union

from flax_depthmup.axes import Axes
from flax_depthmup.checks import check_size, is_number
from flax_depthmup.errors import DepthMupError
from flax_depthmup.scales import Scales
from flax_depthmup.sweep_store import replace
from flax_depthmup.transforms import is_scales, named_leaves

#: Of the file; a change of the meaning of a field raises it.
SCALES_VERSION = 1
_FORMAT = "flax_depthmup scales"


def save_scales(path: str | os.PathLike, scales: Any) -> None:
  """Writes a tree of `Scales` as JSON, whole or not at all; `load_scales` reads it.

  Args:
    path: the file; replaced if it is there.
    scales: the second value of `dmup.init`, or any tree of `Scales`.

  Raises:
    DepthMupError: `scales` is no tree of `Scales`, or two of its paths are one text.
  """
  entries: dict[str, dict[str, Any]] = {}
  for name, leaf in named_leaves(scales):
    if not is_scales(leaf):
      raise DepthMupError(
        f"scales: {name} is a {type(leaf).__name__}, expected Scales; give the second "
        "value of dmup.init"
      )
    if name in entries:
      raise DepthMupError(
        f"scales: two parameters have the path {name}; rename one, a file knows them by it"
      )
    entries[name] = {f.name: _plain(getattr(leaf, f.name)) for f in _FIELDS}
  if not entries:
    raise DepthMupError("scales is empty; give the second value of dmup.init")
  _nested(dict.fromkeys(entries), str(path))
  whole = {"format": _FORMAT, "version": SCALES_VERSION, "scales": entries}
  text = json.dumps(whole, indent=1, allow_nan=False) + "\n"
  replace(pathlib.Path(path), lambda file: file.write(text.encode()))


def load_scales(path: str | os.PathLike) -> dict[str, Any]:
  """Reads `save_scales`'s file: the same `Scales`, in nested dicts by the names of paths.

      tx = dmup.adamw(1e-3, load_scales("run/scales.json"))

  Transformations find scales by path, so these serve a net whose tree was of lists or of
  `nnx.State` as well.

  Raises:
    DepthMupError: the file is missing, cut short, no such file, of another version, or a
      field is unknown, missing or of the wrong kind; with its place and the remedy.
  """
  where = str(path)
  whole = _read(pathlib.Path(path))
  if not isinstance(whole, dict) or whole.get("format") != _FORMAT:
    raise DepthMupError(f"{where} is no file of scales; write one with save_scales")
  if whole.get("version") != SCALES_VERSION or isinstance(whole["version"], bool):
    raise DepthMupError(
      f"{where} has version {whole.get('version')!r}, this library reads "
      f"{SCALES_VERSION}; write it again with this library's save_scales"
    )
  entries = whole.get("scales")
  if not isinstance(entries, dict) or not entries:
    raise DepthMupError(f"{where} holds no scales; write it again with save_scales")
  found = {name: _decoded(entry, f"{where}: {name}") for name, entry in entries.items()}
  return _nested(found, where)


_FIELDS = dataclasses.fields(Scales)
_TYPES = typing.get_type_hints(Scales)


def _plain(value: Any) -> Any:
  """A field as JSON holds it."""
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, tuple):
    return [_plain(x) for x in value]
  if isinstance(value, Integral) and not isinstance(value, bool):
    return int(value)
  return float(value) if is_number(value) else value


def _decoded(entry: Any, where: str) -> Scales:
  names = [f.name for f in _FIELDS]
  if not isinstance(entry, dict):
    raise DepthMupError(f"{where} is {entry!r}, expected the fields of a Scales")
  for name in [*names, *entry]:
    if (name in names) != (name in entry):
      fault = "lacks the field" if name in names else "has the unknown field"
      raise DepthMupError(
        f"{where} {fault} {name!r}; expected {', '.join(names)}: write it again with this "
        "library's save_scales"
      )
  fields = {}
  for name, value in entry.items():
    fits, fields[name] = _as_type(value, _TYPES[name])
    if not fits or (isinstance(fields[name], float) and fields[name] < 0):
      raise DepthMupError(
        f"{where}: {name} is {json.dumps(value)}, expected {_type_name(_TYPES[name])}; "
        "write the file again with save_scales"
      )
  scales = Scales(**fields)
  Axes.parse(scales.axes).check_shape(scales.shape)
  for size in scales.shape:
    check_size(size, f"{where}: a size of shape")
  return scales


def _as_type(value: Any, kind: Any) -> tuple[bool, Any]:
  """(whether a JSON value is of the type of a field, the field)."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (Union, types.UnionType):
    tried = [_as_type(value, arg) for arg in args]
    return next((t for t in tried if t[0]), (False, value))
  if origin is tuple:
    items = [_as_type(x, args[0]) for x in value] if isinstance(value, list) else []
    fits = isinstance(value, list) and all(fit for fit, _ in items)
    return fits, tuple(x for _, x in items)
  if issubclass(kind, enum.Enum):
    known = [member for member in kind if member.value == value]
    return bool(known), known[0] if known else value
  if kind is float:
    return is_number(value), float(value) if is_number(value) else value
  return type(value) is kind, value


def _type_name(kind: Any) -> str:
  if isinstance(kind, type) and issubclass(kind, enum.Enum):
    return "one of " + ", ".join(str(member.value) for member in kind)
  if kind is float:
    return "a finite number of at least 0"
  return {bool: "true or false", int: "a whole number", str: "a text"}.get(kind, "a list")


def _nested(flat: dict[str, Any], where: str) -> dict[str, Any]:
  """The values under "a/b/c" as a dict of dicts."""
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *above, last = name.split("/")
    node = tree
    for part in above:
      node = node.setdefault(part, {})
      if not isinstance(node, dict):
        raise DepthMupError(f"{where}: {name} lies below another parameter; rename one")
    if last in node:
      raise DepthMupError(f"{where}: other parameters lie below {name}; rename it")
    node[last] = value
  return tree


def _read(path: pathlib.Path) -> Any:
  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
      keys = [key for key, _ in pairs]
      twice = next(key for key in keys if keys.count(key) > 1)
      raise DepthMupError(f"{path} has two entries {twice!r}; remove one")
    return found

  try:
    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
  except DepthMupError:
    raise
  except OSError as error:
    raise DepthMupError(
      f"{path} cannot be read: {error.strerror or error}; give a file of save_scales"
    ) from None
  except (ValueError, RecursionError) as error:
    raise DepthMupError(
      f"{path} is no JSON, or cut short: {error}; write it again with save_scales"
    ) from None
