"""Weight decay in the sizes that people mean by it. Layer: jax, optax, mathematics."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales
from flax_depthmup.transforms import named_leaves, trainable

#: Decays that differ by a factor of each parameter; see `adamw` for the table.
Factor = Literal["size_independent", "width_compensated", "coupled"]


def add_decayed_weights(
  weight_decay: float | jax.Array,
  scales: Any,
  decay: Factor = "size_independent",
  mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """updates + weight_decay * factor * params, for any optimizer.

  Put it after `scale_by_parametrization` and before the learning rate:

      optax.chain(
        dmup.scale_by_parametrization(optax.scale_by_lion(), scales),
        dmup.add_decayed_weights(0.1, scales, "width_compensated"),
        optax.scale_by_learning_rate(schedule))

  `optax.add_decayed_weights` there is "size_independent", and inside of
  `scale_by_parametrization` it is "coupled". Frozen parameters never decay.

  Args:
    weight_decay: lambda; negative where updates are applied as they are, after the
      learning rate.
    scales: the tree of `Scales` of `dmup.init`.
    decay: the factor is 1, that of depth, or the whole update factor; the table is
      in `adamw`.
    mask: which parameters decay; see `adamw`.

  Raises:
    DepthMupError: `decay` is none of the three, `scales` no tree of `Scales`; when
      used, if `update` is not given the parameters or `mask` says nothing of one.
  """
  if decay not in get_args(Factor):
    raise DepthMupError(
      f"decay={decay!r}: expected one of {', '.join(get_args(Factor))}; the others are "
      "a matter of the learning rate, see adamw"
    )
  if not isinstance(weight_decay, jax.Array):
    check_nonnegative(abs(weight_decay), "weight_decay")
  trainable(scales)  # names what is no Scales

  def factor(s: Scales) -> float:
    if decay == "coupled":
      return s.update_factor
    return s.depth_update_factor if decay == "width_compensated" else 1.0

  factors = {name: factor(s) for name, s in named_leaves(scales) if s.trainable}

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise DepthMupError(
        "weight decay needs the parameters: call update(grads, state, params) with them"
      )
    chosen = dict(named_leaves(mask(params) if callable(mask) else mask))

    def shrink(path, u, p):
      name = path_name(path)
      if name not in factors or not (mask is None or _chosen(name, chosen)):
        return u
      return u + jnp.asarray(weight_decay * factors[name], u.dtype) * p.astype(u.dtype)

    return jax.tree_util.tree_map_with_path(shrink, updates, params), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


def _chosen(name: str, mask: dict[str, Any]) -> bool:
  """The mask's value for a parameter: its own, or that of a subtree it is in."""
  for prefix, value in mask.items():
    if prefix in (name, "(the root)") or name.startswith(f"{prefix}/"):
      return bool(value)
  raise DepthMupError(
    f"mask says nothing of parameter {name}; give a tree of booleans like the "
    "parameters, or a prefix of it"
  )
