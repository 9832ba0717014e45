"""What the heat maps of a run show, from its records."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np

from experiments._lib.sweeps_best import find_best, rate_transfer
from experiments._lib.sweeps_claims import Claim, claim, within
from experiments._lib.sweeps_records import Records, log_loss
from flax_depthmup.diagnostics.valley import Valley, fit_valley

#: A block multiplier counts as good as the best up to this factor in the loss.
FACTOR = 1.05
#: A net that keeps such a loss over so many octaves of block multiplier is insensitive.
INSENSITIVE = 2.0


@dataclasses.dataclass(frozen=True)
class Map:
  """One heat map.

  Attributes:
    log2_lrs: [rates].
    log2_multipliers: [multipliers].
    log_losses: [seeds, rates, multipliers]; infinite where the net diverged.
  """

  log2_lrs: np.ndarray
  log2_multipliers: np.ndarray
  log_losses: np.ndarray

  @property
  def mean(self) -> np.ndarray:
    """[rates, multipliers], over seeds; infinite where some seed diverged."""
    return self.log_losses.mean(axis=0)


def read(records: Records) -> Map:
  """The heat map of one net."""
  keys = ("seed", "log2_lr", "log2_multiplier")
  axes = [sorted({r[key] for r in records}) for key in keys]
  losses = np.full([len(axis) for axis in axes], math.inf)
  for r in records:
    losses[tuple(a.index(r[k]) for a, k in zip(axes, keys, strict=True))] = log_loss(r)
  return Map(np.array(axes[1]), np.array(axes[2]), losses)


def by_net(records: Records, size: str) -> dict[str, dict[int, Records]]:
  """Records by parametrization and size."""
  found: dict[str, dict[int, Records]] = {}
  for r in records:
    found.setdefault(r["parametrization"], {}).setdefault(r[size], []).append(r)
  return {name: dict(sorted(sizes.items())) for name, sizes in found.items()}


def judge(records: Records, size: str, model: str, block_depth: int) -> dict[str, Any]:
  """The verdict as summary.json holds it.

  Returns:
    maps: by parametrization and size, the best place of the grid; the `valley`
      (`fit_valley`); how many octaves of block multiplier keep the loss within a
      factor of 1.05 of the best, at the best learning rate and with the rate tuned
      anew for each multiplier, and whether they go on beyond the grid.
    transfer: of the learning rate, at the block multiplier best for the smallest net.
    claims: what must be seen under alpha = gamma = 1/2: the slopes of the valley for an
      mlp or resnet of block depth 2 and more; a transformer's insensitivity.
  """
  maps, claims = {}, {}
  transfer = rate_transfer(records, size, "parametrization")
  for name, nets in by_net(records, size).items():
    tables = {n: read(rows) for n, rows in nets.items()}
    valleys = {n: fit_valley(*_fields(table)) for n, table in tables.items()}
    widths = {n: _insensitive(table) for n, table in tables.items()}
    maps[name] = {
      str(n): {
        **find_best(rows).shown(),
        "valley": dataclasses.asdict(valleys[n]),
        "octaves_of_multiplier": widths[n],
      }
      for n, rows in nets.items()
    }
    (point,) = {(r["alpha"], r["gamma"]) for rows in nets.values() for r in rows}
    if point != (0.5, 0.5):
      continue
    if model == "transformer":
      claims |= _transformer(name, size, widths, transfer[name])
    elif block_depth > 1 and len(nets) > 1:
      claims |= _slopes(name, size, valleys, block_depth)
  return {"maps": maps, "transfer": transfer, "claims": claims}


def _fields(table: Map) -> tuple[np.ndarray, ...]:
  return table.log2_lrs, table.log2_multipliers, table.log_losses


def _insensitive(table: Map) -> dict[str, Any] | None:
  """Octaves of block multiplier within `FACTOR` of the best loss; None: all diverged."""
  y = table.mean
  if not np.isfinite(y).any():
    return None
  best = np.unravel_index(np.argmin(y), y.shape)
  found = {}
  for name, curve in (("at_best_rate", y[best[0]]), ("rate_retuned", y.min(axis=0))):
    octaves, beyond = _octaves(table.log2_multipliers, curve)
    found |= {name: octaves, f"{name}_beyond_grid": beyond}
  return found


def _octaves(x: np.ndarray, y: np.ndarray) -> tuple[float, bool]:
  """Length of {x: y <= min y + log FACTOR}, y linear in between; whether it is open."""
  level = float(y.min()) + math.log(FACTOR)
  total = 0.0
  for (x0, x1), (y0, y1) in zip(pairwise(x), pairwise(y), strict=True):
    low, high = min(y0, y1), max(y0, y1)
    if high <= level:
      total += x1 - x0
    elif low <= level and math.isfinite(high):
      total += (x1 - x0) * (level - low) / (high - low)
  return float(total), bool(y[0] <= level or y[-1] <= level)


def _slopes(name: str, size: str, valleys: dict[int, Valley], k: int) -> dict[str, Claim]:
  """Slope -k where a block's updates multiply, -1 where they add (Figure 7)."""
  small, large = min(valleys), max(valleys)
  middle = -(k + 1) / 2
  rows = (
    (
      "multiply",
      small,
      f"near -{k} at {size} {small}: updates multiply",
      (middle * 2, middle),
    ),
    ("add", large, f"near -1 at {size} {large}: updates add", (middle, -0.5)),
  )
  found = {}
  for key, n, words, ends in rows:
    v = valleys[n]
    found[f"{name}: {key}"] = claim(
      f"the valley's slope d log2 a / d log2 eta is {words}",
      {"slope": v.slope, "ci95": v.ci95, "expected_within": ends},
      within(v.ci95, ends),
      v.reason or _slope_words(v),
    )
  found[f"{name}: turns"] = _turns(size, valleys, small, large)
  return found


