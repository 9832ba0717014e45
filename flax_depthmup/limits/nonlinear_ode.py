r"""Training nonlinear residual nets at alpha = 1, gamma = 0: the ODE limit, by particles.

At alpha = 1 the branches of all layers add up like an integral: the noise of the hidden
weights averages out of the features, x and y are functions of U and V alone, and over
depth p in [0, 1] they follow an ODE. But a block is not linear in its update, which moves
its pre-activation by O(1) (Tensor Programs VI, arXiv 2310.02244, layerwise
linearization). With h^ the fresh Gaussians of covariance C(p) = E[x_s x_t], independent
of x and y,

  h_t    = h^_t - eta a sum_{s<t} C_ts dh_s,     dh_t = phi'(h_t) G y_t
  dx_t/dp  =  a G E[phi(h_t) | x, y]
  -dy_t/dp =  a sum_{r<=t} E[d dh_t/d h^_r] x_r - eta a^2 sum_{s<t} E[dh_s dh_t] x_s

(the first sum is what W^T shares with W, Tensor Programs IV, arXiv 2011.14522). x is no
Gaussian, so that there is no closure in kernels; here (U, V) are M draws, h^ is drawn
anew for each of them in each of L layers, and E is the mean. Its derivatives are carried
along: d dh_t/d h^_r = phi''(h_t) G y_t (1[r = t] - eta a sum_s C_ts d dh_s/d h^_r).

The error is O(1/L), from Euler's method and from one draw of h^ in place of the
conditional mean, and O(M^-1/2), which independent groups show. Layer: jax, numpy.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.activation import derivatives
from flax_depthmup.limits.residual_checks import (
  check_no_zero_input,
  check_run,
  check_scale,
)
from flax_depthmup.limits.residual_training import LossDerivative

#: Added to the diagonal of a covariance, relative to its trace: samples may coincide.
_JITTER = 1e-5


class NonlinearOde(NamedTuple):
  """Outputs of the limit.

  Attributes:
    outputs: [T, B, d_out], f at the inputs of each step before its update.
    outputs_error: [T, B, d_out] standard errors over the groups.
  """

  outputs: np.ndarray
  outputs_error: np.ndarray


def nonlinear_ode(
  inputs: Any,
  targets: Any,
  phi: Callable[[jax.Array], jax.Array],
  *,
  depth: int,
  loss_derivative: LossDerivative,
  d_out: int = 1,
  learning_rate: float = 1.0,
  branch_multiplier: float = 1.0,
  particles: int = 4096,
  groups: int = 4,
  seed: int = 0,
) -> NonlinearOde:
  """The limit of T steps of SGD at alpha = 1, gamma = 0, for a smooth activation.

  Memory of a group is about 12 M L (TB)^2 bytes: 170 MB at the defaults, L = 64, T = 8.

  Args:
    inputs: [T, B, d_in], one batch a step, no input zero.
    targets: a tree of arrays [T, ...], handed on step by step.
    phi: a function of a jax array, entry by entry, with two derivatives.
    depth: L, layers of the grid.
    loss_derivative: (f [B, d_out], targets of a step) -> dloss/df [B, d_out].
    d_out: outputs of the net.
    learning_rate: eta.
    branch_multiplier: a at base depth 1.
    particles: M draws in a group.
    groups: independent ones, at least 2, for the error.
    seed: of all draws.

  Raises:
    DepthMupError: wrong shapes or numbers, an input of norm zero, a phi with a kink, or
      a run that diverges.
  """
  for value, name in ((depth, "depth"), (particles, "particles"), (groups, "groups")):
    check_size(value, name)
  if groups < 2:
    raise DepthMupError("groups=1: expected at least 2, whose scatter is the error")
  derivatives(phi, 2)  # raises on kinks, whose phi'' is not what jax says
  inputs, targets = check_run(inputs, targets, loss_derivative, d_out)
  check_no_zero_input(inputs)
  if particles < 10 * (inputs.shape[2] + d_out):
    raise DepthMupError(
      f"particles={particles}: expected at least ten times the {inputs.shape[2]} features "
      f"and {d_out} outputs"
    )
  check_scale(learning_rate, "learning_rate")
  check_scale(branch_multiplier, "branch_multiplier")
  runs = [
    _group(
      jax.random.fold_in(jax.random.key(seed), group),
      inputs,
      targets,
      learning_rate,
      branch_multiplier,
      phi=phi,
      depth=int(depth),
      loss_derivative=loss_derivative,
      d_out=int(d_out),
      particles=int(particles),
    )
    for group in range(groups)
  ]
  outputs = np.stack([np.asarray(run, float) for run in runs])
  if not np.isfinite(outputs).all():
    raise DepthMupError("the outputs are not finite: the run diverges; lower learning_rate")
  return NonlinearOde(outputs.mean(0), outputs.std(0, ddof=1) / groups**0.5)


class _Past(NamedTuple):
  """Of each layer and sample: x, dh [L, N, M], and d dh/d h^ [L, N, N, M]."""

  x: jax.Array
  dh: jax.Array
  tangent: jax.Array


@functools.partial(
  jax.jit, static_argnames=("phi", "depth", "loss_derivative", "d_out", "particles")
)
def _group(
  key: jax.Array,
  inputs: jax.Array,
  targets: Any,
  eta: Any,
  a: Any,
  *,
  phi: Callable[[jax.Array], jax.Array],
  depth: int,
  loss_derivative: LossDerivative,
  d_out: int,
  particles: int,
) -> jax.Array:
  """Outputs [T, B, d_out] of one group."""
  steps, batch, d_in = inputs.shape
  n, dtype = steps * batch, inputs.dtype
  key_start, key_h = jax.random.split(key)
  start = jax.random.normal(key_start, (d_in + d_out, particles), dtype)
  u, nv = jnp.split(_orthonormal(start), [d_in])
  fresh = jax.random.normal(key_h, (depth, n, particles), dtype)
  step_of = jnp.repeat(jnp.arange(steps), batch)

  def step(past: _Past, at: Any) -> tuple[_Past, jax.Array]:
    t, xi, target = at
    place = t * batch
    earlier = (step_of < t).astype(dtype)[None, :]

    def up(x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
      x_all, dh, z = layer
      x_all = jax.lax.dynamic_update_slice(x_all, x, (place, 0))
      c, root = _covariance(x_all)
      rows = -eta * a * jax.lax.dynamic_slice_in_dim(c, place, batch) * earlier
      h = jax.lax.dynamic_slice_in_dim(root, place, batch) @ z + rows @ dh
      return x + a / depth * _centred(phi(h)), (x_all, h, rows)

    end, (x_all, h, rows) = jax.lax.scan(up, xi @ u, (past.x, past.dh, fresh))
    f = end @ nv.T / particles
    own = jax.nn.one_hot(place + jnp.arange(batch), n, dtype=dtype)

    def down(y: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
      x_all, dh, tangent, h, rows = layer
      dh_new, tangent_new = block_gradient(phi, h, _centred(y), own, rows, tangent)
      pull = tangent_new.mean(-1) - eta * a * (dh_new @ dh.T / particles) * earlier
      kept = (
        jax.lax.dynamic_update_slice(dh, dh_new, (place, 0)),
        jax.lax.dynamic_update_slice(tangent, tangent_new, (place, 0, 0)),
      )
      return y + a / depth * pull @ x_all, kept

    top = loss_derivative(f, target) @ nv
    layers = (x_all, past.dh, past.tangent, h, rows)
    _, (dh, tangent) = jax.lax.scan(down, top, layers, reverse=True)
    return _Past(x_all, dh, tangent), f

  nothing = jnp.zeros((depth, n, particles), dtype)
  past = _Past(nothing, nothing, jnp.zeros((depth, n, n, particles), dtype))
  with jax.default_matmul_precision("highest"):
    return jax.lax.scan(step, past, (jnp.arange(steps), inputs, targets))[1]


def block_gradient(
  phi: Callable[[jax.Array], jax.Array],
  h: jax.Array,
  y: jax.Array,
  own: jax.Array,
  moved: jax.Array,
  tangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """dh = phi'(h) y of a step's samples, and its derivatives by all fresh h^.

  Args:
    phi: the activation.
    h: [B, M], h^ + moved @ dh of the earlier samples.
    y: [B, M] of mean zero.
    own: [B, N] which of all samples these are.
    moved: [B, N] zero but for earlier samples.
    tangent: [N, N, M] derivatives of dh of the earlier samples: dh, h^, draw.

  Returns:
    [B, M] and [B, N, M].
  """

  def slope(z: jax.Array) -> jax.Array:
    return jax.jvp(phi, (z,), (jnp.ones_like(z),))[1]

  first, second = jax.jvp(slope, (h,), (jnp.ones_like(h),))
  through = own[:, :, None] + jnp.einsum("bs,srm->brm", moved, tangent)
  return first * y, (second * y)[:, None, :] * through


def _covariance(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """E[x x] [N, N] of the samples so far, and a root that is lower triangular."""
  c = x @ x.T / x.shape[1]
  eye = jnp.eye(len(c), dtype=c.dtype)
  later = (jnp.diagonal(c) == 0).astype(c.dtype)  # those not yet seen
  jitter = _JITTER * jnp.trace(c) / len(c)
  return c, jnp.linalg.cholesky(c + (jitter + later[:, None]) * eye)


def _orthonormal(draws: jax.Array) -> jax.Array:
  """Draws with mean zero and covariance one, rather than only in expectation."""
  draws = _centred(draws)
  root = jnp.linalg.cholesky(draws @ draws.T / draws.shape[1])
  return jax.scipy.linalg.solve_triangular(root, draws, lower=True)


def _centred(x: jax.Array) -> jax.Array:
  return x - x.mean(-1, keepdims=True)
