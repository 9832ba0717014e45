"""Duals of a nonlinearity and of its derivative, the pieces of the NTK.

For Gaussians (u, v) of covariance K restricted to inputs a, b,

  D(K)[a, b] = E phi(u) phi(v),    P(K)[a, b] = E phi'(u) phi'(v) = dD/dK_ab (Price).

Piecewise linear phi(x) = p max(x, 0) + m max(-x, 0), as in `limits.covariance`, at
correlation c and kappa = (pi - arccos c)/(2 pi), the chance of u > 0 and v > 0:

  P = (p^2 + m^2) kappa - 2 p m (1/2 - kappa)
  D = (c P + (p + m)^2 sqrt(1 - c^2)/(2 pi)) sqrt(K_aa K_bb)

that is P = kappa for relu, (2/pi) arcsin c for abs, 1 for identity. Smooth phi: with
Hermite coefficients phi(sqrt(q) z) = sum_k alpha_k(q) he_k(z), he_k orthonormal under
N(0, 1), by quadrature,

  D = sum_k alpha_k(K_aa) alpha_k(K_bb) c^k,
  P = sum_k k alpha_k(K_aa) alpha_k(K_bb) c^(k-1) / sqrt(K_aa K_bb).

Layer: numpy.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.covariance import SLOPES, dual_covariance

Activation = str | Callable[[np.ndarray], Any]

#: Hermite coefficients, and the nodes that give them: the trapezoidal rule is exact to
#: rounding for functions analytic further than 1/20 from the real line.
_DEGREES, _REACH, _STEP = 1024, 13.0, 0.01
#: Share of E phi'^2 that the last quarter of the coefficients may hold.
_TAIL = 1e-4
#: The variance at which phi' of an input of variance zero is taken.
_LEAST = 1e-10


class Duals(NamedTuple):
  """D(K) and P(K), [k, k] each."""

  phi: np.ndarray
  derivative: np.ndarray


def duals(k: Any, activation: Activation) -> Duals:
  """Duals of phi and phi' at a covariance.

  Args:
    k: [k, k] covariance of the Gaussians.
    activation: relu, abs or identity in closed form; or a smooth vectorized function of
      float64 arrays, such as numpy.tanh, by quadrature. Its derivative is not needed.
      The error for tanh is below 1e-11 up to variance 10 and 2e-7 at 30; 100 is refused.

  Raises:
    DepthMupError: k is no covariance, the activation has no closed form here, or is not
      finite or not smooth enough on the scale of k.
  """
  if callable(activation):
    # The dual of the identity is k itself, and checked.
    return _smooth(dual_covariance(k, "identity", mean_subtraction=False), activation)
  phi = dual_covariance(k, activation, mean_subtraction=False)
  _, c = variances_and_correlations(np.asarray(k, np.float64))
  return Duals(phi, unit_duals(c, activation).derivative)


def dual_derivative_covariance(k: Any, activation: Activation) -> np.ndarray:
  """P(K) of the formulas above, [k, k]; `dual_covariance` of the derivative of phi.

  Mean subtraction over neurons does not enter: backwards it removes the mean of n
  independent gradients, which is none. With an input of norm zero a kink is met at
  correlation 0, and only the product with a covariance, zero, has a meaning.

  Args:
    k: [k, k] covariance of the Gaussians.
    activation: as in `duals`.

  Raises:
    DepthMupError: as `duals`.
  """
  return duals(k, activation).derivative


def unit_duals(c: np.ndarray, activation: str) -> Duals:
  """D and P at unit variances and correlations c, of any shape; relu, abs, identity."""
  p, m = SLOPES[activation]
  c = np.clip(c, -1.0, 1.0)
  kappa = (math.pi - np.arccos(c)) / (2 * math.pi)
  derivative = (p * p + m * m) * kappa - 2 * p * m * (0.5 - kappa)
  rest = (p + m) ** 2 * np.sqrt((1 - c) * (1 + c)) / (2 * math.pi)
  return Duals(c * derivative + rest, derivative)


def variances_and_correlations(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Variances [k] and correlations [k, k], zero with an input of norm zero."""
  variances = np.maximum(np.diagonal(k), 0)
  norms = np.sqrt(variances)
  scale = norms[:, None] * norms[None, :]
  c = np.divide(k, scale, out=np.zeros_like(k), where=scale > 0)
  c = np.clip((c + c.T) / 2, -1.0, 1.0)
  np.fill_diagonal(c, 1.0)
  return variances, c


def _smooth(k: np.ndarray, phi: Callable[[np.ndarray], Any]) -> Duals:
  variances, c = variances_and_correlations(k)
  values = _coefficients(phi, variances)
  least = np.maximum(variances, _LEAST)
  degrees = np.arange(1, _DEGREES)
  slopes = _coefficients(phi, least)[:, 1:] * np.sqrt(degrees) / np.sqrt(least)[:, None]
  energy = slopes**2
  tail, total = energy[:, 3 * _DEGREES // 4 :].sum(axis=1), energy.sum(axis=1)
  # Rounding in phi, seen in the slopes of phi that hardly varies.
  rounding = (1e-14 * _DEGREES) ** 2 * (values**2).sum(axis=1) / least
  rough = tail > _TAIL * total + rounding
  if rough.any():
    which = int(np.argmax(rough))
    raise DepthMupError(
      f"the activation is not smooth enough for quadrature at the variance "
      f"{variances[which]:.3g} of input {which}; name relu, abs or identity, which have "
      "closed forms, or scale the inputs down"
    )
  return Duals(_series(values, c), _series(slopes, c))


def _series(coefficients: np.ndarray, c: np.ndarray) -> np.ndarray:
  """sum_k alpha_k alpha_k' c^k by Horner's rule, [k, k]."""
  total = np.zeros_like(c)
  for column in coefficients.T[::-1]:
    total = total * c + column[:, None] * column[None, :]
  return total


def _coefficients(phi: Callable[[np.ndarray], Any], variances: np.ndarray) -> np.ndarray:
  """[k, degrees] Hermite coefficients of phi(sqrt(q) z) for every variance q."""
  nodes, weighted = _hermite()
  points = np.sqrt(variances)[:, None] * nodes[None, :]
  try:
    values = np.asarray(phi(points))
    values = np.empty(()) if np.iscomplexobj(values) else values.astype(np.float64)
  except (TypeError, ValueError):
    values = np.empty(())
  if values.shape != points.shape:
    raise DepthMupError(
      f"the activation maps an array of shape {points.shape} to no real array of that "
      "shape; give a vectorized function such as numpy.tanh"
    )
  if not np.isfinite(values).all():
    raise DepthMupError(
      f"the activation is not finite everywhere on [-{np.abs(points).max():.3g}, "
      f"{np.abs(points).max():.3g}]; give one that is, or scale the inputs down"
    )
  return values @ weighted


@functools.cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
  """Nodes [N], and weights times orthonormal Hermite polynomials [N, degrees]."""
  nodes = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
  # With half of the density in the polynomials, neither factor over- or underflows.
  half = np.sqrt(_STEP / math.sqrt(2 * math.pi)) * np.exp(-(nodes**2) / 4)
  polynomials = [half, nodes * half]
  for k in range(1, _DEGREES - 1):
    step = nodes * polynomials[k] - math.sqrt(k) * polynomials[k - 1]
    polynomials.append(step / math.sqrt(k + 1))
  return nodes, half[:, None] * np.stack(polynomials, axis=1)
