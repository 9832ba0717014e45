"""The figure and the table of a commutativity run, from its records alone."""

import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments._lib.commutativity_cells import Row

_LOOK = {  # family -> name, colour, marker
  "scaled": ("scaled residual", "tab:blue", "o"),
  "scaled_net": ("scaled, dmup.ResidualMLP", "tab:cyan", "s"),
  "unscaled": ("unscaled residual", "tab:orange", "^"),
  "mlp": ("plain MLP", "tab:red", "v"),
}
_SMALLEST = 1e-5  # of a ratio that is drawn

Rows = Sequence[Row]
Points = Callable[[Row], tuple[float, float]]  # of a row: value, standard error


def draw(rows: Rows, title: str, path: pathlib.Path) -> None:
  """Four panels over L/n: what stays in scaled nets, and does not in the others."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(2, 2, figsize=(10.5, 8), layout="constrained")
  scaled = [r for r in rows if r["family"].startswith("scaled")]
  panels = ((_errors, scaled), (_spread, rows), (_drift, rows), (_correlation, rows))
  for ax, (panel, own) in zip(axes.flat, panels, strict=True):
    if not own:
      ax.set_axis_off()
      ax.text(0.5, 0.5, "no scaled nets were drawn", ha="center")
      continue
    panel(ax, own)
    ax.set_xscale("log", base=2)
    ax.set_xlabel(ax.get_xlabel() or "depth over width, L/n")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
  figure.suptitle(title, fontsize=11)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _errors(ax, rows: Rows) -> None:
  for q, fill in (("q_aa", True), ("q_ab", False)):
    points = _scaled_by_root_n(f"{q}_rms")
    name = f"$q_{{{q[-2:]}}}$"
    _series(ax, rows, points, name, fillstyle="full" if fill else "none")
  _theory(ax, rows, lambda r: r["width"] ** 0.5 * r["q_aa_rms_theory"], "$q_{aa}$, theory")
  ax.set_ylim(bottom=0)
  ax.set_ylabel(r"$\sqrt{n}\,\cdot$ rms error to the limit")
  ax.set_title("Scaled: one limit, error $n^{-1/2}$ at every L/n", fontsize=10)


def _spread(ax, rows: Rows) -> None:
  _series(ax, rows, _scaled_by_root_n("log_q_std"), over=_depth)
  _theory(ax, rows, lambda r: r["width"] ** 0.5 * r["log_q_std_theory"], "theory", _depth)
  ax.set_yscale("log", base=2)
  ax.set_xlabel("depth L")
  ax.set_ylabel(r"$\sqrt{n}\,\cdot$ std of log $q_{aa}$ over nets")
  ax.set_title(r"Spread: stays, or grows as $\sqrt{L}$", fontsize=10)


def _drift(ax, rows: Rows) -> None:
  def points(r: Row) -> tuple[float, float]:
    return r["log_q_mean"] - r["log_q_width_first"], r["log_q_mean_error"]

  def theory(r: Row) -> float:
    return r["log_q_mean_theory"] - r["log_q_width_first"]

  _series(ax, rows, points)
  _theory(ax, rows, theory, "theory")
  ax.set_yscale("symlog", linthresh=0.1)
  ax.set_ylabel(r"mean log $q_{aa}$ less that of infinite width")
  ax.set_title("Drift: none, or proportional to L/n", fontsize=10)


def _correlation(ax, rows: Rows) -> None:
  def points(r: Row) -> tuple[float, float]:
    value, goal = r["distance_median"], r["distance_width_first"]
    return max(value / goal, _SMALLEST), r["distance_median_error"] / goal

  _series(ax, rows, points)
  ax.axhline(1, color="gray", lw=1, ls="--")
  ax.set_yscale("log")
  ax.set_ylim(bottom=_SMALLEST / 2, top=3)
  if any(r["distance_median"] / r["distance_width_first"] < _SMALLEST for r in rows):
    where = {"x": 0.98, "y": 0.09, "ha": "right", "transform": ax.transAxes, "fontsize": 8}
    ax.text(s="at the lower edge: less than $10^{-5}$", **where)
  ax.set_ylabel("median of 1 - c over that of infinite width")
  ax.set_title("Correlation of two inputs: kept, or lost", fontsize=10)


def _scaled_by_root_n(name: str) -> Points:
  def points(r: Row) -> tuple[float, float]:
    root = math.sqrt(r["width"])
    return root * r[name], root * r[f"{name}_error"]

  return points


def _depth(r: Row) -> float:
  return r["depth"]


def _ratio(r: Row) -> float:
  return r["depth"] / r["width"]


def _series(ax, rows: Rows, points: Points, suffix: str = "", over=_ratio, **style) -> None:
  for family, (name, color, marker) in _LOOK.items():
    own = [r for r in rows if r["family"] == family]
    if own:
      values, errors = np.transpose([points(r) for r in own])
      label = f"{name} {suffix}".strip()
      look = {"color": color, "marker": marker, "ls": "none", "ms": 6, **style}
      aside = 1.09 if family == "scaled_net" else 1.0  # not on top of the other
      x = [aside * over(r) for r in own]
      ax.errorbar(x, values, errors, label=label, capsize=2, lw=1, **look)


def _theory(ax, rows: Rows, value: Callable[[Row], float], label: str, over=_ratio) -> None:
  """A dash for each cell: at one L/n, those of other widths have other values."""
  families = [f for f in _LOOK if f != "scaled_net"]
  own = [r for r in rows if r["family"] in families] or list(rows)
  ax.plot(list(map(over, own)), list(map(value, own)), "k_", ms=11, mew=1.2, label=label)


def show(rows: Rows) -> None:
  """Prints a line a cell."""
  table = Table(title="Nets at initialization: q = <Y, Y>/n, c the correlation")
  for name in ("net", "n", "L", "L/n", "√n·rms q_aa", "√n·rms q_ab"):
    table.add_column(name, justify="left" if name == "net" else "right", no_wrap=True)
  for name in ("mean log q", "theory", "std log q", "theory", "(1-c)/(1-c)∞"):
    table.add_column(name, justify="right", no_wrap=True)
  for r in rows:
    root, scaled = math.sqrt(r["width"]), "q_aa_rms" in r
    table.add_row(
      r["family"],
      str(r["width"]),
      str(r["depth"]),
      f"{r['depth'] / r['width']:.4g}",
      *(f"{root * r[f'{q}_rms']:.2f}" if scaled else "–" for q in ("q_aa", "q_ab")),
      _pair(r, "mean"),
      f"{r['log_q_mean_theory']:.3f}",
      _pair(r, "std"),
      f"{r['log_q_std_theory']:.3f}",
      f"{r['distance_median'] / r['distance_width_first']:.3g}",
    )
  Console(width=max(Console().width, 140)).print(table)


def _pair(r: Row, name: str) -> str:
  return f"{r[f'log_q_{name}']:.3f} ± {r[f'log_q_{name}_error']:.3f}"
