"""What must be seen of commutativity, from the records of the cells."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments._lib.commutativity_cells import Row
from experiments._lib.sweeps_claims import Claim, claim

#: Errors times sqrt(n) are the same if the largest is no more than this times the
#: smallest: what 1/n and 1/L leave in the smallest nets stays below.
SPREAD = 1.25
#: Exponents are equal within this. Those told apart here, 0 and 1/2, differ by more.
EXPONENT = 0.1
#: A cell whose relative standard error is larger says nothing.
PRECISE = 0.1
#: The cells must span L/n by this factor.
SPAN = 8.0

Estimate = tuple[float, float]  # value, standard error
Rows = Sequence[Row]


def claims(rows: Rows) -> dict[str, Claim]:
  """Name -> claim; those of families that were not drawn are left out."""
  judged: dict[str, Claim] = {}
  for name, (family, judge) in _CLAIMS.items():
    own = [r for r in rows if r["family"] == family]
    if own:
      judged[name] = judge(own)
  return judged


def _commutes(words: str) -> Callable[[Rows], Claim]:
  """rms error times sqrt(n) does not depend on L/n."""

  def judge(rows: Rows) -> Claim:
    told, measured, verdicts = [], {}, []
    for q in ("q_aa", "q_ab"):
      values, errors = _root_n(rows, f"{q}_rms")
      spread = max(values) / min(values)
      low, high = np.argmin(values), np.argmax(values)
      least = (values[high] - 2 * errors[high]) / (values[low] + 2 * errors[low])
      alike = True if spread <= SPREAD else False if least > SPREAD else None
      line = _line(np.log(_ratios(rows)), np.log(values), errors / values)
      verdicts += [alike, line and _within(line[0], 0.0)]
      told.append(f"{q} {min(values):.2f} to {max(values):.2f}")
      measured[f"largest over smallest, {q}"] = float(spread)
      measured[f"exponent in L/n, {q}"] = line and line[0]
    measured["rms error times sqrt(n)"] = _table(rows, _rms_columns)
    return _claim(words, rows, measured, verdicts, ", ".join(told), "q_aa_rms", "q_ab_rms")

  return judge


def _width_rate(rows: Rows) -> Claim:
  told, measured, verdicts = [], {}, []
  for q in ("q_aa", "q_ab"):
    values, errors = (_column(rows, f"{q}_{n}") for n in ("rms", "rms_error"))
    line = _line(np.log(_column(rows, "width")), np.log(values), errors / values)
    verdicts.append(line and _within(line[0], -0.5))
    told.append(f"{q} n^{_text(line and line[0])}")
    measured[f"exponent in n, {q}"] = line and line[0]
  words = "of scaled residual nets the rms error falls as n^(-1/2)"
  return _claim(words, rows, measured, verdicts, ", ".join(told))


def _grows(rows: Rows) -> Claim:
  """log q = L (log 1.5 - c/n): the rate at infinite width is the intercept over 1/n."""
  depths = _column(rows, "depth")
  values, errors = (
    _column(rows, f"log_q_{n}") / depths for n in ("median", "median_error")
  )
  line = _line(1 / _column(rows, "width"), values, errors)
  measured = {
    "rate as n grows": line and line[1],
    "log q": _table(rows, _log_columns),
  }
  words = "of unscaled residual nets log q grows by log 1.5 = 0.4055 a block as n grows"
  verdict = line and _within(line[1], math.log(1.5), 0.01)
  told = f"{_text(line and line[1], '.4f')} by medians"
  return _claim(words, rows, measured, [verdict], told)


def _spreads(words: str) -> Callable[[Rows], Claim]:
  """The spread of log q over nets, times sqrt(n), grows as sqrt(L)."""

  def judge(rows: Rows) -> Claim:
    values, errors = _root_n(rows, "log_q_std")
    line = _line(np.log(_column(rows, "depth")), np.log(values), errors / values)
    measured = {"exponent in L": line and line[0], "log q": _table(rows, _log_columns)}
    told = f"std(log q) sqrt(n) goes as L^{_text(line and line[0])}"
    verdict = line and _within(line[0], 0.5, 0.15)
    return _claim(words, rows, measured, [verdict], told, "log_q_std")

  return judge


def _shrinks(rows: Rows) -> Claim:
  """The line through zero of mean log q + 1/n, the input layer's part, over L/n."""
  x, values = _ratios(rows), _column(rows, "log_q_mean") + 1 / _column(rows, "width")
  weights = _column(rows, "log_q_mean_error") ** -2
  drift = float(weights @ (x * values) / (weights @ x**2)), float((weights @ x**2) ** -0.5)
  measured = {"mean log q over L/n": drift, "log q": _table(rows, _log_columns)}
  words = "of plain MLPs log q drifts by -(5/2) L/n: almost every deep one shrinks"
  told = f"{_text(drift)} L/n"
  return _claim(words, rows, measured, [_within(drift, -2.5, 0.25)], told)


