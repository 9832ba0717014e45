"""Infinite-width kernels against quadrature, closed forms and numbers from elsewhere."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  correlation,
  dual_covariance,
  mlp_covariance,
  residual_covariance,
  residual_covariance_limit,
)

PHI = {"relu": lambda x: max(x, 0.0), "abs": abs, "identity": lambda x: x}
CASES = [(a, m) for a in PHI for m in (False, True)]


def pair(c, a=1.0, b=1.0):
  return np.array([[a, c * math.sqrt(a * b)], [c * math.sqrt(a * b), b]])


def unit_dual(activation, c):
  """D(c), homogeneity used: in polar coordinates, radius squared has mean 2."""
  phi, turn = PHI[activation], math.acos(c)

  def on_circle(angle):
    return 2 * phi(math.cos(angle)) * phi(math.cos(angle - turn)) / (2 * math.pi)

  kinks = sorted({(k * math.pi / 2 + s) % (2 * math.pi) for k in (1, 3) for s in (0, turn)})
  return quad(on_circle, 0, 2 * math.pi, points=kinks, epsabs=1e-13, limit=200)[0]


def mean(activation):
  density = math.sqrt(2 * math.pi)
  return quad(lambda x: PHI[activation](x) * math.exp(-x * x / 2) / density, -12, 12)[0]


@pytest.mark.parametrize(("activation", "mean_subtraction"), CASES)
@pytest.mark.parametrize("c", [-1.0, -0.9, -0.2, 0.0, 0.3, 0.99, 1.0])
def test_duals_against_quadrature(activation, mean_subtraction, c):
  k = dual_covariance(pair(c, 0.5, 3.0), activation, mean_subtraction=mean_subtraction)
  centre = mean(activation) ** 2 if mean_subtraction else 0.0
  norm = math.sqrt(0.5 * 3.0)
  assert k[0, 1] == pytest.approx(norm * (unit_dual(activation, c) - centre), abs=1e-9)
  assert k[0, 0] == pytest.approx(0.5 * (unit_dual(activation, 1.0) - centre), abs=1e-9)
  assert k[0, 1] == k[1, 0]


#: Correlations of the infinite relu net at t = 1/4, 1/2, 1 and q_ab(1), unit inputs.
GOLDENS = {
  -0.9: (-0.792022, -0.694233, -0.523595, -0.863262),
  0.0: (0.038581, 0.074879, 0.141348, 0.233043),
  0.3: (0.322281, 0.343486, 0.382947, 0.631372),
  0.9: (0.901182, 0.902342, 0.904603, 1.491439),
}
GOLDENS_CENTRED = {-0.9: -0.765439, 0.0: 0.0, 0.3: 0.280393, 0.9: 0.888360}


@pytest.mark.parametrize("c0", GOLDENS)
def test_goldens_of_the_limit(c0):
  k = residual_covariance_limit(pair(c0), [0.25, 0.5, 1], "relu", mean_subtraction=False)
  found = [*correlation(k)[:, 0, 1], k[-1, 0, 1]]
  np.testing.assert_allclose(found, GOLDENS[c0], atol=1e-6)
  np.testing.assert_allclose(k[-1, 0, 0], 1.6487213, atol=1e-7)
  k = residual_covariance_limit(pair(c0), [1.0], "relu", mean_subtraction=True)
  np.testing.assert_allclose(k[0, 0, 0], 1.4061354, atol=1e-7)
  np.testing.assert_allclose(correlation(k)[0, 0, 1], GOLDENS_CENTRED[c0], atol=1e-6)


@pytest.mark.parametrize(("activation", "mean_subtraction"), CASES)
def test_the_flow_takes_the_time_that_its_integral_says(activation, mean_subtraction):
  """Time from c0 to c(t), as the integral of dc/(D(c) - D(1) c); no solver in it."""
  if activation == "identity":
    return
  centre = mean(activation) ** 2 if mean_subtraction else 0.0
  gain = unit_dual(activation, 1.0) - centre
  for c0 in (-0.7, 0.4):
    k = residual_covariance_limit(
      pair(c0, 2.0, 0.5), [0.5, 1.5], activation, mean_subtraction=mean_subtraction
    )
    for t, c in zip((0.5, 1.5), correlation(k)[:, 0, 1], strict=True):

      def slowness(x):
        return 1 / (unit_dual(activation, x) - centre - gain * x)

      assert quad(slowness, c0, c, epsabs=1e-10)[0] == pytest.approx(t, abs=1e-7)
    np.testing.assert_allclose(
      k[:, 0, 0], 2.0 * np.exp(gain * np.array([0.5, 1.5])), rtol=1e-10
    )


def test_a_fine_grid_of_times_is_as_exact_as_its_end():
  times = np.linspace(0.01, 1, 100)
  fine = residual_covariance_limit(pair(0.3), times, "relu", mean_subtraction=False)
  for i in (0, 33, 70):
    alone = residual_covariance_limit(
      pair(0.3), times[i : i + 1], "relu", mean_subtraction=False
    )
    np.testing.assert_allclose(fine[i], alone[0], atol=1e-10)


def test_the_depth_error_is_of_order_1_over_L():
  limit = residual_covariance_limit(pair(0.3), [1.0], "relu", mean_subtraction=False)[0]

  def scaled_error(depth):
    k = residual_covariance(
      pair(0.3), [depth**-0.5] * depth, "relu", mean_subtraction=False
    )
    assert k.shape == (depth + 1, 2, 2)
    return depth * np.abs(k[-1] - limit)

  finest = scaled_error(4096)
  assert finest[0, 0] == pytest.approx(0.206, abs=5e-4)
  assert finest[0, 1] == pytest.approx(0.1288, abs=1.5e-4)
  errors = [scaled_error(depth)[0, 1] for depth in (4, 16, 64, 256, 1024)]
  assert (np.diff(errors) > 0).all()  # from 0.116 to the constant
  assert errors[0] == pytest.approx(0.116, abs=1e-3)


def test_the_clock_is_the_sum_of_squares():
  """Another sequence of the same sum of squares and vanishing largest: one limit."""
  depth, t = 4096, 0.7
  ramp = np.sqrt(np.arange(1, depth + 1))
  ramp *= math.sqrt(t / np.sum(ramp**2))
  k = residual_covariance(pair(-0.4), ramp, "relu", mean_subtraction=False)[-1]
  limit = residual_covariance_limit(pair(-0.4), [t], "relu", mean_subtraction=False)[0]
  np.testing.assert_allclose(k, limit, atol=2e-4)
  # A fixed square-summable sequence has its own product, not an exponential.
  fixed = 1.0 / np.arange(1, depth + 1)
  k = residual_covariance(pair(-0.4), fixed, "relu", mean_subtraction=False)[-1]
  product = math.sinh(math.pi / math.sqrt(2)) * math.sqrt(2) / math.pi  # prod 1 + 1/(2 l^2)
  assert k[0, 0] == pytest.approx(product, rel=2e-4)
  assert k[0, 0] < math.exp(np.sum(fixed**2) / 2) - 0.1


def test_trivial_exploding_and_linear_stacks():
  depth = 500
  k = residual_covariance(pair(0.3), [1 / depth] * depth, "relu", mean_subtraction=False)
  np.testing.assert_allclose(k[-1], k[0], rtol=2e-3)
  k = residual_covariance(pair(0.3), np.ones(100), "relu", mean_subtraction=False)
  np.testing.assert_allclose(k[:, 0, 0], 1.5 ** np.arange(101))
  c = correlation(k)[:, 0, 1]
  assert (np.diff(c) > 0).all()
  assert c[-1] == pytest.approx((c[-2] + unit_dual("relu", c[-2])) / 1.5, abs=1e-10)
  for mean_subtraction in (False, True):  # odd: no mean to subtract
    k = residual_covariance_limit(
      pair(-0.6, 2.0), [0.0, 0.5], "identity", mean_subtraction=mean_subtraction
    )
    np.testing.assert_allclose(k[0], pair(-0.6, 2.0), rtol=1e-12)
    np.testing.assert_allclose(k[1], math.exp(0.5) * pair(-0.6, 2.0), rtol=1e-10)


def test_an_mlp_keeps_norms_and_loses_correlations():
  k = mlp_covariance(pair(0.3, 2.0, 0.1), 4096, "relu", mean_subtraction=False)
  np.testing.assert_allclose(k[:, [0, 1], [0, 1]], [[2.0, 0.1]] * 4097, rtol=1e-12)
  apart = 1 - correlation(k)[:, 0, 1]
  for depth, constant in ((16, 16.7), (64, 31.7), (256, 40.0)):
    assert depth**2 * apart[depth] == pytest.approx(constant, abs=0.05)
  assert 4096**2 * apart[4096] == pytest.approx(9 * math.pi**2 / 2, rel=0.01)
  k = mlp_covariance(pair(0.3), 9, "abs", mean_subtraction=True)
  np.testing.assert_allclose(k[:, 0, 0], 1.0, rtol=1e-12)
  np.testing.assert_allclose(
    mlp_covariance(pair(0.3), 3, "identity", mean_subtraction=False), [pair(0.3)] * 4
  )


RESIDUAL = {
  "finite": lambda k, a, m: residual_covariance(k, [0.4] * 6, a, mean_subtraction=m)[-1],
  "limit": lambda k, a, m: residual_covariance_limit(k, [1.0], a, mean_subtraction=m)[0],
  "mlp": lambda k, a, m: mlp_covariance(k, 6, a, mean_subtraction=m)[-1],
}


@pytest.mark.parametrize("net", RESIDUAL)
@pytest.mark.parametrize(("activation", "mean_subtraction"), CASES)
def test_edges(net, activation, mean_subtraction):
  def end(k):
    return RESIDUAL[net](k, activation, mean_subtraction)

  same = end(pair(1.0, 2.0, 2.0))
  np.testing.assert_allclose(same, same[0, 0], rtol=1e-12)  # one input twice
  assert np.isfinite(end(pair(-1.0))).all()
  assert abs(correlation(end(pair(-1.0)))[0, 1]) <= 1
  zero = end([[0.0, 0.0], [0.0, 1.0]])
  np.testing.assert_allclose(zero, [[0, 0], [0, end([[1.0]])[0, 0]]])
  np.testing.assert_array_equal(end(np.zeros((2, 2))), np.zeros((2, 2)))
  if mean_subtraction or activation == "identity":
    assert end(pair(0.0))[0, 1] == pytest.approx(0.0, abs=1e-12)  # a fixed point


@pytest.mark.parametrize("net", RESIDUAL)
def test_each_pair_of_many_inputs_goes_its_own_way(net):
  x = np.random.default_rng(0).normal(size=(5, 7))
  k = x @ x.T / 7
  whole = RESIDUAL[net](k, "relu", False)
  for i in range(5):
    for j in range(i):
      part = RESIDUAL[net](k[np.ix_([i, j], [i, j])], "relu", False)
      np.testing.assert_allclose(whole[np.ix_([i, j], [i, j])], part, atol=1e-10)
  assert np.linalg.eigvalsh(whole)[0] > 0
  np.testing.assert_allclose(RESIDUAL[net](9 * k, "relu", False), 9 * whole, rtol=1e-10)
  np.testing.assert_array_equal(whole, whole.T)


def test_rounding_of_float32_is_no_mistake():
  x = np.random.default_rng(1).normal(size=(40, 30)).astype(np.float32)  # rank 30
  k = residual_covariance_limit(x @ x.T / 30, [1.0], "abs", mean_subtraction=True)
  assert np.isfinite(k).all()


def call(
  k=None, multipliers=(0.5, 0.5), times=(0.5, 1.0), depth=2, activation="relu", m=True
):
  k = pair(0.3) if k is None else k
  residual_covariance(k, multipliers, activation, mean_subtraction=m)
  residual_covariance_limit(k, times, activation, mean_subtraction=m)
  mlp_covariance(k, depth, activation, mean_subtraction=m)


BAD = {
  "not a number": ({"k": [[1.0, math.nan], [math.nan, 1.0]]}, "not finite"),
  "infinite": ({"k": [[math.inf]]}, "not finite"),
  "not psd": ({"k": [[1.0, 1.1], [1.1, 1.0]]}, "eigenvalue -0.1"),
  "negative": ({"k": [[-1.0]]}, "eigenvalue -1"),
  "zero with a covariance": ({"k": [[0.0, 0.5], [0.5, 1.0]]}, "eigenvalue"),
  "not symmetric": ({"k": [[1.0, 0.3], [0.2, 1.0]]}, "not symmetric"),
  "no square": ({"k": np.ones((2, 3))}, r"shape \(2, 3\)"),
  "a vector": ({"k": np.ones(3)}, r"shape \(3,\)"),
  "empty": ({"k": np.ones((0, 0))}, r"shape \(0, 0\)"),
  "words": ({"k": "K"}, "str"),
  "complex": ({"k": [[1j]]}, "list"),
  "a complex array": ({"k": np.ones((1, 1), complex)}, "ndarray"),
  "complex multipliers": ({"multipliers": np.ones(1, complex)}, "branch_multipliers="),
  "activation": ({"activation": "tanh"}, "'tanh' has no closed form here"),
  "a callable": ({"activation": abs}, "no closed form here"),
  "mean_subtraction": ({"m": "yes"}, "mean_subtraction='yes'"),
  "no multipliers": ({"multipliers": []}, "branch_multipliers="),
  "negative multiplier": ({"multipliers": [0.5, -0.5]}, "branch_multipliers="),
  "nan multiplier": ({"multipliers": [math.nan]}, "branch_multipliers="),
  "one multiplier": ({"multipliers": 0.5}, "branch_multipliers=0.5"),
  "named multipliers": ({"multipliers": "many"}, "branch_multipliers='many'"),
  "overflow": ({"multipliers": np.ones(4000)}, "leaves float64 at index"),
  "decreasing times": ({"times": [1.0, 0.5]}, "increasing"),
  "negative time": ({"times": [-0.5]}, "times="),
  "a long time": ({"times": [1e5]}, "leaves float64"),
  "depth": ({"depth": 0}, "depth=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  values, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call(**values)


def test_correlations_need_a_norm():
  with pytest.raises(DepthMupError, match="input 1 has norm zero"):
    correlation([[1.0, 0.0], [0.0, 0.0]])
  for bad in (np.ones(2), np.ones((2, 3)), [[math.nan]], [[1j]]):
    with pytest.raises(DepthMupError, match=r"\[..., k, k\]"):
      correlation(bad)
  with pytest.raises(DepthMupError, match="shape"):
    dual_covariance(np.ones(2), "relu", mean_subtraction=False)
