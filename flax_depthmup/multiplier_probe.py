"""A probe for forward multipliers that a following normalization cancels.

Layer: flax, mathematics; no optax.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.convolution import Conv
from flax_depthmup.errors import DepthMupError
from flax_depthmup.forward_multipliers import MULTIPLIERS
from flax_depthmup.layers import Dense, Embed
from flax_depthmup.paths import path_name
from flax_depthmup.residual import Residual


def check_multipliers(
  model: nn.Module, params: Any, *inputs: Any, tolerance: float = 1e-3, **kwargs: Any
) -> dict[str, float]:
  """Measures what every forward multiplier does to the outputs, and wants it to do some.

  A parametrization whose multipliers are divided out again is another one: the
  updates are scaled for a multiplier that the net does not have. A norm does this
  to all that comes before it without a way around it. Probed are

      path/of/block/branch_multiplier   of every `Residual`, whatever its alpha: a is a
                                        hyperparameter where the depth factor is 1
      path/of/layer/kernel              of every parameter to which the width rule gives
                    bias, embedding,    a multiplier, though it be 1 at this width
                    attend (tied)
      path/of/module/name               of your own, applied by `multiplied`

  A parameter that is zero throughout, such as that of a readout that starts at
  zero, is drawn at random instead. The layers of one scan are moved together: all
  are the same program, and the effect of one falls with depth.

  Runs a forward pass per multiplier, forward-differentiated: give a small batch.
  Goes through scan and remat; through your own `nn.scan` or `nn.vmap` with
  variable_axes={True: 0, ...}, or with "multipliers" among them.

  Limits: only what `Residual`, our layers and `multiplied` apply is seen, not a
  plain product in your own module. The effect is at these parameters and inputs
  alone. Where the input of a norm is small its eps lets something through, eps over
  the mean square: inputs of a norm that are below 0.03 look uncancelled to the
  default tolerance. Functions with a backward rule alone (jax.custom_vjp) cannot be
  passed.

  Args:
    model: any linen module, computing in float32.
    params: as `init` gives them.
    *inputs: of the module's `__call__`.
    tolerance: the effect that counts as none.
    **kwargs: likewise.

  Returns:
    Multiplier -> |d outputs / d log multiplier| / |outputs|, norms over all outputs.

  Raises:
    DepthMupError: multipliers have no effect, naming them all; the model has none, or
      computes in less than float32; the outputs are zero or not finite; a
      transformation keeps the probe out.
  """
  check_nonnegative(tolerance, "tolerance")
  if not isinstance(model, nn.Module):
    raise DepthMupError(f"model={model!r} is no linen module; give an instance of one")
  params = _without_zeros(params)

  def outputs(variables: Any) -> list[jax.Array]:
    out = model.apply({"params": params, **variables}, *inputs, **kwargs)
    return [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]

  ones = _ones(model, params, inputs, kwargs)
  if "f16[" in str(jax.make_jaxpr(outputs)(ones)):
    raise DepthMupError(
      "the model computes in bfloat16 or float16, where rounding looks like the effect "
      "of a multiplier; give a clone in float32: model.clone(dtype=None)"
    )
  effects = _effects(outputs, ones)
  lost = [name for name, effect in effects.items() if effect <= tolerance]
  if lost:
    worst = ", ".join(f"{name} ({effects[name]:.1g})" for name in lost)
    raise DepthMupError(
      f"{len(lost)} of {len(effects)} forward multipliers have no effect on the outputs: "
      f"{worst}; a normalization behind them divides them out, so move it before the "
      "multiplied layer or branch, or remove it (relative effects up to "
      f"tolerance={tolerance} count as none)"
    )
  return effects


def _without_zeros(params: Any) -> Any:
  """The parameters, those that are zero throughout drawn with variance 1/fan_in."""

  def draw(index: int, x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.any(x != 0):
      return x
    key = jax.random.fold_in(jax.random.key(0), index)
    fan_in = max(x.shape[-2] if x.ndim > 1 else 1, 1)
    return jax.random.normal(key, x.shape, x.dtype) * fan_in**-0.5

  leaves, tree = jax.tree.flatten(params)
  if not all(isinstance(x, jax.Array) or hasattr(x, "dtype") for x in leaves):
    raise DepthMupError("params hold something other than arrays; give those of dmup.init")
  return jax.tree.unflatten(tree, [draw(i, jnp.asarray(x)) for i, x in enumerate(leaves)])


def _ones(model: nn.Module, params: Any, inputs: Any, kwargs: Any) -> Any:
  """The collection of ones, one for every multiplier that the model applies."""

  def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if _may_multiply(module) and not module.is_mutable_collection(MULTIPLIERS):
      raise DepthMupError(
        f"the probe cannot see {type(module).__name__} {'/'.join(module.path)}: it is "
        f'inside an nn.scan, nn.vmap or the like without the collection "{MULTIPLIERS}"; '
        f'add variable_axes={{"{MULTIPLIERS}": 0}} to that'
      )
    return call(*args, **kwargs)

  def collect() -> Any:
    variables = {"params": params}
    return model.apply(variables, *inputs, mutable=[MULTIPLIERS], **kwargs)[1]

  with nn.intercept_methods(watch):
    shapes = jax.eval_shape(collect)
  if not jax.tree.leaves(shapes):
    raise DepthMupError(
      f"{type(model).__name__} has no forward multiplier to probe: no dmup.Residual, and "
      "no layer to whose parameters the width rule gives one"
    )
  return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)


def _may_multiply(module: nn.Module) -> bool:
  """Whether this is a branch, or a layer of ours under a rule with multipliers."""
  if isinstance(module, Residual):
    return True
  layer = isinstance(module, Dense | Conv | Embed)
  return layer and any(any(r.multiplier) for _, r in module.parametrization.width_rule.rows)


def _norm(arrays: Any) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(x * x) for x in arrays))


def _effects(outputs: Any, ones: Any) -> dict[str, float]:
  """Multiplier -> its relative effect, by a forward derivative for each."""

  @jax.jit
  def measure(tangents: Any) -> tuple[jax.Array, jax.Array]:
    values, moved = jax.jvp(outputs, (ones,), (tangents,))
    return _norm(values), _norm(moved)

  leaves, tree = jax.tree_util.tree_flatten_with_path(ones)
  effects = {}
  for i, (path, _) in enumerate(leaves):
    tangents = [jnp.ones_like(x) * (j == i) for j, (_, x) in enumerate(leaves)]
    size, moved = measure(jax.tree.unflatten(tree, tangents))
    if not (jnp.isfinite(size) and jnp.isfinite(moved) and size > 0):
      raise DepthMupError(
        f"the outputs have norm {float(size)} and move by {float(moved)}, which shows no "
        "effect of multipliers; give parameters and inputs whose outputs are finite and "
        "not zero"
      )
    effects[path_name(path[1:])] = float(moved / size)
  return effects
