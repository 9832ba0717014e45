"""Every parameter as a matrix by itself, for optimizers that act on matrices.

Layer: jax, optax, mathematics; knows no flax.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_depthmup.axes import Role
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales


def per_matrix(
  inner: optax.GradientTransformation, table: Mapping[str, Scales]
) -> optax.GradientTransformationExtraArgs:
  """Runs `inner` on each parameter alone, as [fan_in, fan_out], a stack layer by layer.

  Several axes in are one, and so are several out ([embed, heads, head_dim] is [embed,
  heads head_dim]); stacked axes are mapped over. Without axes in, or out, what is
  left stays a vector, or a scalar. What `inner` keeps of a parameter's own shape is
  kept in that shape, so that it is sharded as the parameter is.

  Args:
    inner: takes a single array as its tree.
    table: parameter name -> its scales, for the roles of its axes.
  """
  update = optax.with_extra_args_support(inner).update

  def init_fn(params: Any) -> Any:
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    if not leaves:
      return inner.init(params)  # optax probes states with trees without leaves
    states = [_init(inner, x, table[path_name(path)]) for path, x in leaves]
    return _turned(states, tree)

  def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
    tree: Any  # jax gives the class of trees no type
    leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
    if not leaves:
      return update(updates, state, params, **extra_args)
    own = [None] * len(leaves) if params is None else tree.flatten_up_to(params)
    kept = _turned_back(state, tree)
    found = []
    for (path, g), p, s in zip(leaves, own, kept, strict=True):
      scales = table[path_name(path)]
      as_matrix, as_parameter = _views(scales, jnp.shape(g))

      def step(g: Any, s: Any, p: Any) -> Any:
        return update(g, s, p, **extra_args)

      views = as_matrix(g), jax.tree.map(as_matrix, s), p if p is None else as_matrix(p)
      new, s = _mapped(step, scales)(*views)
      found.append((as_parameter(new), jax.tree.map(as_parameter, s)))
    return tree.unflatten([u for u, _ in found]), _turned([s for _, s in found], tree)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _init(inner: optax.GradientTransformation, x: Any, scales: Scales) -> Any:
  as_matrix, as_parameter = _views(scales, jnp.shape(x))
  return jax.tree.map(as_parameter, _mapped(inner.init, scales)(as_matrix(x)))


def _mapped(function: Callable[..., Any], scales: Scales) -> Callable[..., Any]:
  """Over the stacked axes, which are the first of a matrix view."""
  for _ in range(scales.roles.count(Role.STACKED.value)):
    function = jax.vmap(function)
  return function


def _views(
  scales: Scales, shape: tuple[int, ...]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
  """The matrix view of arrays of the parameter's shape, and back; others as they are."""
  order, flat = [], []
  for role in (Role.STACKED, Role.IN, Role.OUT):
    own = [i for i, r in enumerate(scales.roles) if r == role.value]
    sizes = [shape[i] for i in own]
    order += own
    if own:
      flat += sizes if role is Role.STACKED else [math.prod(sizes)]
  matrix = tuple(flat)
  turned = tuple(shape[i] for i in order)
  back = sorted(range(len(order)), key=order.__getitem__)

  def as_matrix(x: Any) -> Any:
    return x.transpose(order).reshape(matrix) if jnp.shape(x) == shape else x

  def as_parameter(x: Any) -> Any:
    return x.reshape(turned).transpose(back) if jnp.shape(x) == matrix else x

  return as_matrix, as_parameter


def _turned(states: list[Any], tree: Any) -> Any:
  """A state per parameter as a state whose leaves are trees of the parameters."""
  structures = {jax.tree.structure(s) for s in states}
  if len(structures) > 1:
    raise DepthMupError(
      "inner has states of different structure for parameters of different shapes; use "
      "optax.partition, with a scale_by_parametrization for each group"
    )
  leaves = [jax.tree.leaves(s) for s in states]
  return jax.tree.unflatten(
    structures.pop(), [tree.unflatten(list(column)) for column in zip(*leaves, strict=True)]
  )


def _turned_back(state: Any, tree: Any) -> list[Any]:
  """Undoes `_turned`."""

  def is_tree(node: Any) -> bool:
    return jax.tree.structure(node) == tree

  columns, structure = jax.tree.flatten(state, is_leaf=is_tree)
  columns = [tree.flatten_up_to(column) for column in columns]
  return [
    jax.tree.unflatten(structure, [column[i] for column in columns])
    for i in range(tree.num_leaves)
  ]
