"""Base-shape files of the mup package, read and written.

A `.bsh` file is YAML: for each parameter the list of its base sizes, `null` where an axis
is finite, in PyTorch's order [out, in] (microsoft/mup, mup/shape.py). Layer: jax.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import yaml

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name
from flax_depthmup.sweep_store import replace

Transpose = bool | Callable[[str], bool]
#: Axes of one parameter in the order of the file; None: finite.
_Entry = list[int | None]

_HEADER = """\
# Base shapes: YAML, a list for each parameter with one entry an axis, in torch's order
# - `null`: the axis is finite, it does not grow with width
# - a number: the size in the base net of an axis that does grow
"""
_DEPTH = "base_depth"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseShapes:
  """What a file says of a net, as `axes_from_shapes(base, target, delta)` takes it.

  Attributes:
    base: the tree of the target, with a `jax.ShapeDtypeStruct` of the base net as every
      leaf.
    delta: likewise, with every axis that grows larger than in the base net.
    depth: number of blocks of the base net; None where the file does not say.
  """

  base: Any
  delta: Any
  depth: int | None


def dotted(name: str) -> str:
  """The name "layers_0/mlp/kernel" as "layers_0.mlp.kernel"."""
  return name.replace("/", ".")


def is_kernel(name: str) -> bool:
  """Whether a parameter is a Flax kernel, [*window, in, out], in torch out axis first."""
  return name.rpartition("/")[2] == "kernel"


def read_base_shapes(
  path: str | os.PathLike,
  target: Any,
  *,
  names: Callable[[str], str] = dotted,
  transpose: Transpose = True,
) -> BaseShapes:
  """Reads a `.bsh` file for a net.

      shapes = read_base_shapes("gpt.bsh", target)
      axes = dmup.axes_from_shapes(shapes.base, target, shapes.delta, branches="block_*")

  The net has as many layers as that of the file, which names them one by one. Give one
  of the file's depth here, and the deep one to `axes_from_shapes`.

  Args:
    path: the file.
    target: parameters of the net, arrays or `jax.ShapeDtypeStruct`.
    names: from the path of a parameter, "layers_0/mlp/kernel", to its name in the file.
    transpose: the file has torch's `[out, in, *window]` where the tree has
      `[*window, in, out]`. True: for parameters called kernel; a function: for those of
      whose path it is True; False: for none.

  Raises:
    DepthMupError: the file is missing, cut short or no `.bsh` file; it has a name the net
      has not, or the other way round, or another number of axes.
  """
  entries, depth = _read(pathlib.Path(path))
  flipped = _transposed(transpose)
  wanted = _by_file_name(_leaves(target, "target"), names)
  _check_names(path, entries, wanted)
  for name, (place, shape) in wanted.items():
    if len(entries[name]) != len(shape):
      raise DepthMupError(
        f"{path}: {name} has {len(entries[name])} axes, parameter {place} has shape "
        f"{shape}; read it for a net whose parameters have the axes of the file's"
      )

  def resized(grow: int) -> Any:
    def leaf(where: Any, x: Any) -> jax.ShapeDtypeStruct:
      place = path_name(where)
      entry = entries[names(place)]
      entry = _to_tree(entry) if flipped(place) else entry
      pairs = zip(entry, x.shape, strict=True)
      return jax.ShapeDtypeStruct(
        tuple(n if size is None else grow * size for size, n in pairs), x.dtype
      )

    return jax.tree_util.tree_map_with_path(leaf, target)

  return BaseShapes(base=resized(1), delta=resized(2), depth=depth)


def write_base_shapes(
  path: str | os.PathLike,
  base: Any,
  delta: Any,
  *,
  depth: int | None = None,
  names: Callable[[str], str] = dotted,
  transpose: Transpose = True,
) -> None:
  """Writes a `.bsh` file, whole or not at all: axes grow where base and delta differ.

  Args:
    path: the file; replaced if it is there.
    base: parameters of the base net, arrays or `jax.ShapeDtypeStruct`.
    delta: those of a net of another width, of the same depth.
    depth: number of blocks of the base net, for `read_base_shapes` alone: it goes into a
      second YAML document, and mup's own reader takes files of one.
    names: see `read_base_shapes`.
    transpose: see `read_base_shapes`.

  Raises:
    DepthMupError: base and delta are not the same tree of parameters, or two parameters
      have one name in the file.
  """
  flipped = _transposed(transpose)
  wanted = _by_file_name(_leaves(base, "base"), names)
  others = dict(_leaves(delta, "delta"))
  entries = {}
  for name, (place, shape) in wanted.items():
    other = others.pop(place, None)
    if other is None or len(other) != len(shape):
      raise DepthMupError(
        f"parameter {place} has shape {shape} in base and {other} in delta; give two "
        "widths of one net, of the same depth"
      )
    entry = [None if m == n else n for n, m in zip(shape, other, strict=True)]
    entries[name] = _to_file(entry) if flipped(place) else entry
  if others:
    raise DepthMupError(
      f"parameter {next(iter(others))} is in delta but not in base; give two widths of "
      "one net, of the same depth"
    )
  text = _HEADER + yaml.safe_dump(entries, indent=4)
  if depth is not None:
    check_size(depth, "depth")
    text += f"---\n{_DEPTH}: {int(depth)}\n"
  replace(pathlib.Path(path), lambda file: file.write(text.encode()))


def _to_file(entry: Sequence[Any]) -> list[Any]:
  """[*window, in, out] as [out, in, *window]; one axis or none stays."""
  return [*entry[:-3:-1], *entry[:-2]]


def _to_tree(entry: Sequence[Any]) -> list[Any]:
  """Undoes `_to_file`."""
  return [*entry[2:], *entry[1::-1]]


def _transposed(transpose: Transpose) -> Callable[[str], bool]:
  if callable(transpose):
    return transpose
  if not isinstance(transpose, bool):
    raise DepthMupError(
      f"transpose={transpose!r}: expected True, False or a function from a parameter's "
      "path to one of them"
    )
  return is_kernel if transpose else lambda name: False


def _leaves(tree: Any, which: str) -> list[tuple[str, tuple[int, ...]]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  for path, leaf in leaves:
    if not hasattr(leaf, "shape"):
      raise DepthMupError(
        f"{which}: {path_name(path)} is a {type(leaf).__name__}; give a tree of arrays or "
        "of jax.ShapeDtypeStruct"
      )
  if not leaves:
    raise DepthMupError(f"{which} has no parameters; give a tree of arrays")
  return [(path_name(path), tuple(leaf.shape)) for path, leaf in leaves]


def _by_file_name(
  leaves: list[tuple[str, tuple[int, ...]]], names: Callable[[str], str]
) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Name in the file -> (path in the tree, shape)."""
  found: dict[str, tuple[str, tuple[int, ...]]] = {}
  for place, shape in leaves:
    name = names(place)
    if not isinstance(name, str) or name in found:
      other = f", as it does for {found[name][0]}" if name in found else ""
      raise DepthMupError(
        f"names gives {name!r} for parameter {place}{other}; give a function from each "
        "path to a text of its own"
      )
    found[name] = place, shape
  return found


