"""The limits of residual nets trained by SGD, for limit_convergence.

Four steps of two samples. Values: the outputs of all steps, and the kernel of the last
layer between all samples. Linear nets of 8 blocks are held against the limit of their
own depth, at two points of the class. A nonlinear net, and the ODE, have their limit at
infinite depth only: nets of 64 blocks are within O(1/64) of it, which is less than what
nets of width 512 scatter.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib import finite_residual
from experiments._lib.limit_convergence_case import ByDepth, Case, doublings
from flax_depthmup.limits import (
  DepthLimit,
  ResidualTraining,
  infinite_depth,
  linear_residual,
  nonlinear_ode,
  nonlinear_residual,
  residual_ode,
)

_STEPS, _BATCH, _D_IN, _D_OUT = 4, 2, 3, 2
#: Learning rates. With more, linear nets and those with |z|, which learn as fast, have
#: heavy tails at width 16.
_LINEAR_RATE, _RATE = 0.5, 1.5
_SHALLOW, _DEEP = 8, 64
#: Smallest of the three depths that are extrapolated.
_EXTRAPOLATED = 256

Solve = Callable[[int], ResidualTraining]


def square(f: Any, y: Any) -> Any:
  """The derivative of half the squared error, a mean over the batch."""
  return (f - y) / len(f)


def shifted_sine(z: jax.Array) -> jax.Array:
  """A smooth activation that is not odd."""
  return jnp.sin(z + 0.7)


def cases() -> dict[str, Case]:
  """Name -> case."""
  found = {
    "linear_residual": Case(
      words="residual, linear",
      nets=functools.partial(_linear_nets, 0.5),
      widths=doublings(32),
      seeds=60,
      depths=lambda: _by_depth(_linear(0.5), _linear(0.5)),
    ),
    "linear_residual_3_4": Case(
      words="residual, linear, α = 3/4",
      nets=functools.partial(_linear_nets, 0.75),
      widths=doublings(32),
      seeds=60,
    ),
    "ode": Case(
      words="residual, linear, α = 1: ODE",
      nets=_ode_nets,
      widths=doublings(16),
      seeds=48,
      depths=lambda: _by_depth(_linear(1.0), _ode("identity", 1.0)),
    ),
    "tanh_ode": Case(
      words="residual, tanh, α = 3/4: ODE",
      depths=lambda: _by_depth(_ode(jnp.tanh, 0.75), _ode(jnp.tanh, 0.75)),
      grid=True,
    ),
    "curved_ode": Case(
      words="residual, tanh, α = 1: ODE by particles",
      nets=_curved_ode_nets,
      widths=doublings(16),
      seeds=48,
    ),
  }
  for name, words, phi, activation, rate in (
    ("tanh_residual", "tanh", jnp.tanh, jnp.tanh, _RATE),
    ("sine_residual", "sin(z + 0.7)", shifted_sine, shifted_sine, _RATE),
    ("relu_residual", "ReLU", jax.nn.relu, "relu", _RATE),
    ("abs_residual", "|z|", jnp.abs, "abs", _LINEAR_RATE),
  ):
    solve = _solver(nonlinear_residual, activation, learning_rate=rate)
    found[name] = Case(
      words=f"residual, {words}",
      nets=functools.partial(_nonlinear_nets, phi, rate, solve),
      widths=doublings(16),
      seeds=48,
      depths=functools.partial(_by_depth, solve, solve),
      grid=True,
    )
  return found


def _data() -> tuple[np.ndarray, np.ndarray]:
  """Inputs of norm one, and targets of size one."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(_STEPS, _BATCH, _D_IN))
  x /= np.linalg.norm(x, axis=-1, keepdims=True)
  return x, rng.normal(size=(_STEPS, _BATCH, _D_OUT))


def _solver(function: Callable[..., ResidualTraining], *args: Any, **fields: Any) -> Solve:
  """Depth -> the limit of width, in float64; each depth is solved once."""

  @functools.cache
  def solve(depth: int) -> ResidualTraining:
    x, y = _data()
    own = {"depth": depth, "loss_derivative": square, "d_out": _D_OUT}
    with jax.enable_x64(True):
      return jax.tree.map(np.asarray, function(x, y, *args, **own, **fields))

  return solve


@functools.cache
def _linear(alpha: float) -> Solve:
  return _solver(linear_residual, alpha=alpha, gamma=1 - alpha, learning_rate=_LINEAR_RATE)


