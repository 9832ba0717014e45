"""The figure of a heat-map run, from its result files alone."""

import pathlib
from typing import Any

import numpy as np

from experiments._lib.heat_map_verdict import Map, by_net, read
from experiments._lib.sweeps_records import Records


def draw(
  records: Records, maps: dict[str, Any], size: str, title: str, path: pathlib.Path
) -> None:
  """A row of panels per parametrization, one per size, all in the same colours.

  A star marks the best place, the line the valley, the contours a loss 1.05 and 1.2
  times the best; grey is where a seed diverged.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  nets = by_net(records, size)
  columns = max(map(len, nets.values()))
  figure, axes = plt.subplots(
    len(nets),
    columns,
    figsize=(3.6 * columns + 1, 3.9 * len(nets)),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout="constrained",
  )
  tables = {(p, n): read(rows) for p, sizes in nets.items() for n, rows in sizes.items()}
  norm = plt.Normalize(*_ends(list(tables.values())))
  for row, (name, sizes) in zip(axes, nets.items(), strict=True):
    row[0].set_ylabel("log2 block multiplier, at base depth")
    for ax, n in zip(row, sizes, strict=True):
      image = _panel(ax, tables[name, n], maps[name][str(n)], norm)
      ax.set_title(f"{name}, {size} {n}\n{_slope(maps[name][str(n)])}", fontsize=9)
  for ax in axes[-1]:
    ax.set_xlabel("log2 learning rate")
  figure.colorbar(image, ax=axes, label="log training loss", extend="max", shrink=0.8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _ends(tables: list[Map]) -> tuple[float, float]:
  """Of the colours: from the lowest loss to that of the worse half of all places."""
  means = np.concatenate([table.mean.ravel() for table in tables])
  finite = means[np.isfinite(means)]
  if not finite.size:
    return 0.0, 1.0
  return float(finite.min()), float(np.quantile(finite, 0.8))


def _panel(ax: Any, table: Map, shown: dict[str, Any], norm: Any) -> Any:
  x, a, y = table.log2_lrs, table.log2_multipliers, table.mean.T
  masked = np.ma.masked_invalid(y)
  ax.set_facecolor("0.6")
  image = ax.pcolormesh(x, a, masked, norm=norm, cmap="viridis_r", shading="nearest")
  if shown["loss"] is None:
    return image
  best = float(masked.min())
  if min(y.shape) > 1:
    levels = best + np.log([1.05, 1.2])
    ax.contour(x, a, masked, levels, colors="white", linewidths=(1.4, 0.7))
  valley = shown["valley"]
  if valley["angle"] is not None:
    angle = np.radians(valley["angle"])
    reach = 0.4 * np.hypot(np.ptp(x), np.ptp(a)) * np.array([-1, 1])
    (cx, ca), ends = valley["center"], (ax.get_xlim(), ax.get_ylim())
    ax.plot(cx + reach * np.cos(angle), ca + reach * np.sin(angle), "--", color="crimson")
    ax.set(xlim=ends[0], ylim=ends[1])
  place = shown["log2_lr"], shown["log2_multiplier"]
  ax.plot(*place, "*", color="crimson", mec="white", mew=0.6, ms=14, zorder=5)
  return image


def _slope(shown: dict[str, Any]) -> str:
  valley = shown["valley"]
  if valley["slope"] is None:
    return "no slope"
  low, high = valley["ci95"]
  return f"slope {valley['slope']:.2f} [{low:.2f}, {high:.2f}]"
