"""What was found of a model that is not ours.

Layer: jax, mathematics, `leaves`.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax

from flax_depthmup.adapt.leaves import Shape
from flax_depthmup.axes import Axes, Role
from flax_depthmup.errors import DepthMupError
from flax_depthmup.patterns import as_patterns, select

_ENDS = (Role.IN, Role.OUT)
Growth = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterAxes:
  """What was found of one parameter of the target.

  Attributes:
    name: its path.
    axes: names and roles, one per axis of the shape.
    shape: in the target.
    base_shape: of the parameter of the base that it grew from.
    branch: it is inside a residual branch.
    why: what the axes were read from.
  """

  name: str
  axes: Axes
  shape: Shape
  base_shape: Shape
  branch: bool
  why: str

  def __str__(self) -> str:
    where = "in a branch, " if self.branch else ""
    return f"{self.name} {list(self.shape)}: {self.axes} ({where}{self.why})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelAxes:
  """What was found of a model; print it to read it.

  Attributes:
    tree: like the target, a `ParameterAxes` in the place of each array.
    base_sizes: name of each infinite axis -> its size in the base net.
    base_depth, depth: blocks of the base net and of the target; 1 and 1 where they
      have equally many.
    tied: names of the embeddings that are readouts too.
  """

  tree: Any
  base_sizes: dict[str, int]
  base_depth: int
  depth: int
  tied: tuple[str, ...]

  @property
  def parameters(self) -> list[ParameterAxes]:
    """All of them, in the order of the tree."""
    return jax.tree.leaves(self.tree)

  def __str__(self) -> str:
    alike: dict[Any, list[ParameterAxes]] = {}
    for p in self.parameters:  # the layers of a loop are one line
      key = re.sub(r"\d+", "", p.name, count=1), p.shape, p.axes, p.branch
      alike.setdefault(key, []).append(p)
    lines = [f"depth {self.base_depth} -> {self.depth}"]
    for first, *others in alike.values():
      lines.append(f"{first}, {len(others)} more like it" if others else str(first))
    return "\n".join(lines)


def base_sizes_of(found: list[ParameterAxes]) -> dict[str, int]:
  """Name of each infinite axis -> base size.

  Raises:
    DepthMupError: there is none, or one name has two sizes.
  """
  sizes: dict[str, int] = {}
  owner: dict[str, str] = {}
  for p in found:
    for axis, n in zip(p.axes.axes, p.base_shape, strict=True):
      if axis.finite or axis.role is Role.STACKED:
        continue
      if sizes.setdefault(axis.name, n) != n:
        raise DepthMupError(
          f'the axis "{axis.name}" has size {sizes[axis.name]} in {owner[axis.name]} of '
          f"the base net and {n} in {p.name}; give the two different names in overrides"
        )
      owner.setdefault(axis.name, p.name)
  if not sizes:
    raise DepthMupError(
      "no axis of a parameter grows from base to target, so that widths cannot be told "
      "from sizes that stay: give delta=, the parameters of a net in which every width "
      "differs from that of the base"
    )
  return sizes


def tied_of(
  tied: str | Sequence[str] | None, found: list[ParameterAxes]
) -> tuple[str, ...]:
  """Names of tied embeddings.

  Raises:
    DepthMupError: there may be some and nobody said so, or one is no embedding.
  """
  around = [p for p in found if not p.branch]
  tables = {
    p.name: _product(p, Role.IN)
    for p in around
    if len(p.axes.axes) == 2 and _wide(p, Role.OUT) and _has_finite(p, Role.IN)
  }
  if tied is None:
    _ask_for_readout(tables, [p for p in around if _wide(p, Role.IN)])
    return ()
  names = sorted(select(as_patterns(tied, "tied"), "tied", [p.name for p in found]))
  for name in names:
    if name not in tables:
      raise DepthMupError(
        f"tied: {name} is no embedding, a table outside of branches from a finite axis to "
        f"an infinite one; those are {', '.join(tables) or 'not there'}"
      )
  return tuple(names)


def _ask_for_readout(tables: dict[str, int], readers: list[ParameterAxes]) -> None:
  """Raises where nothing reads the net out, or nothing as often as an embedding has rows.

  Args:
    tables: name -> number of rows.
    readers: what reads infinite axes.
  """
  readouts = [p for p in readers if not _wide(p, Role.OUT)]
  if not readouts:
    may = next(iter(tables), None)
    tie = f'{may} may serve as one: give tied="{may}" if it does, ' if may else "give "
    raise DepthMupError(
      f"no readout was found: {tie}tied=() if the net gives features; if the number of "
      "classes or tokens differs between base and target, give them alike, for a readout "
      'is "embed -> (vocab)", with an axis that stays'
    )
  sizes = {_product(p, Role.OUT) for p in readouts}
  for name, rows in tables.items():
    if _looks_like_embedding(name) and rows > 1 and rows not in sizes:
      raise DepthMupError(
        f"{name} is an embedding of {rows} rows, and no readout has as many outputs "
        f"({readouts[0].name} has {_product(readouts[0], Role.OUT)}): give "
        f'tied="{name}" if it serves as readout too, tied=() if it does not'
      )


def _looks_like_embedding(name: str) -> bool:
  """By its name one of tokens, which may be tied; no matrix of a dense layer."""
  *_, module, leaf = ("", *re.split(r"[/.\[\]]+", name.strip("]")))
  text = f"{module}/{leaf}".lower()
  other = re.search("pos|wpe|patch|time|type", text)
  return leaf != "kernel" and not other and bool(re.search("emb|wte|vocab|tok", text))


def _wide(p: ParameterAxes, role: Role) -> bool:
  return any(a.role is role and not a.finite for a in p.axes.axes)


def _has_finite(p: ParameterAxes, role: Role) -> bool:
  return any(a.role is role and a.finite for a in p.axes.axes)


def _product(p: ParameterAxes, role: Role) -> int:
  """The size in the target of all axes of a role together."""
  sizes = zip(p.axes.axes, p.shape, strict=True)
  return math.prod(n for axis, n in sizes if axis.role is role)


def check_hidden(found: list[ParameterAxes]) -> None:
  """Refuses a number of tokens, positions or classes that grows and is taken for a width.

  What is hidden outside of branches must grow as widths do: both axes by one ratio, and
  another parameter must give what it reads and read what it gives.

  Raises:
    DepthMupError: a matrix that was inferred does not.
  """
  matrices = [p for p in found if any(a.role is Role.IN for a in p.axes.axes)]
  given = {size for p in matrices for size in _sizes(p, Role.OUT)}
  read = {size for p in found for size in _sizes(p, Role.IN)}
  for p in found:
    hidden = _wide(p, Role.IN) and _wide(p, Role.OUT) and not p.branch
    if not hidden or p.why not in ("both axes grow", "a convolution"):
      continue
    ratios = {Fraction(new, old) for role in _ENDS for old, new in _widths(p, role)}
    if len(ratios) > 1:
      shown = " and ".join(f"{float(r):.4g}" for r in sorted(ratios))
      raise _no_width(p, f"its axes grow by different ratios, {shown}")
    for old, new in _widths(p, Role.IN):
      if not _is_given((old, new), given, multiples=p.name.endswith("kernel")):
        raise _no_width(p, f"no parameter gives the {old} -> {new} that it reads")
    for old, new in _widths(p, Role.OUT):
      if (old, new) not in read:
        raise _no_width(p, f"no parameter reads the {old} -> {new} that it gives")


def _widths(p: ParameterAxes, role: Role) -> list[Growth]:
  """The infinite axes of a role, in base and target."""
  sizes = zip(p.axes.axes, p.base_shape, p.shape, strict=True)
  return [(old, new) for a, old, new in sizes if a.role is role and not a.finite]


def _sizes(p: ParameterAxes, role: Role) -> list[Growth]:
  """Of them, and of all axes of the role as one, which heads and head_dim are."""
  sizes = zip(p.axes.axes, p.base_shape, p.shape, strict=True)
  all_of_them = [(old, new) for a, old, new in sizes if a.role is role]
  whole = tuple(math.prod(x) for x in zip(*all_of_them, strict=True))
  return [*_widths(p, role), (whole[0], whole[1])] if whole else []


def _is_given(size: Growth, given: set[Growth], multiples: bool) -> bool:
  """Whether a width is one of those, or a multiple, as pixels times channels are."""
  old, new = size
  return size in given or (
    multiples and any(old * n == new * m and old % m == 0 for m, n in given if n > m)
  )


def _no_width(p: ParameterAxes, why: str) -> DepthMupError:
  return DepthMupError(
    f"parameter {p.name} grows from {p.base_shape} to {p.shape} outside of the residual "
    f"branches, and {why}, so that one may be a number of tokens, positions or classes and "
    "no width; give base and target equally many, name what is in a block by branches=, or "
    f'say that both are widths by overrides={{"{p.name}": "embed -> mlp"}}'
  )
