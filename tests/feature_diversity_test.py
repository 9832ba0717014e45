"""The exponent of processes whose exponent is known, and exact places in the depth."""

import re
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import feature_diversity

L, N = 1024, 512


def brownian(seed, blocks=L, n=N, rate=1.0):
  steps = np.random.default_rng(seed).normal(size=(blocks, n)) * rate
  return np.concatenate([np.zeros((1, n)), np.cumsum(steps, axis=0)])


def test_brownian_paths():
  """Of 512 features and 16 windows, kappa scatters by 0.003 between seeds."""
  found = [feature_diversity(brownian(seed)) for seed in range(40)]
  kappas = np.array([f.kappa for f in found])
  assert np.abs(kappas - 0.5).max() < 0.02
  assert kappas.mean() == pytest.approx(0.5, abs=0.005)
  np.testing.assert_allclose(found[0].scaled[:5], [1, 2**0.5, 2, 8**0.5, 4], rtol=0.05)
  # The error of one path against the scatter between them (measured: 1.3).
  error = np.mean([f.standard_error for f in found])
  assert 0.8 < error / kappas.std(ddof=1) < 1.8


def test_straight_and_curved_lines():
  t = np.linspace(0, 1, L + 1)[:, None]
  for path in (t * np.ones(N), np.sin(t * np.arange(1, 8))):
    found = feature_diversity(jnp.asarray(path))
    assert found.kappa == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(found.scaled[:5], 2.0 ** np.arange(5), rtol=0.05)
  exact = feature_diversity(t * np.ones(N))
  assert exact.kappa == pytest.approx(0, abs=1e-12)
  assert exact.standard_error == pytest.approx(0, abs=1e-12)


def test_independent_states():
  x = np.random.default_rng(0).normal(size=(L + 1, N))
  assert feature_diversity(x).kappa == pytest.approx(1, abs=0.02)


def test_a_path_whose_rate_grows_with_depth():
  """Each eps sees all of the depth; the lambdas up to 1/2 alone would give 0.39."""
  rate = np.linspace(0.2, 3, L)[:, None]
  kappas = [feature_diversity(brownian(s, rate=rate), octaves=7).kappa for s in range(5)]
  assert np.mean(kappas) == pytest.approx(0.5, abs=0.03)


def test_drift_bends_large_parts_only():
  """d^2 is eps L (1 + 0.01 eps L): from 4 to 64 blocks, 0.58 is the slope of log d."""
  path = brownian(0) + 0.1 * np.arange(L + 1)[:, None]
  assert feature_diversity(path).kappa == pytest.approx(0.42, abs=0.03)
  assert feature_diversity(path, octaves=7).kappa < 0.35


def test_the_table_by_hand():
  x = np.random.default_rng(2).normal(size=(11, 3, 4))
  epsilons, lambdas = [0.1, 0.3, Fraction(7, 10)], [0.0, 0.3, 0.4]
  found = feature_diversity(x, epsilons, lambdas, octaves=3)
  for i, blocks in enumerate((1, 3, 7)):
    for j, start in enumerate((0, 3, 4)):
      if start + blocks > 10:
        assert np.isnan(found.by_lambda[i, j])
      else:
        step = x[start + blocks] - x[start]
        assert found.by_lambda[i, j] == pytest.approx(np.sqrt(np.mean(step**2)))
  np.testing.assert_allclose(found.d, np.nanmean(found.by_lambda, axis=1))
  np.testing.assert_allclose(found.scaled, found.d / found.d[0])
  slope = np.polyfit(np.log([0.1, 0.3, 0.7]), np.log(found.d), 1)[0]
  assert found.kappa == pytest.approx(1 - slope)


def test_floors_are_exact():
  """0.29 is the 29th place of 100, though 0.29 * 100 is 28.999... in floats."""
  ramp = np.arange(101.0)[:, None] * np.ones((1, 2))
  found = feature_diversity(ramp, [0.01, 0.2, 0.28], [0.1, 0.29], octaves=5)
  np.testing.assert_array_equal(found.by_lambda, [[1, 1], [20, 20], [28, 28]])
  thirds = feature_diversity(ramp, [1 / 3, 2 / 3], [0.0, 1 / 3])
  np.testing.assert_array_equal(thirds.by_lambda, [[33, 33], [66, 67]])
  # Not divided evenly: floor(12.5 + 6.25) - floor(12.5) and its like.
  found = feature_diversity(np.arange(51.0)[:, None], [1 / 8, 1 / 4], [1 / 4, 1 / 2])
  np.testing.assert_array_equal(found.by_lambda, [[6, 6], [13, 12]])


def test_the_defaults():
  deep = feature_diversity(brownian(0, blocks=300, n=8))
  np.testing.assert_array_equal(deep.epsilons, [2.0**-i for i in range(8, 0, -1)])
  np.testing.assert_array_equal(deep.lambdas, np.arange(16) / 16)
  assert deep.scaled[0] == 1
  shallow = feature_diversity(brownian(0, blocks=12, n=8))
  np.testing.assert_allclose(shallow.epsilons, [1 / 12, 1 / 6, 1 / 3])
  np.testing.assert_allclose(shallow.lambdas, np.arange(12) / 12)
  given = feature_diversity(brownian(0, n=8), ["1/1024", "1/256", "1/16"], octaves=6)
  assert given.scaled[1] == 1
  assert feature_diversity(brownian(0, n=8), lambdas=[0.0]).standard_error is None


def test_bfloat16_states():
  x = jnp.asarray(brownian(1, blocks=64, n=64), jnp.bfloat16)
  assert feature_diversity(x).kappa == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"stream": [1, 2, 3]}, "the stream is list; expected an array [L + 1, ..., n]"),
    ({"stream": np.zeros(9)}, "the stream is of shape (9,)"),
    ({"stream": np.zeros((2, 4))}, "of at least 2 blocks"),
    ({"stream": np.zeros((9, 0))}, "of shape (9, 0)"),
    ({"stream": np.ones((9, 4))}, "the states do not change over eps=1/8"),
    ({"stream": np.full((9, 4), np.nan)}, "states that are not finite"),
    ({"stream": np.ones((3, 4))}, "one epsilon, 1/2, within octaves=4 shows no exponent"),
    ({"epsilons": [0.5]}, "one epsilon, 1/2"),
    ({"epsilons": [0.1, 0.5]}, "a part of 8 blocks is between 1/8, one block, and 1"),
    ({"epsilons": [0.5, 1.5]}, "epsilons from 1/2 to 3/2"),
    ({"epsilons": [0.5, 0.5]}, "expected distinct numbers"),
    ({"epsilons": []}, "at least one"),
    ({"epsilons": ["half", 1]}, "expected finite numbers"),
    ({"epsilons": 0.5}, "epsilons=0.5: expected finite numbers"),
    ({"lambdas": [float("inf")]}, "lambdas=[inf]: expected finite numbers"),
    ({"lambdas": [float("nan")]}, "expected finite numbers"),
    ({"lambdas": [0.0, 1.0]}, "lambdas from 0 to 1: expected [0, 1)"),
    ({"lambdas": [-0.5]}, "expected [0, 1)"),
    ({"lambdas": [0.75]}, "epsilon 1/2 ends beyond the last block"),
    ({"octaves": -1}, "octaves=-1"),
    ({"octaves": 0}, "within octaves=0"),
  ],
)
def test_wrong_inputs(fields, words):
  fields = {"stream": brownian(0, blocks=8, n=4)} | fields
  with pytest.raises(DepthMupError, match=re.escape(words)):
    feature_diversity(**fields)
