"""The figure and the table of a super-consistency run, from its records alone."""

import pathlib
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments._lib.super_consistency_verdict import Records, curves


def draw(records: Records, size: str, title: str, path: pathlib.Path) -> None:
  """Sharpness over its threshold, and loss, over steps: a column per variant.

  Geometric means over the seeds; bands span them. A curve ends where a seed diverged.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  found = curves(records, size)
  sizes = sorted({n for c in found.values() for n in c.sizes})
  shades = plt.get_cmap("viridis")(np.linspace(0, 0.88, len(sizes)))
  colors = dict(zip(sizes, shades, strict=True))
  figure, axes = plt.subplots(
    2,
    len(found),
    figsize=(1.4 + 3.7 * len(found), 6.4),
    sharex=True,
    sharey="row",
    squeeze=False,
    layout="constrained",
  )
  for column, (name, c) in enumerate(found.items()):
    for ax, values in zip(axes[:, column], (c.sharpness, c.loss), strict=True):
      for n, own in zip(c.sizes, values, strict=True):
        _curve(ax, c.steps, own, str(n), colors[n])
      ax.set_yscale("log", base=2)
      ax.grid(alpha=0.25)
    axes[0, column].axhline(1, color="crimson", ls="--", lw=1.2, label="edge of stability")
    axes[0, column].set_title(name, fontsize=10)
    axes[1, column].set_xlabel("step")
  axes[0, 0].set_ylabel("sharpness over threshold")
  axes[1, 0].set_ylabel("training loss (nats)")
  axes[0, 0].legend(title=size, fontsize=8)
  figure.suptitle(title, fontsize=10)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _curve(ax: Any, steps: np.ndarray, values: np.ndarray, label: str, color: Any) -> None:
  logs = np.log2(values)  # [seeds, steps]
  ax.plot(steps, 2 ** logs.mean(axis=0), color=color, lw=1.5, label=label)
  low, high = 2 ** logs.min(axis=0), 2 ** logs.max(axis=0)
  ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)


def show(measured: dict[str, dict[str, Any]], size: str) -> None:
  """Prints a line a variant."""
  table = Table(title=f"Is the sharpness along training the same at every {size}?")
  table.add_column("parametrization", no_wrap=True)
  for name in ("octaves/doubling", "spread", "largest", "sharpening", "highest/threshold"):
    table.add_column(name, justify="right", no_wrap=True)
  for name, v in measured.items():
    interval = v["ci95"]
    slope = "–"
    if interval is not None:
      low, high = interval
      slope = f"{v['octaves_per_doubling']:+.2f} [{low:+.2f}, {high:+.2f}]"
    table.add_row(
      name,
      slope,
      _number(v["spread"]),
      _number(v["largest_spread"]),
      *(" ".join(map(_number, v[key].values())) for key in ("sharpening", "highest")),
    )
  Console(width=max(Console().width, 120)).print(table)
  sizes = ", ".join(next(iter(measured.values()))["highest"])
  print(
    f"spread: standard deviation over {size}s of log2 sharpness, mean over the steps and "
    f"at the worst. Sharpening: octaves above the first measurement, at {size} {sizes}."
  )


def _number(value: float | None) -> str:
  return "–" if value is None else f"{value:.2f}"
