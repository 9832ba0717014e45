"""The minimum of a loss curve over log2 learning rates, or why there is none.

Layer: numpy and scipy.
"""

import dataclasses

import numpy as np

from flax_depthmup.errors import DepthMupError

#: Half-widths, in octaves, of the window a parabola is fitted in: the first
#: that shows a clear minimum is taken.
REACHES = (1.0, 1.5, 2.0)
#: The parabola must rise above its minimum by so many standard errors.
CLEAR = 3.0


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The fitted minimum of one curve.

  Attributes:
    log2_lr: of the vertex of the parabola; None where the sweep shows none.
    best_log_loss: lowest point of the curve on the grid; None if all diverged.
    best_log2_lr: its place on the grid.
    reason: why `log2_lr` is None.
    status: "clear", "diverged" (everywhere), "low edge", "high edge",
      "stability edge" (the best rate is the last before divergence), "unclear".
    window: lowest and highest log2 rate the parabola was fitted to.
  """

  log2_lr: float | None
  best_log_loss: float | None
  best_log2_lr: float | None
  reason: str | None
  status: str
  window: tuple[float, float] | None = None


def fit_optimum(log2_lrs: np.ndarray, log_losses: np.ndarray) -> Optimum:
  """Fits the minimum of the mean curve, refusing to fit noise.

  A parabola is fitted to the points within 1, 1.5, then 2 octaves of the lowest
  one. It counts when its vertex lies between the neighbours of the lowest point,
  when it rises on both sides by at least three standard errors of the mean
  curve, and when no point outside the window is as low within three standard
  errors. The standard error is the larger of the scatter between seeds (each
  seed's own level removed) and the scatter around the parabola, widened by
  Student's t. Where one side is much steeper than the other, the vertex leans
  towards the flat side.

  Args:
    log2_lrs: [rates], increasing.
    log_losses: [seeds, rates] natural logarithm of the loss; not finite where
      the member diverged. A rate at which any seed diverged counts as diverged.

  Raises:
    DepthMupError: the shapes do not fit, or the rates do not increase.
  """
  x, table = np.asarray(log2_lrs, float), np.asarray(log_losses, float)
  if x.ndim != 1 or table.shape[1:] != x.shape or not (np.diff(x) > 0).all():
    raise DepthMupError(
      f"log2_lrs of shape {x.shape}, log_losses of shape {table.shape}: expected "
      "increasing rates, and a row of as many losses for each seed"
    )
  finite = np.isfinite(table).all(axis=0)
  if not finite.any():
    return Optimum(None, None, None, "diverges at every learning rate", "diverged")
  y = np.where(finite, np.where(np.isfinite(table), table, 0).mean(axis=0), np.inf)
  best = int(np.argmin(y))

  def none(status: str, reason: str) -> Optimum:
    return Optimum(None, float(y[best]), float(x[best]), reason, status)

  if best == 0:
    reason = f"the best rate is the smallest of the grid, 2^{x[0]:g}; extend it below"
    return none("low edge", reason)
  if best == len(x) - 1:
    reason = f"the best rate is the largest of the grid, 2^{x[-1]:g}; extend it above"
    return none("high edge", reason)
  if not (finite[best - 1] and finite[best + 1]):
    reason = f"the best rate, 2^{x[best]:g}, is the last before divergence"
    return none("stability edge", reason)
  tries = [_fit(x, y, table, finite, best, reach) for reach in REACHES]
  for (vertex, _), reach in zip(tries, REACHES, strict=True):
    if vertex is not None:
      rates = x[_window(x, finite, best, reach)]
      window = float(rates[0]), float(rates[-1])
      return Optimum(vertex, float(y[best]), float(x[best]), None, "clear", window)
  return none("unclear", tries[0][1])


def _fit(x, y, table, finite, best, reach) -> tuple[float | None, str]:
  """The vertex of the parabola in one window, or None and the reason."""
  inside = _window(x, finite, best, reach)
  u = x[inside] - x[best]
  a, b, c = np.polyfit(u, y[inside], 2)
  error = _error(table[:, inside], u, y[inside], (a, b, c))
  if a <= 0:
    return None, "the curve has no valley around its lowest point"
  if error is None:
    return None, "one seed at three rates shows no scatter to judge by; add seeds"
  vertex = -b / (2 * a)
  if not x[best - 1] - x[best] <= vertex <= x[best + 1] - x[best]:
    return None, "the fitted minimum is further than the next rate from the lowest point"
  rise = a * min(u[0] - vertex, u[-1] - vertex, key=abs) ** 2
  if rise <= CLEAR * error:
    return None, (
      f"the valley is {rise:.3f} deep in log-loss, its standard error {error:.3f}: "
      "no clear minimum; train longer or add seeds"
    )
  others = finite & ~inside
  lowest = a * vertex**2 + b * vertex + c
  if others.any() and y[others].min() < lowest + CLEAR * error:
    where = x[others][np.argmin(y[others])]
    return None, f"the curve is as low at 2^{where:g} as at 2^{x[best]:g}"
  return float(x[best] + vertex), ""


def _window(x, finite, best, reach) -> np.ndarray:
  """Finite points next to each other within `reach` of the best, or its neighbours."""
  near = (np.abs(x - x[best]) <= reach + 1e-9) & finite
  near[[best - 1, best + 1]] = True
  inside = np.zeros_like(near)
  for direction in (-1, 1):
    i = best
    while 0 <= i < len(x) and near[i]:
      inside[i] = True
      i += direction
  return inside


def _error(table, u, y, parabola) -> float | None:
  """Standard error of the mean curve in the window; None if nothing tells it.

  The larger of the scatter between seeds, each seed's own level removed, and
  the misfit of the parabola; what alone tells the noise is widened for its
  degrees of freedom (one seed: the misfit).
  """
  seeds, rates = table.shape
  misfit = 0.0
  if rates > 3:
    misfit = np.sqrt(np.sum((y - np.polyval(parabola, u)) ** 2) / (rates - 3))
  if seeds == 1:
    return float(widening(rates - 3) * misfit) if rates > 3 else None
  free = (seeds - 1) * (rates - 1)
  own = table - table.mean(axis=1, keepdims=True)
  squares = np.sum((own - own.mean(axis=0)) ** 2)
  scatter = widening(free) * np.sqrt(squares / free / seeds)
  return float(max(scatter, misfit))


def widening(free: int) -> float:
  """Student's t over the normal quantile, at 97.5 %: what few values understate."""
  return student_t(free) / 1.959964


def student_t(free: int) -> float:
  """Student's t at 97.5 % for so many degrees of freedom."""
  from scipy.special import stdtrit  # slow to import

  return float(stdtrit(free, 0.975))
