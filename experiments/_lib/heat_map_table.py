"""The verdict of a heat-map run as a table on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from experiments._lib.sweeps_claims import tell


def show(verdict: dict[str, Any], size: str) -> None:
  """Prints one row per net, a line for each slope not found, and the claims."""
  table = Table(title="Loss over learning rate and block multiplier")
  table.add_column("parametrization", no_wrap=True)
  names = ("loss", "log2 η", "log2 a", "slope of the valley", "octaves of a", "η retuned")
  for name in (size, *names):
    table.add_column(name, justify="right", no_wrap=True)
  missing = []
  for name, sizes in verdict["maps"].items():
    for n, net in sizes.items():
      table.add_row(name, n, *_cells(net))
      if net["valley"]["slope"] is None:
        missing.append(f"{name}, {size} {n}: {net['valley']['reason']}")
  width = max(Console().width, 115)  # narrower, the numbers would break apart
  Console(width=width).print(table)
  print(
    "slope: d log2 a / d log2 η along the valley. octaves of a: within a factor 1.05 of "
    "the best loss at the best η, and with η retuned for each a; +: cut off by the grid."
  )
  for line in missing:
    print(line)
  tell(verdict["claims"])


def _cells(net: dict[str, Any]) -> list[str]:
  if net["loss"] is None:
    return ["–"] * 6
  slope, widths = net["valley"]["slope"], net["octaves_of_multiplier"]
  cells = [f"{net['loss']:.3g}", f"{net['log2_lr']:g}", f"{net['log2_multiplier']:g}"]
  if slope is None:
    cells.append("–")
  else:
    low, high = net["valley"]["ci95"]
    cells.append(f"{slope:.2f} [{low:.2f}, {high:.2f}]")
  for key in ("at_best_rate", "rate_retuned"):
    cells.append(f"{widths[key]:.1f}{'+' if widths[f'{key}_beyond_grid'] else ''}")
  return cells
