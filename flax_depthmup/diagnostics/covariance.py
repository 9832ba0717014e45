"""The neural covariance kernel of hidden states, and estimates over random draws.

Layer: numpy only; takes arrays, of any model.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from flax_depthmup.errors import DepthMupError

#: Fewer draws have no standard error of a median.
FEWEST = 8
#: Normal quantile of the interval between order statistics that the median's error
#: comes from: 95 %.
_QUANTILE = 1.959964


def neural_covariance(hidden: Any) -> np.ndarray:
  """<x_a, x_b>/n, the neural covariance kernel of Hayou and Yang (arXiv 2302.00453).

  In float64: squares of activations of an unscaled net leave float32 near depth 220.

  Args:
    hidden: [..., batch, n] hidden states, such as the residual stream
      [L + 1, batch, n]; a jax or numpy array of real numbers. For images, move the
      positions into the last axis.

  Returns:
    [..., batch, batch] in float64.

  Raises:
    DepthMupError: of another shape, no real numbers, or not finite.
  """
  x = _real(hidden, "hidden")
  if x.ndim < 2 or not x.size:
    raise DepthMupError(
      f"hidden of shape {x.shape}: expected [..., batch, n], inputs and neurons last"
    )
  if not np.isfinite(x).all():
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
    raise DepthMupError(
      f"hidden is not finite at {where}: the net overflowed there; scale its branches, or "
      "compute it in float64"
    )
  return x @ np.swapaxes(x, -1, -2) / x.shape[-1]


@dataclasses.dataclass(frozen=True)
class DrawSummary:
  """Estimates over independent draws, each of the shape of one draw.

  Attributes:
    draws: how many.
    mean, mean_error: average, and its standard error s/sqrt(draws).
    std, std_error: sample standard deviation s, and its standard error from the fourth
      moment (right without normality).
    median, median_error: and half the width of its 95 % interval between order
      statistics, over 1.96.
  """

  draws: int
  mean: np.ndarray
  mean_error: np.ndarray
  std: np.ndarray
  std_error: np.ndarray
  median: np.ndarray
  median_error: np.ndarray


def summarize_draws(values: Any) -> DrawSummary:
  """Mean, standard deviation and median over draws, with their standard errors.

  A heavy-tailed product misleads its mean: of an MLP deeper than wide, <x, x>/n keeps
  the expectation of its first layer while almost every draw shrinks towards zero, and
  a million draws would not show the expectation. Give its logarithm,
  `summarize_draws(np.log(q))`, or read the median; its error needs no moment.

  Args:
    values: [draws, ...], at least 8 draws.

  Raises:
    DepthMupError: fewer draws, or values that are no finite real numbers.
  """
  x = _real(values, "values")
  if x.ndim < 1 or len(x) < FEWEST:
    raise DepthMupError(
      f"values of shape {x.shape}: expected [draws, ...] with at least {FEWEST} draws"
    )
  if not np.isfinite(x).all():
    raise DepthMupError(
      f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite; leave dead or "
      "overflown draws out, and say how many they were"
    )
  count = len(x)
  mean, variance = x.mean(axis=0), x.var(axis=0, ddof=1)
  std = np.sqrt(variance)
  fourth = np.mean((x - mean) ** 4, axis=0)
  spread = np.maximum(fourth - variance**2 * (count - 3) / (count - 1), 0) / count
  std_error = np.divide(np.sqrt(spread), 2 * std, out=np.zeros_like(std), where=std > 0)
  reach = _QUANTILE / (2 * math.sqrt(count))
  low, median, high = np.quantile(x, [max(0.5 - reach, 0), 0.5, min(0.5 + reach, 1)], 0)
  return DrawSummary(
    count,
    mean,
    std / math.sqrt(count),
    std,
    std_error,
    median,
    (high - low) / (2 * _QUANTILE),
  )


def _real(values: Any, name: str) -> np.ndarray:
  """In float64; bfloat16 and the like too."""
  try:
    if np.iscomplexobj(values):
      raise TypeError
    return np.asarray(values, np.float64)
  except (TypeError, ValueError):
    raise DepthMupError(
      f"{name}={type(values).__name__}: expected an array of real numbers"
    ) from None
