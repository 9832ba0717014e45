"""Layers as a stacked leading axis, as `nn.scan` makes them.

Layer: standard library, `leaves`, `layers`.
"""

from collections.abc import Sequence

from flax_depthmup.adapt.layers import LayerGroup, numbered_layers
from flax_depthmup.adapt.leaves import Sizes
from flax_depthmup.errors import DepthMupError
from flax_depthmup.patterns import as_patterns, select


def find_stacked(
  stacked: str | Sequence[str] | None,
  sizes: list[Sizes],
  inside: set[str],
  groups: list[LayerGroup],
) -> set[str]:
  """Names of the parameters whose leading axis counts layers.

  Without patterns they are those inside the branches, if all of these have one leading
  size in the base and one in the target, which no other axis of the net has.

  Raises:
    DepthMupError: a pattern fits nothing, or a scalar; or there are none but arrays of
      rank 2, such as gains, whose first axis grows.
  """
  if stacked is not None:
    names = select(as_patterns(stacked, "stacked"), "stacked", [s.name for s in sizes])
    for s in sizes:
      if s.name in names and not s.leaf.shape:
        raise DepthMupError(f"stacked: {s.name} is a scalar; exclude it by a pattern")
    return names
  numbered = {name for group in groups for name in group.members}
  if inside & numbered or not _share_an_axis(sizes, inside):
    return set()
  ours = [s for s in sizes if s.name in inside]
  if all(len(s.leaf.shape) == 2 for s in ours) and ours[0].grows[0]:
    raise DepthMupError(
      f"the first axis of {ours[0].name} grows, {ours[0].base.shape[0]} -> "
      f"{ours[0].leaf.shape[0]}, and may count layers, or heads of one; give "
      f'stacked="{ours[0].name}" and its like, or stacked=() if no axis counts layers'
    )
  return inside


def _share_an_axis(sizes: list[Sizes], names: set[str]) -> bool:
  """Whether these alone have a leading axis of one size, in each of the nets."""
  ours = [s for s in sizes if s.name in names]
  if not ours or not all(s.leaf.shape for s in ours):
    return False
  leading = {_lengths(s)[0] for s in ours}
  others = {n for s in ours for n in _lengths(s)[1:]}
  others |= {n for s in sizes if s.name not in names for n in _lengths(s)}
  return len(leading) == 1 and not leading & others


def _lengths(s: Sizes) -> list[tuple[int, int, int]]:
  """The size of each axis in the three nets."""
  return [*zip(s.leaf.shape, s.base.shape, s.delta.shape, strict=True)]


def check_no_layers(sizes: list[Sizes], groups: list[LayerGroup]) -> None:
  """Raises `DepthMupError` where layers are seen, for nobody named the branches."""
  found = [(g.name, *g.counts) for g in groups]
  for prefix in sorted({s.leaf.parts[:i] for s in sizes for i in range(1, 9)}):
    ours = [s for s in sizes if s.leaf.parts[: len(prefix)] == prefix]
    if len(ours) > 1 and _share_an_axis(sizes, {s.name for s in ours}):
      new, old, _ = _lengths(ours[0])[0]
      found += [("/".join(prefix), old, new)] if new != old else []
  if found:
    name, old, new = found[0]
    raise DepthMupError(
      f"there are layers, {name}: {old} in the base net and {new} in the target; say what "
      f'is inside a residual branch by patterns of paths, such as branches="{name}*", or '
      "branches=() for a net without"
    )


def check_inside_layers(
  sizes: list[Sizes], inside: set[str], layers: set[str], groups: list[LayerGroup]
) -> None:
  """Raises `DepthMupError` for a parameter in a branch that is in no layer.

  Only where there are layers: otherwise the depth does not change.
  """
  known = {name for group in groups for name in group.members} | layers
  if not known & inside:
    return
  for s in sizes:
    if s.name in inside - known:
      raise DepthMupError(
        f"parameter {s.name} is in a residual branch by branches=, but in none of the "
        "layers that grow in number, which gives the depth; narrow the patterns, or, if "
        "it is in a block of its own, give depth=(blocks of the base net, blocks of the "
        "target), all blocks counted"
      )


def check_outside_branches(sizes: list[Sizes], inside: set[str], layers: set[str]) -> None:
  """Raises `DepthMupError` where patterns of branches catch what is around the layers.

  With depth= a branch need not be in a layer that was seen.
  """
  numbered = numbered_layers(s.leaf for s in sizes)
  known = {name for some in numbered for layer in some for name in layer} | layers
  everything = all(s.name in inside for s in sizes)
  for s in sizes:
    table = len(s.leaf.shape) == 2 and "emb" in "/".join(s.leaf.parts[-2:]).lower()
    if s.name in inside and (everything or table) and s.name not in known:
      raise DepthMupError(
        f"parameter {s.name} is in a residual branch by branches=, but in no layer, and "
        "what goes into the residual stream or reads it out is in no branch; narrow the "
        'patterns, or exclude it by "!" and its path'
      )
