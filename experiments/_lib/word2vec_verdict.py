"""What must be seen of word2vec, from its records."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._lib.sweeps_claims import Claim, claim, within
from experiments._lib.word2vec_config import KERNEL, LIMIT

Record = dict[str, Any]
Rows = Sequence[Record]

#: The exponent of the logits' distance, errors included, is -1/2 within this.
EXPONENT = 0.1
#: Narrower nets are no part of the line: of the synthetic text they are further off.
NARROWEST = 64
#: The line must span this factor of width, five doublings.
SPAN = 32
#: Noise: so many standard errors, or so large a share of the analogies.
ERRORS, SHARE = 2.0, 0.02


def claims(records: Rows, questions: int, epochs: int) -> dict[str, Claim]:
  """Name -> claim.

  Args:
    records: of the run.
    questions: how many analogies were asked.
    epochs: of the run.
  """
  last = final(records, epochs)
  return {
    "accuracy_rises_with_width": _rises(last, questions),
    "logits_converge": _converge(last),
    "kernel_regime_at_chance": _chance(records, last, questions),
  }


def final(records: Rows, epochs: int) -> dict[int | str, list[Record]]:
  """Width -> the records of its last epoch, widths in increasing order, the limit last.

  A width of which a seed diverged before is left out.
  """
  trained = [r for r in records if r["width"] != KERNEL]
  bad = {r["width"] for r in trained if r["diverged"]}
  widths = {r["width"] for r in trained} - bad
  order = sorted(widths - {LIMIT}) + [LIMIT] * (LIMIT in widths)
  ends = [r for r in trained if r["epoch"] == epochs]
  return {width: [r for r in ends if r["width"] == width] for width in order}


def mean(rows: Rows, field: str = "accuracy") -> float | None:
  """Over seeds; None where it was not measured."""
  values = [r[field] for r in rows]
  return None if not values or None in values else float(np.mean(values))


def _rises(last: dict[int | str, list[Record]], questions: int) -> Claim:
  words = "analogy accuracy rises with width, to that of the limit"
  shares = {width: mean(rows) for width, rows in last.items()}
  errors = {w: _error(last[w], p, questions) for w, p in shares.items()}
  measured = {str(w): [p, errors[w]] for w, p in shares.items()}
  if len(shares) < 3 or LIMIT not in shares:
    reason = "it takes two widths and the limit; give --widths and --infinite"
    return claim(words, measured, None, reason)
  path = [*shares]
  low, wide, limit = path[0], path[-2], LIMIT

  def gain(a: int | str, b: int | str) -> float:
    """In standard errors."""
    return (shares[b] - shares[a]) / math.hypot(errors[a], errors[b])

  falls = any(gain(a, b) < -ERRORS for a, b in itertools.pairwise(path))
  told = f"{shares[low]:.3f} at width {low}, {shares[wide]:.3f} at {wide}, "
  told += f"{shares[limit]:.3f} in the limit"
  if falls:
    return claim(words, measured, False, f"{told}; it falls somewhere by more than noise")
  if not gain(low, limit) > ERRORS:
    return claim(words, measured, None, f"{told}; the differences are within noise")
  noise = max(ERRORS * math.hypot(errors[wide], errors[limit]), SHARE)
  if abs(shares[limit] - shares[wide]) > noise:
    reason = f"{told}; it rises, but not yet to the limit: give wider --widths"
    return claim(words, measured, None, reason)
  return claim(words, measured, True, told)


def _error(rows: Rows, share: float, questions: int) -> float:
  """Standard error of an accuracy: of so many questions, or over seeds if larger."""
  values = [r["accuracy"] for r in rows]
  p = (share * questions + 1) / (questions + 2)  # never 0 or 1, which would have no error
  binomial = math.sqrt(p * (1 - p) / questions)
  seeds = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
  return float(max(binomial, seeds))


def _converge(last: dict[int | str, list[Record]]) -> Claim:
  words = "logits converge to those of the limit as n^(-1/2)"
  rms = {w: rms_over_seeds(rows) for w, rows in last.items() if w != LIMIT}
  rms = {w: value for w, value in rms.items() if value and w >= NARROWEST}
  measured: Record = {"rms distance": {str(w): value for w, value in rms.items()}}
  if len(rms) < 3 or max(rms) < min(rms) * SPAN:
    reason = f"it takes three widths from {NARROWEST} on, over a factor of {SPAN}, "
    return claim(words, measured, None, reason + "and the limit")
  slope, error = line(rms)
  measured |= {"exponent": [slope, error]}
  told = f"n^{slope:.3f} +- {error:.3f} from width {min(rms)} to {max(rms)}"
  interval = (slope - ERRORS * error, slope + ERRORS * error)
  seen = within(interval, (-0.5 - EXPONENT, -0.5 + EXPONENT))
  if seen is None:
    told += f"; too uncertain to tell within {EXPONENT:g}: give more --widths or --seeds"
  return claim(words, measured, seen, told)


def rms_over_seeds(rows: Rows) -> float | None:
  """Of the distance of logits to those of the limit; None where there is no limit."""
  values = [r["logit_rms"] for r in rows]
  return None if not values or None in values else float(np.mean(np.square(values)) ** 0.5)


def line(rms: dict[int, float]) -> tuple[float, float]:
  """Exponent of a power law in the width, by least squares, and its standard error."""
  x, y = np.log([*rms]), np.log([*rms.values()])
  x = x - x.mean()
  slope = float(x @ y / (x @ x))
  rest = y - y.mean() - slope * x
  return slope, float(math.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))


def _chance(records: Rows, last: dict[int | str, list[Record]], questions: int) -> Claim:
  words = "in the kernel regime, where embeddings do not move, analogies are answered by "
  words += "chance, 1/(|V| - 3)"
  kernel = next(r for r in records if r["width"] == KERNEL)
  found, error, expected = (
    kernel[name] for name in ("accuracy", "accuracy_error", "expected")
  )
  # Where hardly an answer is right by chance, none may be in all draws.
  error = max(error, math.sqrt(expected / (questions * kernel["draws"])))
  measured = {"measured": [found, error], "expected": expected}
  best = max((mean(rows) or 0.0 for rows in last.values()), default=0.0)
  measured["trained, at best"] = best
  told = f"{found:.4f} +- {error:.4f}, expected {expected:.4f}; trained {best:.3f}"
  if abs(found - expected) > 3 * error:
    return claim(words, measured, False, told)
  if 3 * error > expected:  # not told apart from none at all
    reason = f"{told}; it takes more --questions, or a smaller vocabulary"
    return claim(words, measured, None, reason)
  return claim(words, measured, True, told)
