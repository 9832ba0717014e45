"""What was found of a model that is not ours.

Layer: jax, mathematics, `leaves`.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax

from flax_depthmup.adapt.leaves import Shape
from flax_depthmup.axes import Axes, Role
from flax_depthmup.errors import DepthMupError
from flax_depthmup.patterns import as_patterns, select


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

  def wide(p: ParameterAxes, role: Role) -> bool:
    return any(a.role is role and not a.finite for a in p.axes.axes)

  def is_table(p: ParameterAxes) -> bool:
    roles = {a.role for a in p.axes.axes}
    return len(p.axes.axes) == 2 and roles == {Role.IN, Role.OUT} and not wide(p, Role.IN)

  tables = [p.name for p in found if is_table(p) and wide(p, Role.OUT) and not p.branch]
  if tied is None:
    read_out = any(
      wide(p, Role.IN) and not wide(p, Role.OUT) and not p.branch for p in found
    )
    if tables and not read_out:
      raise DepthMupError(
        f"no parameter is a readout, but {tables[0]} may serve as one: give "
        f'tied="{tables[0]}" if it does, tied=() if the net gives features'
      )
    return ()
  names = sorted(select(as_patterns(tied, "tied"), "tied", [p.name for p in found]))
  for name in names:
    if name not in tables:
      raise DepthMupError(
        f"tied: {name} is no embedding, a table outside of branches from a finite axis to "
        f"an infinite one; those are {', '.join(tables) or 'not there'}"
      )
  return tuple(names)
