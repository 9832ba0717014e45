"""The linear residual net at infinite width: a dense recursion, closed forms, nets."""

import importlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib import finite_residual
from experiments._lib.limit_slopes import width_slope
from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  infinite_depth,
  layer_coefficients,
  linear_residual,
  residual_ode,
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def data(steps=4, batch=1, d_in=1, d_out=1, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(steps, batch, d_in)) / d_in**0.5
  return x, rng.normal(size=(steps, batch, d_out))


def signs(steps=4, seed=3):
  """Inputs of norm one: runs that stay tame at a learning rate of one."""
  rng = np.random.default_rng(seed)
  return rng.choice([-1.0, 1.0], (steps, 1, 1)), rng.normal(size=(steps, 1, 1))


def square(f, y):
  return (f - y) / len(f)


def solve(x, y, depth, **fields):
  return linear_residual(
    x, y, depth=depth, loss_derivative=square, d_out=y.shape[-1], **fields
  )


class Dense:
  """Every coefficient of every vector on every Gaussian: the recursion as it is written.

  Coefficients [direction, layer, sample, noise's sample, noise's kind, noise's layer].
  """

  def __init__(self, x, y, depth, v, kappa):
    steps, batch, d_in = x.shape
    n, d = steps * batch, d_in + y.shape[-1]
    self.on_start = np.zeros((2, depth + 1, n, d))
    self.on_noise = np.zeros((2, depth + 1, n, n, 2, depth + 1))
    self.kernel = np.zeros((2, depth + 1, n, n))
    self.v, self.f = v, []
    for t in range(steps):
      own, past = np.arange(t * batch, (t + 1) * batch), np.arange(t * batch)
      self.on_start[0, 0, own, :d_in] = x[t]
      for layer in range(1, depth + 1):
        self.layer(0, layer - 1, layer, layer, own, past, kappa)
      self.f.append(self.on_start[0, depth, own, d_in:])
      self.on_start[1, depth, own, d_in:] = square(self.f[-1], y[t])
      for layer in range(depth, 0, -1):
        self.layer(1, layer, layer - 1, layer, own, past, kappa)

  def gram(self, a, place):
    total = self.on_start[a, place] @ self.on_start[a, place].T
    for b in range(2):
      for q in range(1, self.kernel.shape[1]):
        c = self.on_noise[a, place, :, :, b, q]
        total = total + self.v * c @ self.kernel[b, q] @ c.T
    return total

  def layer(self, a, source, target, layer, own, past, kappa):
    self.kernel[a, layer] = self.gram(a, source)
    for i in own:
      self.on_start[a, target, i] = self.on_start[a, source, i]
      self.on_noise[a, target, i] = self.on_noise[a, source, i]
      self.on_noise[a, target, i, i, a, layer] += 1
      for s in past:
        weight = (
          self.v * self.on_noise[a, source, i, s, 1 - a, layer]
          - kappa * self.kernel[a, layer, i, s]
        )
        other = layer if a == 0 else layer - 1
        self.on_start[a, target, i] += weight * self.on_start[1 - a, other, s]
        self.on_noise[a, target, i] += weight * self.on_noise[1 - a, other, s]


@pytest.mark.parametrize(
  ("shape", "depth", "alpha", "gamma"),
  [
    ((4, 1, 1, 1), 5, "1/2", "1/2"),
    ((3, 2, 3, 2), 4, "1/2", "1/2"),
    pytest.param((3, 2, 1, 1), 3, "3/4", "1/4", marks=pytest.mark.slow),
    pytest.param((3, 1, 2, 1), 4, 0, 0.7, marks=pytest.mark.slow),
  ],
)
def test_it_is_the_dense_recursion(shape, depth, alpha, gamma):
  x, y = data(*shape)
  a, eta = 1.2, 0.6
  found = solve(
    x, y, depth, alpha=alpha, gamma=gamma, learning_rate=eta, branch_multiplier=a
  )
  al, ga = (float(Fraction(e)) for e in (alpha, gamma))
  dense = Dense(x, y, depth, a * a * depth ** (-2 * al), eta * a * a * depth ** (-al - ga))
  close = {"rtol": 1e-9, "atol": 1e-9}
  np.testing.assert_allclose(found.outputs, np.stack(dense.f), **close)
  np.testing.assert_allclose(found.forward_kernel[:-1], dense.kernel[0, 1:], **close)
  np.testing.assert_allclose(found.forward_kernel[-1], dense.gram(0, depth), **close)
  np.testing.assert_allclose(found.backward_kernel[1:], dense.kernel[1, 1:], **close)
  np.testing.assert_allclose(found.forward_start, dense.on_start[0], **close)
  np.testing.assert_allclose(found.backward_start, dense.on_start[1], **close)
  for layer in range(depth + 1):
    forward, backward = layer_coefficients(found, layer)
    for got, want in zip(
      forward, np.moveaxis(dense.on_noise[0, layer, ..., 1:], 2, 0), strict=True
    ):
      np.testing.assert_allclose(got, want, **close)
    for got, want in zip(
      backward, np.moveaxis(dense.on_noise[1, layer, ..., 1:], 2, 0), strict=True
    ):
      np.testing.assert_allclose(got, want, **close)


