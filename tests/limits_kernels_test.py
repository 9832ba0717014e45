"""NNGP and NTK at initialization: golden numbers, other ways to them, wrong input."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from flax_depthmup import DepthMupError
from flax_depthmup.limits import residual_covariance, residual_covariance_limit
from flax_depthmup.limits.kernels import mlp_ntk, residual_ntk, residual_ntk_limit

NAMES = ("relu", "abs", "identity")
CASES = [(a, m) for a in NAMES for m in (False, True)]
#: All residual nets: post-nonlinearity needs a mean of zero.
BRANCHES = [(a, m, True) for a, m in CASES] + [
  (a, m, False) for a, m in CASES if m or a == "identity"
]


def pair(c, a=1.0, b=1.0):
  return np.array([[a, c * math.sqrt(a * b)], [c * math.sqrt(a * b), b]])


def scaled(depth):
  return [depth**-0.5] * depth


# Golden numbers, relu, unit inputs, alpha = L^(-1/2) -----------------------------


def test_goldens_of_the_limit():
  same = residual_ntk_limit(pair(0.3), 1.0, "relu", mean_subtraction=False)
  assert same.input[0, 0] == pytest.approx(math.exp(0.5), rel=1e-10)
  assert same.hidden[0, 0] == pytest.approx(math.exp(0.5) / 2, rel=1e-10)
  assert same.output[0, 0] == pytest.approx(math.exp(0.5), rel=1e-10)
  assert same.hidden[0, 1] == pytest.approx(0.382196, abs=1e-6)
  assert same.input[0, 1] / 0.3 == pytest.approx(1.357587, abs=1e-6)
  assert same.nngp[0, 1] == pytest.approx(0.631372, abs=1e-6)
  np.testing.assert_allclose(same.ntk, same.input + same.hidden + same.output)
  apart = residual_ntk_limit(pair(0.0), 1.0, "relu", mean_subtraction=False)
  assert apart.hidden[0, 1] == pytest.approx(0.262820, abs=1e-6)
  assert apart.input[0, 1] == 0


GOLDENS = {4: (0.33447, 0.71191), 16: (0.36911, 0.79329), 64: (0.37884, 0.81638)}
GOLDENS[256] = (0.38135, 0.82235)


@pytest.mark.parametrize("depth", GOLDENS)
def test_goldens_of_finite_depth(depth):
  found = residual_ntk(pair(0.3), scaled(depth), "relu", mean_subtraction=False).hidden
  np.testing.assert_allclose([found[0, 1], found[0, 0]], GOLDENS[depth], atol=6e-6)


# Other ways to the same numbers --------------------------------------------------


@pytest.mark.parametrize(("activation", "mean_subtraction", "pre"), BRANCHES)
@pytest.mark.parametrize("c0", [-1.0, -0.6, 0.3, 1.0])
def test_finite_depth_tends_to_the_limit(activation, mean_subtraction, pre, c0):
  """The error is of order 1/L, so Richardson's extrapolation leaves 1/L^2."""
  options = {"mean_subtraction": mean_subtraction, "pre_nonlinearity": pre}
  k0 = pair(c0, 2.0, 0.5)
  limit = residual_ntk_limit(k0, 0.7, activation, **options)
  half, full = (
    residual_ntk(k0, [math.sqrt(0.7 / n)] * n, activation, **options) for n in (128, 256)
  )
  for name in limit._fields:
    exact, coarse, fine = (getattr(k, name) for k in (limit, half, full))
    np.testing.assert_allclose(2 * fine - coarse, exact, atol=2e-4)
    np.testing.assert_array_equal(exact, exact.T)
    if activation != "identity" and c0 == 0.3:
      ratio = np.abs(coarse - exact)[0, 0] / np.abs(fine - exact)[0, 0]
      assert ratio == pytest.approx(2, abs=0.1)


