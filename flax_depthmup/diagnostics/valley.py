"""The valley of a loss over learning rate and block multiplier, and how it slopes.

Layer: numpy and scipy.
"""

import dataclasses
import math

import numpy as np

from flax_depthmup.diagnostics.optimum import widening
from flax_depthmup.errors import DepthMupError

#: Heights in log-loss, above the best cell, of the sublevel set that the form is fitted
#: in: the first that shows a valley is taken.
HEIGHTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
#: Fewest cells of such a set; a form has six coefficients.
CELLS = 10
#: A valley is so many times as long as it is wide, in octaves.
LONG = 2.0
#: Its curvature across is so many standard errors.
CLEAR = 3.0
#: It rises on both sides, the lower side by at least this part of the higher one.
SIDES = 0.1
#: Its direction is known to within so many degrees.
KNOWN = 20.0
RESAMPLES = 500


@dataclasses.dataclass(frozen=True)
class Valley:
  """The long axis of the optimal sublevel set in the (log2 eta, log2 a) plane.

  Attributes:
    slope: d log2 a / d log2 eta along the axis: the octaves of block multiplier that go
      with one octave of learning rate at the same loss; the paper plots log2 eta to the
      right and log2 a upwards. None where the map shows no valley, or one that may be
      vertical.
    ci95: the interval of the slope; None where the slope is.
    angle: of the axis over the axis of log2 eta, in degrees, from 0 to 180; 90: the loss
      does not depend on a. A slope of -2 is 116.6, of -1 135. None without a valley.
    angle_ci95: its interval.
    aspect: length over width of the set, in octaves; infinite where it does not close.
    center: (log2 eta, log2 a), a point of the axis: the mean of the cells fitted to,
      moved across to the bottom of the form.
    reason: why there is no slope.
  """

  slope: float | None
  ci95: tuple[float, float] | None
  angle: float | None
  angle_ci95: tuple[float, float] | None
  aspect: float | None
  center: tuple[float, float] | None
  reason: str | None


def fit_valley(
  log2_lrs: np.ndarray, log2_multipliers: np.ndarray, log_losses: np.ndarray
) -> Valley:
  """Fits the direction in which the loss stays lowest, refusing to fit noise.

  Where the updates of a block's matrices multiply, the loss depends on a eta^2, and the
  valley has slope -2; where they add, on a eta, and it has slope -1 (Tensor Programs VI,
  section 8, Figure 7).

  A quadratic form is fitted to the mean log-loss in the sublevel set: the cells
  connected to the best one that are at most 0.02, 0.05, 0.1, 0.15, 0.2, then 0.3 above
  it. Its long axis is the valley. It counts when the curvature across it is above 0 by
  three standard errors, it rises on both sides, the set is twice as long as wide, and
  the interval of its direction is within 20 degrees. The interval is the wider one of
  two: the bootstrap over seeds, widened by sqrt(S/(S-1)) and Student's t for the S
  seeds, and that of the misfit of the form. Where the optimum is on the edge of the
  grid, there is a slope only if the valley runs out of the grid there.

  Args:
    log2_lrs: [rates], increasing.
    log2_multipliers: [multipliers], increasing.
    log_losses: [seeds, rates, multipliers] natural logarithm of the loss; not finite
      where the member diverged. A cell in which any seed diverged counts as diverged.

  Raises:
    DepthMupError: the shapes do not fit, or the rates or multipliers do not increase.
  """
  x, a, table = (np.asarray(v, float) for v in (log2_lrs, log2_multipliers, log_losses))
  _check(x, a, table)
  finite = np.isfinite(table).all(axis=0)
  if not finite.any():
    return _none("diverges everywhere")
  y = np.where(finite, np.where(np.isfinite(table), table, 0).mean(axis=0), np.inf)
  i, j = np.unravel_index(np.argmin(y), y.shape)
  best = int(i), int(j)
  tries = [_fit(x, a, table, _sublevel(y, best, height)) for height in HEIGHTS]
  found = next((v for v in tries if v.angle is not None), None)
  return found or _none(_edge(x, a, best) or tries[-1].reason)


def _none(reason: str | None) -> Valley:
  return Valley(None, None, None, None, None, None, reason)


def _edge(x: np.ndarray, a: np.ndarray, best: tuple[int, int]) -> str | None:
  """Which end of the grid the best cell is at, if it is."""
  for name, grid, i in (("rate", x, best[0]), ("multiplier", a, best[1])):
    if i in (0, len(grid) - 1):
      end, way = ("smallest", "below") if i == 0 else ("largest", "above")
      where = f"the best {name} is the {end} of the grid, 2^{grid[i]:g}"
      return f"{where}; extend it {way}"
  return None


def _check(x: np.ndarray, a: np.ndarray, table: np.ndarray) -> None:
  rising = all(v.ndim == 1 and v.size and (np.diff(v) > 0).all() for v in (x, a))
  if not rising or table.ndim != 3 or table.shape[1:] != (x.size, a.size) or not len(table):
    raise DepthMupError(
      f"log2_lrs of shape {x.shape}, log2_multipliers of shape {a.shape}, log_losses of "
      f"shape {table.shape}: expected increasing rates and multipliers, and losses of "
      "shape [seeds, rates, multipliers]"
    )


