"""The outcome of coordinate checks as a table on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

#: Rows of a check that are shown: the furthest from theory first.
_MOST = 8


def show(summary: dict[str, Any]) -> None:
  """Prints the slopes of each check that are furthest from what theory predicts."""
  table = Table(title="Slopes of log size over log width or depth, the worst first")
  for name in ("check", "axis", "probe", "quantity", "module"):
    table.add_column(name, no_wrap=name != "check")
  for name in ("t", "slope", "predicted", "as predicted"):
    table.add_column(name, justify="right", no_wrap=True)
  for check, slopes in summary["slopes"].items():
    judged = [s for s in slopes if s["predicted"] is not None]
    for s in sorted(judged, key=_miss, reverse=True)[:_MOST]:
      low, high = s["predicted"]
      slope = "–" if s["slope"] is None else f"{s['slope']:+.2f} ± {s['stderr']:.2f}"
      wanted = f"{low:g}" if low == high else f"{low:g} to {high:g}"
      word = {True: "yes", False: "NO", None: "cannot tell"}[s["passed"]]
      cells = (s["axis"], s["probe"], s["quantity"], s["module"], str(s["t"]))
      table.add_row(check, *cells, slope, wanted, word)
    table.add_section()
  Console(width=max(Console().width, 130)).print(table)


def _miss(s: dict[str, Any]) -> float:
  if s["slope"] is None:
    return float("inf")
  low, high = s["predicted"]
  return max(low - s["slope"], s["slope"] - high)
