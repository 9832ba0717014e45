"""Does everything converge to its limit, and as fast as theory says?"""

from typing import Any

import numpy as np

from experiments._lib.limit_convergence_cases import CASES
from experiments._lib.limit_slopes import slope_claim
from experiments._lib.sweeps_claims import Claim, claim
from flax_depthmup.diagnostics import fit_power_law

Records = list[dict[str, Any]]

#: Exponents that still count as -1/2 in width, as -1 in depth.
WIDTH_ENDS = (-0.6, -0.4)
DEPTH_ENDS = (-1.15, -0.85)
#: Factor between the ends of a range over which an exponent counts: five doublings.
_RANGE = 32


def claims(records: Records) -> dict[str, Claim]:
  """Axis and case -> claim."""
  found = {}
  for axis, check in (("width", _width), ("depth", _depth)):
    for case in cases(records, axis):
      found[f"{axis}: {case}"] = check(case, by_size(records, axis, case))
  return found


def cases(records: Records, axis: str) -> list[str]:
  """The cases of an axis, in the order of all cases."""
  found = {r["case"] for r in records if r["axis"] == axis}
  return [name for name in CASES if name in found]


def by_size(records: Records, axis: str, case: str) -> dict[int, dict[str, Any]]:
  """Width or depth -> record, increasing."""
  own = {r["size"]: r for r in records if (r["axis"], r["case"]) == (axis, case)}
  return dict(sorted(own.items()))


def _width(case: str, rows: dict[int, dict[str, Any]]) -> Claim:
  """The slope over width, of the root mean square over seeds and values."""
  words = f"nets reach the limit as n^(-1/2): {CASES[case].words}"
  deviations = {n: np.array(r["deviations"])[:, None] for n, r in rows.items()}
  found = slope_claim(words, deviations, WIDTH_ENDS)
  found["measured"]["rms of the mean"] = {str(n): r["mean"] for n, r in rows.items()}
  return _if_wide(found, [*rows])


def _depth(case: str, rows: dict[int, dict[str, Any]]) -> Claim:
  own = CASES[case]
  who = "the solver's grid of L layers" if own.grid else "infinite width at depth L"
  words = f"{who} reaches infinite depth as 1/L: {own.words}"
  sizes = {depth: r["deviation"] for depth, r in rows.items()}
  measured: dict[str, Any] = {"rms": {str(d): s for d, s in sizes.items()}}
  # The error of the limit itself ends the power law.
  usable = {d: s for d, s in sizes.items() if s > max(3 * rows[d]["error"], 1e-12)}
  if len(usable) < 3:
    return claim(words, measured, None, "fewer than three depths beyond the error")
  slope, error = fit_power_law([*usable], [*usable.values()])
  measured |= {"slope": slope, "standard error": error}
  seen = DEPTH_ENDS[0] <= slope <= DEPTH_ENDS[1]
  found = claim(words, measured, seen, f"slope {slope:+.3f} ± {error:.3f}")
  return _if_wide(found, [*usable])


def _if_wide(found: Claim, sizes: list[int]) -> Claim:
  """The claim, or that it cannot tell, from less than five doublings."""
  if found["seen"] is None or sizes[-1] >= _RANGE * sizes[0]:
    return found
  return {
    **found,
    "seen": None,
    "reason": f"{found['reason']}, but from {sizes[0]} to {sizes[-1]} only, less than "
    "five doublings",
  }
