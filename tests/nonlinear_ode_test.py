"""The limit at alpha = 1 of nonlinear nets: the linear ODE, nets, and what it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib import finite_residual
from flax_depthmup import DepthMupError
from flax_depthmup.limits import nonlinear_ode, residual_ode
from flax_depthmup.limits.nonlinear_ode import block_gradient


def data(steps=4, seed=3):
  rng = np.random.default_rng(seed)
  return np.sign(rng.normal(size=(steps, 1, 1))), 1.5 * rng.normal(size=(steps, 1, 1))


def shifted_sine(z):
  return jnp.sin(z + 0.7)


def square(f, y):
  return f - y


def test_the_identity_follows_the_exact_ode_of_the_same_grid():
  """Beyond noise of the draws, only v = a^2/L^2 a layer is different: below 1/L."""
  x, y = data()
  fields = {"depth": 64, "loss_derivative": square, "learning_rate": 0.7}
  found = nonlinear_ode(x, y, lambda z: 1.0 * z, particles=2048, **fields)
  exact = residual_ode(x, y, alpha=1, **fields).outputs
  gap = np.abs(found.outputs - np.asarray(exact))
  assert (gap < 5 * found.outputs_error + 2 / 64).all()
  assert found.outputs_error.max() < 0.03
  np.testing.assert_allclose(found.outputs[0], 0, atol=1e-2)


def test_nets_follow_it_and_not_the_form_that_is_linear_in_the_updates():
  """tanh, n = 256, L = 32, 12 seeds: standard errors near 0.015; the other is 0.3 away."""
  x, y = data()
  fields = {"loss_derivative": square}
  ours = nonlinear_ode(x, y, jnp.tanh, depth=32, **fields)
  linear = residual_ode(x, y, jnp.tanh, alpha=0.9, depth=64, **fields).outputs
  single = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  nets = [
    finite_residual.train(
      jax.random.key(seed),
      *single,
      1 / 32,
      1.0,
      width=256,
      depth=32,
      phi=jnp.tanh,
      **fields,
    ).outputs
    for seed in range(12)
  ]
  mean = np.mean(nets, 0)
  assert np.abs(mean - ours.outputs).max() < 0.06
  assert np.abs(mean - np.asarray(linear)).max() > 0.2


@pytest.mark.slow
def test_nets_with_batches_and_several_outputs_follow_it():
  """sin(z + 0.7), B = 2, d_out = 2, n = 512, L = 64, 24 seeds; within 4 errors or 0.02."""
  rng = np.random.default_rng(5)
  x, y = rng.normal(size=(4, 2, 2)) / 2**0.5, rng.normal(size=(4, 2, 2))
  fields = {"depth": 64, "loss_derivative": square, "d_out": 2}
  ours = nonlinear_ode(x, y, shifted_sine, particles=8192, **fields)
  single = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  nets = [
    finite_residual.train(
      jax.random.key(s), *single, 1 / 64, 1.0, width=512, phi=shifted_sine, **fields
    ).outputs
    for s in range(24)
  ]
  error = np.hypot(np.std(nets, 0) / 24**0.5, ours.outputs_error)
  gap = np.abs(np.mean(nets, 0) - ours.outputs)
  assert (gap < np.maximum(4 * error, 0.02)).all()


def test_the_derivatives_by_fresh_gaussians_obey_steins_identity():
  """sum_r E[d dh_t/d h^_r] C_rs = E[h^_s dh_t], h^ ~ N(0, C) independent of y.

  10^6 draws: standard errors of the right side are below 2e-3; five of them.
  """
  rng, draws, n = np.random.default_rng(0), 10**6, 3
  factor = np.tril(rng.normal(size=(n, n))) + np.eye(n)
  c = factor @ factor.T
  moved = np.tril(rng.normal(size=(n, n)), -1) * 0.4
  fresh = (factor @ rng.normal(size=(n, draws))).astype(np.float32)
  y = rng.normal(size=(n, draws)).astype(np.float32)
  y = (y + y[:1]).astype(np.float32)  # correlated over samples, or E dh_s y_t is zero
  dh, tangent = jnp.zeros((n, draws)), jnp.zeros((n, n, draws))
  for t in range(n):
    row = jnp.asarray(moved[t : t + 1], jnp.float32)
    own = jnp.eye(n)[t : t + 1]
    h = fresh[t : t + 1] + row @ dh
    new = block_gradient(shifted_sine, h, y[t : t + 1], own, row, tangent)
    dh, tangent = dh.at[t].set(new[0][0]), tangent.at[t].set(new[1][0])
  want = np.asarray(dh @ fresh.T) / draws
  found = np.asarray(tangent.mean(-1)) @ c
  np.testing.assert_allclose(found, want, atol=0.02)
  assert np.abs(want[2]).max() > 0.1


def test_a_batch_of_two_copies_is_one_sample():
  x, y = data()

  def half(f, y):
    return (f - y) / len(f)

  fields = {"depth": 16, "loss_derivative": half, "particles": 2048}
  one = nonlinear_ode(x, y, jnp.tanh, **fields)
  two = nonlinear_ode(np.repeat(x, 2, 1), np.repeat(y, 2, 1), jnp.tanh, **fields)
  gap = np.abs(two.outputs - one.outputs)
  assert (gap < 5 * (one.outputs_error + two.outputs_error) + 5e-3).all()


X, Y = data()
WRONG = {
  "zero": ({"inputs": X * [[[1]], [[0]], [[1]], [[1]]]}, "input 0 of step 1 is zero"),
  "kink": ({"phi": jax.nn.relu}, "relu"),
  "groups": ({"groups": 1}, "groups=1: expected at least 2"),
  "particles": (
    {"particles": 8},
    "particles=8: expected at least ten times the 1 features",
  ),
  "depth": ({"depth": 0}, "depth=0"),
  "rate": ({"learning_rate": 0.0}, "learning_rate=0.0"),
  "shape": ({"inputs": X[0]}, r"expected \[T, B, d_in\]"),
  "diverges": ({"loss_derivative": lambda f, y: y / 0.0}, "not finite: the run diverges"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(name):
  values, words = WRONG[name]
  given = {"inputs": X, "phi": jnp.tanh, "depth": 4, "particles": 64}
  given |= {"loss_derivative": square, **values}
  x, phi = given.pop("inputs"), given.pop("phi")
  with pytest.raises(DepthMupError, match=words):
    nonlinear_ode(x, Y, phi, **given)
