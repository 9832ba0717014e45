"""What must be seen of first-order MAML on Omniglot, from the records of all models."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments._lib.sweeps_claims import Claim, claim

Record = dict[str, Any]

#: A difference is none of noise beyond this many standard errors.
BEYOND = 2.0
#: Standard errors of a difference above this say nothing of a limit.
PRECISE = 0.0075


class Accuracy(NamedTuple):
  """Of a model: the mean over seeds, and its standard error."""

  mean: float
  error: float


def accuracies(records: list[Record], field: str = "test") -> dict[str, Accuracy]:
  """Model -> its accuracy; models in the order of the records.

  The error is that of the tasks, or that which the scatter over seeds tells if larger.
  """
  found: dict[str, list[tuple[float, float]]] = {}
  for r in records:
    if r[f"{field}_accuracy"] is not None:
      own = (r[f"{field}_accuracy"], r[f"{field}_error"])
      found.setdefault(name(r), []).append(own)
  return {model: _mean(values) for model, values in found.items()}


def name(record: Record) -> str:
  """Of a model: "width 8", "limit", "relu_nngp"."""
  width = record["width"]
  return record["name"] if width is None else f"{record['name']} {width}"


def claims(records: list[Record], ways: int) -> dict[str, Claim]:
  """Name -> claim.

  Args:
    records: of all models and seeds.
    ways: classes of a task; chance is one over it.
  """
  found = accuracies(records)
  widths = sorted({r["width"] for r in records if r["width"] is not None})
  kernels = [n for n in found if n != "limit" and not n.startswith("width")]
  judged = {
    "rises": _rises(records, widths, found),
    "limit": _limit(records, widths[-1], found),
    "chance": _chance(found, 1 / ways),
  }
  if kernels:
    judged["kernels"] = _kernels(records, kernels)
  return judged


def _mean(values: list[tuple[float, float]]) -> Accuracy:
  count = len(values)
  mean = sum(v for v, _ in values) / count
  tasks = math.sqrt(sum(e**2 for _, e in values)) / count
  scatter = 0.0
  if count > 1:
    scatter = math.sqrt(sum((v - mean) ** 2 for v, _ in values) / (count - 1) / count)
  return Accuracy(mean, max(tasks, scatter))


def _difference(records: list[Record], a: str, b: str) -> Accuracy:
  """Model a less model b.

  The models of a seed are tested on the same tasks, some hard and some easy: within
  batches of tasks the difference is more precise than each model's own accuracy.
  """
  firsts, seconds = ({r["seed"]: r for r in records if name(r) == n} for n in (a, b))
  return _mean([_paired(firsts[seed], seconds[seed]) for seed in firsts])


def _paired(a: Record, b: Record) -> tuple[float, float]:
  """The difference of one seed, and its standard error."""
  batches = np.subtract(a["test_batches"], b["test_batches"])
  error = float(batches.std(ddof=1)) / math.sqrt(len(batches))
  return a["test_accuracy"] - b["test_accuracy"], error


def _above(difference: Accuracy) -> bool | None:
  """Whether it is positive; None within noise."""
  if abs(difference.mean) <= BEYOND * difference.error:
    return None
  return difference.mean > 0


def _rises(records: list[Record], widths: list[int], found: dict[str, Accuracy]) -> Claim:
  words = "test accuracy rises with width, and nowhere falls beyond noise"
  names = [f"width {w}" for w in widths]
  rise = _difference(records, names[-1], names[0])
  pairs = zip(names[1:], names[:-1], strict=True)
  steps = [_difference(records, b, a) for b, a in pairs]
  seen = None if len(widths) == 1 else _above(rise)
  if any(_above(step) is False for step in steps):
    seen = False
  measured = {n: list(found[n]) for n in names}
  told = f"{_text(rise)} from width {widths[0]} to {widths[-1]}"
  return claim(words, measured, seen, told)


def _limit(records: list[Record], width: int, found: dict[str, Accuracy]) -> Claim:
  words = "the limit is within noise of the largest width"
  apart = _difference(records, "limit", f"width {width}")
  seen: bool | None = abs(apart.mean) <= BEYOND * apart.error
  told = f"limit less width {width}: {_text(apart)}"
  if seen and apart.error > PRECISE:
    seen, told = None, f"{told}, so more tasks are needed"
  measured = {n: list(found[n]) for n in ("limit", f"width {width}")}
  measured["difference"] = list(apart)
  return claim(words, measured, seen, told)


def _chance(found: dict[str, Accuracy], chance: float) -> Claim:
  words = f"every model does better than chance, {100 * chance:.3g} %"
  verdicts = [_above(Accuracy(a.mean - chance, a.error)) for a in found.values()]
  worst = min(found, key=lambda n: found[n].mean)
  told = f"lowest: {worst}, {_text(found[worst])}"
  return claim(words, {n: list(a) for n, a in found.items()}, _all(verdicts), told)


def _kernels(records: list[Record], kernels: list[str]) -> Claim:
  words = "the kernels, which learn no features, are below the limit"
  gaps = {n: _difference(records, "limit", n) for n in kernels}
  told = "limit less " + ", ".join(f"{n}: {_text(gap)}" for n, gap in gaps.items())
  measured = {n: list(gap) for n, gap in gaps.items()}
  return claim(words, measured, _all([_above(g) for g in gaps.values()]), told)


def _all(verdicts: list[bool | None]) -> bool | None:
  if False in verdicts:
    return False
  return None if None in verdicts else True


def _text(a: Accuracy) -> str:
  return f"{100 * a.mean:.2f} ± {100 * a.error:.2f} %"
