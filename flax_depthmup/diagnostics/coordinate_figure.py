"""The figure of a coordinate check, from its rows and slopes alone.

Layer: numpy, matplotlib (which the extra "experiments" brings).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_depthmup.diagnostics.coordinate_verdict import Slope
from flax_depthmup.errors import DepthMupError

#: Most modules that a panel names.
_MOST = 12
_TITLES = {
  "training": {
    "value": "output of each module",
    "change": "change of the output",
    "branch": "update of each branch",
  },
  "eps": {
    "change": "change, gradients of the size of eps",
    "branch": "update of branches, likewise",
  },
  "decay": {"parameter": "change of parameters by decay"},
}


def draw_coordinates(
  rows: Iterable[Mapping[str, Any]],
  slopes: Sequence[Slope],
  path: str | os.PathLike[str],
  title: str = "",
) -> None:
  """A row of panels for each axis, a panel for each quantity, a line for each module.

  At the last time; bands span the seeds. A thick red line is not as predicted, a grey
  one is not judged.

  Args:
    rows: of a `CoordinateCheck`.
    slopes: ditto.
    path: of the file, such as "coordinates.png".
    title: of the figure.

  Raises:
    DepthMupError: no slopes, or matplotlib is not installed.
  """
  if not slopes:
    raise DepthMupError("there are no slopes to draw; give those of a CoordinateCheck")
  try:
    import matplotlib
  except ModuleNotFoundError:
    raise DepthMupError(
      "matplotlib is not installed, which draws figures; pip install matplotlib"
    ) from None
  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  rows = list(rows)
  last = max(s.t for s in slopes)
  shown = [s for s in slopes if s.t == last]
  axes = sorted({s.axis for s in shown})
  kinds = [
    (probe, quantity)
    for probe, quantities in _TITLES.items()
    for quantity in quantities
    if any((s.probe, s.quantity) == (probe, quantity) for s in shown)
  ]
  figure, grid = plt.subplots(
    len(axes),
    len(kinds),
    figsize=(3.5 * len(kinds), 3.6 * len(axes)),
    squeeze=False,
    layout="constrained",
  )
  for i, axis in enumerate(axes):
    for j, (probe, quantity) in enumerate(kinds):
      ax = grid[i, j]
      own = [s for s in shown if (s.axis, s.probe, s.quantity) == (axis, probe, quantity)]
      _panel(ax, own, rows)
      ax.set_xlabel(axis)
      ax.set_title(f"{_TITLES[probe][quantity]}, t = {last}", fontsize=9)
    grid[i, 0].set_ylabel("root mean square")
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _panel(ax: Any, slopes: Sequence[Slope], rows: Sequence[Mapping[str, Any]]) -> None:
  import matplotlib.pyplot as plt
  from matplotlib.ticker import NullFormatter, NullLocator

  colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, max(len(slopes), 1)))
  ticks: set[float] = set()
  for i, (s, color) in enumerate(zip(slopes, colors, strict=True)):
    sizes, values = _curve(s, rows)
    ticks |= set(sizes)
    style: dict[str, Any] = {"color": color, "lw": 1.3}
    if s.passed is False:
      style = {"color": "crimson", "lw": 2.6}
    elif s.passed is None:
      style = {"color": "grey", "lw": 1.0, "ls": "--"}
    number = "" if s.slope is None else f" {s.slope:+.2f}"
    label = f"{s.module}{number}" if i < _MOST else None
    middle = np.exp(np.mean(np.log(np.maximum(values, 1e-30)), axis=0))
    ax.plot(sizes, middle, marker="o", ms=3, label=label, **style)
    ax.fill_between(sizes, values.min(0), values.max(0), alpha=0.15, lw=0, color=color)
  ax.set_xscale("log")
  ax.set_yscale("log")
  ax.set_xticks(sorted(ticks), [f"{n:g}" for n in sorted(ticks)])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.xaxis.set_minor_formatter(NullFormatter())
  ax.grid(alpha=0.25)
  if slopes:
    ax.legend(fontsize=6, title="module, slope", title_fontsize=6)


def _curve(s: Slope, rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], np.ndarray]:
  """Sizes, and values [seeds, sizes], along the axis of a slope."""
  other = {"depth": "width", "width": "depth"}[s.axis]
  own = [
    r
    for r in rows
    if (r["probe"], r["quantity"], r["module"], r["t"])
    == (s.probe, s.quantity, s.module, s.t)
  ]
  spans = {f: {r[s.axis] for r in own if r[other] == f} for f in {r[other] for r in own}}
  fixed = max(spans, key=lambda f: len(spans[f]))
  sizes, seeds = sorted(spans[fixed]), sorted({r["seed"] for r in own})
  table = {(r["seed"], r[s.axis]): r["l2"] for r in own if r[other] == fixed}
  values = [[table.get((seed, n)) for n in sizes] for seed in seeds]
  return sizes, np.array(values, float)
