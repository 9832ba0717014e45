"""The tree of arrays that a checkpoint holds. Layer: jax."""

from typing import Any

import jax
import numpy as np

from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name


def abstract(state: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays.

  Numpy arrays stand for themselves: they are restored as numpy.
  """

  def describe(x: Any) -> Any:
    if isinstance(x, np.ndarray):
      return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

  return jax.tree.map(describe, state)


def check_arrays(state: Any) -> None:
  """Raises `DepthMupError` unless every leaf is an array that still holds values."""
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    if not isinstance(x, (jax.Array, np.ndarray)):
      raise DepthMupError(
        f"state: {path_name(path)} is {x!r}, expected an array; give jnp.asarray of it"
      )
    if isinstance(x, jax.Array) and x.is_deleted():
      raise DepthMupError(
        f"state: {path_name(path)} was donated or deleted; save what the step gave back"
      )
  if not jax.tree.leaves(state):
    raise DepthMupError(f"state is {state!r}, which holds no array; give one that does")


def check_abstract(state: Any) -> None:
  """Raises `DepthMupError` unless every leaf says its shape, dtype and sharding."""
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    placed = getattr(x, "sharding", None) is not None
    if not (isinstance(x, np.ndarray) or (hasattr(x, "shape") and placed)):
      raise DepthMupError(
        f"abstract_state: {path_name(path)} is {x!r}, expected a jax.ShapeDtypeStruct "
        "with a sharding"
      )


def first_difference(saved: Any, own: Any) -> str:
  """The first leaf that two trees do not share, as half a sentence; empty when alike.

  Args:
    saved: the tree that was written, of leaves with shape and dtype, in which
      random keys are what they are made of: integers.
    own: the tree that it is to become.
  """
  found = {path_name(p): _kind(x) for p, x in jax.tree_util.tree_leaves_with_path(saved)}
  wanted = {path_name(p): _kind(x) for p, x in jax.tree_util.tree_leaves_with_path(own)}
  for name in [*wanted, *found]:
    if name not in found:
      return f"the saved state has no {name}, this run has {wanted[name]} there"
    if name not in wanted:
      return f"the saved state has {name}, {found[name]}, this run has not"
    if found[name] != wanted[name]:
      return f"{name} is {found[name]}, this run has {wanted[name]}"
  return ""


def first_other_dtype(restored: Any, own: Any) -> str:
  """The first leaf of another dtype, such as another kind of random key."""
  for (path, x), y in zip(
    jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(own), strict=True
  ):
    if x.dtype != y.dtype:
      return f"{path_name(path)} is {x.dtype}, this run has {y.dtype}"
  return ""


def _kind(x: Any) -> str:
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
  return f"{np.dtype(x.dtype).name}{list(x.shape)}"
