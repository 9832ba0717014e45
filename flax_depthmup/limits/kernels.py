"""NNGP and NTK at initialization of scaled residual nets and MLPs, infinitely wide.

f = V^T Y_L / sqrt(n) for the residual net of `limits.covariance` with trained weights
N(0, 1) and their multipliers outside,

  Y_0 = W_in a / sqrt(d),   Y_l = Y_(l-1) + alpha_l W_l phi(Y_(l-1)) / sqrt(n),

where phi may be followed by mean subtraction. The NTK is the sum over parameters w of
df(a)/dw df(b)/dw. With the duals D (centred with mean subtraction) and P of
`limits.covariance` and `limits.duals`, the gradients of f with respect to Y_l have the
covariance G_l / n, and

  G_L = 1,  G_(l-1) = (1 + alpha_l^2 P(K_(l-1))) G_l
  input   G_0 K_0       hidden   sum over l of alpha_l^2 D(K_(l-1)) G_l       output   K_L

Post-nonlinearity branches, phi(W_l Y_(l-1) / sqrt(n)) as in Tensor Programs VI (arXiv
2310.02244), have alpha_l^2 P(K_(l-1)) K_(l-1) G_l in the hidden sum instead, and the same
rest. In the limit of many small branches, t = sum of alpha_l^2, G' = -P G and the sum is
an integral (Hayou, arXiv 2310.01683; Bordelon et al., arXiv 2309.16620, proposition 2).
For unit inputs, relu, alpha = L^(-1/2): G(0) = e^(1/2) and hidden = e^(1/2)/2 = 0.8244.

The MLP is that of `limits.covariance`: f one of the outputs Y_L itself, so that the
layer L is the readout. Layer: jax, numpy, scipy.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.batches import scalar
from flax_depthmup.limits.covariance import (
  dual_covariance,
  mlp_covariance,
  residual_covariance,
  residual_covariance_limit,
)
from flax_depthmup.limits.duals import (
  dual_derivative_covariance,
  unit_duals,
  variances_and_correlations,
)


class Kernels(NamedTuple):
  """Kernels of the output f at initialization, [k, k] each, in float64.

  Attributes:
    nngp: the covariance of f.
    input: what the first layer contributes to the NTK.
    hidden: what the hidden layers contribute.
    output: what the readout contributes.
  """

  nngp: np.ndarray
  input: np.ndarray
  hidden: np.ndarray
  output: np.ndarray

  @property
  def ntk(self) -> np.ndarray:
    """The NTK with every layer trained, [k, k]."""
    return self.input + self.hidden + self.output


def residual_ntk(
  k0: Any,
  branch_multipliers: Any,
  activation: str,
  *,
  mean_subtraction: bool,
  pre_nonlinearity: bool = True,
) -> Kernels:
  """Kernels of a residual net of infinite width and finite depth.

  Args:
    k0: [k, k] covariance of Y_0: <a, b>/d for inputs a, b of d features.
    branch_multipliers: [L] alpha_1 .. alpha_L; `[L**-0.5] * L` where branches are scaled.
    activation: relu, abs or identity.
    mean_subtraction: whether the branch subtracts the mean over neurons after phi.
    pre_nonlinearity: True: W phi(Y); False: phi(W Y), which needs mean subtraction or
      an odd phi (see `limits.covariance`).

  Raises:
    DepthMupError: as `residual_covariance`, or phi(W Y) has a mean.
  """
  _check_branch(activation, mean_subtraction, pre_nonlinearity)
  covariances = residual_covariance(
    k0, branch_multipliers, activation, mean_subtraction=mean_subtraction
  )
  squares = np.square(np.asarray(branch_multipliers, np.float64))
  first, hidden = covariances[0], np.zeros_like(covariances[0])
  with np.errstate(over="ignore", invalid="ignore"):
    for square, k, after in zip(squares, covariances[:-1], covariances[1:], strict=True):
      slope = square * dual_derivative_covariance(k, activation)
      branch = after - k if pre_nonlinearity else slope * k
      first, hidden = (1 + slope) * first, (1 + slope) * hidden + branch
  return _finite(Kernels(covariances[-1], first, hidden, covariances[-1]))


def residual_ntk_limit(
  k0: Any,
  time: float,
  activation: str,
  *,
  mean_subtraction: bool,
  pre_nonlinearity: bool = True,
) -> Kernels:
  """Kernels of a residual net of infinite width and depth, to about 1e-10.

  The distance of finite depth is of order 1/L: 0.22/L in the hidden part for relu, unit
  inputs of correlation 0.3 and alpha = L^(-1/2).

  Args:
    k0: [k, k], as in `residual_ntk`.
    time: t = sum of alpha^2 over all blocks, at least 0; 1 for alpha = L^(-1/2).
    activation: relu, abs or identity.
    mean_subtraction: as in `residual_ntk`.
    pre_nonlinearity: as in `residual_ntk`.

  Raises:
    DepthMupError: as `residual_covariance_limit`, or phi(W Y) has a mean.
  """
  _check_branch(activation, mean_subtraction, pre_nonlinearity)
  time = scalar(time)
  check_nonnegative(time, "time")
  nngp = residual_covariance_limit(
    k0, [time], activation, mean_subtraction=mean_subtraction
  )[0]
  start = dual_covariance(k0, "identity", mean_subtraction=False)  # k0, checked
  _, c0 = variances_and_correlations(start)
  rows, columns = np.triu_indices(len(c0))
  unit = dual_covariance([[1.0]], activation, mean_subtraction=mean_subtraction)
  gain = float(unit[0, 0])
  centre = unit_duals(np.ones(()), activation).phi - gain

  def velocity(t: float, state: np.ndarray) -> np.ndarray:
    """Of correlations, log G(0) seen from t, and hidden / sqrt(K_aa(t) K_bb(t))."""
    del t
    c, _, hidden = np.split(state, 3)
    phi, slope = unit_duals(c, activation)
    phi = phi - centre
    branch = phi if pre_nonlinearity else slope * c
    return np.concatenate([phi - gain * c, slope, (slope - gain) * hidden + branch])

  pairs = c0[rows, columns]
  state = np.concatenate([pairs, np.zeros(2 * len(pairs))])
  if time > 0:
    flow = solve_ivp(
      velocity, (0.0, float(time)), state, method="DOP853", rtol=1e-12, atol=1e-14
    )
    state = flow.y[:, -1]
  log_gradient, hidden = np.zeros_like(c0), np.zeros_like(c0)
  _, log_gradient[rows, columns], hidden[rows, columns] = np.split(state, 3)
  log_gradient[columns, rows], hidden[columns, rows] = state[len(pairs) :].reshape(2, -1)
  norms = np.sqrt(np.maximum(np.diagonal(nngp), 0))
  with np.errstate(over="ignore", invalid="ignore"):
    first = start * np.exp(log_gradient)
    return _finite(Kernels(nngp, first, np.outer(norms, norms) * hidden, nngp))


def mlp_ntk(k0: Any, depth: int, activation: str, *, mean_subtraction: bool) -> Kernels:
  """Kernels of an MLP without skips, of infinite width, under He initialization.

  Y_0 = W_in a / sqrt(d), Y_l = sqrt(s/n) W_l phi(Y_(l-1)), f one of the outputs Y_L;
  s = 1/D(1) as in `mlp_covariance`. Theta_l = K_l + s P(K_(l-1)) Theta_(l-1) (Jacot et
  al., arXiv 1806.07572, theorem 1).

  Args:
    k0: [k, k] covariance of Y_0.
    depth: L, the number of weight matrices after the first, the readout included.
    activation: relu, abs or identity.
    mean_subtraction: whether the mean over neurons is subtracted after phi.

  Raises:
    DepthMupError: as `mlp_covariance`.
  """
  covariances = mlp_covariance(k0, depth, activation, mean_subtraction=mean_subtraction)
  unit = dual_covariance([[1.0]], activation, mean_subtraction=mean_subtraction)
  s = 1 / float(unit[0, 0])
  first, hidden = covariances[0], np.zeros_like(covariances[0])
  with np.errstate(over="ignore", invalid="ignore"):
    for layer, k in enumerate(covariances[:-1]):
      slope = s * dual_derivative_covariance(k, activation)
      seen = k if layer else 0.0  # the first layer is counted apart
      first, hidden = slope * first, slope * (hidden + seen)
  return _finite(Kernels(covariances[-1], first, hidden, covariances[-1]))


def _check_branch(activation: str, mean_subtraction: bool, pre_nonlinearity: bool) -> None:
  if not isinstance(pre_nonlinearity, bool | np.bool_):
    raise DepthMupError(f"pre_nonlinearity={pre_nonlinearity!r}: expected True or False")
  if not pre_nonlinearity and not mean_subtraction and activation in ("relu", "abs"):
    raise DepthMupError(
      f"activation={activation!r} after the weights has a mean, which the residual "
      "stream piles up, and no kernel here; set mean_subtraction or pre_nonlinearity"
    )


def _finite(kernels: Kernels) -> Kernels:
  if not all(np.isfinite(kernel).all() for kernel in kernels):
    raise DepthMupError("the NTK leaves float64; give fewer layers or smaller multipliers")
  return kernels
