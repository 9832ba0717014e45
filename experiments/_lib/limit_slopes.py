"""How fast finite nets reach a limit: exponents of their deviations, with intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments._lib.sweeps_claims import Claim, claim, within
from flax_depthmup.diagnostics import fit_power_law

_RESAMPLES = 400


def width_slope(deviations: Mapping[int, Any]) -> tuple[float, tuple[float, float]] | None:
  """Exponent of the rms deviation from the limit over width.

  Args:
    deviations: width -> [seeds, values], nets less limit.

  Returns:
    The slope of the log-log line, and the central 95 % of it when the seeds of each
    width are drawn again with replacement (generator 0). None for fewer than three
    widths, fewer than two seeds, or a width without deviation.
  """
  widths = sorted(deviations)
  squares = [np.mean(np.square(np.asarray(deviations[w], float)), axis=1) for w in widths]
  if len(widths) < 3 or min(map(len, squares)) < 2 or min(s.max() for s in squares) <= 0:
    return None
  rng = np.random.default_rng(0)

  def slope(values: list[float]) -> float:
    return fit_power_law(widths, np.sqrt(values))[0]

  drawn = []
  for _ in range(_RESAMPLES):
    means = [s[rng.integers(0, len(s), len(s))].mean() for s in squares]
    if min(means) > 0:
      drawn.append(slope(means))
  low, high = np.quantile(drawn, (0.025, 0.975))
  return slope([s.mean() for s in squares]), (float(low), float(high))


def rms(values: Any) -> float:
  """Root of the mean square over all seeds and values."""
  return float(np.sqrt(np.mean(np.square(np.asarray(values, float)))))


def slope_claim(
  words: str, deviations: Mapping[int, Any], ends: tuple[float, float]
) -> Claim:
  """That the exponent over width lies between `ends`."""
  found = width_slope(deviations)
  measured: dict[str, Any] = {"rms": {str(w): rms(d) for w, d in deviations.items()}}
  if found is None:
    return claim(words, measured, None, "fewer than three widths, or one seed")
  slope, interval = found
  measured |= {"slope": slope, "ci95": list(interval)}
  reason = f"slope {slope:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
  return claim(words, measured, within(interval, ends), reason)
