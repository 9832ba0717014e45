"""What an inner transformation may be, checked before the first step. Layer: jax, optax."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_depthmup.entrywise import why_not_entrywise
from flax_depthmup.errors import DepthMupError
from flax_depthmup.families import Family
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales

#: States that hold copies of the parameters: their updates are no multiple of a step.
_FOLLOWERS = (optax.contrib.ScheduleFreeState, optax.LookaheadState)


def check_inner(
  inner: optax.GradientTransformation, params: Any, table: Mapping[str, Scales]
) -> None:
  """Raises unless `inner` acts entry by entry, and suits the preset of `table`."""
  why = why_not_entrywise(inner, params)
  if why is not None:
    raise DepthMupError(
      f"inner is not entrywise: {why}; give its family, as family=dmup.MUON, "
      "dmup.SHAMPOO, dmup.FACTORED or dmup.RELATIVE (see flax_depthmup.families), "
      "family=dmup.ENTRYWISE if you know that it is, and put clipping, normalization and "
      "trust ratios of the whole tree outside of scale_by_parametrization"
    )
  adam_only = [name for name, s in table.items() if s.adam_only]
  if adam_only and _is_linear(inner):
    raise DepthMupError(
      f"inner is linear in the gradient, as SGD is, but the parametrization of "
      f"{adam_only[0]} says only what Adam does with eps; take dmup.complete_p, "
      "dmup.mup or dmup.depth_mup, which hold for any optimizer"
    )


def _is_linear(inner: optax.GradientTransformation) -> bool:
  """Whether 16 times the gradient gives 16 times the update, on one small matrix.

  False where `inner` is made for the tree at hand and takes no other.
  """
  params = {"w": np.ones((2, 2), np.float32)}
  grads = {"w": np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)}
  update = optax.with_extra_args_support(inner).update

  def first(size: float) -> np.ndarray:
    scaled = {"w": jnp.asarray(size * grads["w"])}
    return np.asarray(update(scaled, inner.init(params), params)[0]["w"])

  try:
    with jax.ensure_compile_time_eval():
      one, many = first(1.0), first(16.0)
  except Exception:
    return False
  return bool(np.any(one)) and np.allclose(many, 16 * one, rtol=1e-3)


def check_matrices(family: Family, params: Any, table: Mapping[str, Scales]) -> None:
  """Raises unless every parameter has axes in and axes out."""
  for path, _ in jax.tree_util.tree_leaves_with_path(params):
    roles = table[path_name(path)].roles
    if "in" not in roles or "out" not in roles:
      raise DepthMupError(
        f"family={family.name} acts on matrices, and parameter {path_name(path)} is none "
        f'("{table[path_name(path)].axes}"); take dmup.muon, or optax.partition with '
        "another transformation for gains, biases and scalars"
      )


def check_follows_updates(state: Any) -> None:
  """Raises where a state holds copies of the parameters."""

  def is_follower(node: Any) -> bool:
    return isinstance(node, _FOLLOWERS)

  for node in jax.tree.leaves(state, is_leaf=is_follower):
    if is_follower(node):
      raise DepthMupError(
        f"inner keeps copies of the parameters ({type(node).__name__}), so scaling what "
        "it gives is no scaled step; put it around: "
        "optax.contrib.schedule_free(optax.chain(dmup.scale_by_parametrization(...), "
        "optax.scale_by_learning_rate(lr)), lr), and lookahead likewise"
      )