def test_the_first_step_in_closed_form():
  """df_1/d eta at eta -> 0 is -chi_0 xi_0 xi_1 a^2 (1 + a^2/L)^(L-1), by hand."""
  x, y = data(2)
  depth, a = 8, 1.3

  def second(eta):
    return solve(x, y, depth, learning_rate=eta, branch_multiplier=a).outputs[1, 0, 0]

  chi = -y[0, 0, 0]
  want = -chi * x[0, 0, 0] * x[1, 0, 0] * a * a * (1 + a * a / depth) ** (depth - 1)
  assert float(jax.grad(second)(1e-9)) == pytest.approx(want, rel=1e-6)
  kernel = solve(x, y, depth, branch_multiplier=a).forward_kernel[:, 0, 0]
  layers = np.arange(depth + 1)
  np.testing.assert_allclose(kernel, x[0, 0, 0] ** 2 * (1 + a * a / depth) ** layers)


@pytest.mark.slow
def test_it_is_differentiable_in_the_learning_rate():
  x, y = data(4, 2, 3)

  def last(eta):
    return solve(x, y, 6, learning_rate=eta).outputs[-1].sum()

  step = 1e-5
  slope = (last(0.7 + step) - last(0.7 - step)) / (2 * step)
  assert float(jax.grad(last)(0.7)) == pytest.approx(float(slope), rel=1e-7)


def nets(x, y, depth, width, seeds, phi=None, eta=1.0):
  """[seeds, T, B, d_out] outputs of finite nets in float32."""
  fields = {"width": width, "depth": depth, "phi": phi, "loss_derivative": square}
  single = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  scale = depth**-0.5

  def run(seed):
    key = jax.random.key(seed)
    return finite_residual.train(key, *single, scale, eta * scale, **fields).outputs

  return np.asarray(jax.lax.map(run, jnp.arange(seeds)), float)


@pytest.mark.slow
def test_nets_reach_it_as_the_root_of_the_width():
  """64 seeds: the slope scatters by 0.03; widths 16 to 512 are five doublings."""
  x, y = signs()
  goal = np.asarray(solve(x, y, 4, learning_rate=0.5).outputs)
  deviations = {
    n: (nets(x, y, 4, n, 64, eta=0.5) - goal).reshape(64, -1)
    for n in (16, 32, 64, 128, 256, 512)
  }
  slope, _ = width_slope(deviations)
  assert -0.6 < slope < -0.4
  assert np.abs(deviations[512].mean(0)).max() < 0.04  # 4 standard errors


def test_without_the_correlation_of_w_and_its_transpose_nets_are_elsewhere(monkeypatch):
  """The responses: what distinguishes the limit from independent backward weights."""
  law = importlib.import_module(linear_residual.__module__).LinearLaw
  x, y = signs()
  goal = np.asarray(solve(x, y, 4).outputs)
  original = law._both
  monkeypatch.setattr(law, "_both", lambda s, z: original(s, z._replace(v=0.0)))
  jax.clear_caches()
  without = np.asarray(solve(x, y, 4).outputs)
  monkeypatch.undo()
  jax.clear_caches()
  mean = nets(x, y, 4, 256, 64).mean(0)
  assert np.abs(mean - goal).max() < 0.05
  assert np.abs(mean - without).max() > 0.15


@pytest.mark.slow
def test_depth_is_reached_as_one_over_l_and_the_error_is_honest():
  x, y = data(4, 2, 2)

  def at(depth):
    return solve(x, y, depth)

  limit = infinite_depth(at, depth=32)
  gaps = [
    np.abs(np.asarray(at(depth).outputs) - limit.outputs.value).max()
    for depth in (16, 32, 64)
  ]
  np.testing.assert_allclose(np.diff(np.log2(gaps)), -1, atol=0.15)
  finer = infinite_depth(at, depth=64)
  for name in ("outputs", "forward_kernel", "backward_kernel"):
    rough, fine = getattr(limit, name), getattr(finer, name)
    assert np.abs(rough.value - fine.value).max() <= rough.error
    assert fine.error < 1e-3 * np.abs(fine.value).max()
  np.testing.assert_array_equal(limit.positions, [0, 0.25, 0.5, 0.75, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "power"), [(0.75, -0.5), (1, -1)])
def test_beyond_one_half_the_limit_is_the_ode(alpha, power):
  """The noise of the hidden weights dies as L^(1 - 2 alpha)."""
  x, y = data(4, 2, 2)

  def ode(depth):
    return residual_ode(x, y, alpha=alpha, depth=depth, loss_derivative=square)

  goal = infinite_depth(ode, depth=64).outputs.value
  gaps = [
    np.abs(np.asarray(solve(x, y, d, alpha=alpha, gamma=1 - alpha).outputs) - goal).max()
    for d in (256, 512, 1024)
  ]
  np.testing.assert_allclose(np.diff(np.log2(gaps)), power, atol=0.1)