def test_the_integral_of_the_docstring():
  """hidden = int G Phi dt by an ODE for G, run backwards, and quadrature over it."""
  t_end, c0 = 0.8, 0.25

  def covariance(t):
    return residual_covariance_limit(pair(c0), [t], "relu", mean_subtraction=False)[0]

  def chance(t):
    k = covariance(t)
    return (math.pi - math.acos(k[0, 1] / k[0, 0])) / (2 * math.pi)

  def dual(t):
    k = covariance(t)
    c = k[0, 1] / k[0, 0]
    return k[0, 0] * (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / (2 * math.pi)

  back = solve_ivp(
    lambda t, g: -g * chance(t), (t_end, 0), [1.0], rtol=1e-9, atol=1e-11, dense_output=True
  )
  hidden = quad(lambda t: back.sol(t)[0] * dual(t), 0, t_end, epsabs=1e-7)[0]
  found = residual_ntk_limit(pair(c0), t_end, "relu", mean_subtraction=False)
  assert found.hidden[0, 1] == pytest.approx(hidden, abs=1e-6)
  assert found.input[0, 1] == pytest.approx(c0 * back.y[0, -1], abs=1e-7)


def test_linear_nets_by_hand():
  """Identity: G = prod (1 + alpha^2), and every layer contributes alpha^2 K G / (...)."""
  alphas, k0 = np.array([0.3, 0.8, 0.1]), pair(0.4, 2.0, 0.3)
  gain = np.prod(1 + alphas**2)
  found = residual_ntk(k0, alphas, "identity", mean_subtraction=False)
  np.testing.assert_allclose(found.input, gain * k0)
  np.testing.assert_allclose(found.hidden, gain * k0 * np.sum(alphas**2 / (1 + alphas**2)))
  flow = residual_ntk_limit(k0, 0.7, "identity", mean_subtraction=True)
  np.testing.assert_allclose(flow.hidden, 0.7 * math.exp(0.7) * k0, rtol=1e-9)
  mlp = mlp_ntk(k0, 5, "identity", mean_subtraction=False)
  np.testing.assert_allclose(mlp.ntk, 6 * k0)


def test_the_mlp_follows_its_recursion():
  """Theta = K + s P Theta on the diagonal: s P(1) = 1 for relu, abs: depth + 1 layers."""
  for activation in ("relu", "abs"):
    found = mlp_ntk(pair(0.3, 2.0, 0.5), 6, activation, mean_subtraction=False)
    np.testing.assert_allclose(np.diag(found.ntk), [7 * 2.0, 7 * 0.5], rtol=1e-12)
  theta, c = 0.3, 0.3
  for _ in range(6):
    slope = 2 * (math.pi - math.acos(c)) / (2 * math.pi)
    c = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    theta = c + slope * theta
  found = mlp_ntk(pair(0.3), 6, "relu", mean_subtraction=False)
  assert found.ntk[0, 1] == pytest.approx(theta, rel=1e-12)
  assert found.nngp[0, 1] == pytest.approx(c, rel=1e-12)
  alone = mlp_ntk(pair(0.3), 1, "relu", mean_subtraction=False)
  np.testing.assert_array_equal(alone.hidden, np.zeros((2, 2)))


@pytest.mark.parametrize(("activation", "mean_subtraction"), CASES)
def test_the_covariance_is_the_nngp_kernel(activation, mean_subtraction):
  k0 = pair(-0.2, 0.5, 2.0)
  found = residual_ntk(k0, [0.4] * 5, activation, mean_subtraction=mean_subtraction)
  k = residual_covariance(k0, [0.4] * 5, activation, mean_subtraction=mean_subtraction)
  np.testing.assert_array_equal(found.nngp, k[-1])
  np.testing.assert_array_equal(found.output, k[-1])


# Edges and wrong input -----------------------------------------------------------

NETS = {
  "finite": lambda k, a, m: residual_ntk(k, [0.4] * 6, a, mean_subtraction=m),
  "limit": lambda k, a, m: residual_ntk_limit(k, 1.0, a, mean_subtraction=m),
  "mlp": lambda k, a, m: mlp_ntk(k, 6, a, mean_subtraction=m),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("activation", "mean_subtraction"), CASES)
def test_edges(net, activation, mean_subtraction):
  def kernels(k):
    return NETS[net](k, activation, mean_subtraction)

  zero = kernels(np.array([[0.0, 0.0], [0.0, 1.0]]))
  alone = kernels(np.array([[1.0]]))
  for field in zero._fields:
    value = getattr(zero, field)
    np.testing.assert_allclose(
      value, [[0, 0], [0, getattr(alone, field)[0, 0]]], atol=1e-14
    )
  x = np.random.default_rng(0).normal(size=(4, 6))
  whole = kernels(x @ x.T / 6)
  part = kernels((x @ x.T / 6)[np.ix_([3, 1], [3, 1])])
  np.testing.assert_allclose(whole.ntk[np.ix_([3, 1], [3, 1])], part.ntk, rtol=1e-8)
  nine = kernels(9 * x @ x.T / 6)
  np.testing.assert_allclose(nine.ntk, 9 * whole.ntk, rtol=1e-8)
  assert np.linalg.eigvalsh(whole.ntk)[0] > 0


def test_no_time_and_no_multiplier_leave_the_boundary_layers():
  for found in (
    residual_ntk_limit(pair(0.3), 0, "relu", mean_subtraction=False),
    residual_ntk(pair(0.3), [0.0, 0.0], "relu", mean_subtraction=False),
  ):
    np.testing.assert_allclose(found.ntk, 2 * pair(0.3), rtol=1e-14)
    np.testing.assert_array_equal(found.hidden, np.zeros((2, 2)))


def test_time_may_be_an_array_of_no_axis():
  for time in (jnp.float32(0.5), np.array(0.5), jnp.asarray(0.5)):
    found = residual_ntk_limit(pair(0.3), time, "relu", mean_subtraction=False)
    want = residual_ntk_limit(pair(0.3), 0.5, "relu", mean_subtraction=False)
    np.testing.assert_array_equal(found.ntk, want.ntk)


def call(
  k=None, multipliers=(0.5, 0.5), time=1.0, depth=2, activation="relu", m=True, pre=True
):
  k = pair(0.3) if k is None else k
  options = {"mean_subtraction": m, "pre_nonlinearity": pre}
  residual_ntk(k, multipliers, activation, **options)
  residual_ntk_limit(k, time, activation, **options)
  mlp_ntk(k, depth, activation, mean_subtraction=m)


BAD = {
  "no covariance": ({"k": [[1.0, 2.0], [2.0, 1.0]]}, "eigenvalue"),
  "a vector": ({"k": np.ones(3)}, r"shape \(3,\)"),
  "activation": ({"activation": "tanh"}, "'tanh' has no closed form here"),
  "mean_subtraction": ({"m": "yes"}, "mean_subtraction='yes'"),
  "pre_nonlinearity": ({"pre": 1}, "pre_nonlinearity=1: expected True or False"),
  "a mean": ({"m": False, "pre": False}, "activation='relu' after the weights has a mean"),
  "multipliers": ({"multipliers": [-1.0]}, "branch_multipliers="),
  "negative time": ({"time": -1.0}, "time=-1.0"),
  "times": ({"time": [0.5, 1.0]}, "time="),
  "a word": ({"time": "long"}, "time="),
  "nan": ({"time": math.nan}, "time="),
  "an array of nan": ({"time": jnp.asarray(math.nan)}, "time=nan"),
  "a long time": ({"time": 1e5}, "leaves float64"),
  "the NTK alone": ({"time": 1900.0}, "the NTK leaves float64"),
  "a deep MLP": ({"depth": 2500}, "the NTK leaves float64"),
  "depth": ({"depth": 0}, "depth=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  values, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call(**values)
