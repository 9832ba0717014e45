"""Whether what Figures 17 to 19 show was seen, in numbers, from the records alone."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from experiments._lib.sweeps_claims import Claim, above, claim

Record = dict[str, Any]
#: (parametrization, activation) of a net.
Variant = tuple[str, str]
#: (seed, depth, step) of a measurement -> what was measured.
Key = tuple[int, int, int]
Values = dict[Key, float]

#: An exponent within this of 1/2 is that of Depth-muP, with the drift of its training.
NEAR = 0.1
#: What the paper's figures show of d(1/16)/d(1/256): Depth-muP, sqrt(16) = 4 and a little
#: drift; ODE at L = 256.
BROWNIAN, SMOOTH = (4.0, 5.0), 6.0


def values(records: list[Record], column: str) -> dict[Variant, Values]:
  """A column that all epsilons share, such as kappa; nothing of nets that diverged."""
  found: dict[Variant, Values] = {}
  for r in records:
    table = found.setdefault(_variant(r), {})
    if not r["diverged"]:
      table[r["seed"], r["depth"], r["step"]] = r[column]
  return found


def _variant(r: Record) -> Variant:
  return r["parametrization"], r["activation"]


def means(own: Values) -> dict[tuple[int, int], float]:
  """(depth, step) -> mean over the seeds."""
  keys = sorted({(depth, step) for _, depth, step in own})
  return {
    (depth, step): float(np.mean([v for k, v in own.items() if k[1:] == (depth, step)]))
    for depth, step in keys
  }


def summarize(
  records: list[Record], points: dict[str, tuple[float, float]]
) -> dict[str, Any]:
  """The claims, and the exponents.

  Args:
    records: of all nets.
    points: name of a parametrization -> its (alpha, gamma).
  """
  kappas, errors = (values(records, name) for name in ("kappa", "kappa_error"))
  steps = sorted({r["step"] for r in records})
  last = steps[-1]
  claims: dict[str, Claim] = {}
  for variant, own in kappas.items():
    alpha, gamma = points[variant[0]]
    label = ", ".join(variant)
    lost = sorted({_where(r) for r in records if r["diverged"] and _variant(r) == variant})
    if (alpha, gamma) == (0.5, 0.5):
      claims[f"{label}: near 1/2"] = _unless_diverged(_near_half(label, own), lost)
    elif alpha > 0.5 and alpha + gamma == 1:
      claims[f"{label}: falls in training"] = _falls_in_training(
        label, own, errors[variant], steps
      )
      claims[f"{label}: falls with depth"] = _falls_with_depth(
        label, own, errors[variant], last
      )
    if alpha + gamma == 1 and (found := _scaled(variant, records, alpha, last)):
      claims[f"{label}: d(1/16)"] = _unless_diverged(found, lost)
  for one, two in itertools.permutations(kappas, 2):
    if points[one[0]] != (0.5, 0.5):
      continue
    if points[two[0]][0] > 0.5 and one[1] == two[1]:
      words = f"{two[0]} has a smaller kappa than {one[0]}, {one[1]} (Figures 17, 18)"
    elif one[0] == two[0] and (one[1], two[1]) == ("abs", "relu"):
      words = f"under {one[0]}, relu has a smaller kappa than abs (Figure 19)"
    else:
      continue
    keys = [k for k in kappas[one] if k in kappas[two] and k[2] == last]
    pairs = [
      Pair(kappas[one][k], kappas[two][k], errors[one][k], errors[two][k]) for k in keys
    ]
    place = f"{', '.join(one)} against {', '.join(two)}"
    claims[place] = _falls(f"{words} after {last} steps", pairs, place)
  diverged = sorted({_where(r) for r in records if r["diverged"]})
  table = {
    ", ".join(variant): {_place(*k): v for k, v in means(own).items()}
    for variant, own in kappas.items()
  }
  return {"claims": claims, "kappa": table, "diverged": diverged}


class Pair(NamedTuple):
  """Two kappas of the same seed, and their standard errors along the depth of the net."""

  before: float
  after: float
  before_error: float | None
  after_error: float | None


def interval(pairs: Sequence[Pair]) -> tuple[float, float] | None:
  """95 % of the fall of kappa: by Student's t over the pairs, or by the errors of one."""
  falls = [pair.before - pair.after for pair in pairs]
  mean = float(np.mean(falls))
  if len(falls) > 1:
    error = np.std(falls, ddof=1) / np.sqrt(len(falls))
    half = float(stdtrit(len(falls) - 1, 0.975) * error)
  else:
    errors = pairs[0][2:]
    if None in errors:
      return None
    half = 1.96 * math.hypot(*errors)
  return mean - half, mean + half


