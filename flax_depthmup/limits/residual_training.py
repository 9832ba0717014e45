r"""SGD on a residual net of infinite width: steps, samples, and the laws of its layers.

  x^0 = U xi,   x^l = x^(l-1) + a L^-alpha G phi(W^l x^(l-1)),   f = V^T x^L / n

with U and V frozen, entries of U and V from N(0, 1) and of W^l from N(0, 1/n). A step t
has B samples; SGD of Definition 6.1 (Tensor Programs VI, arXiv 2310.02244) moves W^l by

  -eta L^-gamma a (1/n) sum_i dh_ti^l (x_ti^(l-1))^T

where dh = n dloss/dh / (a L^-alpha). Two numbers of a layer are all that depth and
parametrization change:

  v     = a^2 L^(-2 alpha)             variance that a branch adds
  kappa = eta a^2 L^(-alpha - gamma)   how far a step moves what a branch adds

A point (alpha, gamma) whose v L vanishes with depth while kappa L stays has an ODE for
its limit, v = 0. `train` runs the recursion of `depth_recursion` for any law of the
layers. Layer: jax.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.depth_recursion import Side, coefficients, idle, march

#: (outputs [B, d_out], targets of the step) -> dloss/df [B, d_out].
LossDerivative = Callable[[jax.Array, Any], jax.Array]


class ResidualTraining(NamedTuple):
  """The limit of a training run; N = T B samples, step by step.

  Attributes:
    outputs: [T, B, d_out], f at the inputs of each step, before its update.
    loss_derivatives: [T, B, d_out], chi.
    forward_kernel: [L + 1, N, N], lim <x_s^l, x_t^l>/n.
    backward_kernel: [L + 1, N, N], lim n <dloss/dx_s^l, dloss/dx_t^l>.
    forward_start: [L + 1, N, d_in + d_out] coefficients of x^l on the columns of U and
      of V.
    backward_start: [L + 1, N, d_in + d_out], likewise of n dloss/dx^l.
    forward, backward: the two sides, which `layer_coefficients` reads; the layers of
      `backward` come from the top.
  """

  outputs: jax.Array
  loss_derivatives: jax.Array
  forward_kernel: jax.Array
  backward_kernel: jax.Array
  forward_start: jax.Array
  backward_start: jax.Array
  forward: Side
  backward: Side


class Layer(NamedTuple):
  """What the law of a layer is told on the way up, or down.

  Attributes:
    kernel: [N, N] of the vectors that arrive at the layer.
    response: [N, N] see `depth_recursion`.
    v, kappa: see above.
    earlier: [N, N] 1.0 where the second sample belongs to an earlier step.
    not_later: [N, N] 1.0 there and within a step.
  """

  kernel: jax.Array
  response: jax.Array
  v: Any
  kappa: Any
  earlier: jax.Array
  not_later: jax.Array


class Law(Protocol):
  """What the nonlinearity makes of a layer; hashable."""

  def forward(self, layer: Layer) -> tuple[jax.Array, jax.Array, Any]:
    """F, the covariance of the forward noise, and what `backward` is to know of it."""

  def backward(self, layer: Layer, kept: Any) -> tuple[jax.Array, jax.Array]:
    """E and the covariance of the backward noise."""


def layer_coefficients(
  found: ResidualTraining, layer: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Coefficients Gamma of all vectors of a layer on the noise of all layers.

  Args:
    found: a run of depth L.
    layer: 0 .. L; 0 the inputs of the first block.

  Returns:
    Of x^layer, and of n dloss/dx^layer: each the coefficients on the forward and on the
    backward noise, [N, N, L]: vector, sample of the noise, layer of the noise less one;
    over sqrt(v).

  Raises:
    DepthMupError: no run, or no such layer.
  """
  if not isinstance(found, ResidualTraining):
    raise DepthMupError(
      f"found is {type(found).__name__}: expected a ResidualTraining, as linear_residual "
      "gives it"
    )
  depth = len(found.forward_kernel) - 1
  whole = isinstance(layer, Integral) and not isinstance(layer, bool)
  if not whole or not 0 <= layer <= depth:
    raise DepthMupError(f"layer={layer!r}: expected 0 to {depth}")
  layer = int(layer)
  up = coefficients(found.forward, found.backward.reversed(), layer)
  down = coefficients(found.backward, found.forward.reversed(), depth - layer)
  backward, forward = (c[..., ::-1] for c in down)
  return up, (forward, backward)


def train(
  inputs: Any,
  targets: Any,
  law: Law,
  *,
  depth: int,
  v: Any,
  kappa: Any,
  loss_derivative: LossDerivative,
  d_out: int,
) -> ResidualTraining:
  """Runs T steps of SGD at infinite width; pure, and differentiable in v and kappa.

  Args:
    inputs: [T, B, d_in] of a floating type.
    targets: a tree of arrays [T, ...], handed to `loss_derivative` step by step.
    law: of the layers.
    depth: L.
    v: see above; traced or a number.
    kappa: likewise.
    loss_derivative: see `LossDerivative`; it holds the 1/B of a mean. Samples to which
      it gives zero do not train: they are probes.
    d_out: outputs of the net.
  """
  steps, batch, d_in = inputs.shape
  n = steps * batch
  step_of = jnp.repeat(jnp.arange(steps), batch)
  earlier = (step_of[None, :] < step_of[:, None]).astype(inputs.dtype)
  not_later = (step_of[None, :] <= step_of[:, None]).astype(inputs.dtype)
  x0 = jnp.concatenate(
    [inputs.reshape(n, d_in), jnp.zeros((n, d_out), inputs.dtype)], axis=1
  )
  nothing = jnp.zeros(())

  def up(kernel: jax.Array, response: jax.Array, extra: Any) -> tuple[Any, Any, Any]:
    del extra
    return law.forward(Layer(kernel, response, v, kappa, earlier, not_later))

  def down(kernel: jax.Array, response: jax.Array, kept: Any) -> tuple[Any, Any, Any]:
    layer = Layer(kernel, response, v, kappa, earlier, not_later)
    return (*law.backward(layer, kept), nothing)

  def step(carry: tuple[Side, Side], inputs: Any) -> tuple[tuple[Side, Side], Any]:
    (forward, backward), (t, target) = carry, inputs
    alive = (step_of <= t).astype(x0.dtype)
    rising = march(forward, backward.reversed(), v, up, jnp.zeros(depth), alive)
    rows = jax.lax.dynamic_slice_in_dim(rising.fixed[-1], t * batch, batch)
    f = rows[:, d_in:]
    chi = loss_derivative(f, target).astype(x0.dtype)
    start = jax.lax.dynamic_update_slice(backward.start, chi, (t * batch, d_in))
    backward = backward._replace(start=start)
    kept = jax.tree.map(lambda a: a[::-1], rising.kept)
    falling = march(backward, rising.side.reversed(), v, down, kept, alive)
    found = (f, chi, rising.kernels, falling.kernels, rising.fixed, falling.fixed)
    return (rising.side, falling.side), found

  sides = idle(x0, depth), idle(jnp.zeros_like(x0), depth)
  with jax.default_matmul_precision("highest"):
    sides, found = jax.lax.scan(step, sides, (jnp.arange(steps), targets))
  f, chi, *kernels = found
  above, below, on_start, below_start = (k[-1] for k in kernels)
  return ResidualTraining(f, chi, above, below[::-1], on_start, below_start[::-1], *sides)
