"""The verdict of a linearization run on the terminal."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments._lib.linearization_measuring import GRADIENTS, LINEARIZATION
from experiments._lib.sweeps_claims import tell

Record = dict[str, Any]


def show(records: list[Record], found: dict[str, Any]) -> None:
  """Prints distances by net and depth, cosines by kind of block, and the claims."""
  trained = [r for r in records if r["measure"] == LINEARIZATION]
  depths = sorted({r["depth"] for r in trained})
  for column, title in (("ratio", "Blocks"), ("distance", "Whole nets")):
    table = Table(title=f"{title}: |F(W + D) - F(W) - J D| / |J D|")
    table.add_column("net", no_wrap=True)
    for depth in depths:
      table.add_column(f"L = {depth}", justify="right", no_wrap=True)
    table.add_column("slope", justify="right", no_wrap=True)
    for label, slopes in found["slopes"].items():
      own = [
        r for r in trained if f"{r['parametrization']}, k = {r['block_depth']}" == label
      ]
      cells = [_mean([r for r in own if r["depth"] == depth], column) for depth in depths]
      table.add_row(label, *cells, _slope(slopes[column]))
    _print(table)
  table = Table(title="Cosine of the gradients in neighbouring blocks at the start")
  for name in ("block", "measured", "theory"):
    table.add_column(name, justify="left" if name == "block" else "right", no_wrap=True)
  for block in dict.fromkeys(r["block"] for r in records if r["measure"] == GRADIENTS):
    values = found["cosines"][block]
    table.add_row(block, f"{values['cosine']:.3f}", f"{values['theory']:.3f}")
  _print(table)
  tell(found["claims"])


def _print(table: Table) -> None:
  Console(width=max(Console().width, 110)).print(table)  # narrower, numbers would be cut


def _mean(records: list[Record], column: str) -> str:
  values = [r[column] for r in records if not r["diverged"]]
  return f"{np.mean(values):.3g}" if values else "diverged"


def _slope(found: dict[str, Any]) -> str:
  if found["slope"] is None:
    return "–"
  error = found["standard_error"]
  return f"{found['slope']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
