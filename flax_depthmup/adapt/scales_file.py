"""Resolved scales as a JSON file: what a net was made with, readable without the net.

Layer: optax rooms; knows no flax.
"""

import dataclasses
import enum
import itertools
import json
import os
import pathlib
import types
import typing
from numbers import Integral
from typing import Any, NoReturn, Union

from flax_depthmup.axes import Axes, Role, kind_of
from flax_depthmup.checks import is_number
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
    DepthMupError: `scales` is no tree of `Scales`, `load_scales` would refuse one of
      them, or two of their paths are one text.
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
    _decoded(entries[name], f"scales: {name}")  # what was changed by hand may be refused
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
      field is unknown, missing, of the wrong type or not one that a parameter with these
      axes can have; with its place and the remedy.
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
#: What transformations and tables divide by.
_DIVISORS = ("gradient_factor", "std_factor")


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
      _refuse(where, name, value, _type_name(_TYPES[name]))
  scales = Scales(**fields)
  _check_axes(scales, where)
  for name in _DIVISORS:
    if not getattr(scales, name):
      _refuse(where, name, 0, "a number over 0")
  return scales


def _check_axes(s: Scales, where: str) -> None:
  """Raises unless the fields of one entry for each axis, and the kind, fit the axes."""
  try:
    parsed = Axes.parse(s.axes)
  except DepthMupError as error:
    raise DepthMupError(f"{where}: {error}") from None
  for name in ("axis_names", "roles", "shape", "base_shape"):
    value = getattr(s, name)
    if len(value) != len(parsed.axes):
      expected = f'{len(parsed.axes)} entries, one for each axis of "{s.axes}"'
      _refuse(where, name, value, expected)
  for name in ("shape", "base_shape"):
    if min(getattr(s, name), default=1) < 1:
      _refuse(where, name, getattr(s, name), "sizes of at least 1")
  known = {role.value: [a for a in parsed.axes if a.role is role] for role in Role}
  for role, of_role in known.items():
    if s.roles.count(role) != len(of_role):
      expected = f'{len(of_role)} of "{role}", as in "{s.axes}"'
      _refuse(where, "roles", s.roles, expected)
    # Shapes may have out before in, and stacked axes anywhere; the text has an order of
    # its own, but within a role both have the same.
    found = [n for n, r in zip(s.axis_names, s.roles, strict=True) if r == role]
    if found != [axis.name for axis in of_role]:
      same = sorted(s.axis_names) == sorted(axis.name for axis in parsed.axes)
      field = "roles" if same else "axis_names"
      names = ", ".join(axis.name for axis in of_role) or "none"
      expected = f'those of "{s.axes}", whose axes of role "{role}" are {names}'
      _refuse(where, field, getattr(s, field), expected)
  ordered = [known[role].pop(0) for role in s.roles]
  _check_growth(s, Axes(tuple(ordered)), where)


def _check_growth(s: Scales, ordered: Axes, where: str) -> None:
  """Raises unless base shape and kind are ones that these axes can have.

  An axis that differs from the base net grows, one that does not may still grow.
  """
  certain: set[str] = set()
  open_: set[str] = set()
  for axis, n, base in zip(ordered.axes, s.shape, s.base_shape, strict=True):
    if axis.finite or axis.role is Role.STACKED:
      if n != base:
        expected = f"{n} for the axis {axis}, which does not grow"
        _refuse(where, "base_shape", s.base_shape, expected)
    else:
      (open_ if n == base else certain).add(axis.name)
  # One axis of each role decides on the kind.
  more = [set(names) for k in range(3) for names in itertools.combinations(open_, k)]
  kinds = {kind_of(ordered, dict.fromkeys(certain | names, 1)) for names in more}
  if s.kind not in kinds:
    expected = " or ".join(sorted(kind.value for kind in kinds))
    _refuse(where, "kind", s.kind.value, f'{expected}, by "{s.axes}" and base_shape')


def _refuse(where: str, name: str, value: Any, expected: str) -> NoReturn:
  raise DepthMupError(
    f"{where}: {name} is {json.dumps(value, default=str)}, expected {expected}; write "
    "the file anew from the scales of dmup.init"
  )


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
    try:
      return is_number(value), float(value) if is_number(value) else value
    except OverflowError:  # a whole number of hundreds of digits
      return False, value
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
