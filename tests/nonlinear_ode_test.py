"""The limit at alpha = 1 of nonlinear nets: the linear ODE, nets, and what it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib import finite_residual
from flax_depthmup import DepthMupError
from flax_depthmup.limits import nonlinear_ode, residual_ode


def data(steps=4, seed=3):
  rng = np.random.default_rng(seed)
  return np.sign(rng.normal(size=(steps, 1, 1))), 1.5 * rng.normal(size=(steps, 1, 1))


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
