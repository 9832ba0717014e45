"""The figures and the table of a linear_limit run, from its records alone."""

import pathlib
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments._lib.limit_slopes import rms
from experiments._lib.linear_limit_config import POSITIONS
from experiments._lib.linear_limit_verdict import (
  Records,
  depth_deviations,
  output_deviations,
  width_deviations,
)

_NAMES = {0.0: "0", 0.25: "L/4", 0.5: "L/2", 0.75: "3L/4", 1.0: "L"}


def draw(records: Records, title: str, folder: pathlib.Path) -> list[pathlib.Path]:
  """Figure 8 (over width) and Figure 9 (over depth), as PNG."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  paths = []
  for name, panel, rate in (
    ("width", _over_width, _width_rate),
    ("depth", _over_depth, _depth_rate),
  ):
    times = sorted({r["time"] for r in records})
    figure, axes = plt.subplots(
      1, len(times) + 1, figsize=(4 * len(times) + 4, 4.2), layout="constrained"
    )
    for ax, t in zip(axes, times, strict=False):
      own = [r for r in records if r["time"] == t]
      for i, p in enumerate(POSITIONS):
        panel(ax, [r for r in own if r["position"] == p], f"C{i}", _NAMES[p])
      ax.set(title=f"after {t} step{'s' * (t > 1)}")
      ax.set_xscale("log", base=2)
    axes[0].set_ylabel("rms of the features")
    axes[0].margins(y=0.2)
    axes[0].legend(title="layer", fontsize=8, loc="upper right", ncols=3)
    rate(axes[-1], records)
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_yscale("log", base=2)
    axes[-1].legend(fontsize=8)
    for ax in axes:
      ax.set_xlabel(f"{name} {'n' if name == 'width' else 'L'}")
      ax.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    paths.append(folder / f"linear_limit_{name}.png")
    figure.savefig(paths[-1], dpi=110)
    plt.close(figure)
  return paths


def _over_width(ax: Any, own: Records, color: str, label: str) -> None:
  finite = [r for r in own if r["net"] == "finite"]
  widths = sorted({r["width"] for r in finite})
  values = [[r["rms"] for r in finite if r["width"] == w] for w in widths]
  means, spread = [np.mean(v) for v in values], [np.std(v) for v in values]
  ax.errorbar(
    widths, means, spread, color=color, marker="o", ms=4, lw=1, capsize=2, label=label
  )
  depth = finite[0]["depth"]
  goal = [r for r in own if r["net"] == "infinite width" and r["depth"] == depth]
  ax.axhline(goal[0]["rms"], color=color, ls="--", lw=1)


def _over_depth(ax: Any, own: Records, color: str, label: str) -> None:
  wide = sorted((r["depth"], r["rms"]) for r in own if r["net"] == "infinite width")
  ax.plot(*zip(*wide, strict=True), color=color, marker="o", ms=4, lw=1, label=label)
  goal = next(r["rms"] for r in own if r["net"] == "infinite")
  ax.axhline(goal, color=color, ls="--", lw=1)


def _width_rate(ax: Any, records: Records) -> None:
  sizes = {w: rms(d) for w, d in width_deviations(records).items()}
  outputs = {w: rms(d) for w, d in output_deviations(records).items()}
  _rate(ax, sizes, -0.5, "from the limit of width", "$n^{-1/2}$")
  ax.plot(
    *zip(*outputs.items(), strict=True), "C7-s", ms=4, lw=1, label="outputs, all steps"
  )


def _depth_rate(ax: Any, records: Records) -> None:
  sizes = {depth: rms(d) for depth, d in depth_deviations(records).items()}
  _rate(ax, sizes, -1.0, "from the limit of depth", "$1/L$")


def _rate(ax: Any, sizes: dict[int, float], slope: float, words: str, law: str) -> None:
  x, y = np.array([*sizes]), np.array([*sizes.values()])
  ax.plot(x, y, "k-o", ms=4, lw=1, label="features, relative")
  ax.plot(x, y[0] * (x / x[0]) ** slope, color="gray", ls=":", label=law)
  ax.set(title=f"rms deviation {words}")


def show(records: Records) -> None:
  """Prints rms features: finite nets by width, infinite width by depth, the limit."""
  depth = next(r["depth"] for r in records if r["net"] == "finite")
  widths = sorted({r["width"] for r in records if r["net"] == "finite"})
  table = Table(
    title=f"rms of the features; finite nets have {depth} blocks, mean of seeds"
  )
  for name in ("step", "layer", *(f"n={w}" for w in widths), "n=∞", "L=∞ too", "± at most"):
    table.add_column(name, justify="right", no_wrap=True)
  for t in sorted({r["time"] for r in records}):
    for p in POSITIONS:
      own = [r for r in records if r["time"] == t and r["position"] == p]
      finite = [
        np.mean([r["rms"] for r in own if r["net"] == "finite" and r["width"] == w])
        for w in widths
      ]
      wide = [r["rms"] for r in own if r["net"] == "infinite width" and r["depth"] == depth]
      limit = next(r for r in own if r["net"] == "infinite")
      numbers = [f"{v:.4f}" for v in (*finite, *wide, limit["rms"])]
      table.add_row(str(t), _NAMES[p], *numbers, f"{limit['rms_error']:.0e}")
  Console(width=max(Console().width, 110)).print(table)
