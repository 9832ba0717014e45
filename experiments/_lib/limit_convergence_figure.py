"""The figures and the table of a limit_convergence run, from its records alone."""

import math
import pathlib
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments._lib.limit_convergence_cases import CASES
from experiments._lib.limit_convergence_verdict import Records, by_size, cases
from experiments._lib.limit_slopes import rms
from experiments._lib.sweeps_claims import Claim

_AXES = {
  "width": ("width n", -0.5, "$n^{-1/2}$", "Finite nets less their limit"),
  "depth": ("depth L", -1.0, "$1/L$", "Depth L less its limit"),
}
_COLUMNS = 4
_SHADE = {True: "C0", False: "C3", None: "C7"}


def draw(
  records: Records, claims: dict[str, Claim], folder: pathlib.Path
) -> list[pathlib.Path]:
  """A figure over width and one over depth, a panel a limit, as PNG."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  paths = []
  for axis, (label, slope, law, title) in _AXES.items():
    shown = cases(records, axis)
    if not shown:
      continue
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = plt.subplots(
      rows,
      columns,
      figsize=(3.5 * columns, 2.6 * rows + 0.6),
      layout="constrained",
      squeeze=False,
    )
    for ax, case in zip(axes.flat, shown, strict=False):
      found = by_size(records, axis, case)
      _panel(ax, found, slope, claims[f"{axis}: {case}"])
      grid = " (solver's grid)" if axis == "depth" and CASES[case].grid else ""
      ax.set_title(CASES[case].words + grid, fontsize=9)
    for ax in axes.flat[len(shown) :]:
      ax.set_axis_off()
    for ax in axes[:, 0]:
      ax.set_ylabel("rms deviation")
    for ax in axes.flat[max(len(shown) - columns, 0) : len(shown)]:
      ax.set_xlabel(label)
    figure.suptitle(f"{title}; dotted: {law}", fontsize=11)
    paths.append(folder / f"limit_convergence_{axis}.png")
    figure.savefig(paths[-1], dpi=100)
    plt.close(figure)
  return paths


def _panel(ax: Any, found: dict[int, dict[str, Any]], slope: float, claim: Claim) -> None:
  from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

  sizes = np.array([*found], float)
  y = np.array([_deviation(r) for r in found.values()])
  law = np.exp(np.log(y / sizes**slope).mean()) * sizes**slope
  ax.loglog(sizes, law, color="gray", ls=":", lw=1.5)
  errors = np.array([_error(r) for r in found.values()])
  color = _SHADE[claim["seen"]]
  ax.errorbar(sizes, y, 2 * errors, color=color, marker="o", ms=4, lw=1, capsize=2)
  ax.set_xscale("log", base=2)
  ax.yaxis.set_minor_formatter(NullFormatter())
  ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
  ax.yaxis.set_major_formatter(FormatStrFormatter("%.2g"))
  ax.grid(alpha=0.25)
  measured = claim["measured"]
  if "slope" in measured:
    text = f"slope {measured['slope']:+.3f}"
    if "ci95" in measured:
      low, high = measured["ci95"]
      text += f"\n[{low:+.3f}, {high:+.3f}]"
    ax.text(0.04, 0.06, text, transform=ax.transAxes, fontsize=8)


def _deviation(record: dict[str, Any]) -> float:
  return record["deviation"] if record["axis"] == "depth" else rms(record["deviations"])


def _error(record: dict[str, Any]) -> float:
  """Standard error of the rms over the seeds."""
  if record["axis"] == "depth":
    return 0.0
  squares = np.square(record["deviations"])
  return float(squares.std() / len(squares) ** 0.5 / (2 * squares.mean() ** 0.5))


def show(records: Records, claims: dict[str, Claim]) -> None:
  """Prints the exponents and the deviations at both ends."""
  table = Table(title="rms deviations from the limits")
  for name in ("limit", "axis", "from", "to", "rms", "rms", "slope", "95 %", "seeds"):
    left = name in ("limit", "axis")
    table.add_column(name, justify="left" if left else "right", no_wrap=not left)
  for name, found in claims.items():
    axis, case = name.split(": ")
    rows = [*by_size(records, axis, case).values()]
    measured = found["measured"]
    interval = measured.get("ci95")
    table.add_row(
      CASES[case].words,
      axis,
      *(str(r["size"]) for r in (rows[0], rows[-1])),
      *(f"{_deviation(r):.2g}" for r in (rows[0], rows[-1])),
      f"{measured['slope']:+.3f}" if "slope" in measured else "",
      f"[{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "",
      str(len(rows[0]["deviations"])) if axis == "width" else "",
    )
  console = Console()
  Console(width=None if console.is_terminal else 130).print(table)