def _correlates(rows: Rows) -> Claim:
  """The correlation keeps to infinite width where L/n is small, and only there."""
  ordered = sorted(rows, key=lambda r: r["depth"] / r["width"])
  kept = [r["distance_median"] / r["distance_width_first"] for r in ordered]
  told = (
    f"median over infinite width: {kept[0]:.2g} at {_name(ordered[0])}, "
    f"{kept[-1]:.2g} at {_name(ordered[-1])}"
  )
  measured = {"L^2 (1 - c)": _table(rows, _distance_columns)}
  words = "of plain MLPs L^2 (1 - c) is that of infinite width at small L/n only"
  return _claim(words, rows, measured, [kept[0] > 0.8 and kept[-1] < 0.5], told)


_CLAIMS: dict[str, tuple[str, Callable[[Rows], Claim]]] = {
  "scaled_commutes": (
    "scaled",
    _commutes("scaled residual nets: rms error times sqrt(n) is the same at every L/n"),
  ),
  "scaled_width_rate": ("scaled", _width_rate),
  "net_commutes": (
    "scaled_net",
    _commutes("dmup.ResidualMLP: rms error times sqrt(n) is the same at every L/n"),
  ),
  "unscaled_grows": ("unscaled", _grows),
  "unscaled_does_not_commute": (
    "unscaled",
    _spreads("of unscaled residual nets the spread of log q grows as sqrt(L/n)"),
  ),
  "mlp_shrinks": ("mlp", _shrinks),
  "mlp_does_not_commute": (
    "mlp",
    _spreads("of plain MLPs the spread of log q grows as sqrt(L/n)"),
  ),
  "mlp_correlation": ("mlp", _correlates),
}


def _claim(
  words: str, rows: Rows, measured: Any, verdicts: list[bool | None], told: str, *precise
) -> Claim:
  """Seen if all verdicts say so; undecided where the cells or one verdict cannot tell."""
  ratios = _ratios(rows)
  span = float(max(ratios) / min(ratios))
  if span < SPAN:
    reason = f"{told}; but L/n spans a factor of {span:.3g} only, give --cells of {SPAN:g}"
    return claim(words, measured, None, reason)
  for name in precise:
    worst = float(np.max(_column(rows, f"{name}_error") / _column(rows, name)))
    if worst > PRECISE:
      reason = f"{told}; but to {worst:.0%} only, give more draws"
      return claim(words, measured, None, reason)
  known = [bool(v) for v in verdicts if v is not None]
  if not all(known):
    return claim(words, measured, False, told)
  return claim(words, measured, True if len(known) == len(verdicts) else None, told)


def _within(found: Estimate, goal: float, tolerance: float = EXPONENT) -> bool | None:
  """Whether a value is `goal` within a tolerance, two standard errors either way."""
  away, doubt = abs(found[0] - goal), 2 * found[1]
  if away + doubt <= tolerance:
    return True
  return False if away - doubt > tolerance else None


def _line(
  x: np.ndarray, y: np.ndarray, errors: np.ndarray
) -> tuple[Estimate, Estimate] | None:
  """Slope and intercept of weighted least squares, errors widened by the misfit.

  None where x takes one value only.
  """
  if np.ptp(x) == 0:
    return None
  weights = np.asarray(errors, float) ** -2
  design = np.stack([x, np.ones_like(x)], axis=1)
  covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
  found = covariance @ design.T @ (weights * y)
  free = len(x) - 2
  misfit = weights @ (y - design @ found) ** 2 / free if free else 1.0
  wide = np.sqrt(np.diagonal(covariance) * max(misfit, 1.0))
  return tuple((float(v), float(e)) for v, e in zip(found, wide, strict=True))


def _column(rows: Rows, name: str) -> np.ndarray:
  return np.array([r[name] for r in rows], float)


def _ratios(rows: Rows) -> np.ndarray:
  return _column(rows, "depth") / _column(rows, "width")


def _root_n(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
  """A column and its errors, times sqrt(n)."""
  root = np.sqrt(_column(rows, "width"))
  return root * _column(rows, name), root * _column(rows, f"{name}_error")


def _name(r: Row) -> str:
  return f"n={r['width']}, L={r['depth']}"


def _text(found: Estimate | None, spec: str = ".2f") -> str:
  return "?" if found is None else f"{found[0]:{spec}} ± {found[1]:{spec}}"


def _table(rows: Rows, columns: Callable[[Row], dict[str, float]]) -> dict[str, Any]:
  return {_name(r): {"L/n": r["depth"] / r["width"]} | columns(r) for r in rows}


def _rms_columns(r: Row) -> dict[str, float]:
  root = math.sqrt(r["width"])
  table = {
    f"{q}{end}": root * r[f"{q}_rms{end}"]
    for q in ("q_aa", "q_ab")
    for end in ("", "_error")
  }
  return table | {"q_aa in theory": root * r["q_aa_rms_theory"]}


def _log_columns(r: Row) -> dict[str, float]:
  return {
    "mean": r["log_q_mean"],
    "error": r["log_q_mean_error"],
    "in theory": r["log_q_mean_theory"],
    "median": r["log_q_median"],
    "std": r["log_q_std"],
    "std error": r["log_q_std_error"],
    "std in theory": r["log_q_std_theory"],
    "infinite width": r["log_q_width_first"],
  }


def _distance_columns(r: Row) -> dict[str, float]:
  squared = r["depth"] ** 2
  return {
    "median": squared * r["distance_median"],
    "error": squared * r["distance_median_error"],
    "mean": squared * r["distance_mean"],
    "infinite width": squared * r["distance_width_first"],
  }