def _near_half(label: str, own: Values) -> Claim:
  words = f"under {label}, kappa is near 1/2 at every depth and step (Figure 17)"
  found = means(own)
  if not found:
    return claim(words, None, None, "every net diverged")
  (depth, step), worst = max(found.items(), key=lambda item: abs(item[1] - 0.5))
  reason = f"furthest at {_place(depth, step)}: {worst:.3f}; within {NEAR} counts as near"
  measured = {_place(*k): v for k, v in found.items()}
  return claim(words, measured, abs(worst - 0.5) <= NEAR, reason)


def _unless_diverged(found: Claim, lost: list[str]) -> Claim:
  """The claim, which a net that diverged does not meet."""
  if not lost or found["seen"] is not True:
    return found
  return {**found, "seen": False, "reason": f"{found['reason']}; diverged: {lost[0]}"}


def _falls_in_training(label: str, own: Values, errors: Values, steps: list[int]) -> Claim:
  words = f"under {label}, kappa falls in training (Figure 18)"
  first, last = steps[0], steps[-1]
  if first == last:
    return claim(words, None, None, "one snapshot alone; give several --snapshots")
  keys = [((s, L, first), (s, L, last)) for s, L, step in own if step == first]
  pairs = _pairs(own, errors, keys)
  return _falls(words, pairs, f"from step {first} to {last}")


def _falls_with_depth(label: str, own: Values, errors: Values, step: int) -> Claim:
  words = f"under {label}, kappa falls with depth after {step} steps (Figure 17)"
  depths = sorted({depth for _, depth, _ in own})
  if len(depths) < 2:
    return claim(words, None, None, "one depth alone; give several --depths")
  low, high = depths[0], depths[-1]
  keys = [((s, low, step), (s, high, step)) for s in sorted({seed for seed, _, _ in own})]
  pairs = _pairs(own, errors, keys)
  return _falls(words, pairs, f"from L = {low} to {high}")


def _pairs(own: Values, errors: Values, keys: list[tuple[Key, Key]]) -> list[Pair]:
  both = [(a, b) for a, b in keys if a in own and b in own]
  return [Pair(own[a], own[b], errors[a], errors[b]) for a, b in both]


def _falls(words: str, pairs: list[Pair], where: str) -> Claim:
  """That the second kappa of each pair is the smaller one."""
  if not pairs:
    return claim(words, None, None, "the nets to compare diverged")
  inside = interval(pairs)
  before, after = (float(np.mean([pair[i] for pair in pairs])) for i in (0, 1))
  measured = {"before": before, "after": after, "fall": before - after, "ci95": inside}
  moves = f"{where}: {before:.3f} to {after:.3f}"
  if inside is None:
    return claim(words, measured, None, f"{moves}; no error is known, add seeds")
  reason = f"{moves}, a fall of {inside[0]:+.3f} to {inside[1]:+.3f}"
  return claim(words, measured, above(inside, 0.0), reason)


def _scaled(
  variant: Variant, records: list[Record], alpha: float, step: int
) -> Claim | None:
  """d(1/16)/d(1/256), where the depths resolve it."""
  at = [r for r in records if r["epsilon"] == 1 / 16 and r["step"] == step]
  found = means(values(at, "scaled").get(variant, {}))
  if not found or min(r["epsilon"] or 1 for r in records) != 1 / 256:
    return None
  told = ", ".join(f"{v:.2f} at L = {L}" for (L, _), v in found.items())
  label, curve = ", ".join(variant), list(found.values())
  if alpha == 0.5:
    words = f"under {label}, d(1/16)/d(1/256) is in {list(BROWNIAN)}, sqrt(16) = 4"
    seen = BROWNIAN[0] <= min(curve) and max(curve) <= BROWNIAN[1]
  else:
    words = f"under {label}, d(1/16)/d(1/256) is above {SMOOTH:g}"
    words += " and grows with L" if len(curve) > 1 else ""
    seen = min(curve) > SMOOTH and all(a < b for a, b in itertools.pairwise(curve))
  measured = {str(L): v for (L, _), v in found.items()}
  return claim(f"{words}, after {step} steps", measured, seen, told)


def _place(depth: int, step: int) -> str:
  return f"L = {depth}, step {step}"


def _where(r: Record) -> str:
  return f"{r['parametrization']}, {r['activation']}, L = {r['depth']}, seed {r['seed']}"
