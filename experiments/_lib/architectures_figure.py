"""The figure of an architectures run, from its result files alone."""

import math
import pathlib
from typing import Any

import numpy as np

from experiments._lib import transfer_figure
from experiments._lib.sweeps_best import at_small_multiplier, find_best
from experiments._lib.sweeps_records import Records


def draw(records: Records, verdict: dict[str, Any], title: str, path: pathlib.Path) -> None:
  """A panel per variant, loss over rate by depth, and one of best loss over depth.

  Where block multipliers were swept, the curves are at the one best for the shallowest
  net, which the verdict on the rate is about; the last panel has the best over all. Bars
  are the standard error over seeds.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  names = list(verdict["best"])
  figure, axes = plt.subplots(
    1,
    len(names) + 1,
    figsize=(4.1 * (len(names) + 1), 4.2),
    sharey=True,
    squeeze=False,
    layout="constrained",
  )
  *panels, last = axes[0]
  depths = sorted({r["depth"] for r in records})
  own = {n: [r for r in records if r["variant"] == n] for n in names}
  shown = {n: at_small_multiplier(rows, "depth") for n, rows in own.items()}
  ends = transfer_figure.limits(records)
  for ax, name in zip(panels, names, strict=True):
    transfer = verdict["transfer"][name]
    transfer_figure.curves(ax, shown[name], transfer, "depth", depths, ends)
    ax.set_title(
      f"{name}{_multiplier(shown[name])}\n{transfer_figure.headline(transfer)}", fontsize=10
    )
  panels[0].set_ylabel("log training loss")
  panels[0].set_ylim(*ends)
  panels[0].legend(title="layers", fontsize=8)
  for name, marker in zip(names, "osD^vP*X" * len(names), strict=False):
    _best_over_depth(last, own[name], name, marker)
  last.set_xscale("log", base=2)
  last.set_xticks(depths, [str(d) for d in depths])
  last.set_xlabel("layers")
  last.set_title("best of the grid", fontsize=10)
  last.grid(alpha=0.25)
  last.legend(fontsize=8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _multiplier(records: Records) -> str:
  a = records[0].get("log2_multiplier")
  return "" if a is None else f", multiplier 2^{a:g}"


def _best_over_depth(ax: Any, records: Records, name: str, marker: str) -> None:
  depths = sorted({r["depth"] for r in records})
  losses = [find_best([r for r in records if r["depth"] == d]).log_losses for d in depths]
  alive = [(d, y) for d, y in zip(depths, losses, strict=True) if y is not None]
  mean = [float(np.mean(y)) for _, y in alive]
  error = [np.std(y, ddof=1) / math.sqrt(len(y)) if len(y) > 1 else 0 for _, y in alive]
  ax.errorbar([d for d, _ in alive], mean, error, marker=marker, capsize=3, label=name)
