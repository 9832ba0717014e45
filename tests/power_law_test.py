"""Fitted exponents against closed forms, and what cannot be fitted."""

import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import fit_power_law


def test_exact_power_laws():
  sizes = np.array([2.0, 4, 8, 16])
  for exponent in (-1, -0.5, 0, 2):
    slope, error = fit_power_law(sizes, 3 * sizes**exponent)
    assert slope == pytest.approx(exponent, abs=1e-12)
    assert error < 1e-7


def test_the_error_is_that_of_least_squares():
  """Against numpy's own covariance of the same fit."""
  rng = np.random.default_rng(0)
  sizes = np.repeat([8, 16, 32, 64], 3)
  values = sizes**0.5 * np.exp(0.1 * rng.normal(size=12))
  line, covariance = np.polyfit(np.log(sizes), np.log(values), 1, cov=True)
  slope, error = fit_power_law(sizes, values)
  assert slope == pytest.approx(line[0], rel=1e-9)
  assert error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-9)


@pytest.mark.parametrize(
  ("sizes", "values", "words"),
  [
    ([1, 2], [1, 2], "at least three points"),
    ([1, 2, 4], [1, 2], "at least three points"),
    ([1, 2, 4], [1, 0, 2], "all positive"),
    ([1, 2, 4], [1, np.nan, 2], "all positive"),
    ([1, 2, 4], [1, np.inf, 2], "finite"),
    ([-1, 2, 4], [1, 1, 2], "all positive"),
    ([2, 2, 2], [1, 1, 2], "all the same"),
  ],
)
def test_what_cannot_be_fitted(sizes, values, words):
  with pytest.raises(DepthMupError, match=words):
    fit_power_law(sizes, values)
