"""Do the nets of a linear_limit run reach their limits, and how fast?"""

from collections import defaultdict
from typing import Any

import numpy as np

from experiments._lib.limit_slopes import rms, slope_claim
from experiments._lib.sweeps_claims import Claim, claim
from flax_depthmup.diagnostics import fit_power_law

Records = list[dict[str, Any]]

#: Exponents that still count as -1/2 in width, as -1 in depth.
WIDTH_ENDS = (-0.6, -0.4)
DEPTH_ENDS = (-1.15, -0.85)


def claims(records: Records) -> dict[str, Claim]:
  """Name -> claim."""
  features = "the features of finite nets reach the limit of their depth as n^(-1/2)"
  outputs = "the outputs of finite nets reach the limit of their depth as n^(-1/2)"
  return {
    "features": slope_claim(features, width_deviations(records), WIDTH_ENDS),
    "outputs": slope_claim(outputs, output_deviations(records), WIDTH_ENDS),
    "depth": _depth(records),
  }


def width_deviations(records: Records) -> dict[int, np.ndarray]:
  """Width -> [seeds, values]: relative deviation of rms features from infinite width."""
  finite = [r for r in records if r["net"] == "finite"]
  depths = {r["depth"] for r in finite}
  goal = {
    place(r): r["rms"]
    for r in records
    if r["net"] == "infinite width" and r["depth"] in depths
  }
  found: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
  for r in finite:
    found[r["width"]][r["seed"]].append(r["rms"] / goal[place(r)] - 1)
  return {w: np.array([*by_seed.values()]) for w, by_seed in sorted(found.items())}


def output_deviations(records: Records) -> dict[int, np.ndarray]:
  """Width -> [seeds, 1]: rms deviation of the outputs of all steps."""
  found: dict[int, dict[int, float]] = defaultdict(dict)
  for r in records:
    if r["net"] == "finite":
      found[r["width"]][r["seed"]] = r["output_deviation"]
  return {w: np.array([*by.values()])[:, None] for w, by in sorted(found.items())}


def depth_deviations(records: Records) -> dict[int, np.ndarray]:
  """Depth -> [values]: relative deviation of infinite width from infinite depth.

  The inputs of the net are left out: they are the same at every depth.
  """
  goal = {place(r): r["rms"] for r in records if r["net"] == "infinite"}
  found: dict[int, list[float]] = defaultdict(list)
  for r in records:
    if r["net"] == "infinite width" and r["position"] > 0:
      found[r["depth"]].append(r["rms"] / goal[place(r)] - 1)
  return {depth: np.array(values) for depth, values in sorted(found.items())}


def place(record: dict[str, Any]) -> tuple[int, float]:
  """Time and position of a record."""
  return record["time"], record["position"]


def _depth(records: Records) -> Claim:
  words = "infinite width reaches infinite depth as 1/L"
  deviations = depth_deviations(records)
  sizes = {depth: rms(values) for depth, values in deviations.items()}
  # The extrapolation's own error, and rounding, end the power law.
  floor = 3 * max(r["rms_error"] for r in records if r["net"] == "infinite")
  usable = {depth: size for depth, size in sizes.items() if size > max(floor, 1e-10)}
  measured: dict[str, Any] = {"relative rms": {str(d): s for d, s in sizes.items()}}
  if len(usable) < 3:
    return claim(words, measured, None, "fewer than three depths beyond the error")
  slope, error = fit_power_law([*usable], [*usable.values()])
  measured |= {"slope": slope, "standard error": error}
  seen = DEPTH_ENDS[0] <= slope <= DEPTH_ENDS[1]
  return claim(words, measured, seen, f"slope {slope:+.3f} ± {error:.3f}")