def _sublevel(y: np.ndarray, best: tuple[int, int], height: float) -> np.ndarray:
  """The cells at most `height` above the best one and connected to it, a mask."""
  from scipy.ndimage import label  # slow to import

  parts = label(y <= y[best] + height)[0]
  return parts == parts[best]


def _fit(x: np.ndarray, a: np.ndarray, table: np.ndarray, inside: np.ndarray) -> Valley:
  """The valley in one sublevel set."""
  i, j = np.nonzero(inside)
  if len(i) < CELLS or min(len(set(i)), len(set(j))) < 3:
    return _none(
      f"only {len(i)} cells around the best one are nearly as low: the losses are noise, "
      "or the grid is too coarse"
    )
  u, v = x[i] - x[i].mean(), a[j] - a[j].mean()
  design = np.stack([u * u / 2, u * v, v * v / 2, u, v, np.ones_like(u)], axis=1)
  if np.linalg.matrix_rank(design) < design.shape[1]:
    return _none("the lowest cells lie on one line or two: the grid is too coarse")
  values = table[:, i, j]
  form = np.linalg.pinv(design) @ values.mean(axis=0)
  forms = _resampled(design, values, form)
  angle, across, along = _axes(form)
  s, c = math.sin(math.radians(angle)), math.cos(math.radians(angle))
  steepness = np.array([s * s, -2 * s * c, c * c, 0, 0, 0])  # across = steepness @ form
  if across <= CLEAR * max(float(np.std(kind @ steepness)) for kind in forms):
    return _none("the loss hardly rises across the lowest cells: no valley; add seeds")
  offset = (c * form[4] - s * form[3]) / across  # of the cells' mean from the bottom
  away = c * v - s * u + offset
  sides = sorted((max(away.max(), 0.0), max(-away.min(), 0.0)))
  if sides[0] ** 2 < SIDES * sides[1] ** 2:
    return _none("only one side of the valley is in the grid; extend it")
  aspect = math.sqrt(across / along) if along > 0 else math.inf
  if aspect < LONG:
    return _none(
      f"the lowest cells are a bowl, {aspect:.1f} times as long as wide; a valley is "
      f"{LONG:g} times"
    )
  low, high = max((_turns(kind, angle) for kind in forms), key=lambda t: t[1] - t[0])
  if max(-low, high) > KNOWN:
    return _none(
      f"the valley's direction is known to {max(-low, high):.0f} degrees only; add seeds"
    )
  center = float(x[i].mean() + offset * s), float(a[j].mean() - offset * c)
  return _sloping(angle, (angle + low, angle + high), aspect, center)


def _axes(form: np.ndarray) -> tuple[float, float, float]:
  """(angle of the long axis in degrees, curvature across it, curvature along it)."""
  curvatures, axes = np.linalg.eigh([[form[0], form[1]], [form[1], form[2]]])
  angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0])) % 180
  return angle, float(curvatures[1]), float(curvatures[0])


def _resampled(
  design: np.ndarray, values: np.ndarray, form: np.ndarray
) -> list[np.ndarray]:
  """Forms that might have been fitted, by the scatter of the seeds and by the misfit.

  Args:
    design: [cells, 6].
    values: [seeds, cells] log-losses.
    form: [6], fitted to their mean.

  Returns:
    One or two arrays [RESAMPLES, 6].
  """
  rng = np.random.default_rng(0)
  seeds, cells = values.shape
  solve = np.linalg.pinv(design)
  free = cells - design.shape[1]
  misfit = np.sqrt(np.sum((values.mean(axis=0) - design @ form) ** 2) / free)
  noise = widening(free) * misfit * rng.normal(size=(RESAMPLES, cells))
  found = [form + noise @ solve.T]
  if seeds > 1:
    means = values[rng.integers(0, seeds, (RESAMPLES, seeds))].mean(axis=1)
    wide = widening(seeds - 1) * math.sqrt(seeds / (seeds - 1))
    found.append(form + wide * (means @ solve.T - form))
  return found


def _turns(forms: np.ndarray, angle: float) -> tuple[float, float]:
  """Ends of the interval of the angle, relative to it, in degrees."""
  turns = [(_axes(f)[0] - angle + 90) % 180 - 90 for f in forms]
  low, high = np.quantile(turns, [0.025, 0.975])
  return min(float(low), 0.0), max(float(high), 0.0)


def _sloping(
  angle: float, ends: tuple[float, float], aspect: float, center: tuple[float, float]
) -> Valley:
  """The slope of a direction, unless it may be vertical."""
  if ends[0] <= 90 <= ends[1]:
    reason = "the valley may be vertical: the loss hardly depends on the block multiplier"
    return Valley(None, None, angle, ends, aspect, center, reason)
  slope, low, high = (math.tan(math.radians(v)) for v in (angle, *ends))
  return Valley(slope, (low, high), angle, ends, aspect, center, None)
