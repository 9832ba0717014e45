"""Gradient diversity: whether neighbouring blocks are pulled into different directions.

Tensor Programs VI (arXiv 2310.02244), on the choice of the nonlinearity. Layer: jax,
flax, `branches`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flax_depthmup.convolution import Conv
from flax_depthmup.diagnostics.branches import (
  Call,
  Path,
  Site,
  by_block,
  check_first_call,
  check_found,
  check_module,
  scope_of,
  watching,
)
from flax_depthmup.errors import DepthMupError
from flax_depthmup.layers import Dense

#: The collection of the zeros that are added to the outputs of linear layers.
PROBE = "output_probe"
_ZERO = "(zero)"

_LINEAR = (Dense, Conv, nn.Dense, nn.DenseGeneral, nn.Conv)


@dataclasses.dataclass(frozen=True)
class GradientDiversity:
  """Cosines between the gradients at neighbouring blocks, of one kind of layer.

  Attributes:
    cosines: [L - 1] of blocks l and l + 1, over the features of an example, averaged
      over the examples.
    mean: of those.
    standard_error: of the mean, from their scatter over l; None of two blocks.
  """

  cosines: np.ndarray
  mean: float
  standard_error: float | None


def gradient_diversity(
  loss: Callable[[Any], jax.Array],
  model: nn.Module,
  params: Any,
  *inputs: Any,
  **kwargs: Any,
) -> dict[str, GradientDiversity]:
  """Cosines of delta h^l and delta h^(l+1), by kind of linear layer in the branches.

  delta h^l is the gradient of the loss with respect to the output of a `Dense` or
  `Conv` (ours or linen's) inside a `Residual`. An example is whatever the layer maps
  by itself: a row of a batch, a token, a position of an image. Examples without a
  gradient, such as tokens that no loss reads, do not count.

  At initialization, wide and deep, one layer per branch (section on the nonlinearity,
  delta h = delta x * phi'(h) with h independent between blocks): E[phi']^2 / E[phi'^2],
  hence 0 for |x| and 1/2 for ReLU, with mean subtraction or without; 1 for the identity
  and for pre-nonlinearity blocks W phi(x), where delta h is delta x. At a finite depth
  delta x turns too: times (1 + b^2 E[phi'^2])^(-1/2), b the branch multiplier.

  Args:
    loss: from what the model gives to a scalar. Averages and sums over examples give
      the same cosines.
    model: any linen module.
    params: as `init` gives them.
    *inputs: of the module's `__call__`.
    **kwargs: likewise.

  Returns:
    Name of a layer, such as "stack/block/dense_0" -> its cosines. Layers that only one
    block has are left out. Layers in a Python loop: see `by_block`.

  Raises:
    DepthMupError: no layer that two blocks have, one that is called twice, a loss that
      is no scalar, gradients that are not finite or all zero, or a scan that keeps the
      watcher out.
  """
  check_module(model)
  sites: dict[Path, Site] = {}
  outs: dict[Path, int] = {}

  def visit(call: Call) -> Any:
    h = call.run()
    module, branch = call.module, call.branch
    if branch is None or not isinstance(module, _LINEAR):
      return h
    scope = scope_of(module)
    if scope.has_variable(PROBE, _ZERO) and not scope.is_mutable_collection(PROBE):
      return h + scope.get_variable(PROBE, _ZERO)
    check_first_call(module, PROBE, _ZERO)
    scope.put_variable(PROBE, _ZERO, jnp.zeros_like(h))
    sites.setdefault(module.path, Site(module.path, len(branch.path), h.shape))
    outs[module.path] = _out_axes(module)
    return h

  def collect(params: Any) -> Any:
    return model.apply({"params": params}, *inputs, mutable=[PROBE], **kwargs)[1]

  def loss_of(probe: Any, params: Any) -> jax.Array:
    value = loss(model.apply({"params": params, **probe}, *inputs, **kwargs))
    if jnp.shape(value) != ():
      raise DepthMupError(f"the loss has shape {jnp.shape(value)}; expected a scalar")
    return value

  with watching(visit):
    shapes = jax.eval_shape(collect, params)
    check_found(model, sites, "linear layer in a residual branch")
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    deltas = jax.jit(jax.grad(loss_of))(zeros, params)[PROBE]
  by_axes = {n: [s for s in sites.values() if outs[s.path] == n] for n in outs.values()}
  found = {
    name: _diversity(name, delta, out_axes)
    for out_axes, some in by_axes.items()
    for name, delta in by_block(deltas, some, _ZERO).items()
    if len(delta) > 1
  }
  if not found:
    raise DepthMupError(
      f"{type(model).__name__} has no linear layer in two neighbouring blocks; give a net "
      "of at least two blocks of one shape"
    )
  return found


def _out_axes(module: nn.Module) -> int:
  """How many last axes of a layer's output are its features."""
  features = module.features
  return len(features) if isinstance(features, tuple | list) else 1


def _diversity(name: str, delta: jax.Array, out_axes: int) -> GradientDiversity:
  """The cosines of delta h [L, ..., features]."""
  wide = np.asarray(delta).astype(np.float64)
  wide = wide.reshape(len(wide), -1, int(np.prod(wide.shape[-out_axes:])))
  if not np.isfinite(wide).all():
    raise DepthMupError(f"the gradients of {name} are not finite; did the net diverge?")
  norms = np.linalg.norm(wide, axis=-1)
  products = np.einsum("lef,lef->le", wide[:-1], wide[1:])
  sizes = norms[:-1] * norms[1:]
  counts = sizes > 0
  if not counts.any(axis=1).all():
    raise DepthMupError(
      f"the gradients of {name} are zero in all examples of a block; give parameters at "
      "which the loss depends on every block (not those of a readout that is zero)"
    )
  cosines = np.divide(products, sizes, out=np.zeros_like(sizes), where=counts)
  cosines = cosines.sum(axis=1) / counts.sum(axis=1)
  pairs = len(cosines)
  error = float(cosines.std(ddof=1) / np.sqrt(pairs)) if pairs > 1 else None
  return GradientDiversity(cosines, float(cosines.mean()), error)
