"""Layers of a tree: numbered names whose count differs, or a stacked leading axis.

Layer: standard library, `leaves`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from flax_depthmup.adapt.leaves import Leaf
from flax_depthmup.errors import DepthMupError

#: "block_12" -> block, 12; "h3" -> h, 3; "3" -> "", 3.
_NUMBERED = re.compile(r"(.*?)_?(\d+)$")
#: What is numbered inside of a layer and is no layer itself.
_PARTS = re.compile("expert|head", re.IGNORECASE)
Counts = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class LayerGroup:
  """Layers with numbered names, more of them in the target than in the base.

  Attributes:
    name: their path without the number.
    olds: the parameters of each layer of the base.
    news: those of each layer of the target.
    nested: they are inside other layers, or are parts of one, as experts and heads.
  """

  name: str
  olds: tuple[tuple[Leaf, ...], ...]
  news: tuple[tuple[Leaf, ...], ...]
  nested: bool

  @property
  def counts(self) -> Counts:
    """How many there are in the base and in the target."""
    return len(self.olds), len(self.news)

  @property
  def members(self) -> frozenset[str]:
    """Names of the target's parameters in them."""
    return frozenset(leaf.name for layer in self.news for leaf in layer)


def align(
  base: Iterable[Leaf],
  target: Iterable[Leaf],
  titles: tuple[str, str] = ("base", "target"),
) -> tuple[dict[str, Leaf], list[LayerGroup]]:
  """Name of each parameter of the target -> the one of the base that it grew from.

  A layer grew from that of its name, a further one from the first of the base, of which
  all others must be copies.

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
  split = _splitter(base.keys() | target.keys())
  stems = {_stem(key, base, target, titles) for key in base.keys() ^ target.keys()}
  for stem in sorted(stems):
    olds = {key: node for key, node in base.items() if split(key) == stem}
    news = {key: node for key, node in target.items() if split(key) == stem}
    name = "/".join((*path, stem)) if stem else "/".join(path)
    _check_copies([*olds.values()], name, titles[0])
    layers = [tuple(tuple(_below(x)) for x in some.values()) for some in (olds, news)]
    parts = nested or _PARTS.search(stem or "".join(path[-1:])) is not None
    groups.append(LayerGroup(name, layers[0], layers[1], parts))
    first = next(iter(olds.values()))
    for key, node in news.items():
      _walk(olds.get(key, first), node, (*path, key), True, found, titles)
  stacks = repeated(base)  # as many layers in both: what is numbered in them is no layer
  for key in target:
    if split(key) not in stems:
      inner = nested or split(key) in stacks
      _walk(base[key], target[key], (*path, key), inner, found, titles)


def repeated(node: dict[str, Any]) -> set[str]:
  """The stems of several names of one node, such as block of block_0 and block_1."""
  split = _splitter(node)
  stems = [split(key) for key in node]
  return {stem for stem in stems if stem is not None and stems.count(stem) > 1}


def numbered_layers(leaves: Iterable[Leaf]) -> list[list[frozenset[str]]]:
  """The parameters of each of several layers with numbered names, at every level."""
  found: list[list[frozenset[str]]] = []

  def walk(node: Any) -> None:
    if isinstance(node, Leaf):
      return
    split = _splitter(node)
    for stem in sorted(repeated(node)):
      layers = [child for key, child in node.items() if split(key) == stem]
      found.append([frozenset(leaf.name for leaf in _below(x)) for x in layers])
    for child in node.values():
      walk(child)

  walk(_tree(leaves))
  return found


def _splitter(keys: Iterable[str]) -> Callable[[str], str | None]:
  """Name -> its stem; None: no number belongs to it.

  A name without a number is the first of those of its stem, as Haiku and Keras count:
  block, block_1, block_2.
  """
  numbered = [found for found in map(_NUMBERED.match, keys) if found]
  zeros = {found[1] for found in numbered if int(found[2]) == 0}
  bare = {found[1] for found in numbered} - zeros - {""}

  def split(key: str) -> str | None:
    found = _NUMBERED.match(key)
    if found:
      return found[1]
    return key if key in bare else None

  return split


def _stem(
  key: str, base: dict[str, Any], target: dict[str, Any], titles: tuple[str, str]
) -> str:
  """The stem of a name that is in one tree alone, for a number more or less.

  Raises:
    DepthMupError: the other tree has no such layers.
  """
  split = _splitter(base.keys() | target.keys())
  stem = split(key)
  where, there = titles if key in target else titles[::-1]
  stems = [{split(k) for k in tree} for tree in (base, target)]
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
