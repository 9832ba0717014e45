"""Exponents of power laws. Layer: numpy."""

from collections.abc import Sequence

import numpy as np

from flax_depthmup.errors import DepthMupError


def fit_power_law(
  sizes: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray
) -> tuple[float, float]:
  """Slope of log values over log sizes by least squares, and its standard error.

  Args:
    sizes: [points] positive, at least two different ones; several values at one size
      (seeds) are several points.
    values: [points] positive.

  Returns:
    (slope, standard error); the error is that of the scatter around the line, with
    points - 2 degrees of freedom.

  Raises:
    DepthMupError: fewer than three points, one that is not positive and finite, or
      sizes that are all the same.
  """
  sizes, values = np.asarray(sizes, float), np.asarray(values, float)
  usable = sizes.shape == values.shape == (sizes.size,) and sizes.size >= 3
  both = np.concatenate([sizes.ravel(), values.ravel()])
  if not usable or not (np.all(both > 0) and np.isfinite(both).all()):
    raise DepthMupError(
      f"sizes {sizes.tolist()} and values {values.tolist()}: a power law is fitted to at "
      "least three points, all positive and finite"
    )
  x, y = np.log(sizes), np.log(values)
  x = x - x.mean()
  if not np.any(np.abs(x) > 1e-12):
    raise DepthMupError(f"sizes {sizes.tolist()} are all the same; give different ones")
  slope = float(x @ y / (x @ x))
  rest = y - y.mean() - slope * x
  return slope, float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x)))
