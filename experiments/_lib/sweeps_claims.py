"""Claims: what must be seen, what was measured, and whether it was seen."""

from collections.abc import Sequence
from typing import Any

Claim = dict[str, Any]


def claim(words: str, measured: Any, seen: bool | None, reason: str) -> Claim:
  """One claim as summary.json holds it; `seen` None: the run cannot tell."""
  return {"claim": words, "measured": measured, "seen": seen, "reason": reason}


def above(interval: Sequence[float] | None, bound: float) -> bool | None:
  """Whether an interval lies above `bound`: False if below, None if it holds it."""
  if interval is None or interval[0] <= bound <= interval[1]:
    return None
  return interval[0] > bound


def within(interval: Sequence[float] | None, ends: tuple[float, float]) -> bool | None:
  """Whether an interval lies between two ends: False if outside, None if across one."""
  if interval is None:
    return None
  if ends[0] <= interval[0] and interval[1] <= ends[1]:
    return True
  return False if interval[1] < ends[0] or interval[0] > ends[1] else None


def tell(claims: dict[str, Claim]) -> None:
  """Prints a line for each claim."""
  words = {True: "seen", False: "NOT SEEN", None: "cannot tell"}
  for found in claims.values():
    print(f"{words[found['seen']]}: {found['claim']} ({found['reason']})")
