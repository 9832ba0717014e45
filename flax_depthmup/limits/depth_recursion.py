r"""The two-sided recursion over depth that solves the limits of residual nets, in O(L).

At infinite width a residual net with frozen input and output layers, trained by SGD, is
a Gaussian process over its layers (Tensor Programs VI, arXiv 2310.02244, linear
nets and Definition E.1). Stack the N samples of all steps. Forward vectors x^l go up from
x^0, and backward vectors y^l = n dloss/dx^l come down from y^L:

  x^l     = x^(l-1) + sqrt(v) h^l + F(l) y^l           h^l ~ N(0, forward noise of layer l)
  y^(l-1) = y^l     + sqrt(v) g^l + E(l) x^(l-1)       g^l ~ N(0, backward noise)

F(l) and E(l), [N, N], hold what training adds: the update of the weights, and the
correlation of W with its own transpose. They depend on the kernels <x x'>, <y y'> of the
layer and on the responses

  rho(l)[t, s]   = coefficient of x_t^(l-1) on g_s^l, over sqrt(v)
  sigma(l)[t, s] = coefficient of y_t^l on h_s^l, over sqrt(v)

by a `MarchLaw`, and are triangular in time, so that every step needs one march up and one
down. A naive solver stores the coefficient of every vector at every layer on every noise
of every layer, O(N^2 L^2). But the recursion is a linear two-point boundary value
problem: with Z = (x, y), Z(l) = T_l Z(l-1) + noise and Phi(l) = T_l .. T_1,

  Z(l) = Phi(l) (Z_b + sum_q (1[q <= l] - Q) Phi(q)^-1 M_q noise(q))

where Q projects on what the boundary at the far end fixes. Kernels and responses are
then products of [2N, 2N] matrices that a scan over layers carries: O(N^2 L) memory and
O(T N^3 L) time. Marches up and down are one function: exchanging x and y and counting
layers from the other end maps the recursion to itself. Layer: jax.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

#: (kernel of the layer [N, N], response [N, N], extra of the layer) -> coupling [N, N],
#: noise covariance [N, N], and what to keep of the layer.
MarchLaw = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array, Any]]


class Side(NamedTuple):
  """One direction of the recursion, layers in the order in which it passes them.

  Attributes:
    start: [N, d] where it starts, in coordinates on d independent Gaussians.
    coupling: [L, N, N] what each layer adds of the other side, F or E.
    noise: [L, N, N] covariance of the noise of each layer.
  """

  start: jax.Array
  coupling: jax.Array
  noise: jax.Array

  def reversed(self) -> "Side":
    """Its layers counted from the other end."""
    return self._replace(coupling=self.coupling[::-1], noise=self.noise[::-1])


class March(NamedTuple):
  """What a march through all layers finds.

  Attributes:
    side: the own side, with the rows that were new.
    kernels: [L + 1, N, N] of the own vectors, before each layer and after the last.
    fixed: [L + 1, N, d] coordinates of the own vectors on the d Gaussians of the starts.
    kept: what the law keeps, [L, ...].
  """

  side: Side
  kernels: jax.Array
  fixed: jax.Array
  kept: Any


def idle(start: jax.Array, layers: int) -> Side:
  """A side on which nothing has happened yet.

  Args:
    start: [N, d].
    layers: L.
  """
  zeros = jnp.zeros((layers, len(start), len(start)), start.dtype)
  return Side(start, zeros, zeros)


def march(
  own: Side, other: Side, variance: Any, law: MarchLaw, extras: Any, alive: jax.Array
) -> March:
  """Takes the own side through the layers; the law gives the rows that are alive.

  Args:
    own: its side. Rows that are new have couplings and noise zero.
    other: the other side, its layers in the order of the own side.
    variance: v of the noise; 0 for the ODE limits.
    law: see `MarchLaw`.
    extras: a tree of arrays [L, ...]; the law gets one layer of it at a time.
    alive: [N] 1.0 where a sample belongs to this step or an earlier one, else 0.0.
  """
  n = len(own.start)
  both = alive[:, None] * alive[None, :]
  far, fixed = _boundary(own, other, variance)
  pinned = far.projector @ far.spread @ far.projector.T + fixed @ fixed.T

  def layer(carry: _Flow, inputs: Any) -> tuple[_Flow, Any]:
    other_coupling, other_noise, extra = inputs
    kernel = _kernel(carry, far.projector, pinned)[:n, :n]
    response = (carry.phi @ far.projector @ carry.psi)[:n, n:]
    coupling, noise, kept = law(kernel, response, extra)
    coupling, noise = alive[:, None] * coupling, both * noise
    after = _pass(carry, coupling, other_coupling, noise, other_noise, variance)
    return after, (coupling, noise, kernel, (carry.phi @ fixed)[:n], kept)

  start = _start(n, own.start.dtype)
  inputs = (other.coupling, other.noise, extras)
  last, (coupling, noise, kernels, on_start, kept) = jax.lax.scan(layer, start, inputs)
  end = _kernel(last, far.projector, pinned)[:n, :n]
  return March(
    side=Side(own.start, coupling, noise),
    kernels=jnp.concatenate([kernels, end[None]]),
    fixed=jnp.concatenate([on_start, (last.phi @ fixed)[None, :n]]),
    kept=kept,
  )


def coefficients(own: Side, other: Side, layer: int) -> tuple[jax.Array, jax.Array]:
  """Coefficients of the own vectors after a layer on the noise of all layers.

  Args:
    own: a finished side.
    other: the other one, its layers in the order of the own side.
    layer: 0 .. L of the own side's order.

  Returns:
    On the own noise and on the other's, each [N, N, L], over sqrt(v): vector, noise of
    which sample, noise of which layer (in the own side's order).
  """
  n = len(own.start)
  far, _ = _boundary(own, other, 0.0)

  def through(carry: _Flow, inputs: Any) -> tuple[_Flow, Any]:
    f, e = inputs
    zeros = jnp.zeros_like(f)
    sources = jnp.concatenate(_sources(carry.psi, e), 1)
    after = _pass(carry, f, e, zeros, zeros, 0.0)
    return after, (sources, after.phi)

  start = _start(n, own.start.dtype)
  _, (sources, phis) = jax.lax.scan(through, start, (own.coupling, other.coupling))
  phi = jnp.concatenate([start.phi[None], phis])[layer]
  passed = (jnp.arange(len(sources)) < layer).astype(phi.dtype)
  heard = passed[:, None, None] * sources - far.projector @ sources
  found = jnp.moveaxis((phi @ heard)[:, :n], 0, -1)
  return found[:, :n], found[:, n:]


class _Flow(NamedTuple):
  """Phi(l), its inverse, and the covariance of the noise passed, [2N, 2N] each."""

  phi: jax.Array
  psi: jax.Array
  spread: jax.Array


class _Far(NamedTuple):
  """Q [2N, 2N], and the covariance of the noise of all layers [2N, 2N]."""

  projector: jax.Array
  spread: jax.Array


def _start(n: int, dtype: Any) -> _Flow:
  eye = jnp.eye(2 * n, dtype=dtype)
  return _Flow(eye, eye, jnp.zeros_like(eye))


def _sources(psi: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Phi(l)^-1 M_l of the own and of the other noise, [2N, N] each, from Phi(l-1)^-1."""
  n = len(e)
  return psi[:, :n] + psi[:, n:] @ e, -psi[:, n:]


def _pass(
  flow: _Flow, f: jax.Array, e: jax.Array, own_noise: Any, other_noise: Any, v: Any
) -> _Flow:
  """One layer: T_l = [[1 - F E, F], [-E, 1]], whose inverse is [[1, -F], [E, 1 - E F]]."""
  n, (phi, psi, spread) = len(f), flow
  own, other = _sources(psi, e)
  y = phi[n:] - e @ phi[:n]
  x = phi[:n] + f @ y
  ahead = jnp.concatenate([own, -own @ f - other], 1)
  added = own @ own_noise @ own.T + other @ other_noise @ other.T
  return _Flow(jnp.concatenate([x, y]), ahead, spread + v * added)


def _boundary(own: Side, other: Side, v: Any) -> tuple[_Far, jax.Array]:
  """What the far end fixes: Q, and the coordinates [2N, d] of Z_b on the starts."""
  n = len(own.start)

  def layer(carry: _Flow, inputs: tuple[Any, Any, Any, Any]) -> tuple[_Flow, None]:
    return _pass(carry, *inputs, v), None

  inputs = (own.coupling, other.coupling, own.noise, other.noise)
  end, _ = jax.lax.scan(layer, _start(n, own.start.dtype), inputs)
  # Later samples do not act on earlier ones: a triangle of diagonal one.
  solve = functools.partial(
    jax.scipy.linalg.solve_triangular, end.phi[n:, n:], lower=True, unit_diagonal=True
  )
  rows = solve(end.phi[n:])
  projector = jnp.concatenate([jnp.zeros_like(rows), rows])
  below = solve(other.start) - rows[:, :n] @ own.start
  return _Far(projector, end.spread), jnp.concatenate([own.start, below])


def _kernel(flow: _Flow, q: jax.Array, pinned: jax.Array) -> jax.Array:
  """<Z(l) Z(l)^T>, [2N, 2N]."""
  seen = q @ flow.spread
  return flow.phi @ (pinned + flow.spread - seen - seen.T) @ flow.phi.T
