r"""Training a linear residual net by SGD at infinite width, exactly, at any finite depth.

Tensor Programs VI (arXiv 2310.02244), linear residual networks: x^0 = U xi,
x^l = x^(l-1) + a L^-alpha W^l x^(l-1), f = V^T x^L / n; U, V frozen. With v, kappa of
`residual_training`, Gamma the coefficients over sqrt(v) (for alpha = 1/2, a = 1 that is
the paper's Gamma), and C the kernels,

  F(l)[t, s] = v Gamma_{t,s,0,1}(l-1, l) - kappa C_{t,s,0}(l)        s before t
  E(l)[t, s] = v Gamma_{t,s,1,0}(l, l)   - kappa C_{t,s,1}(l)

the first from the correlation of W with W^T, the second from the update of W. The noise
of layer l has the covariance C_0(l) going up and C_1(l) coming down. The paper writes
one sample a step, d_in = d_out = 1 and alpha = gamma = 1/2; here a step has a batch,
whose samples count as vectors of the same time, and the coefficients on U and V are
vectors. Layer: jax.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from flax_depthmup.checks import check_size
from flax_depthmup.exponents import Exponent, as_exponent
from flax_depthmup.limits.float64 import in_float64
from flax_depthmup.limits.residual_checks import check_finite, check_run, check_scale
from flax_depthmup.limits.residual_training import (
  Layer,
  LossDerivative,
  ResidualTraining,
  train,
)


@in_float64
def linear_residual(
  inputs: Any,
  targets: Any,
  *,
  depth: int,
  loss_derivative: LossDerivative,
  d_out: int = 1,
  alpha: Exponent = 0.5,
  gamma: Exponent = 0.5,
  learning_rate: Any = 1.0,
  branch_multiplier: Any = 1.0,
) -> ResidualTraining:
  """The limit n -> infinity of T steps of SGD on a linear residual net of depth L.

  Pure and jittable; differentiable in the inputs, the learning rate and the multiplier.
  It computes in float64 and rounds to jax's default; where an argument is traced, in the
  caller's precision. O(T (TB)^3 L) time and O((TB)^2 L) memory: 10 steps at depth 512 are
  a fraction of a second (`python -m experiments.benchmark --suite=limits`) once the
  program is compiled, which takes about two; it is compiled anew for every new function
  `loss_derivative`, so hand on one object.

  Args:
    inputs: [T, B, d_in], one batch a step.
    targets: a tree of arrays [T, ...], handed on step by step.
    depth: L.
    loss_derivative: (f [B, d_out], targets of a step) -> dloss/df [B, d_out]; it holds
      the 1/B of a mean. Zero for a sample makes it a probe that does not train.
    d_out: outputs of the net.
    alpha: exponent of the branch multiplier; any point of the class will do.
    gamma: exponent of the update.
    learning_rate: eta at base depth 1: eta L0^gamma for a net with base depth L0.
    branch_multiplier: a at base depth 1, likewise a L0^alpha.

  Raises:
    DepthMupError: a wrong shape, a number that is not finite, a loss derivative of
      another shape, or a run that diverges.
  """
  check_size(depth, "depth")
  inputs, targets = check_run(inputs, targets, loss_derivative, d_out)
  check_scale(learning_rate, "learning_rate")
  check_scale(branch_multiplier, "branch_multiplier")
  alpha, gamma = float(as_exponent(alpha, "alpha")), float(as_exponent(gamma, "gamma"))
  squared = jnp.asarray(branch_multiplier, inputs.dtype) ** 2
  found = _train(
    inputs,
    targets,
    LinearLaw(),
    depth=int(depth),
    v=squared * depth ** (-2 * alpha),
    kappa=learning_rate * squared * depth ** (-alpha - gamma),
    loss_derivative=loss_derivative,
    d_out=int(d_out),
  )
  return check_finite(found)


@dataclasses.dataclass(frozen=True)
class LinearLaw:
  """phi = id: the same formula up and down."""

  def forward(self, layer: Layer) -> tuple[jax.Array, jax.Array, Any]:
    """See `residual_training.Law`."""
    return (*self._both(layer), jnp.zeros(()))

  def backward(self, layer: Layer, kept: Any) -> tuple[jax.Array, jax.Array]:
    """See `residual_training.Law`."""
    del kept
    return self._both(layer)

  def _both(self, layer: Layer) -> tuple[jax.Array, jax.Array]:
    moved = layer.v * layer.response - layer.kappa * layer.kernel
    return layer.earlier * moved, layer.kernel


_train = functools.partial(
  jax.jit, static_argnames=("law", "depth", "loss_derivative", "d_out")
)(train)
