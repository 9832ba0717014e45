"""Slopes of coordinates over size, against those that a parametrization predicts.

Layer: numpy, mathematics; works on anyone's rows.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.diagnostics.optimum import student_t
from flax_depthmup.diagnostics.power_law import fit_power_law
from flax_depthmup.errors import DepthMupError
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.parametrizations.width_rules import STANDARD

#: What a row must hold to be judged.
COLUMNS = ("width", "depth", "module", "t", "l2", "seed", "quantity", "probe", "zone")
#: Rows that show whether the branches were trained at all.
_TRAINED = ("training", "branch")
#: A change of less than this part of the largest one is rounding.
_NOTHING = 1e-12

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slope:
  """How one coordinate scales along one axis.

  Attributes:
    axis: "width" or "depth".
    probe, quantity, module, t: of the rows; see `coordinate_check`.
    slope: of log l2 over log size, least squares over sizes and seeds; None where a
      coordinate is zero at some size and not at another, or not finite.
    stderr: its standard error.
    predicted: lowest and highest slope that theory allows; None: it says nothing.
    passed: within tolerance of it; False: further away by more than the half-width of
      the 95 % interval (Student's t); None: no prediction, or an interval too wide.
    reason: why it is not passed, or not judged.
  """

  axis: str
  probe: str
  quantity: str
  module: str
  t: int
  slope: float | None
  stderr: float | None
  predicted: Interval | None
  passed: bool | None
  reason: str

  def __str__(self) -> str:
    what = f"{self.quantity} of {self.module} at t={self.t} over {self.axis}"
    what = what if self.probe == "training" else f"{what}, probe {self.probe}"
    return f"{what}: {self.reason}" if self.reason else what


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordinateCheck:
  """The outcome.

  Attributes:
    rows: as they were measured.
    slopes: a `Slope` for each axis, probe, quantity, module and time.
    passed: True when every slope that theory predicts was found; False when one was
      not; None when none could be judged.
    reason: in one line.
  """

  rows: list[dict[str, Any]]
  slopes: tuple[Slope, ...]
  passed: bool | None
  reason: str

  @property
  def failures(self) -> tuple[Slope, ...]:
    """The slopes that are not as predicted, the furthest first."""
    return tuple(
      sorted((s for s in self.slopes if s.passed is False), key=_miss, reverse=True)
    )


def judge_coordinates(
  rows: Iterable[Mapping[str, Any]],
  parametrization: Parametrization,
  tolerance: float = 0.15,
) -> CoordinateCheck:
  """Fits the slopes of rows of `coordinate_check` and judges them.

  Predicted slopes of l2, for the exponents (alpha, gamma) of the class:

  | quantity  | where           | over depth                | over width (Tables 3, 8, 9) |
  |-----------|-----------------|---------------------------|-----------------------------|
  | value     | before branches | 0                         | 0                           |
  |           | inside, after   | from 1/2 - alpha to 0     | 0; after: from -1/2 to 0    |
  | change    | before          | 0                         | 0                           |
  |           | inside, after   | 1 - alpha - gamma         | 0                           |
  | branch    |                 | -gamma                    | 0                           |
  | parameter | of decay alone  | 0                         | 0                           |

  Where layers before the branches are trained, their own change, of slope 0, reaches
  everything behind: the slope of a change then lies between 0 and 1 - alpha - gamma.
  At alpha > 1/2 the branches' share of a value falls as L^(1/2 - alpha), what comes
  before them stays. A readout of variance 1/n^2 starts at 1/sqrt(n). For alpha < 1/2
  features grow exponentially in depth, and for the standard width rule no slopes over
  width are predicted: nothing is judged there.

  Args:
    rows: with the columns of `COLUMNS`; see `coordinate_check`.
    parametrization: whose slopes are expected.
    tolerance: how far a slope may lie from them.

  Raises:
    DepthMupError: a column is missing, or there is nothing to judge.

  References: Tensor Programs VI, arXiv 2310.02244, section 7; Tensor Programs V,
  arXiv 2203.03466, appendix J (predictions over width).
  """
  check_nonnegative(tolerance, "tolerance")
  check_parametrization(parametrization)
  given = list(rows)
  if not all(isinstance(row, Mapping) for row in given):
    raise DepthMupError("a row is no mapping; give those of coordinate_check")
  measured = [dict(row) for row in given]
  for row in measured:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
      raise DepthMupError(
        f"a row has no {missing[0]!r}; each needs {', '.join(COLUMNS)}, as "
        "coordinate_check gives them"
      )
  boundary = any(
    r["quantity"] == "change" and r["zone"] == "before" and (r["l2"] or 0) > 0
    for r in measured
  )
  slopes = []
  for axis, group in _groups(measured):
    predicted = _predicted(group[0], axis, parametrization, boundary)
    fitted = _fit(group, axis, predicted, tolerance)
    if fitted is not None:
      slopes.append(fitted)
  if not slopes:
    raise DepthMupError(
      "there is nothing to judge: give rows of at least three widths at one depth, or "
      "three depths at one width"
    )
  passed, reason = _verdict(slopes, parametrization)
  branches = [r["l2"] for r in measured if (r["probe"], r["quantity"]) == _TRAINED]
  if passed and branches and not any(branches):
    passed, reason = None, "no branch was trained: what does not move scales in no way"
  return CoordinateCheck(rows=measured, slopes=tuple(slopes), passed=passed, reason=reason)


def _groups(rows: list[dict[str, Any]]):
  """(axis, rows of one coordinate along it), for axes of at least three sizes."""
  for axis, other in (("depth", "width"), ("width", "depth")):
    fixed = {row[other] for row in rows}
    spans = {f: {row[axis] for row in rows if row[other] == f} for f in fixed}
    for value, sizes in spans.items():
      if len(sizes) < 3:
        continue
      groups: dict[Any, list[dict[str, Any]]] = {}
      for row in rows:
        if row[other] == value:
          key = row["probe"], row["quantity"], row["module"], row["t"]
          groups.setdefault(key, []).append(row)
      # A module of a Python loop is there from some depth on only.
      whole = (g for g in groups.values() if len({row[axis] for row in g}) >= 3)
      yield from ((axis, group) for group in whole)


def _predicted(
  row: Mapping[str, Any], axis: str, p: Parametrization, boundary: bool
) -> Interval | None:
  quantity, zone, t = row["quantity"], row["zone"], row["t"]
  if quantity == "parameter":
    return 0.0, 0.0
  if zone is None:
    return None
  if axis == "width":
    if p.width_rule is STANDARD:
      return None
    return (-0.5, 0.0) if quantity == "value" and zone == "after" else (0.0, 0.0)
  alpha, gamma = float(p.alpha), float(p.gamma)
  if not p.regime.stable_at_init:
    return None
  if quantity == "branch":
    return -gamma, -gamma
  if zone == "before":
    return 0.0, 0.0
  drift = 1 - alpha - gamma
  if quantity == "value":
    return (0.5 - alpha, 0.0) if t == 0 or drift <= 0 else None
  return (min(drift, 0.0), max(drift, 0.0)) if boundary else (drift, drift)


def _fit(
  group: list[dict[str, Any]], axis: str, predicted: Interval | None, tolerance: float
) -> Slope | None:
  """None where the coordinate is zero at every size: it is not trained."""
  first = group[0]
  key = {name: first[name] for name in ("probe", "quantity", "module", "t")}
  sizes = np.array([row[axis] for row in group], float)
  l2 = np.array([math.nan if row["l2"] is None else row["l2"] for row in group], float)
  if not np.any(np.nan_to_num(l2, nan=1.0) > 0):
    return None

  def found(slope, stderr, passed, reason):
    if predicted is None:
      passed, reason = None, reason or "theory predicts no slope"
    return Slope(
      **key,
      axis=axis,
      slope=slope,
      stderr=stderr,
      predicted=predicted,
      passed=passed,
      reason=reason,
    )

  if not np.isfinite(l2).all():
    where = int(sizes[~np.isfinite(l2)].min())
    return found(None, None, False, f"not finite at {axis} {where}")
  if np.any(l2 <= _NOTHING * l2.max()):
    where = int(sizes[l2 <= _NOTHING * l2.max()].min())
    return found(None, None, False, f"zero at {axis} {where} and not elsewhere")
  slope, stderr = fit_power_law(sizes, l2)
  if predicted is None:
    return found(slope, stderr, None, "")
  low, high = predicted
  miss = max(low - slope, slope - high, 0.0)
  wanted = f"{low:g}" if low == high else f"{low:g} to {high:g}"
  numbers = f"slope {slope:+.2f} ± {stderr:.2f}, predicted {wanted}"
  known = student_t(len(l2) - 2) * stderr  # half of its 95 % interval
  if miss > tolerance + known:
    return found(slope, stderr, False, numbers)
  if miss > tolerance or known > 2 * tolerance:
    return found(slope, stderr, None, f"{numbers}: too noisy to tell")
  return found(slope, stderr, True, "")


def _miss(s: Slope) -> float:
  if s.slope is None or s.predicted is None:
    return math.inf
  return max(s.predicted[0] - s.slope, s.slope - s.predicted[1])


def _verdict(slopes: list[Slope], p: Parametrization) -> tuple[bool | None, str]:
  judged = [s for s in slopes if s.passed is not None]
  failed = sorted((s for s in judged if not s.passed), key=_miss, reverse=True)
  noisy = [s for s in slopes if s.predicted is not None and s.passed is None]
  if failed:
    return False, f"{len(failed)} of {len(judged)} slopes are not as predicted: {failed[0]}"
  moving = [s for s in slopes if s.quantity != "parameter"]
  if not any(s.predicted for s in moving or slopes):
    return None, f"theory predicts no slopes here: {p.name} is {p.regime.name}"
  if noisy:
    return None, f"{len(noisy)} slopes are too noisy to tell: {noisy[0]}"
  return True, f"all {len(judged)} slopes are as {p.name} predicts ({p.regime.name})"
