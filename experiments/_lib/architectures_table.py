"""The verdict of an architectures run as a table on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from experiments._lib.sweeps_claims import tell


def show(verdict: dict[str, Any]) -> None:
  """Prints the best of the grid for each variant and depth, and the claims."""
  table = Table(title="Best training loss by layers, and where: log2 η (, log2 a)")
  depths = list(next(iter(verdict["best"].values())))
  table.add_column("block", no_wrap=True)
  for d in depths:
    table.add_column(f"L={d}", justify="right", no_wrap=True)
  table.add_column("octaves of η / doubling", justify="right", no_wrap=True)
  for name, by_depth in verdict["best"].items():
    drift = verdict["transfer"][name]["octaves_per_doubling"]
    cells = [_cell(by_depth[d]) for d in depths]
    table.add_row(name, *cells, "–" if drift is None else f"{drift:+.2f}")
  width = max(Console().width, 115)  # narrower, the numbers would break apart
  Console(width=width).print(table)
  tell(verdict["claims"])


def _cell(best: dict[str, Any]) -> str:
  if best["loss"] is None:
    return "diverged"
  place = [best["log2_lr"], best.get("log2_multiplier")]
  return f"{best['loss']:.3g} ({', '.join(f'{v:g}' for v in place if v is not None)})"
