"""The figure of a run that asks what transfers, from its result files alone."""

import math
import pathlib
from typing import Any

import numpy as np

from experiments._lib.sweeps_records import Records, log_loss

#: What the axis of a swept hyperparameter says.
LABELS = {
  "log2_lr": "log2 learning rate",
  "log2_multiplier": "log2 block multiplier, at base depth",
}


def draw(
  records: Records,
  verdicts: dict[str, Any],
  size: str,
  title: str,
  path: pathlib.Path,
  swept: str = "log2_lr",
) -> None:
  """A panel per parametrization, a curve per size, the optima marked.

  Bands span the seeds; crosses at the top are values at which a seed diverged.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  count = len(verdicts)
  figure, axes = plt.subplots(
    1,
    count,
    figsize=(max(4.4 * count, 6.4), 4.2),
    sharey=True,
    squeeze=False,
    layout="constrained",
  )
  bottom, top = limits(records)
  sizes = sorted({r[size] for r in records})
  for ax, (name, verdict) in zip(axes[0], verdicts.items(), strict=True):
    own = [r for r in records if r["parametrization"] == name]
    curves(ax, own, verdict, size, sizes, (bottom, top), swept)
    ax.set_title(f"{name}\n{headline(verdict)}", fontsize=10)
  axes[0, 0].set_ylabel("log training loss")
  axes[0, 0].set_ylim(bottom, top)
  axes[0, 0].legend(title=size, fontsize=8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def curves(
  ax: Any,
  records: Records,
  verdict: dict[str, Any],
  size: str,
  sizes: list[int],
  ends: tuple[float, float],
  swept: str = "log2_lr",
) -> None:
  """One panel: a curve per size over the swept hyperparameter.

  Args:
    ax: matplotlib's.
    records: those of the panel.
    verdict: of `transfer_verdict` on them.
    size: the column that grows.
    sizes: of all panels, which share their colours.
    ends: of the loss axis.
    swept: the column of the hyperparameter.
  """
  import matplotlib.pyplot as plt

  bottom, top = ends
  colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
  for i, (n, color) in enumerate(zip(sizes, colors, strict=True)):
    lost = top - 0.014 * (top - bottom) * (i + 1)  # where its crosses are
    optimum = verdict[f"optimum_{swept}"].get(str(n))
    curve = [(r[swept], log_loss(r)) for r in records if r[size] == n]
    _curve(ax, str(n), curve, optimum, color, top, lost)
  above = _sizes_above(records, size, top)
  if above:
    where = {"x": 0.02, "y": 0.02, "transform": ax.transAxes, "fontsize": 8}
    ax.text(s=f"{size} {', '.join(map(str, above))}: above this axis", **where)
  ax.locator_params(axis="x", nbins=7)
  ax.set_xlabel(LABELS[swept])
  ax.grid(alpha=0.25)


def limits(records: Records) -> tuple[float, float]:
  """Ends of the loss axis: all losses up to a little above that of guessing, in logs."""
  finite = [v for v in map(log_loss, records) if math.isfinite(v)] or [0.0]
  low, high = min(finite), min(max(finite), 1.5)
  margin = max(0.12 * (high - low), 0.02)
  return float(low - margin), float(max(high, low) + margin)


def _sizes_above(records: Records, size: str, top: float) -> list[int]:
  """Sizes with no point on the axis: their curves would be missed unsaid."""
  lowest: dict[int, float] = {}
  for r in records:
    lowest[r[size]] = min(lowest.get(r[size], math.inf), log_loss(r))
  return [n for n, log_loss in lowest.items() if log_loss > top]


def _curve(
  ax: Any,
  label: str,
  curve: list[tuple[float, float]],
  optimum: float | None,
  color: Any,
  top: float,
  lost: float,
) -> None:
  rates = sorted({x for x, _ in curve})
  logs = [[y for at, y in curve if at == x] for x in rates]
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


def headline(verdict: dict[str, Any]) -> str:
  """Whether it transfers, and how far the optimum moves."""
  word = {True: "transfers", False: "does not transfer", None: "cannot tell"}
  drift = verdict["octaves_per_doubling"]
  moved = "" if drift is None else f" ({drift:+.2f} octaves per doubling)"
  return word[verdict["transfers"]] + moved
