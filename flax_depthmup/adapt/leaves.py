"""The parameters of any tree, by name.

Layer: jax, flax.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One parameter of a tree.

  Attributes:
    name: its path, "encoder/block_0/Dense_0/kernel".
    shape: of the array.
    dtype: of the array.
  """

  name: str
  shape: Shape
  dtype: Any

  @property
  def parts(self) -> tuple[str, ...]:
    """The names along the path; "h.3.w" and "h[3].w" give h, 3, w."""
    return tuple(part for part in re.split(r"[/.\[\]]+", self.name) if part)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """One parameter in two or three nets.

  Attributes:
    leaf: in the target.
    base: what it grew from.
    delta: the same in a third net; the base where there is none.
  """

  leaf: Leaf
  base: Leaf
  delta: Leaf

  @property
  def name(self) -> str:
    """Its path in the target."""
    return self.leaf.name

  @property
  def grows(self) -> tuple[bool, ...]:
    """Whether each axis differs between the nets."""
    shapes = self.leaf.shape, self.base.shape, self.delta.shape
    return tuple(len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True))


def read_tree(tree: Any, what: str) -> tuple[list[Leaf], Any]:
  """The leaves of a tree of arrays or `jax.ShapeDtypeStruct`, and its structure.

  Boxes around arrays (`nn.Partitioned`, `Annotated`) are taken off.

  Raises:
    DepthMupError: there are none, one is no array of floats, two have one name, or
      the tree holds other collections beside "params".
  """
  if hasattr(tree, "keys") and "params" in tree and len(tree) > 1:
    raise DepthMupError(
      f"{what} holds the collections {', '.join(sorted(map(str, tree)))}; give the "
      'parameters alone: variables["params"]'
    )
  paths, structure = jax.tree_util.tree_flatten_with_path(nn.meta.unbox(tree))
  leaves = [_leaf(path_name(path), x, what) for path, x in paths]
  if not leaves:
    raise DepthMupError(f"{what} holds no parameters: give a tree of arrays or shapes")
  seen: dict[tuple[str, ...], str] = {}
  for leaf in leaves:
    other = seen.setdefault(leaf.parts, leaf.name)
    if other != leaf.name:
      raise DepthMupError(
        f"{what}: parameters {other} and {leaf.name} cannot be told apart; rename one"
      )
  return leaves, structure


def _leaf(name: str, x: Any, what: str) -> Leaf:
  if not (hasattr(x, "shape") and hasattr(x, "dtype")):
    raise DepthMupError(
      f"{what}: {name} is a {type(x).__name__}, expected an array or a "
      "jax.ShapeDtypeStruct; keep what is no parameter out of the tree, in Equinox by "
      "eqx.filter(model, eqx.is_inexact_array)"
    )
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise DepthMupError(
      f"{what}: {name} has dtype {x.dtype}, expected floats; counters, random keys and "
      "complex numbers are no parameters that scale: keep them out of the tree"
    )
  return Leaf(name, tuple(x.shape), jnp.dtype(x.dtype))


def check_layout(leaves: list[Leaf], layout: str) -> None:
  """Raises where a matrix and the bias beside it show the other order of axes."""
  vectors = {
    leaf.parts[:-1]: leaf.shape[-1]
    for leaf in leaves
    if leaf.parts[-1] in ("bias", "b") and len(leaf.shape) == 1
  }
  for leaf in leaves:
    size = vectors.get(leaf.parts[:-1])
    if len(leaf.shape) != 2 or size is None or leaf.parts[-1] in ("bias", "b"):
      continue
    first, last = leaf.shape
    out, other = (last, first) if layout == "in_out" else (first, last)
    if size == other != out:
      raise DepthMupError(
        f"parameter {leaf.name} has shape {leaf.shape} and a bias of size {size} beside "
        f'it, so its out axis is not where layout="{layout}" has it; give layout='
        f'"{"out_in" if layout == "in_out" else "in_out"}"'
      )
