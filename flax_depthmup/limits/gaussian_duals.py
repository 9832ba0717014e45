r"""Expectations of a nonlinearity over pairs of Gaussians: what training in depth needs.

For (z, z') ~ N(0, K restricted to two samples), with G the subtraction of the mean,

  branch     E G phi(z) G phi(z')           slope   E phi'(z) phi'(z')
  curvature  E phi''(z) phi''(z')           bend    E phi''(z) G phi(z')
  jerk       E phi'''(z) phi'(z')

A smooth phi is expanded in Hermite polynomials of each Gaussian, by the trapezoidal rule in
one dimension: with a_k, b_k the coefficients of two functions at the two deviations and c
the correlation, the expectation of their product is sum_k a_k b_k c^k; the subtraction of
the mean leaves out k = 0. 256 terms lose digits where a Gaussian is wide on the scale of
phi: of tanh's curvature 2e-8 at variance 4 and 3e-5 at 10, correlation 0.99; beyond 11
`check_smooth` refuses it.
A phi with one kink at zero, phi(x) = p max(x, 0) + m max(-x, 0),
has derivatives that are distributions, and closed forms by integration by parts: with
k(c) sqrt(K_zz K_z'z') = E phi(z) phi(z') and f the arc-cosine kernel of `covariance`,

  slope = k'(c)                             curvature = k''(c) / sqrt(K_zz K_z'z')
  bend  = (p + m)^2/(2 pi) sqrt(K_z'z'/K_zz) (sqrt(1 - c^2) - 1)
  jerk  = -c k''(c) / K_zz                  k''(c) = (p + m)^2/(2 pi sqrt(1 - c^2))

k'' diverges where two samples are one, as they are in the first layer for the same input
at two steps. There its two uses cancel, so that it is left out. Layer: jax, numpy.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.covariance import SLOPES

#: A kernel [N, N] -> the five expectations.
PairLaw = Callable[[jax.Array], "PairExpectations"]

#: Hermite terms, and nodes of the trapezoidal rule, which resolve them.
_TERMS, _REACH, _STEP = 256, 13.0, 0.08

#: Share of E phi''^2 that the last eighth of the terms may hold.
_TAIL = 1e-3

#: Below this 1 - c^2, two samples count as one.
_SAME = 1e-9


class PairExpectations(NamedTuple):
  """[N, N] each; the first sample is the one with more derivatives."""

  branch: jax.Array
  slope: jax.Array
  curvature: jax.Array
  bend: jax.Array
  jerk: jax.Array


def gaussian_duals(activation: str | Callable[[jax.Array], jax.Array]) -> PairLaw:
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


def check_smooth(phi: Callable[[jax.Array], jax.Array], variance: float) -> None:
  """Raises `DepthMupError` where the terms do not reach phi at this variance."""
  a2 = _hermite_coefficients(phi, jnp.asarray([variance]) ** 0.5)[2][0]
  energy = np.asarray(a2, float) ** 2
  # Rounding in phi, seen in a phi whose second derivative is none.
  rounding = 1e-18 * _TERMS**3
  if energy[7 * _TERMS // 8 :].sum() > _TAIL * energy.sum() + rounding:
    raise DepthMupError(
      f"the activation is not smooth enough on the scale of a feature's variance, "
      f"{variance:.3g}; scale the inputs or the branches down, or name relu, abs or "
      "identity, which have closed forms"
    )


def _smooth(kernel: jax.Array, phi: Callable[[jax.Array], jax.Array]) -> PairExpectations:
  deviation, c = _split(kernel)
  a0, a1, a2, a3 = _hermite_coefficients(phi, deviation)
  powers = _powers(c)

  def pair(a: jax.Array, b: jax.Array, first: int = 0) -> jax.Array:
    return jnp.einsum("tk,sk,tsk->ts", a[:, first:], b[:, first:], powers[..., first:])

  return PairExpectations(
    branch=pair(a0, a0, 1),
    slope=pair(a1, a1),
    curvature=pair(a2, a2),
    bend=pair(a2, a0, 1),
    jerk=pair(a3, a1),
  )


def _hermite_coefficients(
  phi: Callable[[jax.Array], jax.Array], deviation: jax.Array
) -> list[jax.Array]:
  """[N, terms] of phi and its three derivatives at each deviation."""
  functions = [phi]
  for _ in range(3):
    functions.append(_derivative(functions[-1]))
  nodes, table = (jnp.asarray(a, deviation.dtype) for a in _hermite())
  z = deviation[:, None] * nodes[None, :]
  return [f(z) @ table for f in functions]


def _powers(c: jax.Array) -> jax.Array:
  """c^k [N, N, terms], of two short chains of products."""
  root = math.isqrt(_TERMS)
  short = [jnp.ones_like(c)]
  for _ in range(root):
    short.append(short[-1] * c)
  long = [jnp.ones_like(c)]
  for _ in range(root - 1):
    long.append(long[-1] * short[root])
  table = jnp.stack(long, -1)[..., :, None] * jnp.stack(short[:root], -1)[..., None, :]
  return table.reshape(*c.shape, _TERMS)


def _derivative(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
  """Of a function of arrays that acts entry by entry."""
  return lambda z: jax.jvp(f, (z,), (jnp.ones_like(z),))[1]


@functools.cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
  """Nodes, and weights times orthonormal Hermite polynomials [nodes, terms]."""
  x = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
  # With half of the density in the polynomials, neither factor over- or underflows.
  half = np.sqrt(_STEP / math.sqrt(2 * math.pi)) * np.exp(-(x**2) / 4)
  h = [half, x * half]
  for k in range(1, _TERMS - 1):
    h.append((x * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
  return x, half[:, None] * np.stack(h, axis=1)


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
