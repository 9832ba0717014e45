"""Whether blocks and nets become linear as theory says, from the records alone."""

import math
from typing import Any

import numpy as np
from scipy.special import stdtrit

from experiments._lib.linearization_measuring import GRADIENTS, LINEARIZATION
from experiments._lib.sweeps_claims import Claim, claim, within

Record = dict[str, Any]

#: How far a slope may be from theory, and a cosine. Finite depths leave the distance of a
#: whole net a slope of 0.1.
NEAR = {"ratio": 0.1, "distance": 0.2}
NEAR_COSINE = 0.05
#: A distance counts that is so many times what rounding alone can make.
ABOVE_ROUNDING = 10.0
ROUNDING = {"ratio": "rounding", "distance": "distance_rounding"}
#: Nonlinearities whose slope jumps.
KINKED = ("relu", "abs")


def summarize(
  records: list[Record], points: dict[str, tuple[float, float]], activation: str
) -> dict[str, Any]:
  """The slopes, the cosines, and the claims.

  Args:
    records: of all nets.
    points: name of a parametrization -> its (alpha, gamma).
    activation: of the trained nets.
  """
  # Of an update of size s a share s of the units crosses a kink, each off by s: s^(3/2).
  order = 0.5 if activation in KINKED else 1
  claims: dict[str, Claim] = {}
  slopes: dict[str, Any] = {}
  trained = [r for r in records if r["measure"] == LINEARIZATION]
  for name, k in dict.fromkeys((r["parametrization"], r["block_depth"]) for r in trained):
    own = [r for r in trained if (r["parametrization"], r["block_depth"]) == (name, k)]
    label = f"{name}, k = {k}"
    slopes[label] = {column: slope(own, column) for column in NEAR}
    alpha, gamma = points[name]
    if alpha >= 0.5:
      claims[f"{label}: blocks"] = _blocks(label, order * gamma, slopes[label]["ratio"])
      claims[f"{label}: net"] = _net(label, alpha, gamma, slopes[label]["distance"])
  cosines: dict[str, Any] = {}
  compared = [r for r in records if r["measure"] == GRADIENTS]
  for block in dict.fromkeys(r["block"] for r in compared):
    cosines[block] = _cosine([r for r in compared if r["block"] == block])
    claims[f"gradients: {block}"] = _gradients(block, cosines[block])
  return {"claims": claims, "slopes": slopes, "cosines": cosines}


def slope(records: list[Record], column: str) -> dict[str, Any]:
  """The log-log slope of a column over depth, by least squares over depths and seeds."""
  known = [r for r in records if not r["diverged"] and _is_known(r, column)]
  points = [(math.log(r["depth"]), math.log(r[column])) for r in known]
  if len({x for x, _ in points}) < 2:
    return {"slope": None, "standard_error": None, "ci95": None}
  x, y = np.array(points).T
  centred = x - x.mean()
  found = float(centred @ y / (centred @ centred))
  free = len(x) - 2
  if not free:
    return {"slope": found, "standard_error": None, "ci95": None}
  left = y - y.mean() - found * centred
  error = float(np.sqrt(left @ left / free / (centred @ centred)))
  half = float(stdtrit(free, 0.975)) * error
  interval = [found - half, found + half]
  return {"slope": found, "standard_error": error, "ci95": interval}


def _is_known(r: Record, column: str) -> bool:
  """Whether a distance is more than rounding."""
  return r[column] > ABOVE_ROUNDING * r[ROUNDING[column]]


def _blocks(label: str, exponent: float, found: dict[str, Any]) -> Claim:
  words = (
    f"under {label}, the distance of a block from linear in its own update goes as "
    f"L^{0 - exponent:g} (layerwise linearization, CompleteP)"
  )
  return _slope_claim(words, 0 - exponent, found, NEAR["ratio"])


def _net(label: str, alpha: float, gamma: float, found: dict[str, Any]) -> Claim:
  exponent = 1 - alpha - gamma
  words = f"under {label}, the distance of the whole net from linear goes as L^{exponent:g}"
  return _slope_claim(words, exponent, found, NEAR["distance"])


def _slope_claim(words: str, expected: float, found: dict[str, Any], near: float) -> Claim:
  measured = {**found, "theory": expected}
  if found["slope"] is None:
    reason = "fewer than two depths that trained, and whose distance is above rounding"
    return claim(words, measured, None, reason)
  error = found["standard_error"]
  told = f"slope {found['slope']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
  if error is None:
    return claim(words, measured, None, f"{told}: no error is known; add depths or seeds")
  low, high = found["ci95"]
  seen = within((low, high), (expected - near, expected + near))
  reason = f"{told}; the interval [{low:+.2f}, {high:+.2f}] within {near} counts as seen"
  return claim(words, measured, seen, reason)


def _cosine(records: list[Record]) -> dict[str, Any]:
  cosine = float(np.mean([r["cosine"] for r in records]))
  return {"cosine": cosine, "theory": records[0]["theory"], "depth": records[0]["depth"]}


def _gradients(block: str, found: dict[str, Any]) -> Claim:
  words = f"gradients in neighbouring {block} blocks have the cosine of theory at the start"
  seen = abs(found["cosine"] - found["theory"]) <= NEAR_COSINE
  told = f"{found['cosine']:.3f}, theory {found['theory']:.3f} at L = {found['depth']}"
  return claim(words, found, seen, f"{told}; within {NEAR_COSINE} counts as seen")
