"""The figure of an LR-transfer run, from its result files alone."""

import math
import pathlib
from typing import Any

import numpy as np

Records = list[dict[str, Any]]


def draw(
  records: Records,
  verdicts: dict[str, Any],
  size: str,
  title: str,
  path: pathlib.Path,
) -> None:
  """A panel per parametrization, a curve per size, the optima marked.

  Bands span the seeds; crosses at the top are rates at which a seed diverged.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  count = len(verdicts)
  figure, axes = plt.subplots(
    1, count, figsize=(4.4 * count, 4.2), sharey=True, squeeze=False, layout="constrained"
  )
  sizes = sorted({r[size] for r in records})
  colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
  bottom, top = _limits(records)
  for ax, (name, verdict) in zip(axes[0], verdicts.items(), strict=True):
    own = [r for r in records if r["parametrization"] == name]
    for i, (n, color) in enumerate(zip(sizes, colors, strict=True)):
      curve = [r for r in own if r[size] == n]
      lost = top - 0.014 * (top - bottom) * (i + 1)  # where its crosses are
      optimum = verdict["optimum_log2_lr"].get(str(n))
      _curve(ax, str(n), curve, optimum, color, top, lost)
    above = _sizes_above(own, size, top)
    if above:
      where = {"x": 0.02, "y": 0.02, "transform": ax.transAxes, "fontsize": 8}
      ax.text(s=f"{size} {', '.join(map(str, above))}: above this axis", **where)
    ax.set_title(f"{name}\n{_headline(verdict)}", fontsize=10)
    ax.set_xlabel("log2 learning rate")
    ax.grid(alpha=0.25)
  axes[0, 0].set_ylabel("log training loss")
  axes[0, 0].set_ylim(bottom, top)
  axes[0, 0].legend(title=size, fontsize=8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _log_loss(record: dict[str, Any]) -> float:
  """Infinite where the net diverged."""
  if record["diverged"] or record["loss"] is None:
    return math.inf
  return math.log(max(record["loss"], np.finfo(np.float32).tiny))


def _limits(records: Records) -> tuple[float, float]:
  """Ends of the loss axis: all losses up to a little above that of guessing, in logs."""
  finite = [v for v in map(_log_loss, records) if math.isfinite(v)] or [0.0]
  low, high = min(finite), min(max(finite), 1.5)
  margin = max(0.12 * (high - low), 0.02)
  return float(low - margin), float(max(high, low) + margin)


def _sizes_above(records: Records, size: str, top: float) -> list[int]:
  """Sizes with no point on the axis: their curves would be missed unsaid."""
  lowest: dict[int, float] = {}
  for r in records:
    lowest[r[size]] = min(lowest.get(r[size], math.inf), _log_loss(r))
  return [n for n, log_loss in lowest.items() if log_loss > top]


def _curve(
  ax, label: str, curve: Records, optimum: float | None, color, top: float, lost: float
) -> None:
  rates = sorted({r["log2_lr"] for r in curve})
  logs = [[_log_loss(r) for r in curve if r["log2_lr"] == x] for x in rates]
  mean = np.array([np.mean(v) for v in logs])
  ok = np.isfinite(mean)
  shown = np.where(ok, np.minimum(mean, top + 1), np.nan)
  ax.plot(rates, shown, "o-", color=color, ms=3, lw=1.4, label=label)
  low, high = (
    [f(v) if o else np.nan for v, o in zip(logs, ok, strict=True)] for f in (min, max)
  )
  ax.fill_between(rates, low, np.minimum(high, top + 1), color=color, alpha=0.18, lw=0)
  diverged = [x for x, o in zip(rates, ok, strict=True) if not o]
  ax.plot(diverged, np.full(len(diverged), lost), "x", color=color, ms=5)
  if optimum is not None:
    y = np.interp(optimum, np.array(rates)[ok], mean[ok])
    ax.plot([optimum], [y], "*", color="crimson", mec="white", mew=0.5, ms=13, zorder=5)


def _headline(verdict: dict[str, Any]) -> str:
  word = {True: "transfers", False: "does not transfer", None: "cannot tell"}
  drift = verdict["octaves_per_doubling"]
  moved = "" if drift is None else f" ({drift:+.2f} octaves per doubling)"
  return word[verdict["transfers"]] + moved
