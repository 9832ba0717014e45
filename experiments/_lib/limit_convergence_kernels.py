"""The limits of nets at initialization, for limit_convergence.

Gram matrices of gradients by backpropagation through finite nets, weights of a kind
taken together: the parts of the neural tangent kernel. That of the readout is the
covariance of its features, so that the limits of covariances are among the values.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib.limit_convergence_case import ByDepth, Case, doublings
from flax_depthmup.limits import (
  Kernels,
  mlp_ntk,
  relu_nngp,
  relu_ntk,
  residual_covariance,
  residual_covariance_limit,
  residual_ntk,
  residual_ntk_limit,
)

_INPUTS, _D_IN, _DEPTH = 3, 4, 8
_PHI = {"relu": jax.nn.relu, "abs": jnp.abs}
#: sigma_u, sigma_v and sigma_b of the net of one hidden layer.
_SIGMAS = (1.2, 0.8, 0.5)

#: Weights by kind, and an input -> one output.
Net = Callable[[Any, jax.Array], jax.Array]


def cases() -> dict[str, Case]:
  """Name -> case."""
  relu = {"activation": "relu", "mean_subtraction": False, "pre_nonlinearity": True}
  centred = {"activation": "abs", "mean_subtraction": True, "pre_nonlinearity": False}
  return {
    "residual_kernels": Case(
      words="NTK, residual, W relu(x)",
      nets=functools.partial(_residual_nets, relu),
      widths=doublings(16),
      seeds=100,
      depths=functools.partial(_residual_depths, relu),
    ),
    "centred_kernels": Case(
      words="NTK, residual, G |W x|",
      nets=functools.partial(_residual_nets, centred),
      widths=doublings(16),
      seeds=100,
      depths=functools.partial(_residual_depths, centred),
    ),
    "mlp_kernels": Case(
      words="NTK, MLP, ReLU, L = 3",
      nets=_mlp_nets,
      widths=doublings(32),
      seeds=100,
    ),
    "one_hidden_kernels": Case(
      words="NTK, one hidden layer, ReLU, biases",
      nets=_one_hidden_nets,
      widths=doublings(32, 6),
      seeds=200,
    ),
  }


def _inputs() -> np.ndarray:
  return np.random.default_rng(0).normal(size=(_INPUTS, _D_IN))


def _k0() -> np.ndarray:
  x = _inputs()
  return x @ x.T / _D_IN


def _grams(
  draw: Callable[[jax.Array], Any], net: Net, seeds: int, goal: np.ndarray
) -> np.ndarray:
  """[seeds, values]: Gram matrices of gradients, kind by kind, less the goal.

  Args:
    draw: of the weights, from a key.
    net: see `Net`.
    seeds: how many.
    goal: [values] of the kinds in order, each upper triangle once.
  """
  x = jnp.asarray(_inputs(), jnp.float32)
  rows, columns = np.triu_indices(_INPUTS)

  def run(seed: jax.Array) -> jax.Array:
    gradients = jax.vmap(jax.grad(net), (None, 0))(draw(jax.random.key(seed)), x)
    flat = [g.reshape(_INPUTS, -1) for g in jax.tree.leaves(gradients)]
    return jnp.concatenate([(g @ g.T)[rows, columns] for g in flat])

  found = jax.jit(lambda s: jax.lax.map(run, s))(jnp.arange(seeds))
  return np.asarray(found, float) - goal


def _goal(*kernels: Any) -> np.ndarray:
  rows, columns = np.triu_indices(_INPUTS)
  return np.concatenate([np.asarray(kernel, float)[rows, columns] for kernel in kernels])


def _normal(key: jax.Array, *shape: int) -> jax.Array:
  return jax.random.normal(key, shape, jnp.float32)


def _residual_nets(kind: dict[str, Any], width: int, seeds: int) -> np.ndarray:
  phi, alpha = _PHI[kind["activation"]], _DEPTH**-0.5

  def draw(key: jax.Array) -> list[jax.Array]:
    first, hidden, last = jax.random.split(key, 3)
    shapes = ((first, width, _D_IN), (hidden, _DEPTH, width, width), (last, width))
    return [_normal(*shape) for shape in shapes]

  def net(weights: list[jax.Array], x: jax.Array) -> jax.Array:
    def block(y: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
      if kind["pre_nonlinearity"]:
        return y + alpha * (w @ phi(y)) / width**0.5, None
      branch = phi(w @ y / width**0.5)
      if kind["mean_subtraction"]:
        branch = branch - branch.mean()
      return y + alpha * branch, None

    y, _ = jax.lax.scan(block, weights[0] @ x / _D_IN**0.5, weights[1])
    return weights[2] @ y / width**0.5

  found = residual_ntk(_k0(), [alpha] * _DEPTH, **kind)
  goal = _goal(found.input, found.hidden, found.output)
  return _grams(draw, net, seeds, goal)


def _mlp_nets(width: int, seeds: int) -> np.ndarray:
  gain = 2.0**0.5  # He's, for relu

  def draw(key: jax.Array) -> list[jax.Array]:
    first, hidden, last = jax.random.split(key, 3)
    shapes = ((first, width, _D_IN), (hidden, 2, width, width), (last, width))
    return [_normal(*shape) for shape in shapes]

  def net(weights: list[jax.Array], x: jax.Array) -> jax.Array:
    y = weights[0] @ x / _D_IN**0.5
    for w in (*weights[1], weights[2]):
      y = gain * (w @ jax.nn.relu(y)) / width**0.5
    return y

  found = mlp_ntk(_k0(), 3, "relu", mean_subtraction=False)
  return _grams(draw, net, seeds, _goal(found.input, found.hidden, found.output))


def _one_hidden_nets(width: int, seeds: int) -> np.ndarray:
  sigma_u, sigma_v, sigma_b = _SIGMAS

  def draw(key: jax.Array) -> list[jax.Array]:
    of_u, of_v, of_b = jax.random.split(key, 3)
    u = sigma_u * _normal(of_u, width, _D_IN)
    v = sigma_v * _normal(of_v, width)
    return [u, v, sigma_b * _normal(of_b, width)]

  def net(weights: list[jax.Array], x: jax.Array) -> jax.Array:
    u, v, b = weights
    return v @ jax.nn.relu(u @ x + jax.lax.stop_gradient(b)) / width**0.5

  x = jnp.asarray(_inputs(), jnp.float32)
  nngp, ntk = relu_nngp(sigma_u, sigma_b)(x, x), relu_ntk(*_SIGMAS)(x, x)
  return _grams(draw, net, seeds, _goal(ntk - nngp, nngp, np.zeros_like(nngp)))


def _residual_depths(kind: dict[str, Any]) -> ByDepth:
  """The kernels, and the covariance in the middle of the depth."""
  k0, covariance = _k0(), {k: kind[k] for k in ("activation", "mean_subtraction")}

  def flat(found: Kernels, middle: np.ndarray) -> np.ndarray:
    return _goal(found.input, found.hidden, found.output, middle)

  def at(depth: int) -> np.ndarray:
    alphas = [depth**-0.5] * depth
    layers = residual_covariance(k0, alphas, **covariance)
    return flat(residual_ntk(k0, alphas, **kind), layers[depth // 2])

  middle = residual_covariance_limit(k0, [0.5], **covariance)[0]
  return ByDepth(at, flat(residual_ntk_limit(k0, 1.0, **kind), middle), 1e-9)