def _slope_words(v: Valley) -> str:
  return f"slope {v.slope:.2f} [{v.ci95[0]:.2f}, {v.ci95[1]:.2f}]"


def _turns(size: str, valleys: dict[int, Valley], small: int, large: int) -> Claim:
  """The valley is flatter at the large size than at the small one: judged by angles."""
  words = f"the valley is less steep at {size} {large} than at {small}"
  a, b = valleys[small].angle_ci95, valleys[large].angle_ci95
  measured = {"angle": {str(n): valleys[n].angle for n in (small, large)}}
  if a is None or b is None:
    reason = next(v.reason for v in (valleys[small], valleys[large]) if v.angle is None)
    return claim(words, measured, None, reason)
  seen = True if a[1] < b[0] else False if b[1] < a[0] else None
  pair = " against ".join(f"{x[0]:.0f} to {x[1]:.0f} degrees" for x in (a, b))
  return claim(words, measured | {"angle_ci95": [a, b]}, seen, pair)


def _transformer(
  name: str, size: str, widths: dict[int, Any], transfer: dict[str, Any]
) -> dict[str, Claim]:
  """Hardly any dependence on a; the best rate between Theta(1) and 1/sqrt(L)."""
  words = (
    f"at every {size} at least {INSENSITIVE:g} octaves of block multiplier keep the loss "
    f"within a factor of {FACTOR:g} of the best (Figures 14 to 16)"
  )
  octaves = {n: w["at_best_rate"] for n, w in widths.items() if w}
  narrow = {n: w for n, w in octaves.items() if w < INSENSITIVE}
  cut = [n for n in narrow if widths[n]["at_best_rate_beyond_grid"]]
  seen = None if cut or not octaves else not narrow
  reason = ", ".join(f"{w:.1f} at {n}" for n, w in octaves.items()) + " octaves"
  reason += f"; the grid cuts them off at {cut[0]}" if cut else ""
  drift, ci95 = transfer["octaves_per_doubling"], transfer["ci95"]
  return {
    f"{name}: insensitive": claim(
      words, {str(n): w for n, w in widths.items()}, seen, reason
    ),
    f"{name}: rate": claim(
      f"the best learning rate lies between Theta(1) and 1/sqrt({size}): it moves by 0 to "
      "+1/2 octave per doubling of the rate that Depth-muP scales",
      {"octaves_per_doubling": drift, "ci95": ci95},
      within(ci95, (0.0, 0.5)),
      transfer["reason"],
    ),
  }
