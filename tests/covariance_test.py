"""Measured covariance kernels: against loops, and the library's nets against limits."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics.covariance import neural_covariance, summarize_draws
from flax_depthmup.diagnostics.streams import residual_stream
from flax_depthmup.limits import residual_covariance


def test_the_kernel_against_loops():
  x = np.random.default_rng(0).normal(size=(3, 4, 5))
  k = neural_covariance(x)
  assert k.shape == (3, 4, 4)
  for layer, a, b in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
    expected = sum(x[layer, a, i] * x[layer, b, i] for i in range(5)) / 5
    assert k[layer, a, b] == pytest.approx(expected)
  np.testing.assert_array_equal(neural_covariance(x[1]), k[1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_arrays_of_jax_and_small_types_are_summed_in_float64(dtype):
  x = jnp.full((2, 4096), 1.5, dtype)
  np.testing.assert_array_equal(neural_covariance(x), np.full((2, 2), 2.25))
  assert neural_covariance(x).dtype == np.float64
  large = jnp.full((1, 2), 3e4, dtype)  # its square is beyond float16
  assert neural_covariance(large)[0, 0] == float(large[0, 0]) ** 2
  huge = np.full((1, 2), 1e30, np.float32)  # and this one's beyond float32
  assert neural_covariance(huge)[0, 0] == pytest.approx(1e60, rel=1e-6)


BAD = {
  "a vector": (np.ones(3), r"shape \(3,\)"),
  "empty": (np.ones((2, 0)), r"shape \(2, 0\)"),
  "not finite": (np.array([[1.0, 2.0], [3.0, math.inf]]), r"not finite at \(1, 1\)"),
  "complex": (np.ones((2, 2), complex), "expected an array of real numbers"),
  "words": ("hidden", "expected an array of real numbers"),
  "ragged": ([[1.0], [1.0, 2.0]], "expected an array of real numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_states(name):
  value, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    neural_covariance(value)


def test_summaries_against_scipy():
  x = np.random.default_rng(1).lognormal(size=(101, 2, 2))
  s = summarize_draws(x)
  np.testing.assert_allclose(s.mean, x.mean(axis=0))
  np.testing.assert_allclose(s.mean_error, stats.sem(x, axis=0))
  np.testing.assert_allclose(s.std, x.std(axis=0, ddof=1))
  np.testing.assert_array_equal(s.median, np.median(x, axis=0))
  assert s.draws == 101
  assert all(
    np.shape(v) == (2, 2) for v in (s.mean_error, s.std_error, s.median, s.median_error)
  )


def test_standard_errors_are_those_of_many_repetitions():
  """Scatter of 2,000 estimates from 200 draws each, over the stated errors: about 1.

  Of the normal logarithm, and of exp of half of it for the error of std, where normal
  theory, s/sqrt(2 draws), would be 40 % too small.
  """
  x = np.random.default_rng(2).normal(size=(200, 2000))
  s = summarize_draws(x)
  assert s.mean.std() / s.mean_error.mean() == pytest.approx(1, abs=0.06)
  assert s.std.std() / s.std_error.mean() == pytest.approx(1, abs=0.06)
  assert s.median.std() / s.median_error.mean() == pytest.approx(1, abs=0.08)
  skew = summarize_draws(np.exp(x / 2))
  assert skew.std.std() / skew.std_error.mean() == pytest.approx(1, abs=0.25)
  assert skew.std.std() > 1.4 * skew.std.mean() / math.sqrt(400)
  assert skew.median.std() / skew.median_error.mean() == pytest.approx(1, abs=0.08)


def test_a_mean_of_a_product_misleads_where_the_log_does_not():
  """E q = 1, yet 10,000 draws of log q ~ N(-20, 40) never come near it."""
  logs = np.random.default_rng(3).normal(-20, math.sqrt(40), size=10_000)
  q = summarize_draws(np.exp(logs))
  assert q.mean + 10 * q.mean_error < 0.5
  assert abs(np.log(q.median) + 20) < 0.3
  log_q = summarize_draws(np.log(np.exp(logs)))
  assert abs(log_q.mean + 20) < 4 * log_q.mean_error
  assert abs(log_q.std - math.sqrt(40)) < 4 * log_q.std_error


def test_equal_draws_have_no_error():
  s = summarize_draws(np.full((8, 3), 2.0))
  np.testing.assert_array_equal(s.mean_error + s.std_error + s.median_error, np.zeros(3))


@pytest.mark.parametrize(
  ("values", "words"),
  [
    (np.ones(7), "at least 8 draws"),
    (1.0, "at least 8 draws"),
    ([*np.ones(8), math.nan], "1 of 9 values are not finite"),
    (np.ones(9, complex), "real numbers"),
    ("draws", "real numbers"),
  ],
)
def test_bad_draws(values, words):
  with pytest.raises(DepthMupError, match=words):
    summarize_draws(values)


def test_a_jax_array_of_draws():
  assert summarize_draws(jnp.arange(9, dtype=jnp.bfloat16)).median == 4


# The library's nets ----------------------------------------------------------------

X = np.array([[1.0, 0.0, 0.0], [0.3, math.sqrt(1 - 0.09), 0.0]]) * math.sqrt(3)
WIDTH, DEPTH, DRAWS = 128, 6, 48


@functools.cache
def measured(activation, pre_nonlinearity, mean_subtraction):
  """[draws, L + 1, 2, 2] of nets with branch multiplier L^(-1/2)."""
  model = dmup.ResidualMLP(
    WIDTH,
    DEPTH,
    1,
    dmup.depth_mup(base_width=WIDTH, base_depth=1),
    activation=activation,
    pre_nonlinearity=pre_nonlinearity,
    mean_subtraction=mean_subtraction,
  )
  x = jnp.asarray(X)

  def one(key):
    return residual_stream(model, dmup.init(model, key, x)[0], x)

  return neural_covariance(
    jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), DRAWS))
  )


def away(activation, pre_nonlinearity, mean_subtraction):
  """Distance of the mean from the infinite-width recursion, in standard errors."""
  k0 = X @ X.T / 3
  theory = residual_covariance(
    k0, [DEPTH**-0.5] * DEPTH, activation, mean_subtraction=mean_subtraction
  )
  found = summarize_draws(measured(activation, pre_nonlinearity, mean_subtraction))
  return np.abs(found.mean - theory) / found.mean_error


@pytest.mark.parametrize(
  ("activation", "mean_subtraction"), [("relu", False), ("relu", True), ("abs", False)]
)
def test_pre_nonlinearity_nets_follow_the_recursion(activation, mean_subtraction):
  """Every layer and pair within 4 standard errors, 0.04; finite width adds 1/128."""
  assert away(activation, True, mean_subtraction).max() < 4


def test_post_nonlinearity_nets_do_so_with_mean_subtraction():
  assert away("abs", False, True).max() < 4


def test_post_nonlinearity_nets_do_not_without():
  """Their mean over neurons grows in every block: q_aa at the end is larger by 10 errors.

  An odd activation has no mean to grow.
  """
  apart = away("relu", False, False)
  assert (apart[0] < 4).all()
  assert apart[-1, 0, 0] > 10
  assert away("identity", False, False).max() < 4
