"""Where forward multipliers are applied, in sight of `check_multipliers`.

A probe gives each of them a further factor, a one in the collection "multipliers",
and differentiates by it. Only a probe does: in any other call nothing is added.
Layer: flax, mathematics; no optax.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.axes import Axes
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.scales import forward_multiplier

#: The collection of the ones.
MULTIPLIERS = "multipliers"


def scaled(x: jax.Array, multiplier: float | jax.Array) -> jax.Array:
  """x * multiplier in the dtype of x; no operation where the multiplier is 1.

  The product is taken in float32 at least: bfloat16 would round the multiplier.
  """
  if isinstance(multiplier, float) and multiplier == 1.0:
    return x
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return (x * jnp.asarray(multiplier, wide)).astype(x.dtype)


def multiplied(
  module: nn.Module, x: jax.Array, multiplier: float | jax.Array, name: str = "multiplier"
) -> jax.Array:
  """x * multiplier in the dtype of x, in sight of `check_multipliers`.

  For a layer or a residual branch of your own, instead of the plain product.

  Args:
    module: who multiplies: `self`, inside its `__call__`.
    x: any array of floats.
    multiplier: a number or a traced scalar.
    name: `check_multipliers` calls it path/of/module/name; no child of the module
      has it.
  """
  return _probed(module.scope, scaled(x, multiplier), name)


def multiplied_by_rule(
  module: nn.Module, x: jax.Array, name: str, axes: Axes, shape: Any, p: Parametrization
) -> jax.Array:
  """x, linear in the parameter `name` of `module`, times that parameter's multiplier.

  In sight where the width rule has one for it, though it be 1 at this width.
  """
  multiplier = forward_multiplier(axes, shape, p)
  has_one = any(p.row(axes).multiplier)
  return multiplied(module, x, multiplier, name) if has_one else x


def multiplied_branch(
  block: nn.Module, y: jax.Array, multiplier: float | jax.Array
) -> jax.Array:
  """y, what the residual branch `block` gave, times the multiplier of the branch."""
  return _probed(block.scope, scaled(y, multiplier), "branch_multiplier")


def _probed(scope: Any, x: jax.Array, name: str) -> jax.Array:
  """x, in a probe times its one.

  The probe alone makes the collection mutable and the parameters not: `init` and
  `apply(..., mutable=True)` do both.
  """
  asked = scope.is_mutable_collection(MULTIPLIERS)
  if asked and not scope.is_mutable_collection("params"):
    scope.put_variable(MULTIPLIERS, name, jnp.ones(()))
  elif not scope.has_variable(MULTIPLIERS, name):
    return x
  return x * scope.get_variable(MULTIPLIERS, name).astype(x.dtype)