@functools.cache
def _ode(activation: Any, alpha: float) -> Solve:
  rate = _LINEAR_RATE if activation == "identity" else _RATE
  return _solver(residual_ode, activation, alpha=alpha, learning_rate=rate)


def _nets(
  width: int,
  seeds: int,
  goal: np.ndarray,
  *,
  phi: Any = None,
  depth: int,
  alpha: float,
  eta: float = _LINEAR_RATE,
) -> np.ndarray:
  """[seeds, values] of nets less the goal; phi None: linear."""
  x, y = (jnp.asarray(a, jnp.float32) for a in _data())
  scale, rate = float(depth) ** -alpha, eta * float(depth) ** (alpha - 1)

  def run(seed: jax.Array) -> jax.Array:
    net = finite_residual.train(
      jax.random.key(seed),
      x,
      y,
      scale,
      rate,
      width=width,
      depth=depth,
      phi=phi,
      loss_derivative=square,
      d_out=_D_OUT,
      layers=(depth,),
    )
    return _values(jnp, net.outputs, net.kernel[0])

  found = jax.jit(lambda s: jax.lax.map(run, s))(jnp.arange(seeds))
  return np.asarray(found, float) - goal


def _values(xp: Any, outputs: Any, kernel: Any) -> Any:
  """Outputs, and the kernel's entries, each once."""
  rows, columns = np.triu_indices(_STEPS * _BATCH)
  return xp.concatenate([outputs.ravel(), kernel[rows, columns]])


def _linear_nets(alpha: float, width: int, seeds: int) -> np.ndarray:
  run = _linear(alpha)(_SHALLOW)
  goal = _values(np, run.outputs, run.forward_kernel[-1])
  return _nets(width, seeds, goal, depth=_SHALLOW, alpha=alpha)


def _ode_nets(width: int, seeds: int) -> np.ndarray:
  limit = infinite_depth(_ode("identity", 1.0), depth=_EXTRAPOLATED)
  return _nets(width, seeds, _of_limit(limit), depth=_DEEP, alpha=1.0)


@functools.cache
def _curved_ode() -> np.ndarray:
  """Outputs at alpha = 1; of standard errors near 1e-3."""
  x, y = _data()
  fields = {"depth": _DEEP, "loss_derivative": square, "d_out": _D_OUT}
  run = nonlinear_ode(x, y, jnp.tanh, learning_rate=_RATE, particles=2**13, **fields)
  return run.outputs.ravel()


def _curved_ode_nets(width: int, seeds: int) -> np.ndarray:
  """Outputs alone: particles have no kernels to compare."""
  goal = _curved_ode()
  rest = np.zeros(_STEPS * _BATCH * (_STEPS * _BATCH + 1) // 2)
  fields = {"phi": jnp.tanh, "depth": _DEEP, "alpha": 1.0, "eta": _RATE}
  return _nets(width, seeds, np.concatenate([goal, rest]), **fields)[:, : len(goal)]


def _nonlinear_nets(
  phi: Any, rate: float, solve: Solve, width: int, seeds: int
) -> np.ndarray:
  limit = infinite_depth(solve, depth=_EXTRAPOLATED)
  return _nets(width, seeds, _of_limit(limit), phi=phi, depth=_DEEP, alpha=0.5, eta=rate)


def _of_limit(limit: DepthLimit) -> np.ndarray:
  return _values(np, limit.outputs.value, limit.forward_kernel.value[-1])


def _by_depth(solve: Solve, of_limit: Solve) -> ByDepth:
  """Outputs and both kernels, in the middle and where they end."""
  limit = infinite_depth(of_limit, depth=_EXTRAPOLATED, positions=(0.0, 0.5, 1.0))
  parts = (limit.outputs, limit.forward_kernel, limit.backward_kernel)
  outputs, up, down = (part.value for part in parts)

  def at(depth: int) -> np.ndarray:
    run = solve(depth)
    up = run.forward_kernel[[depth // 2, depth]]
    down = run.backward_kernel[[0, depth // 2]]
    return np.concatenate([run.outputs.ravel(), up.ravel(), down.ravel()])

  return ByDepth(
    at,
    np.concatenate([outputs.ravel(), up[1:].ravel(), down[:-1].ravel()]),
    max(float(np.max(part.error)) for part in parts),
  )