def _check_names(path: Any, entries: dict[str, _Entry], wanted: dict[str, Any]) -> None:
  unknown = [name for name in entries if name not in wanted]
  missing = [name for name in wanted if name not in entries]
  if missing:
    alike = f"; it has {unknown[0]}, which no parameter is called" if unknown else ""
    raise DepthMupError(
      f"{path} has no entry {missing[0]} for parameter {wanted[missing[0]][0]} "
      f"({len(missing)} of {len(wanted)} are missing){alike}; map paths to the file's "
      "names by names=, and give a net of the file's depth"
    )
  if unknown:
    raise DepthMupError(
      f"{path} has an entry {unknown[0]} that no parameter is called ({len(unknown)} of "
      f"{len(entries)}); give the whole net, of the file's depth"
    )


def _read(path: pathlib.Path) -> tuple[dict[str, _Entry], int | None]:
  remedy = "write it again with write_base_shapes or mup's make_base_shapes"
  try:
    text = path.read_text(encoding="utf-8")
    nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    documents = list(yaml.safe_load_all(text))
  except OSError as error:
    raise DepthMupError(
      f"{path} cannot be read: {error.strerror or error}; give a .bsh file"
    ) from None
  except (UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError) as error:
    what = " ".join(str(error).split())
    raise DepthMupError(f"{path} is no YAML, or cut short: {what}; {remedy}") from None
  if not text.endswith("\n"):  # a number may have lost its last digits
    raise DepthMupError(f"{path} does not end with a line's end, so it is cut; {remedy}")
  if len(documents) not in (1, 2) or not isinstance(documents[0], dict) or not documents[0]:
    raise DepthMupError(f"{path} holds no mapping from names to base sizes; {remedy}")
  keys = [key.value for key, _ in nodes[0].value]
  if len(set(keys)) < len(keys):
    twice = next(key for key in keys if keys.count(key) > 1)
    raise DepthMupError(f"{path} has two entries {twice}; remove one")
  for name, entry in documents[0].items():
    _check_entry(path, name, entry)
  if len(documents) == 1:
    return documents[0], None
  if not isinstance(documents[1], dict) or set(documents[1]) != {_DEPTH}:
    raise DepthMupError(
      f"{path}: the second document is {documents[1]!r}; expected {_DEPTH}: and a number"
    )
  check_size(documents[1][_DEPTH], f"{path}: {_DEPTH}")
  return documents[0], documents[1][_DEPTH]


def _check_entry(path: Any, name: Any, entry: Any) -> None:
  if not isinstance(name, str) or not isinstance(entry, list):
    raise DepthMupError(
      f"{path}: the entry {name!r} is {entry!r}; expected a name and a list of base sizes"
    )
  for size in entry:
    if size is not None:
      check_size(size, f"{path}: a base size of {name}")
