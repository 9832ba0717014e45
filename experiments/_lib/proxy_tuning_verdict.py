"""What proxy_tuning found: costs, best of k direct trials, claims. From records alone."""

import itertools
import math
from typing import Any

import numpy as np

from experiments._lib.sweeps_claims import Claim, claim
from experiments._lib.sweeps_records import Records
from flax_depthmup import DepthMupError

#: Octaves that a best rate may lie away and still count as the same.
_SAME_RATE = 1.0


def of(records: Records, group: str) -> Records:
  """The records of a group."""
  return [r for r in records if r["group"] == group]


def best_of(records: Records) -> dict[str, Any]:
  """The record of the proxy with the lowest validation loss.

  Raises:
    DepthMupError: all diverged.
  """
  alive = [r for r in of(records, "proxy") if not r["diverged"]]
  if not alive:
    raise DepthMupError(
      "every trial of the proxy diverged; give lower rates, as --log2_lr_range=-14:-8"
    )
  return min(alive, key=lambda r: r["loss"])


def judge(records: Records, vocab: int) -> dict[str, Any]:
  """What summary.json holds.

  Args:
    records: of all groups.
    vocab: number of tokens; a net that diverged counts as one that guesses, ln(vocab).
  """
  best, worst = best_of(records), math.log(vocab)
  transferred = _losses(of(records, "transferred"), worst)
  standard = _losses(of(records, "standard"), worst)
  direct = _losses(of(records, "direct"), worst)
  compute = costs(records)
  k = compute["direct_trials_rounded_up"]
  bought = best_of_k(direct, min(k, len(direct)), transferred[0])
  found = {
    "best_proxy": {
      name: best[name] for name in ("log2_lr", "log2_multiplier", "log2_decay", "loss")
    },
    "compute": compute,
    "transferred": _spread(transferred),
    "standard": _spread(standard),
    "direct": _spread(direct)
    | {"diverged": sum(r["diverged"] for r in of(records, "direct"))},
    "best_of_direct_trials": [
      best_of_k(direct, n, transferred[0]) for n in range(1, len(direct) + 1)
    ],
    "best_rate": best_rate(records, worst),
    "ranking": ranking(records, worst),
  }
  found["claims"] = _claims(found, transferred, standard, bought)
  return found


def costs(records: Records) -> dict[str, Any]:
  """Compute in floating-point operations, and how many direct trials it buys."""
  search = sum(r["flops"] for r in of(records, "proxy"))
  large = of(records, "transferred")[0]["flops"]
  ratio = (search + large) / large
  return {
    "proxy_search_flops": search,
    "large_run_flops": large,
    "search_and_one_large_run_in_large_runs": ratio,
    "direct_trials_rounded_up": math.ceil(ratio - 1e-9),
  }


def best_of_k(losses: np.ndarray, k: int, rival: float) -> dict[str, Any]:
  """The best of k trials, over all ways to choose k of a pool.

  Args:
    losses: [pool] of independent trials.
    k: trials of a search.
    rival: loss to compare with.

  Returns:
    Mean, smallest and largest best loss, and the share of searches that beat `rival`.
  """
  best = np.array([min(chosen) for chosen in itertools.combinations(losses, k)])
  return {
    "trials": k,
    "mean": float(best.mean()),
    "lowest": float(best.min()),
    "highest": float(best.max()),
    "share_better_than_transferred": float((best < rival).mean()),
  }


def best_rate(records: Records, worst: float) -> dict[str, Any]:
  """The best learning rate of the large net, on the grid around the transferred one."""
  here = next(r for r in of(records, "transferred") if r["seed"] == 0)
  line = sorted([here, *of(records, "neighbours")], key=lambda r: r["log2_lr"])
  losses = _losses(line, worst)
  place = int(np.argmin(losses))
  offsets = [r["log2_lr"] - here["log2_lr"] for r in line]
  return {
    "octaves": [round(o, 6) for o in offsets],
    "losses": [float(x) for x in losses],
    "best_octaves_away": round(offsets[place], 6),
    "regret_of_transfer": float(losses[offsets.index(0.0)] - losses[place]),
    "on_edge": len(line) > 1 and place in (0, len(line) - 1),
  }


def ranking(records: Records, worst: float) -> dict[str, Any]:
  """Whether the proxy ranks hyperparameters as the large net does.

  Over the transferred values, the direct draws and the neighbours, all at seed 0.

  Returns:
    Losses of both nets, and Spearman's rank correlation of them.
  """
  names = ("log2_lr", "log2_multiplier", "log2_decay")
  small = {
    tuple(r[name] for name in names): r
    for group in ("proxy", "counterparts")
    for r in of(records, group)
  }
  large = [r for r in of(records, "transferred") if r["seed"] == 0]
  large += of(records, "direct") + of(records, "neighbours")
  ours = _losses([small[tuple(r[name] for name in names)] for r in large], worst)
  theirs = _losses(large, worst)
  ranks = [np.argsort(np.argsort(losses)) for losses in (ours, theirs)]
  return {
    "proxy_losses": [float(x) for x in ours],
    "large_losses": [float(x) for x in theirs],
    "rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
  }


def _losses(records: Records, worst: float) -> np.ndarray:
  return np.array([worst if r["diverged"] else min(r["loss"], worst) for r in records])


def _spread(losses: np.ndarray) -> dict[str, Any]:
  return {
    "losses": [float(x) for x in losses],
    "mean": float(losses.mean()),
    "spread": float(np.ptp(losses)),
  }


def _claims(
  found: dict[str, Any],
  transferred: np.ndarray,
  standard: np.ndarray,
  bought: dict[str, Any],
) -> dict[str, Claim]:
  """What must be seen, each with the scatter between seeds as the yardstick."""
  scatter = float(np.ptp(transferred)) if len(transferred) > 1 else None
  k, rate = found["compute"]["direct_trials_rounded_up"], found["best_rate"]
  where = f"best {rate['best_octaves_away']:+g} octaves away"
  where += f", which the transfer costs {rate['regret_of_transfer']:.4f}"
  stays: bool | None = abs(rate["best_octaves_away"]) <= _SAME_RATE
  if rate["on_edge"]:
    stays, where = None if stays else False, f"{where}; on the edge of the grid"
  equal = _lower(
    f"the transferred net is better than the best of {k} direct trials, on average",
    transferred.mean(),
    bought["mean"],
    scatter,
  )
  if bought["trials"] < k:
    reason = f"the compute buys {k} direct trials, only {bought['trials']} were trained"
    equal |= {"seen": None, "reason": f"{reason}; give --direct={k} or more"}
  return {
    "equal_compute": equal,
    "standard": _lower(
      "the same values are better under CompleteP than under standard parametrization",
      transferred[0],
      standard[0],
      scatter,
    ),
    "rate": claim(
      "the large net's best learning rate is within an octave of the transferred one",
      rate["best_octaves_away"],
      stays,
      where,
    ),
  }


def _lower(words: str, ours: float, theirs: float, scatter: float | None) -> Claim:
  """That our loss is lower, by more than seeds differ."""
  gain = float(theirs - ours)
  reason = f"{ours:.4f} against {theirs:.4f}"
  if scatter is None:
    return claim(words, gain, None, f"{reason}; one seed, so nobody knows the scatter")
  reason = f"{reason}; seeds differ by {scatter:.4f}"
  return claim(words, gain, None if abs(gain) <= scatter else gain > 0, reason)
