"""What is inside of residual branches, and the depth that follows from their layers.

Layer: standard library, `leaves`, `layers`, `model_axes`, `stacks`.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from flax_depthmup.adapt.layers import Counts, LayerGroup, numbered_layers
from flax_depthmup.adapt.leaves import Leaf, Sizes
from flax_depthmup.adapt.model_axes import ParameterAxes
from flax_depthmup.adapt.stacks import check_no_layers
from flax_depthmup.axes import Role
from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.patterns import as_patterns, matches, select, selects

Patterns = str | Sequence[str]
_GIVE_DEPTH = "give depth=(blocks of the base net, blocks of the target)"


def check_depth(depth: Any) -> Counts | None:
  """Raises `DepthMupError` for a depth= that is no pair of sizes."""
  if depth is None:
    return None
  if not isinstance(depth, tuple) or len(depth) != 2:
    raise DepthMupError(f"depth={depth!r}: expected (base depth, depth)")
  for value in depth:
    check_size(value, f"a depth of depth={depth}")
  return depth[0], depth[1]


def branch_names(
  branches: Patterns | None,
  stacked: Patterns | None,
  depth: Counts | None,
  sizes: list[Sizes],
  groups: list[LayerGroup],
) -> set[str]:
  """Names of the parameters inside of residual branches.

  Raises:
    DepthMupError: there are layers and no patterns, or patterns leave a part of the
      layers out in silence.
  """
  if branches is None:
    check_no_layers(sizes, groups)
    return set()
  patterns, names = as_patterns(branches, "branches"), [s.name for s in sizes]
  inside = select(patterns, "branches", names)
  if patterns and not inside:
    raise DepthMupError(f"branches={branches!r} select no parameter; drop an exclusion")
  members = {name for group in groups for name in group.members}
  grows = depth is not None and depth[0] != depth[1]
  if stacked is not None:
    chosen = select(as_patterns(stacked, "stacked"), "stacked", names)
    members |= {s.name for s in sizes if s.name in chosen and (grows or _deeper(s))}
  if grows:  # by layers of equal number too
    for layers in numbered_layers(s.leaf for s in sizes):
      together = frozenset().union(*layers)
      members |= together if together & inside else frozenset()
  excluded = {n for n in members for p in patterns if p[0] == "!" and matches(p[1:], n)}
  left_out = members - inside - excluded
  if patterns and left_out:
    raise DepthMupError(
      f"parameter {min(left_out)} is in a layer, but no pattern of branches="
      f'{branches!r} speaks of it; add one, or exclude it by "!" and its path if it acts '
      "on the residual stream itself"
    )
  return inside


def _deeper(s: Sizes) -> bool:
  """Whether the leading axis grows."""
  return bool(s.leaf.shape) and s.leaf.shape[0] != s.base.shape[0]


def net_depth(
  branches: Patterns | None,
  found: list[ParameterAxes],
  layers: set[str],
  groups: list[LayerGroup],
) -> Counts:
  """(base depth, depth), from how many layers with a part inside of a branch there are.

  Raises:
    DepthMupError: ratios differ, layers are inside of layers, or a stacked axis grows
      that may count layers or not.
  """
  inside = [p for p in found if p.branch]
  names = {p.name for p in inside}
  touched = [group for group in groups if group.members & names]
  counts = [_count(group, as_patterns(branches, "branches"), names) for group in touched]
  stacks = [p for p in inside if p.name in layers]
  counts += [(p.base_shape[0], p.shape[0]) for p in stacks]
  for p in inside:
    _check_one_stack(p, p.name in layers)
  both = bool(stacks) and any(group.members & layers for group in touched)
  nested = both or any(group.nested for group in touched)
  return _one_ratio(counts, nested)


def _check_one_stack(p: ParameterAxes, layered: bool) -> None:
  """Raises where a stacked axis grows that is not the one of the layers."""
  sizes = [*zip(p.axes.axes, p.base_shape, p.shape, strict=True)]
  for axis, old, new in sizes[1:] if layered else sizes:
    if axis.role is Role.STACKED and old != new:
      raise DepthMupError(
        f'the stacked axis "{axis.name}" of {p.name} grows, {old} -> {new}, and may count '
        "layers, as the stages of a pipeline do (depth is the product then), or not, as "
        f"experts do; {_GIVE_DEPTH}"
      )


def _count(group: LayerGroup, patterns: tuple[str, ...], inside: set[str]) -> Counts:
  """How many layers of a group have a part in a branch, in the base and in the target.

  Raises:
    DepthMupError: these differ in shape, or there are none in the base.
  """
  olds = [x for x in group.olds if any(selects(patterns, leaf.name) for leaf in x)]
  parts = [[leaf for leaf in layer if leaf.name in inside] for layer in group.news]
  news = [layer for layer in parts if layer]
  if not olds:
    raise DepthMupError(
      f"branches={patterns!r} fit layers {group.name} of the target, but none of the base "
      f"net, such as {group.olds[0][0].name}; correct the patterns, or {_GIVE_DEPTH}"
    )
  for layer in news[1:]:
    if _shapes(layer) != _shapes(news[0]):
      raise DepthMupError(
        f"the layers {group.name} of the target differ: {news[0][0].name} and "
        f'{layer[0].name} are not in layers of equal shapes; exclude by "!" what is no '
        f"residual branch, or {_GIVE_DEPTH}"
      )
  return len(olds), len(news)


def _shapes(layer: list[Leaf]) -> list[tuple[int, ...]]:
  return [leaf.shape for leaf in layer]


def _one_ratio(counts: list[Counts], nested: bool) -> Counts:
  """(base depth, depth) of layers of one ratio.

  Raises:
    DepthMupError: ratios differ, or layers are inside of layers.
  """
  unique = sorted(set(counts))
  if not unique:
    return 1, 1
  if len({Fraction(new, old) for old, new in unique}) > 1 or nested:
    shown = ", ".join(f"{old} -> {new}" for old, new in unique)
    raise DepthMupError(
      f"layers grow in several places, or inside of others ({shown}), from which the depth "
      f"does not follow: experts and heads are none, and stages multiply; {_GIVE_DEPTH}"
    )
  return unique[0]
