"""Solving in float64 whatever the default of jax is. Layer: jax, numpy."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def in_float64(
  solve: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
  """Runs a solver in float64, and rounds what it gives to jax's default precision.

  Sums over the layers cancel, and kinks make float32 lose all digits where an input
  comes again. Where arguments are traced (jit, grad, vmap) the precision is the caller's:
  take `jax.enable_x64(True)` there.
  """

  @functools.wraps(solve)
  def solved(*args: _Arguments.args, **fields: _Arguments.kwargs) -> _Result:
    leaves = jax.tree.leaves((args, fields))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
      return solve(*args, **fields)
    with jax.enable_x64(True):
      found = solve(*args, **fields)
    return jax.tree.map(_rounded, found)

  return solved


def _rounded(array: jax.Array) -> jax.Array:
  return jnp.asarray(np.asarray(array), jnp.result_type(float))
