r"""Training a nonlinear residual net under Depth-muP by SGD: the limit of width and depth.

x^0 = U xi, h^l = W^l x^(l-1), x^l = x^(l-1) + a L^-alpha G phi(h^l), f = V^T x^L / n, with
G the subtraction of the mean over the n neurons and U, V frozen; width first, then depth.

**Derivation.** Write m = a L^-alpha, u = eta a L^-gamma, y^l = n dloss/dx^l and
dh^l = phi'(h^l) G y^l. The weights have moved by -(u/n) sum_s dh_s x_s^T, and
W^T dh_s = g_s + sum_r E[ddh_s/dh^_r] x_r with g a fresh Gaussian (Tensor Programs IV,
arXiv 2011.14522, the Z-dot), so that with h^_t the fresh Gaussian of W x_t

  h_t = h^_t + sum_{s<t} b_ts dh_s,   b_ts = (coefficient of x_t on g_s) - u <x_s x_t>/n

Both parts of b are O(L^-1/2): expand in them. In the sum over L layers, each with its
factor m, only the first order survives, and of that only its mean over the fresh
Gaussians: m G phi(h_t) becomes m G phi(h^_t) + sum_s m b_ts E[phi'(z_t) phi'(z_s)] y_s.
Downwards E[ddh_t/dh^_r] is needed to first order too, of dh_t = phi'(h_t) y_t, where
y_t = sum_r S_tr G phi(h^_r) + ... depends on the fresh Gaussians of its layer by
S_tr = O(L^-1/2):

  r != t   phi' S phi', and phi'' phi'' b_tr y_r y_t since h_t contains b_tr phi'(h_r) y_r
  r = t    E[phi'' y_t] + phi' S_tt phi', and the first of the two is
           sum_r S_tr E[phi''(z_t) G phi(z_r)] + sum_s b_ts E[phi''' phi'] <y_s y_t>

With beta = m b, response rho, sigma (S = sqrt(v) sigma) and (z_t, z_s) ~ N(0, C_0(l)):

  beta_ts = v rho_ts - kappa C0_ts                                             s before t
  F_ts = E[phi' phi'] beta_ts
  E_ts = E[phi' phi'] (v sigma_ts - kappa C1_ts) + beta_ts E[phi'' phi''] C1_ts
  E_tt = E[phi' phi'] v sigma_tt + v sum_r sigma_tr E[phi''(z_t) G phi(z_r)]
         + sum_s beta_ts E[phi'''(z_t) phi'(z_s)] C1_ts
  noise of h: Cov(G phi(z_t), G phi(z_s)),  of g: E[phi' phi'] C1_ts

(r over all samples not later than t, s over those before; for samples of one step,
beta and kappa are absent.)

**Confirmed.** The paper's Definition E.1 has no terms in phi'' and phi''';
`curvature=False` leaves them out. Outputs and kernels of nets of n = 512 (24 seeds, L = 64
and 128 extrapolated, four and five steps at a = 1) agree with the formula above within
1.3 standard errors for tanh, sin(z + 0.7), relu and |x|; without the terms they are
14.9 (tanh), 9.4 (sin(z + 0.7)), 6.3 (|x|) and 2.7 (relu) standard errors off, the outputs
by up to 0.09, 0.11, 0.05 and 0.02. The table stands in docs/limits.md, and the check in
tests/nonlinear_residual_test.py (slow). Layer: jax.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.exponents import Exponent, as_exponent
from flax_depthmup.limits.activation import derivatives
from flax_depthmup.limits.float64 import in_float64
from flax_depthmup.limits.gaussian_duals import check_smooth, gaussian_duals
from flax_depthmup.limits.residual_checks import (
  check_finite,
  check_no_zero_input,
  check_run,
  check_scale,
)
from flax_depthmup.limits.residual_training import (
  Layer,
  LossDerivative,
  ResidualTraining,
  train,
)

#: relu, abs, identity, or a function with three derivatives.
Activation = str | Callable[[jax.Array], jax.Array]


@in_float64
def nonlinear_residual(
  inputs: Any,
  targets: Any,
  activation: Activation,
  *,
  depth: int,
  loss_derivative: LossDerivative,
  d_out: int = 1,
  learning_rate: Any = 1.0,
  branch_multiplier: Any = 1.0,
  curvature: bool = True,
) -> ResidualTraining:
  """The limit of T steps of SGD under Depth-muP, on a grid of L layers.

  L is not the depth of a net: the formula is a limit in depth, and a grid of L layers
  is within O(1/L) of it, as a net of depth L is. `infinite_depth` extrapolates.

  Args:
    inputs: [T, B, d_in], one batch a step, no input zero.
    targets: a tree of arrays [T, ...], handed on step by step.
    activation: relu, abs or identity, in closed form; or a function of a jax array,
      entry by entry, with three derivatives, such as jnp.tanh.
    depth: L, layers of the grid.
    loss_derivative: (f [B, d_out], targets of a step) -> dloss/df [B, d_out].
    d_out: outputs of the net.
    learning_rate: eta at base depth 1; see `linear_residual`.
    branch_multiplier: a at base depth 1.
    curvature: False leaves out phi'' and phi''', for comparison.

  Raises:
    DepthMupError: as `linear_residual`, an input of norm zero, or an activation that is
      neither known nor a function.
  """
  return _run(
    inputs,
    targets,
    NonlinearLaw(activation, curvature),
    depth=depth,
    loss_derivative=loss_derivative,
    d_out=d_out,
    learning_rate=learning_rate,
    branch_multiplier=branch_multiplier,
    noise=True,
  )


@in_float64
def residual_ode(
  inputs: Any,
  targets: Any,
  activation: Activation = "identity",
  *,
  alpha: Exponent,
  depth: int,
  loss_derivative: LossDerivative,
  d_out: int = 1,
  learning_rate: Any = 1.0,
  branch_multiplier: Any = 1.0,
) -> ResidualTraining:
  """The limit at alpha in (1/2, 1], gamma = 1 - alpha: an ODE, by L steps of Euler.

  The noise of the hidden weights vanishes with v L = a^2 L^(1 - 2 alpha): what is left
  are the coefficients on U and V, and the features have no randomness of the hidden
  layers (the redundant part of the class, feature collapse). For alpha < 1 the limit
  does not depend on alpha. At alpha = 1 a block is no longer linear in its update (the
  b of `nonlinear_residual` is O(1)): only the linear net has this limit there, others
  that of `nonlinear_ode`. Nonlinear nets reach the limit as L^(alpha - 1) (linearity of
  the blocks) and L^(1/2 - alpha) (noise), L^(-1/4) at best: too slowly to be confirmed on
  nets here (tanh, alpha = 0.9, L = 128: 0.57 for 0.82 after three steps). Its law is that
  of `nonlinear_residual`, which is confirmed, and linear nets follow it.

  Args:
    inputs: [T, B, d_in], one batch a step, no input zero.
    targets: a tree of arrays [T, ...], handed on step by step.
    activation: as for `nonlinear_residual`.
    alpha: above 1/2 and at most 1; below 1 unless the activation is "identity".
    depth: L, steps of Euler's method; the error is O(1/L).
    loss_derivative: (f [B, d_out], targets of a step) -> dloss/df [B, d_out].
    d_out: outputs of the net.
    learning_rate: eta at base depth 1; see `linear_residual`.
    branch_multiplier: a at base depth 1.

  Raises:
    DepthMupError: as `nonlinear_residual`, or an alpha without this limit.
  """
  exponent = as_exponent(alpha, "alpha")
  if not (2 * exponent > 1 and exponent <= 1):
    raise DepthMupError(
      f"alpha={alpha!r} has no ODE for its limit: expected 1/2 < alpha <= 1"
    )
  if exponent == 1 and activation != "identity":
    raise DepthMupError(
      "alpha=1 with a nonlinear activation: its blocks are not linear in their update, "
      "and nonlinear_ode is their limit; else take alpha < 1 or activation='identity'"
    )
  return _run(
    inputs,
    targets,
    NonlinearLaw(activation, True),
    depth=depth,
    loss_derivative=loss_derivative,
    d_out=d_out,
    learning_rate=learning_rate,
    branch_multiplier=branch_multiplier,
    noise=False,
  )


def _run(
  inputs: Any,
  targets: Any,
  law: "NonlinearLaw",
  *,
  depth: int,
  loss_derivative: LossDerivative,
  d_out: int,
  learning_rate: Any,
  branch_multiplier: Any,
  noise: bool,
) -> ResidualTraining:
  """At v = a^2/L, or 0 without noise, and kappa = eta a^2/L."""
  check_size(depth, "depth")
  gaussian_duals(law.activation)  # raises where there are none
  if callable(law.activation):
    _check_activation(law.activation)
  inputs, targets = check_run(inputs, targets, loss_derivative, d_out)
  check_no_zero_input(inputs)
  check_scale(learning_rate, "learning_rate")
  check_scale(branch_multiplier, "branch_multiplier")
  squared = jnp.asarray(branch_multiplier, inputs.dtype) ** 2
  found = _train(
    inputs,
    targets,
    law,
    depth=int(depth),
    v=squared * noise / depth,
    kappa=learning_rate * squared / depth,
    loss_derivative=loss_derivative,
    d_out=int(d_out),
  )
  found = check_finite(found)
  if callable(law.activation) and not isinstance(found.outputs, jax.core.Tracer):
    variances = jnp.diagonal(found.forward_kernel, axis1=1, axis2=2)
    check_smooth(law.activation, float(variances.max()))
  return found


def _check_activation(phi: Callable[[jax.Array], jax.Array]) -> None:
  """Raises `DepthMupError` on kinks, whose phi'' and phi''' are not what jax says."""
  try:
    with jax.ensure_compile_time_eval():  # also where the run itself is traced
      derivatives(phi, 3)
  except DepthMupError as error:
    raise DepthMupError(
      f"activation: {error}; of those with kinks, 'relu' and 'abs' have closed forms"
    ) from None


@dataclasses.dataclass(frozen=True)
class NonlinearLaw:
  """F, E and the noise of the module's text.

  Attributes:
    activation: see `Activation`.
    curvature: whether phi'' and phi''' count.
  """

  activation: Activation
  curvature: bool

  def forward(self, layer: Layer) -> tuple[jax.Array, jax.Array, Any]:
    """See `residual_training.Law`."""
    pairs = gaussian_duals(self.activation)(layer.kernel)
    beta = layer.earlier * (layer.v * layer.response - layer.kappa * layer.kernel)
    return pairs.slope * beta, pairs.branch, (pairs, beta)

  def backward(self, layer: Layer, kept: Any) -> tuple[jax.Array, jax.Array]:
    """See `residual_training.Law`."""
    pairs, beta = kept
    c1, sigma = layer.kernel, layer.v * layer.not_later * layer.response
    e = pairs.slope * (sigma - layer.kappa * layer.earlier * c1)
    if self.curvature:
      bent = (sigma * pairs.bend + beta * pairs.jerk * c1).sum(axis=1)
      e += beta * pairs.curvature * c1 + jnp.diag(bent)
    return e, pairs.slope * c1


_train = functools.partial(
  jax.jit, static_argnames=("law", "depth", "loss_derivative", "d_out")
)(train)
