"""What an inner transformation may be, checked before the first step. Layer: jax, optax."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_depthmup.entrywise import keeps_parameters, why_not_entrywise
from flax_depthmup.errors import DepthMupError
from flax_depthmup.families import Family
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales

#: In how many steps a linear transformation shows: some accumulate, some warm up.
_STEPS = 6
#: Of the gradients tried; above eps of Adam, and 16 times it below a clip at 1.
_SIZE = 0.02


def check_entrywise(inner: optax.GradientTransformation, params: Any) -> None:
  """Raises unless `inner` acts entry by entry."""
  why = why_not_entrywise(inner, params)
  if why is not None:
    raise DepthMupError(
      f"inner is not entrywise: {why}; give its family, as family=dmup.MUON, "
      "dmup.SHAMPOO, dmup.FACTORED or dmup.RELATIVE (see flax_depthmup.families), "
      "family=dmup.ENTRYWISE if you know that it is, and put clipping, normalization and "
      "trust ratios of the whole tree outside of scale_by_parametrization"
    )


def check_preset(
  inner: optax.GradientTransformation, params: Any, table: Mapping[str, Scales]
) -> None:
  """Raises where a preset that was published for Adam alone meets a linear `inner`."""
  adam_only = [name for name, s in table.items() if s.adam_only]
  if adam_only and _is_linear(inner, params):
    raise DepthMupError(
      f"inner is linear in the gradient, as SGD is, but the parametrization of "
      f"{adam_only[0]} says only what Adam does with eps; take dmup.complete_p, "
      "dmup.mup or dmup.depth_mup, which hold for any optimizer"
    )


def _is_linear(inner: optax.GradientTransformation, params: Any) -> bool:
  """Whether 16 times the gradient gives 16 times the update, on a tree of short axes.

  What comes without a gradient (weight decay) does not count. False where `inner`
  cannot be run so.
  """
  update = optax.with_extra_args_support(inner).update
  short = jax.tree.map(lambda x: np.ones([min(n, 2) for n in jnp.shape(x)], "f4"), params)

  def steps(size: float) -> list[np.ndarray]:
    grads = jax.tree.map(lambda x: jnp.asarray(size * x), short)
    state, found = inner.init(short), []
    for _ in range(_STEPS):
      updates, state = update(grads, state, short)
      found += [np.ravel(u) for u in jax.tree.leaves(updates)]
    return found

  try:
    with jax.ensure_compile_time_eval():
      none, one, many = (np.concatenate(steps(x)) for x in (0.0, _SIZE, 16 * _SIZE))
  except Exception:  # from the user's own code, of any kind
    return False
  one, many = one - none, many - none
  moves = bool(np.max(np.abs(many), initial=0) > 1e-3)  # above rounding
  return moves and np.allclose(many, 16 * one, rtol=1e-3, atol=1e-5)


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


def check_follows_updates(
  inner: optax.GradientTransformation, params: Any, state: Any
) -> None:
  """Raises where a state holds copies of the parameters: its updates are no steps."""

  def is_lookahead(node: Any) -> bool:
    return isinstance(node, optax.LookaheadState)

  nodes = jax.tree.leaves(state, is_leaf=is_lookahead)
  if any(map(is_lookahead, nodes)) or keeps_parameters(inner, params):
    raise DepthMupError(
      "inner keeps copies of the parameters in its state and steps towards or from them "
      "(schedule-free, lookahead, MADGRAD, COCOB, SAM), so scaling what it gives is no "
      "scaled step; put it around, where it only averages: "
      "optax.contrib.schedule_free(optax.chain(dmup.scale_by_parametrization(...), "
      "optax.scale_by_learning_rate(lr)), lr), and lookahead likewise"
    )
