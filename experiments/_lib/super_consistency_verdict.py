"""Whether sharpness is super consistent, in numbers, from the records alone."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import stdtrit

from experiments._lib.sweeps_claims import Claim, claim, within
from flax_depthmup.diagnostics import fit_power_law

Records = list[dict[str, Any]]

#: Sharpness that changes by less than this many octaves per doubling of the size counts
#: as the same, as an optimum does in `transfer_verdict`.
TOLERANCE = 0.2
#: A curve that starts below the first and later exceeds the second, times the threshold,
#: has risen to the edge of stability.
BELOW, EDGE = 0.5, 0.8
#: Curves are compared after this part of the steps.
WARM_UP = 0.1


@dataclasses.dataclass(frozen=True)
class Curves:
  """The curves of one variant.

  Attributes:
    sizes: [sizes], increasing.
    steps: [steps] at which was measured.
    sharpness: [sizes, seeds, steps], over the threshold of stability; nan where the net
      diverged or the Hessian has no positive eigenvalue.
    loss: likewise.
  """

  sizes: np.ndarray
  steps: np.ndarray
  sharpness: np.ndarray
  loss: np.ndarray

  @property
  def compared(self) -> np.ndarray:
    """[steps] where the warm-up is over."""
    return self.steps >= WARM_UP * self.steps[-1]


def curves(records: Records, size: str) -> dict[str, Curves]:
  """Variant -> its curves."""
  return {
    name: _curves([r for r in records if r["parametrization"] == name], size)
    for name in dict.fromkeys(r["parametrization"] for r in records)
  }


def _curves(records: Records, size: str) -> Curves:
  axes = [sorted({r[name] for r in records}) for name in (size, "seed", "step")]
  table = {(r[size], r["seed"], r["step"]): r for r in records}

  def column(name: str) -> np.ndarray:
    values = [[[table[n, s, t][name] for t in axes[2]] for s in axes[1]] for n in axes[0]]
    found = np.array(values, float)  # null becomes nan
    return np.where(found > 0, found, np.nan)

  return Curves(np.array(axes[0]), np.array(axes[2]), column("relative"), column("loss"))


def summarize(records: Records, size: str) -> dict[str, Any]:
  """The claims, and what was measured of each variant.

  Args:
    records: of all nets.
    size: the column that grows, "width" or "depth".
  """
  found = curves(records, size)
  measured = {name: measure(c) for name, c in found.items()}
  first, *others = found
  claims = {
    f"{first}: same": _same(first, measured[first], size),
    f"{first}: edge": _rises(first, found[first]),
    f"{first}: loss": _parts(first, found[first], measured[first], size),
  }
  for name in others:
    claims[f"{name}: departs"] = _departs(name, measured[name], size)
    claims[f"{name}: further apart"] = _further(name, first, measured)
    if name == "ntk":
      claims[f"{name}: hardly sharpens"] = _lazy(name, first, measured, size)
  return {"claims": claims, "measured": measured}


def measure(c: Curves) -> dict[str, Any]:
  """Numbers of one variant; those that need every net are None where one diverged.

  Keys: octaves_per_doubling, the slope of log2 sharpness (its mean over the steps after
  the warm-up) over log2 size, its standard_error over sizes and seeds and ci95; spread,
  the standard deviation over sizes of log2 sharpness (its mean over seeds), mean over
  these steps; largest_spread and its step; loss_spread, likewise of log2 loss, after the
  warm-up and at the end; sharpening, the most octaves above the first measurement, by
  size; highest and last sharpness over the threshold, by size; diverged, the sizes.
  """
  logs, losses = (np.log2(v[..., c.compared]) for v in (c.sharpness, c.loss))
  whole = np.isfinite(logs).all(axis=(1, 2))
  slope = ("octaves_per_doubling", "standard_error", "ci95")
  found = dict.fromkeys((*slope, "spread", "largest_spread", "step", "loss_spread"))
  if whole.all() and len(c.sizes) > 1:
    spread = _spread(logs)
    worst = int(np.argmax(spread))
    found["spread"] = float(spread.mean())
    found["largest_spread"] = float(spread[worst])
    found["step"] = int(c.steps[c.compared][worst])
    found["loss_spread"] = [float(v) for v in _spread(losses)[[0, -1]]]
    found |= _slope(c.sizes, logs.mean(axis=-1))
  highest, last = np.full(len(c.sizes), np.nan), np.full(len(c.sizes), np.nan)
  sharpening = highest.copy()
  all_logs = np.log2(c.sharpness)
  for i in np.flatnonzero(whole):
    mean = all_logs[i].mean(axis=0)
    sharpening[i] = mean.max() - mean[0]
    highest[i], last[i] = 2 ** mean.max(), 2 ** mean[-1]
  for name, values in (("sharpening", sharpening), ("highest", highest), ("last", last)):
    found[name] = {
      str(n): float(v) if math.isfinite(v) else None
      for n, v in zip(c.sizes, values, strict=True)
    }
  found["diverged"] = [int(n) for n, ok in zip(c.sizes, whole, strict=True) if not ok]
  return found


def _spread(logs: np.ndarray) -> np.ndarray:
  """[steps] std over sizes of the mean over seeds of [sizes, seeds, steps]."""
  return logs.mean(axis=1).std(axis=0, ddof=1)


def _slope(sizes: np.ndarray, levels: np.ndarray) -> dict[str, Any]:
  """Of log2 sharpness [sizes, seeds] over log2 size."""
  if levels.size < 3:
    return {}
  places = np.repeat(sizes, levels.shape[1])
  slope, error = fit_power_law(places, 2.0 ** levels.ravel())
  half = float(stdtrit(levels.size - 2, 0.975)) * error
  return {
    "octaves_per_doubling": slope,
    "standard_error": error,
    "ci95": [slope - half, slope + half],
  }


def _same(name: str, found: dict[str, Any], size: str) -> Claim:
  words = f"under {name} the sharpness along training is the same at every {size}, within "
  words += f"{TOLERANCE} octaves per doubling"
  if found["diverged"]:
    return claim(words, None, False, _diverged(found, size))
  return claim(words, _numbers(found), _flat(found), _told(found, size))


def _departs(name: str, found: dict[str, Any], size: str) -> Claim:
  words = f"under {name} the sharpness changes with {size}, by more than {TOLERANCE} "
  words += "octaves per doubling"
  if found["diverged"]:
    some = any(v is not None for v in found["highest"].values())
    reason = _diverged(found, size)
    return claim(words, {"diverged": found["diverged"]}, True if some else None, reason)
  flat = _flat(found)
  return claim(
    words, _numbers(found), None if flat is None else not flat, _told(found, size)
  )


def _further(name: str, first: str, measured: dict[str, Any]) -> Claim:
  words = f"curves of different sizes are further apart under {name} than under {first}"
  values = {n: measured[n]["spread"] for n in (first, name)}
  if None in values.values():
    return claim(words, values, None, "a net diverged, or there is one size alone")
  told = ", ".join(f"{v:.2f} under {n}" for n, v in values.items())
  reason = f"standard deviation over sizes in octaves, mean over the steps: {told}"
  return claim(words, values, values[name] > values[first], reason)


def _lazy(name: str, first: str, measured: dict[str, Any], size: str) -> Claim:
  words = f"under {name} the largest net sharpens by less than half as many octaves"
  values = {n: [*measured[n]["sharpening"].values()][-1] for n in (first, name)}
  if None in values.values():
    return claim(words, values, None, f"the net of largest {size} diverged")
  told = ", ".join(f"{v:.2f} octaves under {n}" for n, v in values.items())
  return claim(words, values, values[name] < values[first] / 2, told)


def _rises(name: str, c: Curves) -> Claim:
  """Medians over the seeds: one that jumps far over the edge says nothing of the others."""
  words = f"under {name} the sharpness rises to the edge of stability at every size"
  if not np.isfinite(c.sharpness).all():
    return claim(words, None, None, "a net diverged; give a smaller --log2_lr")
  median = np.median(c.sharpness, axis=1)
  starts, highest = median[:, 0], median.max(axis=1)
  measured = {
    str(n): {"start": float(a), "highest": float(b)}
    for n, a, b in zip(c.sizes, starts, highest, strict=True)
  }
  told = (
    f"from {starts.min():.2f} to {starts.max():.2f} times the threshold to "
    f"{highest.min():.2f} to {highest.max():.2f} times it"
  )
  if starts.max() > BELOW:
    return claim(words, measured, None, f"{told}; it starts too near, lower --log2_lr")
  return claim(words, measured, bool(highest.min() >= EDGE), told)


def _parts(name: str, c: Curves, found: dict[str, Any], size: str) -> Claim:
  words = f"under {name} the losses of different sizes part while the sharpness does not"
  if found["loss_spread"] is None:
    return claim(words, None, None, "a net diverged, or there is one size alone")
  early, late = found["loss_spread"]
  measured = {
    "loss_spread_after_warm_up": early,
    "loss_spread_at_the_end": late,
    "sharpness_spread": found["spread"],
    "last_loss": {
      str(n): float(2**v)
      for n, v in zip(c.sizes, np.log2(c.loss[..., -1]).mean(axis=1), strict=True)
    },
  }
  reason = (
    f"standard deviation over {size}s in octaves: loss {early:.2f} to {late:.2f}, "
    f"sharpness {found['spread']:.2f}"
  )
  return claim(words, measured, late > max(early, found["spread"]), reason)


def _flat(found: dict[str, Any]) -> bool | None:
  return within(found["ci95"], (-TOLERANCE, TOLERANCE))


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in found.items() if k != "diverged"}


def _diverged(found: dict[str, Any], size: str) -> str:
  return f"nets of {size} {', '.join(map(str, found['diverged']))} diverged"


def _told(found: dict[str, Any], size: str) -> str:
  if found["ci95"] is None:
    return f"fewer than two {size}s or three nets tell no slope"
  low, high = found["ci95"]
  return (
    f"{found['octaves_per_doubling']:+.2f} [{low:+.2f}, {high:+.2f}] octaves per doubling "
    f"of {size}, spread {found['spread']:.2f}, at most {found['largest_spread']:.2f}"
  )
