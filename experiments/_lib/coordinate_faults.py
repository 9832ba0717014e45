"""Six mistakes that people make, planted on purpose: a coordinate check must see them.

Each takes a net or its optimizer and spoils one thing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

import flax_depthmup as dmup

#: (scales, learning rate) -> transformation.
Optimizer = Callable[[Any, jax.Array], optax.GradientTransformation]


class Unmultiplied(dmup.Parametrization):
  """A parametrization whose branches carry no multiplier."""

  def branch_multiplier(self, depth: int) -> float:
    """1 at every depth."""
    del depth
    return 1.0


def no_branch_multiplier(model: nn.Module) -> nn.Module:
  """The net without L^(-alpha) at its branches; its updates are those of before."""
  p = model.parametrization
  fields = {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}
  return model.clone(parametrization=Unmultiplied(**fields))


def no_mean_subtraction(model: nn.Module) -> nn.Module:
  """The net without mean subtraction behind its nonlinearity."""
  return model.clone(mean_subtraction=False)


def no_update_factor(optimizer: Optimizer) -> Optimizer:
  """Without L^(-gamma) on the updates of branches."""
  return _with_scales(optimizer, lambda s: dataclasses.replace(s, depth_update_factor=1.0))


def update_factor_everywhere(optimizer: Optimizer) -> Optimizer:
  """With L^(-gamma) on the updates of the embedding and the readout too."""

  def spoil(scales: Any) -> Any:
    leaves = jax.tree.leaves(scales, is_leaf=_is_scales)
    factors = [s.depth_update_factor for s in leaves]
    factor = min(factors, key=lambda f: -abs(f - 1))
    return jax.tree.map(
      lambda s: dataclasses.replace(s, depth_update_factor=factor),
      scales,
      is_leaf=_is_scales,
    )

  return lambda scales, lr: optimizer(spoil(scales), lr)


def plain_eps(optimizer: Optimizer) -> Optimizer:
  """With one eps for all parameters, as without the gradient factor."""
  return _with_scales(optimizer, lambda s: dataclasses.replace(s, gradient_factor=1.0))


def decay_inside(eps: float, weight_decay: float) -> Optimizer:
  """Weight decay inside of the scaling, so that it falls with size."""

  def make(scales: Any, lr: jax.Array) -> optax.GradientTransformation:
    decayed = optax.chain(
      optax.scale_by_adam(eps=eps), optax.add_decayed_weights(weight_decay)
    )
    return optax.chain(
      dmup.scale_by_parametrization(decayed, scales), optax.scale_by_learning_rate(lr)
    )

  return make


def _is_scales(node: Any) -> bool:
  return isinstance(node, dmup.Scales)


def _with_scales(
  optimizer: Optimizer, change: Callable[[dmup.Scales], dmup.Scales]
) -> Optimizer:
  def make(scales: Any, lr: jax.Array) -> optax.GradientTransformation:
    return optimizer(jax.tree.map(change, scales, is_leaf=_is_scales), lr)

  return make


def spoils(fault: str, p: dmup.Parametrization) -> bool:
  """Whether a mistake changes anything under a parametrization."""
  if fault == "no_branch_multiplier":
    return p.alpha != 0
  if fault in ("no_update_factor", "update_factor_everywhere"):
    return p.gamma != 0
  if fault == "decay_inside":  # at one width the depth factor alone can show
    return p.gamma != 0
  return True


#: Name -> what it does to a net.
OF_MODEL = {
  "no_branch_multiplier": no_branch_multiplier,
  "no_mean_subtraction": no_mean_subtraction,
}
#: Name -> what it does to an optimizer.
OF_OPTIMIZER = {
  "no_update_factor": no_update_factor,
  "update_factor_everywhere": update_factor_everywhere,
  "plain_eps": plain_eps,
}
NAMES = (*OF_MODEL, *OF_OPTIMIZER, "decay_inside")
