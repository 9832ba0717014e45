"""Layers of a tree: numbered names whose count differs, or a stacked leading axis.

Layer: standard library, `leaves`.
"""

import dataclasses
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from flax_depthmup.adapt.leaves import Leaf
from flax_depthmup.errors import DepthMupError

#: "block_12" -> block, 12; "h3" -> h, 3; "3" -> "", 3.
_NUMBERED = re.compile(r"(.*?)_?(\d+)$")
Counts = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class LayerGroup:
  """Layers with numbered names, more of them in the target than in the base.

  Attributes:
    name: their path without the number.
    counts: how many there are in the base and in the target.
    members: names of the target's parameters in them.
    nested: they are inside the layers of another group.
  """

  name: str
  counts: Counts
  members: frozenset[str]
  nested: bool


def align(
  base: Iterable[Leaf],
  target: Iterable[Leaf],
  titles: tuple[str, str] = ("base", "target"),
) -> tuple[dict[str, Leaf], list[LayerGroup]]:
  """Name of each parameter of the target -> the one of the base that it grew from.

  Every layer grew from the first of the base, of which all others must be copies.

  Raises:
    DepthMupError: a name is in one tree alone and is no further layer, or the layers
      of the base differ.
  """
  pairs: dict[str, Leaf] = {}
  groups: list[LayerGroup] = []
  _walk(_tree(base), _tree(target), (), False, (pairs, groups), titles)
  return pairs, groups


def _tree(leaves: Iterable[Leaf]) -> dict[str, Any]:
  root: dict[str, Any] = {}
  for leaf in leaves:
    node = root
    for part in leaf.parts[:-1]:
      node = node.setdefault(part, {})
      if isinstance(node, Leaf):
        raise DepthMupError(f"parameter {node.name} is a part of {leaf.name}; rename one")
    node[leaf.parts[-1]] = leaf
  return root


def _below(node: Any) -> list[Leaf]:
  if isinstance(node, Leaf):
    return [node]
  return [leaf for child in node.values() for leaf in _below(child)]


def _walk(
  base: Any,
  target: Any,
  path: tuple[str, ...],
  nested: bool,
  found: tuple[dict[str, Leaf], list[LayerGroup]],
  titles: tuple[str, str],
) -> None:
  pairs, groups = found
  if isinstance(base, Leaf) and isinstance(target, Leaf):
    pairs[target.name] = base
    return
  if isinstance(base, Leaf) or isinstance(target, Leaf):
    raise DepthMupError(
      f"{'/'.join(path)} is one parameter in one tree and several in the other: "
      f"{titles[0]} has {_below(base)[0].name}, {titles[1]} {_below(target)[0].name}; give "
      "two sizes of one net"
    )
  stems = {_stem(key, base, target, titles) for key in base.keys() ^ target.keys()}
  for stem in sorted(stems):
    olds = [node for key, node in base.items() if _split(key)[0] == stem]
    news = {key: node for key, node in target.items() if _split(key)[0] == stem}
    name = "/".join((*path, stem)) if stem else "/".join(path)
    _check_copies(olds, name, titles[0])
    members = frozenset(leaf.name for node in news.values() for leaf in _below(node))
    groups.append(LayerGroup(name, (len(olds), len(news)), members, nested))
    for key, node in news.items():
      _walk(olds[0], node, (*path, key), True, found, titles)
  for key in target:
    if _split(key)[0] not in stems:
      _walk(base[key], target[key], (*path, key), nested, found, titles)


def _split(key: str) -> tuple[str | None, int]:
  """(stem, number) of a numbered name; a name without a number has the stem None."""
  found = _NUMBERED.match(key)
  return (found[1], int(found[2])) if found else (None, 0)


def _stem(
  key: str, base: dict[str, Any], target: dict[str, Any], titles: tuple[str, str]
) -> str:
  """The stem of a name that is in one tree alone, for a number more or less.

  Raises:
    DepthMupError: the other tree has no such layers.
  """
  stem, _ = _split(key)
  where, there = titles if key in target else titles[::-1]
  stems = [{_split(k)[0] for k in tree} for tree in (base, target)]
  if stem is None or not all(stem in some for some in stems):
    leaf = _below((target if key in target else base)[key])[0]
    raise DepthMupError(
      f"parameter {leaf.name} is in {there} and has no counterpart in {where}; give two "
      "sizes of one net, which differ in widths and in the number of layers alone"
    )
  return stem


def _check_copies(layers: list[Any], name: str, title: str) -> None:
  """Raises unless all layers of the base have parameters of the same names and shapes."""

  def signature(node: Any, depth: int = 0) -> Any:
    if isinstance(node, Leaf):
      return node.shape
    return {key: signature(child) for key, child in node.items()}

  for layer in layers[1:]:
    if signature(layer) != signature(layers[0]):
      raise DepthMupError(
        f"the layers {name} of {title} differ: {_below(layers[0])[0].name} and "
        f"{_below(layer)[0].name} are not in layers of equal shapes, so it is unknown "
        "which of them a further layer grew from; give a base with as many layers as the "
        "target and depth=(base depth, depth)"
      )


def depth_of(counts: Iterable[Counts], nested: bool) -> Counts:
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
      f"layers grow in several places ({shown}), from which the depth does not follow; "
      "give depth=(blocks of the base net, blocks of the target)"
    )
  return unique[0]
