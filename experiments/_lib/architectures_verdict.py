"""Which block is better over depth, from the records of `architectures`."""

import math
from typing import Any

import numpy as np
from scipy.stats import t as student

from experiments._lib.architectures_config import Architectures, Variant
from experiments._lib.sweeps_best import Best, find_best, rate_transfer
from experiments._lib.sweeps_claims import Claim, above, claim
from experiments._lib.sweeps_records import Records

Bests = dict[str, dict[int, Best]]


def judge(architectures: Architectures, records: Records) -> dict[str, Any]:
  """The verdict as summary.json holds it.

  Returns:
    best: by variant and depth in layers, the best of the grid and where it is.
    transfer: by variant, `transfer_verdict` of the learning rate; where block
      multipliers are swept too, at the one that is best for the shallowest net.
    claims: that the first variant reaches a lower loss than each other at the largest
      depth, and gains more from depth; that the best rate of a block of one weight
      matrix stays, and that of a deeper block moves.
  """
  depths = sorted({d for _, d in architectures.common.sizes})
  own = {
    v.name: [r for r in records if r["variant"] == v.name] for v in architectures.variants
  }
  best = {
    name: {d: find_best([r for r in rows if r["depth"] == d]) for d in depths}
    for name, rows in own.items()
  }
  transfer = rate_transfer(records, "depth", "variant")
  first, *others = own
  claims = {}
  for other in others:
    claims[f"{first} beats {other}"] = _beats(best, first, other, depths[-1])
    if len(depths) > 1:
      claims[f"{first} gains more than {other}"] = _gains(best, first, other, depths)
  for v in architectures.variants:
    claims[f"{v.name} over depth"] = _moves(v, transfer[v.name])
  shown = {n: {str(d): b.shown() for d, b in by.items()} for n, by in best.items()}
  return {"best": shown, "transfer": transfer, "claims": claims}


def _beats(best: Bests, first: str, other: str, depth: int) -> Claim:
  """That at the largest depth the other's best log-loss is above the first's."""
  words = f"at {depth} layers {first} reaches a lower loss than {other}"
  pair = {n: best[n][depth] for n in (first, other)}
  lost = [n for n, b in pair.items() if b.log_losses is None]
  if lost:
    seen = None if len(lost) == 2 else lost == [other]
    reason = f"{' and '.join(lost)} diverged everywhere at {depth} layers"
    return claim(words, None, seen, reason)
  loss = {n: math.exp(np.mean(b.log_losses)) for n, b in pair.items()}
  values = pair[other].log_losses - pair[first].log_losses
  worse = other if values.mean() > 0 else first  # the better one may be better still
  edges = [f"{worse}: {pair[worse].edge}"] if pair[worse].edge else []
  return _difference(words, values, edges, {"loss": loss})


def _gains(best: Bests, first: str, other: str, depths: list[int]) -> Claim:
  """That the first's log-loss falls further from the smallest depth to the largest."""
  shallow, deep = depths[0], depths[-1]
  words = f"from {shallow} to {deep} layers {first} gains more than {other}"
  ends = {(n, d): best[n][d] for n in (first, other) for d in (shallow, deep)}
  lost = [f"{n} at {d} layers" for (n, d), b in ends.items() if b.log_losses is None]
  if lost:
    return claim(words, None, None, f"{', '.join(lost)} diverged everywhere")
  edges = [f"{n} at {d} layers: {b.edge}" for (n, d), b in ends.items() if b.edge]
  gains = {
    n: ends[n, shallow].log_losses - ends[n, deep].log_losses for n in (first, other)
  }
  means = {n: float(np.mean(gain)) for n, gain in gains.items()}
  return _difference(words, gains[first] - gains[other], edges, {"gain": means})


def _difference(
  words: str, values: np.ndarray, edges: list[str], measured: dict[str, Any]
) -> Claim:
  """The claim that a difference of log-losses, one per seed, is above 0.

  Its interval is Student's over the seeds, which give both nets the same batches.
  """
  mean, n = float(np.mean(values)), len(values)
  measured |= {"mean_difference": mean, "standard_error": None, "ci95": None}
  if n > 1:
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(student.ppf(0.975, n - 1)) * error
    ci95 = [mean - half, mean + half]
    measured |= {"standard_error": error, "ci95": ci95}
  if edges:
    return claim(words, measured, None, f"{'; '.join(edges)}: extend the grid")
  if n == 1:
    return claim(words, measured, None, "one seed gives no interval; run three")
  reason = f"by {mean:+.3f} [{ci95[0]:+.3f}, {ci95[1]:+.3f}] in log-loss"
  return claim(words, measured, above(ci95, 0), reason)


def _moves(v: Variant, verdict: dict[str, Any]) -> Claim:
  """What the best rate must do: one matrix in a branch, stay; several, move."""
  keys = ("optimum_log2_lr", "octaves_per_doubling", "ci95")
  measured = {key: verdict[key] for key in keys}
  transfers, reason = verdict["transfers"], verdict["reason"]
  if v.block_depth == 1:
    words = f"the best learning rate of {v.name} stays over depth"
    return claim(words, measured, transfers, reason)
  words = f"the best learning rate of {v.name} moves with depth"
  if transfers is False and verdict["ci95"] is None:
    return claim(words, measured, None, reason)  # it diverged, which is no move
  return claim(words, measured, None if transfers is None else not transfers, reason)
