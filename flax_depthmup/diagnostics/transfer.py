"""Does the best hyperparameter of a small net stay the best of a large one?

Layer: numpy only; works on anyone's table of results.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from flax_depthmup.checks import check_size, is_number
from flax_depthmup.diagnostics.optimum import Optimum, fit_optimum, widening
from flax_depthmup.errors import DepthMupError

#: An optimum that moves by less than this many octaves per doubling of the size
#: transfers. Depth-muP without its update factor moves by 0.5.
TOLERANCE = 0.2
#: No optimum may be further than this from that of the smallest net.
FURTHEST = 1.0
RESAMPLES = 500
#: A loss of exactly zero, as interpolating nets reach in float32, counts as this.
SMALLEST = float(np.finfo(np.float32).tiny)

_PREFIX = "log2_"


def transfer_verdict(
  records: Iterable[Mapping[str, Any]], size: str = "depth", swept: str = "log2_lr"
) -> dict[str, dict[str, Any]]:
  """The verdict on a sweep over sizes and one hyperparameter, the learning rate or another.

  Args:
    records: one mapping per trained net with `parametrization`, the size, the
      hyperparameter, `seed`, `loss` (positive; not finite or None if it diverged)
      and, optionally, `diverged`.
    size: the column that holds the size: "depth", "width", or any other whose
      values are positive whole numbers.
    swept: the column that holds log2 of the hyperparameter, named log2_...; what
      follows calls its values rates.

  Returns:
    By parametrization, with keys that JSON can hold:
      optimum_log2_lr (optimum_ and the name of the swept column): by size, the
        fitted minimum (`fit_optimum`) or None.
      why_no_optimum: by size, the reason where it is None.
      octaves_per_doubling: slope of the optimum over log2 size, least squares
        over the sizes that have one; None with fewer than two.
      ci95: its bootstrap interval over seeds, drawn jointly for all sizes,
        widened by sqrt(S/(S-1)) and Student's t for the S seeds; None with one
        seed or different numbers of seeds.
      best_loss: by size, the lowest of the (geometric) mean curve; None where
        every rate diverged.
      regret_of_transfer: at the largest size, loss at the smallest size's
        optimum (interpolated) minus best loss; None where either is missing or
        the net diverges there.
      transfers: True if the interval lies within +-0.2 octaves per doubling,
        every size has an optimum, and none is more than an octave from that of
        the smallest; False if the interval lies outside, the optimum of the
        largest is more than an octave away, or the largest diverges at every
        rate; None if the sweep cannot tell.
      reason: why, in one line.

  Raises:
    DepthMupError: no records, a column is missing, the swept one is not named as
      logarithms are, or the grid of (rate, seed) of a size has holes or doubles.
  """
  if not (isinstance(swept, str) and re.fullmatch(_PREFIX + ".+", swept)):
    raise DepthMupError(
      f"swept={swept!r}: expected the name of a column of base-2 logarithms, log2_lr or "
      "another log2_...; add such a column to the results"
    )
  grouped: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
  for record in records:
    _check_record(record, size, swept)
    by_size = grouped.setdefault(record["parametrization"], {})
    by_size.setdefault(record[size], []).append(record)
  if not grouped:
    raise DepthMupError("there are no results to judge; give at least one record")
  verdicts = {}
  for name, by_size in grouped.items():
    curves = {
      n: _curve(f"{name} at {size} {n}", by_size[n], swept) for n in sorted(by_size)
    }
    verdicts[name] = _judge(curves, size, swept)
  return verdicts


def _check_record(record: Mapping[str, Any], size: str, swept: str) -> None:
  if not isinstance(record, Mapping):
    raise DepthMupError(f"a result is {record!r}; expected a mapping")
  columns = ("parametrization", size, swept, "seed", "loss")
  missing = [name for name in columns if name not in record]
  if missing:
    raise DepthMupError(f"a result has no {missing[0]!r}; each needs {', '.join(columns)}")
  check_size(record[size], f"{size} of a result")
  if not is_number(record[swept]):
    raise DepthMupError(f"{swept}={record[swept]!r} of a result: expected a number")
  loss = record["loss"]
  if loss is not None and (isinstance(loss, bool) or not isinstance(loss, Real)):
    raise DepthMupError(f"loss={loss!r} of a result: expected a number or None")


Curve = tuple[np.ndarray, np.ndarray]  # log2 rates [K], log losses [S, K]


def _curve(where: str, records: Sequence[Mapping[str, Any]], swept: str) -> Curve:
  rates = sorted({r[swept] for r in records})
  seeds = sorted({r["seed"] for r in records})
  table = {(r["seed"], r[swept]): r for r in records}
  grid = list(itertools.product(seeds, rates))
  if len(records) != len(grid) or set(table) != set(grid):
    hole = next((key for key in grid if key not in table), None)
    what = f"lacks (seed, {swept}) = {hole}" if hole else "holds one member twice"
    raise DepthMupError(f"{where} {what}; give each seed every {_name(swept)}, once")
  losses = [_log_loss(table[key]) for key in grid]
  return np.array(rates, float), np.reshape(losses, (len(seeds), len(rates)))


def _log_loss(record: Mapping[str, Any]) -> float:
  loss = record["loss"]
  if record.get("diverged") or loss is None or not math.isfinite(loss):
    return math.inf
  if loss < 0:
    raise DepthMupError(f"loss {loss} at {dict(record)}: expected no negative number")
  return math.log(max(loss, SMALLEST))


def _name(swept: str) -> str:
  """What the swept hyperparameter is called in a sentence."""
  if swept == "log2_lr":
    return "learning rate"
  return swept.removeprefix(_PREFIX).replace("_", " ")


def _optimum(curve: Curve, swept: str) -> Optimum:
  """`fit_optimum`, whose reasons speak of rates, in words of the swept one."""
  found = fit_optimum(*curve)
  if swept == "log2_lr" or found.reason is None:
    return found
  reason = re.sub(r"\b(learning )?rate(s?)\b", rf"{_name(swept)}\2", found.reason)
  return dataclasses.replace(found, reason=reason)


def _judge(curves: dict[int, Curve], size: str, swept: str) -> dict[str, Any]:
  optima = {depth: _optimum(curve, swept) for depth, curve in curves.items()}
  slope, ci95 = _slope(curves, optima)
  transfers, reason = _verdict(optima, slope, ci95, size, _name(swept))
  return {
    f"optimum_{swept}": {str(d): o.log2_lr for d, o in optima.items()},
    "why_no_optimum": {str(d): o.reason for d, o in optima.items() if o.reason},
    "octaves_per_doubling": slope,
    "ci95": ci95,
    "best_loss": {
      str(d): None if o.best_log_loss is None else math.exp(o.best_log_loss)
      for d, o in optima.items()
    },
    "regret_of_transfer": _regret(curves, optima),
    "transfers": transfers,
    "reason": reason,
  }


def _slope(
  curves: dict[int, Curve], optima: dict[int, Optimum]
) -> tuple[float | None, list[float] | None]:
  """Octaves per doubling, and its bootstrap interval."""
  found = _found(optima)
  sizes = [*found]
  if len(sizes) < 2:
    return None, None
  slope = _line([*found.values()], sizes)
  seeds = min(len(curves[d][1]) for d in sizes)
  if seeds < 2 or any(len(curves[d][1]) != seeds for d in sizes):
    return slope, None
  rng = np.random.default_rng(0)
  slopes = []
  for draw in rng.integers(0, seeds, (RESAMPLES, seeds)):
    places = [_place(curves[d], draw, optima[d].window) for d in sizes]
    slopes.append(_line(places, sizes))
  # Few seeds understate their own spread.
  wide = widening(seeds - 1) * math.sqrt(seeds / (seeds - 1))
  low, high = slope + wide * (np.quantile(slopes, [0.025, 0.975]) - slope)
  return slope, [min(float(low), slope), max(float(high), slope)]


def _found(optima: dict[int, Optimum]) -> dict[int, float]:
  """The places of the optima that there are."""
  return {d: o.log2_lr for d, o in optima.items() if o.log2_lr is not None}


def _place(curve: Curve, draw: np.ndarray, window: tuple[float, float] | None) -> float:
  """The minimum of a resampled mean curve, in the window of the whole sample."""
  assert window is not None  # the whole sample has an optimum
  x, table = curve
  inside = (window[0] <= x) & (x <= window[1])
  u, y = x[inside], table[draw][:, inside].mean(axis=0)
  a, b, _ = np.polyfit(u - u[0], y, 2)
  place = u[0] - b / (2 * a) if a > 0 else u[np.argmin(y)]
  return float(np.clip(place, *window))


def _line(places: Sequence[float], sizes: Sequence[int]) -> float:
  return float(np.polyfit(np.log2(sizes), places, 1)[0])


def _regret(curves: dict[int, Curve], optima: dict[int, Optimum]) -> float | None:
  small, large = min(optima), max(optima)
  rate, best = optima[small].log2_lr, optima[large].best_log_loss
  if rate is None or best is None:
    return None
  x, table = curves[large]
  if not x[0] <= rate <= x[-1]:
    return None
  there = float(np.interp(rate, x, np.where(np.isfinite(table), table, np.inf).mean(0)))
  return math.exp(there) - math.exp(best) if math.isfinite(there) else None


def _verdict(
  optima: dict[int, Optimum],
  slope: float | None,
  ci95: list[float] | None,
  size: str,
  name: str,
) -> tuple[bool | None, str]:
  largest = max(optima)
  if len(optima) < 2:
    return None, f"one {size} alone shows no transfer; give several {size}s"
  if optima[largest].status == "diverged":
    return False, f"at {size} {largest} every {name} diverges"
  unclear = {d: o.reason for d, o in optima.items() if o.log2_lr is None}
  if slope is None:
    n, reason = next(iter(unclear.items()))
    return None, f"fewer than two {size}s show an optimum; at {size} {n} {reason}"
  if ci95 is None:
    return None, "one seed, or unequal numbers of seeds, give no interval; run three"
  moves = f"the optimum moves by {slope:+.2f} octaves per doubling of {size}"
  if ci95[0] > TOLERANCE or ci95[1] < -TOLERANCE:
    return False, moves
  if max(-ci95[0], ci95[1]) > TOLERANCE:
    low, high = ci95
    return None, f"{moves}, but its interval [{low:+.2f}, {high:+.2f}] cannot tell"
  if unclear:
    n, reason = next(iter(unclear.items()))
    return None, f"at {size} {n} {reason}"
  places = _found(optima)
  away = {d: abs(place - places[min(optima)]) for d, place in places.items()}
  furthest = max(away, key=lambda d: away[d])
  if away[furthest] > FURTHEST:
    far = (
      f"at {size} {furthest} the optimum is {away[furthest]:.1f} octaves from the smallest"
    )
    return (False if furthest == largest else None), far
  return True, moves
