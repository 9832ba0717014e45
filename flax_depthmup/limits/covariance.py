"""The covariance kernel of nets at initialization, at infinite width and depth.

For k inputs, K_l[a, b] is the limit of <Y_l(a), Y_l(b)>/n over the n neurons of layer
l (Hayou and Yang, arXiv 2302.00453, the neural covariance kernel; Hayou, arXiv
2310.01683, other sequences of multipliers). Neurons become independent Gaussians of
covariance K_l, so every layer needs only the dual of phi,

  D(K)[a, b] = E phi(u) phi(v)               (u, v) ~ N(0, K restricted to a, b)
             - E phi(u) E phi(v)             with mean subtraction over the neurons

  residual net   Y_l = Y_(l-1) + alpha_l W_l phi(Y_(l-1))    K_l = K_(l-1) + alpha_l^2 D
  its limit      max alpha_l -> 0, t = sum of alpha_l^2      dK/dt = D(K)
  plain MLP      Y_l = sqrt(s) W_l phi(Y_(l-1))              K_l = s D(K_(l-1))

with entries of W_l from N(0, 1/n). alpha_l = L^(-1/2) gives t = l/L; all alpha_l = 1 the
unscaled net; a fixed square-summable sequence has no clock, its limit is its own
infinite product.

Post-nonlinearity, x_l = x_(l-1) + alpha_l G phi(W_l x_(l-1)) as in Tensor Programs VI
(arXiv 2310.02244), has the same K_l where G subtracts the mean or phi is odd: W_l x is
a Gaussian of covariance K_(l-1), independent of x, and the branch has mean zero, so the
product of x and branch vanishes. With neither, it does not: the mean of x grows by
alpha_l E phi in every block, and these functions say nothing of that net.

All phi here are piecewise linear with one kink, phi(x) = p max(x, 0) + m max(-x, 0):
relu (1, 0), abs (1, 1), identity (1, -1). With c the correlation of u and v,

  f(c) = (sqrt(1 - c^2) + c (pi - arccos c)) / pi            (arc-cosine kernel)
  E phi(u) phi(v) = ((p^2 + m^2)/2 f(c) + p m f(-c)) sqrt(K_uu K_vv)
  E phi(u) = (p + m) sqrt(K_uu / (2 pi))

that is f/2 for relu, (2/pi)(sqrt(1 - c^2) + c arcsin c) for abs, c for identity. They
are homogeneous, so the limit splits: K_aa(t) = K_aa(0) exp(D(1) t), and correlations
follow c' = D(c) - D(1) c, D(c) being the dual of unit variances. Layer: numpy, scipy.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError

#: Activation -> its slopes (p, m) to the right and to the left of zero, as above.
SLOPES = {"relu": (1.0, 0.0), "abs": (1.0, 1.0), "identity": (1.0, -1.0)}

#: Rounding, relative to the largest entry, that an input covariance may carry: that of
#: float32. Beyond it, asymmetry and negative eigenvalues are mistakes.
_ROUNDING = 1e-5


def residual_covariance(
  k0: Any, branch_multipliers: Any, activation: str, *, mean_subtraction: bool
) -> np.ndarray:
  """K_0 .. K_L of a residual net of infinite width and finite depth.

  Args:
    k0: [k, k] covariance of the inputs of the first block: <a, b>/d for inputs a, b of
      d features behind an input layer of variance 1/d. An input of norm zero stays zero.
    branch_multipliers: [L] alpha_1 .. alpha_L; `[L**-0.5] * L` where branches are scaled.
    activation: relu, abs or identity.
    mean_subtraction: whether the branch subtracts the mean over neurons after phi.

  Returns:
    [L + 1, k, k] in float64.

  Raises:
    DepthMupError: k0 is no covariance, a multiplier is no finite number of at least 0,
      the activation has no closed form here, or the covariance leaves float64.
  """
  k, dual = _covariance(k0), _dual(activation, mean_subtraction)
  alphas = _numbers(branch_multipliers, "branch_multipliers")
  layers = [k]
  with np.errstate(over="ignore", invalid="ignore"):
    for alpha in alphas:
      layers.append(layers[-1] + alpha**2 * dual(layers[-1]))
  return _finite(np.stack(layers))


def residual_covariance_limit(
  k0: Any, times: Any, activation: str, *, mean_subtraction: bool
) -> np.ndarray:
  """K(t) of a residual net of infinite width and depth, to about 1e-11.

  Args:
    k0: [k, k], as in `residual_covariance`.
    times: [T] values of the clock t = sum of alpha^2, increasing, of at least 0. With
      alpha = a L^(-1/2), a^2 l/L.
    activation: relu, abs or identity.
    mean_subtraction: as in `residual_covariance`.

  Returns:
    [T, k, k] in float64.

  Raises:
    DepthMupError: as `residual_covariance`, or times do not increase.
  """
  k, dual = _covariance(k0), _dual(activation, mean_subtraction)
  t = _numbers(times, "times")
  if (np.diff(t) <= 0).any():
    raise DepthMupError(f"times={t.tolist()}: expected increasing values")
  scale, c0 = _split(k)
  gain = float(dual(np.ones((1, 1)))[0, 0])

  def velocity(time: float, c: np.ndarray) -> np.ndarray:
    del time
    return _unit_dual(c, activation, mean_subtraction) - gain * c

  c = np.broadcast_to(c0, (len(t), *k.shape)).copy()
  rows, columns = np.triu_indices(len(k), 1)
  if len(rows) and t[-1] > 0:
    span, start = (0.0, float(t[-1])), c0[rows, columns]
    flow = solve_ivp(
      velocity, span, start, method="DOP853", t_eval=t, rtol=1e-12, atol=1e-14
    )
    c[:, rows, columns] = c[:, columns, rows] = flow.y.T
  with np.errstate(over="ignore", invalid="ignore"):
    growth = np.exp(gain * t)[:, None, None]
    return _finite(growth * scale * c)


def mlp_covariance(
  k0: Any, depth: int, activation: str, *, mean_subtraction: bool
) -> np.ndarray:
  """K_0 .. K_L of an MLP without skips, of infinite width, under He initialization.

  The variance s/n of the weights keeps K_aa as it is: s = 1/D(1), 2 for relu, 1 for abs
  and identity. For relu the correlations tend to 1 as L^2 (1 - c_L) -> 9 pi^2 / 2, for
  which depth 256 is not deep.

  Args:
    k0: [k, k] covariance of the first pre-activations.
    depth: L, the number of layers after the first.
    activation: relu, abs or identity.
    mean_subtraction: whether the mean over neurons is subtracted after phi.

  Returns:
    [L + 1, k, k] in float64.

  Raises:
    DepthMupError: k0 is no covariance, depth no whole number of at least 1, or the
      activation has no closed form here.
  """
  check_size(depth, "depth")
  k, dual = _covariance(k0), _dual(activation, mean_subtraction)
  s = 1 / float(dual(np.ones((1, 1)))[0, 0])
  layers = [k]
  for _ in range(depth):
    layers.append(s * dual(layers[-1]))
  return np.stack(layers)


def dual_covariance(k: Any, activation: str, *, mean_subtraction: bool) -> np.ndarray:
  """D(K) of the formulas above, [k, k]: covariance after phi of Gaussians before it.

  Args:
    k: [k, k] covariance of the Gaussians.
    activation: relu, abs or identity.
    mean_subtraction: subtract E phi(u) E phi(v).

  Raises:
    DepthMupError: k is no covariance, or the activation has no closed form here.
  """
  return _dual(activation, mean_subtraction)(_covariance(k))


def correlation(k: Any) -> np.ndarray:
  """Correlations K_ab / sqrt(K_aa K_bb) of covariances [..., k, k].

  Raises:
    DepthMupError: k is not of this shape, not finite, or an input has norm zero.
  """
  shape, k = np.shape(k), _real(k)
  square = k is not None and k.ndim >= 2 and k.shape[-1] == k.shape[-2]
  if not square or not np.isfinite(k).all():
    raise DepthMupError(
      f"covariance of shape {shape}: expected finite numbers of shape [..., k, k]"
    )
  norms = np.sqrt(np.maximum(np.diagonal(k, axis1=-2, axis2=-1), 0))
  if not (norms > 0).all():
    which = int(np.argwhere(norms <= 0)[0][-1])
    raise DepthMupError(
      f"input {which} has norm zero, so it has no correlation with another; leave it out"
    )
  return np.clip(k / norms[..., :, None] / norms[..., None, :], -1.0, 1.0)


def _dual(activation: str, mean_subtraction: bool) -> Callable[[np.ndarray], np.ndarray]:
  """The map D of covariances [k, k]; raises `DepthMupError` where it is not known."""
  if not isinstance(activation, str) or activation not in SLOPES:
    raise DepthMupError(
      f"activation={activation!r} has no closed form here: expected one of "
      f"{', '.join(SLOPES)}"
    )
  if not isinstance(mean_subtraction, bool | np.bool_):
    raise DepthMupError(f"mean_subtraction={mean_subtraction!r}: expected True or False")

  def dual(k: np.ndarray) -> np.ndarray:
    scale, c = _split(k)
    return scale * _unit_dual(c, activation, mean_subtraction)

  return dual


def _unit_dual(c: np.ndarray, activation: str, mean_subtraction: bool) -> np.ndarray:
  """D(c): the dual at unit variances and correlations c."""
  p, m = SLOPES[activation]
  c = np.clip(c, -1.0, 1.0)
  product = (p * p + m * m) / 2 * _arc_cosine(c) + p * m * _arc_cosine(-c)
  return product - (p + m) ** 2 / (2 * math.pi) if mean_subtraction else product


def _arc_cosine(c: np.ndarray) -> np.ndarray:
  return (np.sqrt((1 - c) * (1 + c)) + c * (math.pi - np.arccos(c))) / math.pi


def _split(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Scales sqrt(K_aa K_bb) and correlations; a correlation with zero is zero."""
  norms = np.sqrt(np.maximum(np.diagonal(k), 0))
  scale = norms[:, None] * norms[None, :]
  c = np.divide(k, scale, out=np.zeros_like(k), where=scale > 0)
  np.fill_diagonal(c, 1.0)
  return scale, np.clip(c, -1.0, 1.0)


