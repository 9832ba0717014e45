"""The figure of a feature-diversity run, from its records alone."""

import pathlib
from typing import Any

import numpy as np

Records = list[dict[str, Any]]


def draw(records: Records, title: str, path: pathlib.Path) -> None:
  """Scaled d over epsilon: a column per net; over depth, and over training at the deepest.

  Means over the seeds, with the slopes of a Brownian path and of a smooth one.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  variants = list(dict.fromkeys((r["parametrization"], r["activation"]) for r in records))
  last, deepest = (max(r[key] for r in records) for key in ("step", "depth"))
  figure, axes = plt.subplots(
    2,
    len(variants),
    figsize=(1.2 + 3.1 * len(variants), 6.6),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout="constrained",
  )
  rows = (("depth", "step", last, "L"), ("step", "depth", deepest, "step"))
  for column, variant in enumerate(variants):
    own = [r for r in records if (r["parametrization"], r["activation"]) == variant]
    for row, (key, fixed, value, label) in enumerate(rows):
      ax = axes[row, column]
      some = [r for r in own if r[fixed] == value]
      levels = sorted({r[key] for r in records if r[fixed] == value})
      colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(levels)))
      for level, color in zip(levels, colors, strict=True):
        _curve(ax, [r for r in some if r[key] == level], f"{label} = {level}", color)
      _guides(ax, records)
      where = f"after {last} steps" if row == 0 else f"L = {deepest}"
      ax.set_title(f"{', '.join(variant)}: {where}", fontsize=9)
      ax.set_xscale("log", base=2)
      ax.set_yscale("log", base=2)
      ax.grid(alpha=0.25)
      if column == 0:
        ax.legend(fontsize=8)
        ax.set_ylabel("d(ε) over d at the smallest ε")
      if row == 1:
        ax.set_xlabel("ε, part of the depth")
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _curve(ax: Any, records: Records, label: str, color: Any) -> None:
  records = [r for r in records if not r["diverged"]]
  epsilons = sorted({r["epsilon"] for r in records})
  means = [np.mean([r["scaled"] for r in records if r["epsilon"] == e]) for e in epsilons]
  ax.plot(epsilons, means, "o-", color=color, ms=3, lw=1.4, label=label)


def _guides(ax: Any, records: Records) -> None:
  epsilons = np.array(sorted({r["epsilon"] for r in records if not r["diverged"]}))
  if len(epsilons):
    ratio = epsilons / epsilons[0]
    ax.plot(epsilons, ratio**0.5, "--", color="0.55", lw=1, label="√ε: Brownian")
    ax.plot(epsilons, ratio, ":", color="0.55", lw=1.2, label="ε: smooth")
