"""NNGP and NTK at initialization against real nets and backpropagation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup.limits.kernels import mlp_ntk, residual_ntk

NAMES = ("relu", "abs", "identity")
CASES = [(a, m) for a in NAMES for m in (False, True)]
#: All residual nets: post-nonlinearity needs a mean of zero.
BRANCHES = [(a, m, True) for a, m in CASES] + [
  (a, m, False) for a, m in CASES if m or a == "identity"
]


#: Slopes right and left of zero; numbers, so that one program serves all of them.
SLOPES = {"relu": (1.0, 0.0), "abs": (1.0, 1.0), "identity": (1.0, -1.0)}


def nonlinearity(h, phi):
  right, left, centred = phi
  value = right * jax.nn.relu(h) + left * jax.nn.relu(-h)
  return value - centred * jnp.mean(value)


def post_output(weights, x, phi, alpha):
  first, hidden, last = weights
  n = first.shape[0]

  def block(y, w):
    return y + alpha * nonlinearity(w @ y / math.sqrt(n), phi), None

  y, _ = jax.lax.scan(block, first @ x / math.sqrt(len(x)), hidden)
  return last @ y / math.sqrt(n)


def pre_output(weights, x, phi, alpha):
  first, hidden, last = weights
  n = first.shape[0]

  def block(y, w):
    return y + alpha * (w @ nonlinearity(y, phi)) / math.sqrt(n), None

  y, _ = jax.lax.scan(block, first @ x / math.sqrt(len(x)), hidden)
  return last @ y / math.sqrt(n)


def mlp_output(weights, x, phi, gain):
  first, hidden, last = weights
  n = first.shape[0]

  def layer(y, w):
    return gain * (w @ nonlinearity(y, phi)) / math.sqrt(n), None

  y, _ = jax.lax.scan(layer, first @ x / math.sqrt(len(x)), hidden)
  return gain * (last @ nonlinearity(y, phi)) / math.sqrt(n)


@functools.partial(jax.jit, static_argnums=0)
def parts(output, weights, inputs, phi, scale):
  """NNGP, input, hidden, output parts for two inputs of nets [seeds], [seeds, 4, 2, 2]."""

  def of_a_net(weights):
    f, gradients = jax.vmap(jax.value_and_grad(output), (None, 0, None, None))(
      weights, inputs, phi, scale
    )
    flat = [g.reshape(2, -1) for g in gradients]
    return jnp.stack([jnp.outer(f, f), *(g @ g.T for g in flat)])

  return jax.vmap(of_a_net)(weights)


def check(limit, output, inputs, phi, scale, *, width, hidden, seeds, bias):
  """Means and standard errors over nets of N(0, 1) weights against a limit."""
  rng, draws = np.random.default_rng(11), []
  for _ in range(seeds // 16):
    shapes = ((width, inputs.shape[1]), (hidden, width, width), (width,))
    weights = [rng.standard_normal((16, *shape), np.float32) for shape in shapes]
    draws.append(parts(output, weights, inputs, phi, scale))
  draws = np.concatenate(draws).astype(np.float64)
  mean, error = draws.mean(axis=0), draws.std(axis=0) / math.sqrt(len(draws))
  # Fixed seeds. The bias of a width n is of order L/n.
  room = 4 * error + bias * np.abs(np.array(limit)).max(axis=(1, 2), keepdims=True)
  np.testing.assert_array_less(np.abs(mean - np.array(limit)), room)
  # The parts of the NTK are self-averaging, and the test is sharp.
  assert np.all(error[1:].max(axis=(1, 2)) < 0.06 * mean[1:].max(axis=(1, 2)))
  return mean, error


X = np.random.default_rng(2).normal(size=(2, 10)).astype(np.float32)
X[1] = 0.6 * X[0] + 0.7 * X[1]


@pytest.mark.parametrize(("activation", "mean_subtraction", "pre"), BRANCHES)
def test_residual_nets_by_backpropagation(activation, mean_subtraction, pre):
  alphas = [0.5] * 4
  options = {"mean_subtraction": mean_subtraction, "pre_nonlinearity": pre}
  limit = residual_ntk(X @ X.T / 10, alphas, activation, **options)
  phi = (*SLOPES[activation], float(mean_subtraction))
  output = pre_output if pre else post_output
  size = {"width": 128, "hidden": 4, "seeds": 96, "bias": 0.03}
  mean, error = check(limit, output, X, phi, 0.5, **size)
  if activation != "identity" and mean_subtraction:  # pre and post differ
    options["pre_nonlinearity"] = not pre
    other = residual_ntk(X @ X.T / 10, alphas, activation, **options)
    assert np.abs(mean - np.array(other))[2, 0, 0] > 8 * error[2, 0, 0]


@pytest.mark.parametrize(("activation", "mean_subtraction"), CASES)
def test_mlps_by_backpropagation(activation, mean_subtraction):
  limit = mlp_ntk(X @ X.T / 10, 3, activation, mean_subtraction=mean_subtraction)
  second = {"relu": 0.5, "abs": 1.0, "identity": 1.0}[activation]
  centre = {"relu": 1 / (2 * math.pi), "abs": 2 / math.pi, "identity": 0.0}[activation]
  gain = 1 / math.sqrt(second - centre * mean_subtraction)
  phi = (*SLOPES[activation], float(mean_subtraction))
  size = {"width": 128, "hidden": 2, "seeds": 96, "bias": 0.03}
  check(limit, mlp_output, X, phi, gain, **size)


@pytest.mark.slow
@pytest.mark.parametrize("width", [128, 256])
def test_a_deep_residual_net_by_backpropagation(width):
  """32 blocks, unit inputs of correlation 0.3: hidden parts 0.8085 and 0.3755."""
  x = np.zeros((2, 10), np.float32)
  x[0, 0], x[1, :2] = math.sqrt(10), np.sqrt(10 * np.array([0.09, 0.91]))
  limit = residual_ntk(x @ x.T / 10, [32**-0.5] * 32, "relu", mean_subtraction=False)
  np.testing.assert_allclose(limit.hidden[0], [0.8085, 0.3755], atol=1e-4)
  size = {"width": width, "hidden": 32, "seeds": 128, "bias": 0.02}
  check(limit, pre_output, x, (1.0, 0.0, 0.0), 32**-0.5, **size)