def _covariance(k: Any) -> np.ndarray:
  """[k, k] in float64, exactly symmetric.

  Raises:
    DepthMupError: not that, or not positive semidefinite within rounding.
  """
  found, k = type(k).__name__, _real(k)
  if k is None:
    raise DepthMupError(f"covariance {found}: expected real numbers of shape [k, k]")
  if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size:
    raise DepthMupError(f"covariance of shape {k.shape}: expected [k, k], one row an input")
  if not np.isfinite(k).all():
    raise DepthMupError("the covariance is not finite everywhere; give finite numbers")
  allowed = _ROUNDING * np.abs(k).max()
  if np.abs(k - k.T).max() > allowed:
    raise DepthMupError("the covariance is not symmetric; give <a, b>/d of all pairs")
  k = (k + k.T) / 2
  size = np.sqrt(np.maximum(np.diag(k), 0))
  lowest = float(np.linalg.eigvalsh(k)[0])
  # Whatever the scales of the inputs are, no correlation is beyond 1.
  outside = np.abs(k) > np.outer(size, size) * (1 + _ROUNDING) + 1e-6 * allowed
  if lowest < -allowed or outside.any():
    raise DepthMupError(
      f"the covariance has the eigenvalue {lowest:.3g}, or a correlation beyond 1, so no "
      "inputs have it; give a positive semidefinite matrix, such as X @ X.T / d"
    )
  return k


def _numbers(values: Any, name: str) -> np.ndarray:
  """[size] finite numbers of at least 0, at least one of them."""
  array = _real(values)
  good = array is not None and array.ndim == 1 and array.size
  if array is None or not good or not np.isfinite(array).all() or (array < 0).any():
    raise DepthMupError(
      f"{name}={values!r}: expected a sequence of finite numbers of at least 0"
    )
  return array


def _real(values: Any) -> np.ndarray | None:
  """In float64; None for what is no array of real numbers."""
  try:
    return None if np.iscomplexobj(values) else np.asarray(values, np.float64)
  except (TypeError, ValueError):
    return None


def _finite(layers: np.ndarray) -> np.ndarray:
  """Raises `DepthMupError` naming the first layer that is not finite."""
  lost = ~np.isfinite(layers).all(axis=(1, 2))
  if lost.any():
    raise DepthMupError(
      f"the covariance leaves float64 at index {int(np.argmax(lost))} of "
      f"{len(layers)}; give fewer or smaller multipliers"
    )
  return layers
