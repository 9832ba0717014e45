"""Feature diversity: how far the features of a net move over a part of its depth.

Tensor Programs VI (arXiv 2310.02244), the definition of the feature diversity exponent
and Figures 17 to 19. Works on the states of any model. Layer: numpy.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from numbers import Rational
from typing import Any

import numpy as np

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.errors import DepthMupError

#: The curve is 1 here, as in the paper's figures.
REFERENCE = Fraction(1, 256)
#: Places lambda = i/16 of the default.
PLACES = 16


@dataclasses.dataclass(frozen=True)
class FeatureDiversity:
  """The curve d(epsilon), and the exponent fitted to it.

  Attributes:
    epsilons: [E] parts of the depth, increasing.
    lambdas: [K] places they begin at, increasing.
    by_lambda: [E, K] rms(x^floor((lambda + eps) L) - x^floor(lambda L)) over all examples
      and features; nan where lambda + eps exceeds 1.
    d: [E] mean of those over the lambdas that fit.
    scaled: [E] d over its value at eps = 1/256, or at the smallest eps where 1/256 is
      not among them. Only curves of the same reference compare.
    kappa: 1 minus the slope of log d over log eps, at the smallest eps: 1/2 on a
      Brownian path (Depth-muP), 0 on a smooth curve (ODE).
    standard_error: of kappa, by leaving out one lambda after the other; None with one
      lambda. It speaks of this one net. Of Brownian paths it is 1.3 times the scatter
      between seeds; half of it if kappa is fitted to all octaves, as the long windows
      overlap.
  """

  epsilons: np.ndarray
  lambdas: np.ndarray
  by_lambda: np.ndarray
  d: np.ndarray
  scaled: np.ndarray
  kappa: float
  standard_error: float | None


def feature_diversity(
  stream: Any,
  epsilons: Sequence[float | Fraction] | None = None,
  lambdas: Sequence[float | Fraction] | None = None,
  octaves: float = 4,
) -> FeatureDiversity:
  """d(eps), the scaled curve and the exponent kappa of a residual stream.

  d(eps) is the mean over the lambdas of a root mean square over examples and features.
  kappa belongs to small eps: training gives the states of Depth-muP a drift beside their
  Brownian path, which bends the curve upwards at large ones.

  Args:
    stream: [L + 1, ..., n] states x^0 to x^L of any model, such as `residual_stream`
      gives; [2L + 1, ...] of two branches a layer has 2L blocks.
    epsilons: parts of the depth in [1/L, 1]. None: the powers of 2 from 1/256 to 1/2;
      of fewer than 256 blocks 1/L, 2/L, ... up to 1/2.
    lambdas: places in [0, 1). None: 0, 1/16, ..., 15/16; of fewer than 16 blocks 0,
      1/L, .... Each eps takes those with lambda + eps <= 1, so that all eps see all of
      the depth. Floats are read as the nearest fraction with a denominator of at most
      2^20, and floor((lambda + eps) L) is exact.
    octaves: kappa is fitted to the eps of up to 2^octaves times the smallest. Four lead
      from 1/256 to 1/16.

  Raises:
    DepthMupError: no such stream, or states that are not finite or do not change; an
      eps or lambda is no number, repeated or out of range; fewer than two eps to fit; an
      eps fits no lambda.
  """
  blocks = _check_stream(stream)
  if epsilons is None:
    smallest = max(REFERENCE, Fraction(1, blocks))
    doublings = (smallest * 2**i for i in range(9))
    epsilons = [e for e in doublings if e <= Fraction(1, 2)]
  if lambdas is None:
    places = min(PLACES, blocks)
    lambdas = [Fraction(i, places) for i in range(places)]
  epsilons, lambdas = _fractions(epsilons, "epsilons"), _fractions(lambdas, "lambdas")
  _check_windows(epsilons, lambdas, blocks)
  low = _fitted(epsilons, octaves)
  table = _distances(stream, blocks, epsilons, lambdas)
  eps = np.array([float(e) for e in epsilons])
  d = np.nanmean(table, axis=1)
  reference = epsilons.index(REFERENCE) if REFERENCE in epsilons else 0
  return FeatureDiversity(
    epsilons=eps,
    lambdas=np.array([float(v) for v in lambdas]),
    by_lambda=table,
    d=d,
    scaled=d / d[reference],
    kappa=_kappa(eps[low], d[low]),
    standard_error=_jackknife(eps[low], table[low]),
  )


def _distances(
  stream: Any, blocks: int, epsilons: list[Fraction], lambdas: list[Fraction]
) -> np.ndarray:
  """by_lambda, [E, K] float64."""
  ends = [[(v * blocks, (v + e) * blocks) for v in lambdas] for e in epsilons]
  pairs = [[(a // 1, b // 1) if b <= blocks else None for a, b in row] for row in ends]
  rows = sorted({row for line in pairs for pair in line if pair for row in pair})
  states = np.asarray(stream[np.array(rows)]).astype(np.float64)
  if not np.isfinite(states).all():
    raise DepthMupError("the stream holds states that are not finite; did the net diverge?")
  place = {row: i for i, row in enumerate(rows)}

  def distance(pair: tuple[int, int] | None) -> float:
    if pair is None:
      return np.nan
    start, stop = (states[place[row]] for row in pair)
    return float(np.sqrt(np.mean(np.square(stop - start))))

  table = np.array([[distance(pair) for pair in row] for row in pairs])
  still = np.nanmean(table, axis=1) == 0
  if still.any():
    raise DepthMupError(
      f"the states do not change over eps={epsilons[int(np.argmax(still))]}, so there is "
      "no exponent; give the states of a net whose branches are not zero"
    )
  return table


def _kappa(eps: np.ndarray, d: np.ndarray) -> float:
  return float(1 - np.polyfit(np.log(eps), np.log(d), 1)[0])


def _jackknife(eps: np.ndarray, table: np.ndarray) -> float | None:
  """Standard error of kappa; None where leaving one lambda out leaves an eps nothing."""
  count = table.shape[1]
  rest = [np.delete(table, k, axis=1) for k in range(count)]
  if any(not (t > 0).any(axis=1).all() for t in rest):
    return None
  kappas = np.array([_kappa(eps, np.nanmean(t, axis=1)) for t in rest])
  return float(np.sqrt((count - 1) / count * np.sum(np.square(kappas - kappas.mean()))))


def _fitted(epsilons: list[Fraction], octaves: float) -> slice:
  """Which of them kappa is fitted to."""
  check_nonnegative(octaves, "octaves")
  count = sum(e <= epsilons[0] * 2.0**octaves for e in epsilons)
  if count < 2:
    raise DepthMupError(
      f"one epsilon, {epsilons[0]}, within octaves={octaves} shows no exponent; give two, "
      "or the states of at least 4 blocks"
    )
  return slice(count)


def _check_stream(stream: Any) -> int:
  """The number of blocks."""
  shape = getattr(stream, "shape", None)
  if shape is None or len(shape) < 2 or shape[0] < 3 or 0 in shape:
    found = type(stream).__name__ if shape is None else f"of shape {tuple(shape)}"
    raise DepthMupError(
      f"the stream is {found}; expected an array [L + 1, ..., n] of the states x^0 to x^L "
      "of at least 2 blocks"
    )
  return shape[0] - 1


def _fractions(values: Sequence[float | Fraction], name: str) -> list[Fraction]:
  """As exact fractions, increasing."""
  try:
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    exact = [
      Fraction(v) if isinstance(v, Rational) else Fraction(v).limit_denominator(2**20)
      for v in values
    ]
  except (TypeError, ValueError, OverflowError):
    raise DepthMupError(f"{name}={values!r}: expected finite numbers") from None
  if not exact or len(set(exact)) != len(exact):
    raise DepthMupError(f"{name}={values!r}: expected distinct numbers, at least one")
  return sorted(exact)


def _check_windows(epsilons: list[Fraction], lambdas: list[Fraction], blocks: int) -> None:
  if not 0 <= lambdas[0] <= lambdas[-1] < 1:
    raise DepthMupError(f"lambdas from {lambdas[0]} to {lambdas[-1]}: expected [0, 1)")
  if epsilons[0] * blocks < 1 or epsilons[-1] > 1:
    raise DepthMupError(
      f"epsilons from {epsilons[0]} to {epsilons[-1]}: a part of {blocks} blocks is "
      f"between 1/{blocks}, one block, and 1, all"
    )
  if epsilons[-1] + lambdas[0] > 1:
    raise DepthMupError(
      f"epsilon {epsilons[-1]} ends beyond the last block from every lambda, of which "
      f"{lambdas[0]} is the smallest; give a smaller one"
    )
