r"""Expectations of a nonlinearity over pairs of Gaussians: what training in depth needs.

For (z, z') ~ N(0, K restricted to two samples), with G the subtraction of the mean,

  branch     E G phi(z) G phi(z')           slope   E phi'(z) phi'(z')
  curvature  E phi''(z) phi''(z')           bend    E phi''(z) G phi(z')
  jerk       E phi'''(z) phi'(z')

A smooth phi is expanded in Hermite polynomials of each Gaussian, by quadrature in one
dimension: with a_k, b_k the coefficients of two functions at the two deviations and c the
correlation, the expectation of their product is sum_k a_k b_k c^k; the subtraction of the
mean leaves out k = 0. A phi with one kink at zero, phi(x) = p max(x, 0) + m max(-x, 0),
has derivatives that are distributions, and closed forms by integration by parts: with
k(c) sqrt(K_zz K_z'z') = E phi(z) phi(z') and f the arc-cosine kernel of `covariance`,

  slope = k'(c)                             curvature = k''(c) / sqrt(K_zz K_z'z')
  bend  = (p + m)^2/(2 pi) sqrt(K_z'z'/K_zz) (sqrt(1 - c^2) - 1)
  jerk  = -c k''(c) / K_zz                  k''(c) = (p + m)^2/(2 pi sqrt(1 - c^2))

k'' diverges where two samples are one, as they are in the first layer for the same input
at two steps. There its two uses cancel, so that it is left out. Layer: jax, numpy.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.covariance import SLOPES

#: A kernel [N, N] -> the five expectations.
Duals = Callable[[jax.Array], "PairExpectations"]

_NODES = 96
_TERMS = 72

#: Below this 1 - c^2, two samples count as one.
_SAME = 1e-9


class PairExpectations(NamedTuple):
  """[N, N] each; the first sample is the one with more derivatives."""

  branch: jax.Array
  slope: jax.Array
  curvature: jax.Array
  bend: jax.Array
  jerk: jax.Array


def gaussian_duals(activation: str | Callable[[jax.Array], jax.Array]) -> Duals:
  """The expectations of a nonlinearity, as a function of a kernel.

  Args:
    activation: relu, abs or identity, in closed form; or a function of a jax array,
      entry by entry, that has three derivatives and grows slower than exp(z^2/4).

  Raises:
    DepthMupError: another name, or no function.
  """
  if callable(activation):
    return lambda kernel: _smooth(kernel, activation)
  if not isinstance(activation, str) or activation not in SLOPES:
    raise DepthMupError(
      f"activation={activation!r} is unknown: expected one of {', '.join(SLOPES)}, or a "
      "function such as jnp.tanh"
    )
  return lambda kernel: _kinked(kernel, *SLOPES[activation])


def _smooth(kernel: jax.Array, phi: Callable[[jax.Array], jax.Array]) -> PairExpectations:
  values = [phi]
  for _ in range(3):
    values.append(_derivative(values[-1]))
  nodes, table = (jnp.asarray(a, kernel.dtype) for a in _hermite(_NODES, _TERMS))
  deviation, c = _split(kernel)
  z = deviation[:, None] * nodes[None, :]
  a0, a1, a2, a3 = (f(z) @ table.T for f in values)
  factors = jnp.broadcast_to(c[:, :, None], (*c.shape, _TERMS)).at[..., 0].set(1.0)
  powers = jnp.cumprod(factors, axis=-1)

  def pair(a: jax.Array, b: jax.Array, first: int = 0) -> jax.Array:
    return jnp.einsum("tk,sk,tsk->ts", a[:, first:], b[:, first:], powers[..., first:])

  return PairExpectations(
    branch=pair(a0, a0, 1),
    slope=pair(a1, a1),
    curvature=pair(a2, a2),
    bend=pair(a2, a0, 1),
    jerk=pair(a3, a1),
  )


def _derivative(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
  """Of a function of arrays that acts entry by entry."""
  return lambda z: jax.jvp(f, (z,), (jnp.ones_like(z),))[1]


def _hermite(nodes: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
  """Nodes, and w_j h_k(x_j) [terms, nodes] of the orthonormal Hermite polynomials h_k."""
  x, w = np.polynomial.hermite_e.hermegauss(nodes)
  h = [np.ones_like(x), x]
  for k in range(1, terms - 1):
    h.append((x * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
  return x, np.stack(h) * (w / w.sum())


def _kinked(kernel: jax.Array, p: float, m: float) -> PairExpectations:
  deviation, c = _split(kernel)
  scale, ratio = (
    deviation[:, None] * deviation[None, :],
    deviation[None, :] / deviation[:, None],
  )
  kink = (p + m) ** 2 / (2 * math.pi)
  gap = (1 - c) * (1 + c)
  apart = gap > _SAME
  sine = jnp.where(apart, jnp.sqrt(jnp.where(apart, gap, 1.0)), 0.0)
  angle = jnp.where(
    apart, jnp.arccos(jnp.where(apart, c, 0.0)), jnp.where(c > 0, 0.0, jnp.pi)
  )
  # f'(c) = 1 - angle/pi, f'(-c) = angle/pi; f = (sine)/pi + c f'
  slope = (p * p + m * m) / 2 * (1 - angle / jnp.pi) - p * m * angle / jnp.pi
  second = jnp.where(apart, kink / jnp.where(apart, sine, 1.0), 0.0)
  return PairExpectations(
    branch=scale * (kink * (sine - 1) + c * slope),
    slope=slope,
    curvature=second / scale,
    bend=kink * ratio * (sine - 1),
    jerk=-c * second / deviation[:, None] ** 2,
  )


def _split(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Deviations [N] and correlations [N, N]."""
  deviation = jnp.sqrt(jnp.diagonal(kernel))
  c = kernel / (deviation[:, None] * deviation[None, :])
  eye = jnp.eye(len(kernel), dtype=kernel.dtype)
  return deviation, jnp.where(eye > 0, 1.0, jnp.clip(c, -1.0, 1.0))
