"""The figure of a coordinate check, from its rows and slopes alone.

Layer: numpy, matplotlib (which the extra "experiments" brings).
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_depthmup.diagnostics.coordinate_verdict import Slope
from flax_depthmup.errors import DepthMupError

#: Most modules that a panel names.
_MOST = 12
_COLUMNS = 3
#: The least that a panel spans upwards, as a factor.
_SPAN = 10.0
_TITLES = {
  "training": {
    "value": "output of each module",
    "change": "change of the output",
    "branch": "update of each branch",
  },
  "eps": {
    "change": "change of the output, gradients of the size of eps",
    "branch": "update of branches, gradients of the size of eps",
  },
  "decay": {"parameter": "change of parameters by decay"},
}


def draw_coordinates(
  rows: Iterable[Mapping[str, Any]],
  slopes: Sequence[Slope],
  path: str | os.PathLike[str],
  title: str = "",
) -> None:
  """A panel for each axis, probe and quantity, with a line for each module.

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
  panels = [
    (axis, probe, quantity)
    for axis in ("depth", "width")
    for probe, quantities in _TITLES.items()
    for quantity in quantities
    if any(_key(s) == (axis, probe, quantity, last) for s in slopes)
  ]
  columns = min(_COLUMNS, len(panels))
  lines = -(-len(panels) // columns)
  figure, grid = plt.subplots(
    lines,
    columns,
    figsize=(4.6 * columns, 4.6 * lines),
    squeeze=False,
    layout="constrained",
  )
  for ax, panel in itertools.zip_longest(grid.flat, panels):
    if panel is None:
      ax.axis("off")
      continue
    axis, probe, quantity = panel
    _panel(ax, [s for s in slopes if _key(s) == (*panel, last)], rows)
    ax.set_xlabel(axis)
    ax.set_ylabel("root mean square")
    ax.set_title(f"{_TITLES[probe][quantity]}, t = {last}", fontsize=10)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=100)
  plt.close(figure)


def _key(s: Slope) -> tuple[str, str, str, int]:
  return s.axis, s.probe, s.quantity, s.t


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
  low, high = ax.get_ylim()
  if high < _SPAN * low:  # flat lines look flat
    middle = math.sqrt(low * high)
    ax.set_ylim(middle / math.sqrt(_SPAN), middle * math.sqrt(_SPAN))
  below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False}
  ax.legend(fontsize=7, ncols=2, title="module, slope", title_fontsize=7, **below)


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