def test_a_sample_without_a_loss_is_a_probe():
  x, y = data(4, 2)

  def first_only(f, y):
    return (f - y) * jnp.array([[1.0], [0.0]])

  both = linear_residual(x, y, depth=6, loss_derivative=first_only)
  alone = linear_residual(x[:, :1], y[:, :1], depth=6, loss_derivative=lambda f, y: f - y)
  np.testing.assert_allclose(both.outputs[:, :1], alone.outputs, atol=1e-12)
  assert np.abs(both.outputs[1:, 1]).min() > 0


def test_float32_is_float64_rounded_and_near_it_where_traced():
  x, y = data(10, 1)
  goal = solve(x, y, 64, learning_rate=0.5).outputs
  with jax.enable_x64(False):
    found = solve(x, y, 64, learning_rate=0.5).outputs
    traced = jax.jit(lambda eta: solve(x, y, 64, learning_rate=eta).outputs)(0.5)
  assert found.dtype == traced.dtype == np.float32
  np.testing.assert_array_equal(found, np.float32(goal))
  np.testing.assert_allclose(traced, goal, atol=2e-4)


X, Y = data(3, 2, 2)
WRONG = {
  "shape": ({"inputs": X[0]}, r"inputs of shape \(2, 2\): expected \[T, B, d_in\]"),
  "nan": ({"inputs": X * np.nan}, "inputs are not finite"),
  "text": ({"inputs": "x"}, "inputs: expected an array of real numbers"),
  "targets": ({"targets": Y[:2]}, r"targets of shape \(2, 2, 1\): expected the 3 steps"),
  "depth": ({"depth": 0}, "depth=0: expected a whole number"),
  "d_out": ({"d_out": 1.5}, "d_out=1.5"),
  "rate": ({"learning_rate": -1.0}, "learning_rate=-1.0: expected a finite number above 0"),
  "multiplier": ({"branch_multiplier": np.inf}, "branch_multiplier=inf"),
  "alpha": ({"alpha": "half"}, "alpha"),
  "complex": ({"inputs": X * 1j}, "inputs: expected an array of real numbers"),
  "loss's own": ({"loss_derivative": lambda f, y: y["z"]}, "loss_derivative fails on"),
  "no loss": ({"loss_derivative": 3}, "loss_derivative=3: expected a function"),
  "sum": ({"loss_derivative": lambda f, y: (f - y).sum()}, r"gives shape \(\), expected"),
  "clash": ({"loss_derivative": lambda f, y: f @ y}, "loss_derivative fails on outputs"),
  "diverges": ({"learning_rate": 1e300}, "not finite from step"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(name):
  values, words = WRONG[name]
  given = {"inputs": X, "targets": Y, "depth": 4, "loss_derivative": square, **values}
  with pytest.raises(DepthMupError, match=words):
    linear_residual(given.pop("inputs"), given.pop("targets"), **given)


def test_wrong_positions_and_layers():
  with pytest.raises(DepthMupError, match=r"position 0.3 is no layer of a net of depth 8"):
    infinite_depth(lambda d: solve(X, Y, d), depth=8, positions=(0.3,))
  for layer in (5, True, 1.0):
    with pytest.raises(DepthMupError, match=f"layer={layer}: expected 0 to 4"):
      layer_coefficients(solve(X, Y, 4), layer)
  with pytest.raises(DepthMupError, match="found is int: expected a ResidualTraining"):
    layer_coefficients(3, 1)
  assert layer_coefficients(solve(X, Y, 4), np.int64(2))[0][0].shape == (6, 6, 4)


def test_what_is_no_solver_of_order_one_is_refused():
  with pytest.raises(DepthMupError, match="solve gives int at depth 8, not a Residual"):
    infinite_depth(lambda d: d, depth=8)
  with pytest.raises(DepthMupError, match="solve gives int"):
    infinite_depth(3, depth=8)
  with pytest.raises(DepthMupError, match=r"the error is not 1/L yet.*residual_ode"):
    infinite_depth(lambda d: solve(X, Y, d, alpha=0.75, gamma=0.25), depth=16)
  found = infinite_depth(lambda d: solve(X, Y, d), depth=100, positions=(0.07, 0.29))
  np.testing.assert_allclose(found.positions, (0.07, 0.29))


def test_kernels_that_leave_floating_point_are_refused():
  """Outputs are zero before the first update, whatever the kernels are."""
  ones = np.ones((1, 1, 1))
  with pytest.raises(DepthMupError, match="the features leave floating point"):
    solve(ones, 10 * ones, 1020, alpha=0, gamma=0)


def test_a_loss_derivative_of_integers_counts():
  def sign(f, y):
    return jnp.sign(y).astype(jnp.int32)

  def real(f, y):
    return jnp.sign(y)

  found = [linear_residual(X, Y, depth=4, loss_derivative=c).outputs for c in (sign, real)]
  np.testing.assert_array_equal(*found)
