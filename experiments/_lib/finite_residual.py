r"""Residual nets of finite width trained by SGD, as the limits of width describe them.

x^0 = U xi, x^l = x^(l-1) + a L^-alpha G phi(W^l x^(l-1)), f = V^T x^L / n, with U and V
frozen, entries of U and V from N(0, 1), of W^l from N(0, 1/n). A step adds one outer
product per sample to every weight matrix; few steps are kept as their factors, so that
the weights of the start are all that is stored and a step is two passes over them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Trained(NamedTuple):
  """A run of T steps with B samples each, N = T B.

  Attributes:
    outputs: [T, B, d_out], before each step's update.
    kernel: [layers, N, N], <x_s, x_t>/n of the layers asked for.
  """

  outputs: jax.Array
  kernel: jax.Array


@functools.partial(
  jax.jit,
  static_argnames=("width", "depth", "phi", "loss_derivative", "d_out", "layers"),
)
def train(
  key: jax.Array,
  inputs: jax.Array,
  targets: Any,
  multiplier: Any,
  rate: Any,
  *,
  width: int,
  depth: int,
  phi: Callable[[jax.Array], jax.Array] | None,
  loss_derivative: Callable[[jax.Array, Any], jax.Array],
  d_out: int = 1,
  layers: tuple[int, ...] = (),
) -> Trained:
  """Trains one net.

  Args:
    key: of its initialization.
    inputs: [T, B, d_in].
    targets: a tree of arrays [T, ...].
    multiplier: a L^-alpha.
    rate: eta a L^-gamma; a step adds -rate dh x^T / n to W^l.
    width: n.
    depth: L.
    phi: the activation; None for the identity without mean subtraction.
    loss_derivative: (f [B, d_out], targets) -> [B, d_out].
    d_out: outputs.
    layers: of the kernel, each 0 .. L.
  """
  steps, batch, d_in = inputs.shape
  dtype = inputs.dtype
  key_u, key_v, key_w = jax.random.split(key, 3)
  u = jax.random.normal(key_u, (width, d_in), dtype)
  v = jax.random.normal(key_v, (width, d_out), dtype)

  def weights(k: jax.Array) -> jax.Array:
    return jax.random.normal(k, (width, width), dtype) / width**0.5

  w0 = jax.lax.map(weights, jax.random.split(key_w, depth))
  step_of = jnp.repeat(jnp.arange(steps), batch)
  branch = _branch(phi)

  def step(carry: Any, at: Any) -> Any:
    (xs, dhs), (t, x_t, target) = carry, at
    before = (step_of < t).astype(dtype)[None, :]

    def up(x: jax.Array, layer: Any) -> Any:
      w, x_s, dh_s = layer
      h = x @ w.T - rate * (before * (x @ x_s.T / width)) @ dh_s
      return x + multiplier * branch(h), (x, h)

    last, (x_l, h_l) = jax.lax.scan(up, x_t @ u.T, (w0, xs, dhs))
    f = last @ v / width
    chi = loss_derivative(f, target)

    def down(y: jax.Array, layer: Any) -> Any:
      w, x_s, dh_s, h = layer
      dh = jax.vjp(branch, h)[1](y)[0]
      back = dh @ w - rate * (before * (dh @ dh_s.T / width)) @ x_s
      return y + multiplier * back, dh

    _, dh_l = jax.lax.scan(down, chi @ v.T, (w0, xs, dhs, h_l), reverse=True)
    place = (0, t * batch, 0)
    xs = jax.lax.dynamic_update_slice(xs, x_l, place)
    dhs = jax.lax.dynamic_update_slice(dhs, dh_l, place)
    return (xs, dhs), (f, last)

  nothing = jnp.zeros((depth, steps * batch, width), dtype)
  (xs, _), (f, last) = jax.lax.scan(
    step, (nothing, nothing), (jnp.arange(steps), inputs, targets)
  )
  ends = last.reshape(1, -1, width)
  chosen = [xs[layer] if layer < depth else ends[0] for layer in layers]
  kernel = jnp.stack([x @ x.T / width for x in chosen]) if chosen else jnp.zeros((0,))
  return Trained(f, kernel)


def _branch(phi: Callable[[jax.Array], jax.Array] | None) -> Callable[..., jax.Array]:
  """G phi(h); h itself without phi."""

  def branch(h: jax.Array) -> jax.Array:
    out = h if phi is None else phi(h)
    return out if phi is None else out - out.mean(-1, keepdims=True)

  return branch
