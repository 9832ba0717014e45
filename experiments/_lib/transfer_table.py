"""The verdict of an LR-transfer run as a table on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(verdicts: dict[str, Any]) -> None:
  """Prints one row per parametrization, and a line for each optimum not found."""
  table = Table(title="Does the best learning rate transfer over depth?")
  depths = list(next(iter(verdicts.values()))["optimum_log2_lr"])
  table.add_column("parametrization", no_wrap=True)
  for depth in depths:
    table.add_column(f"L={depth}", justify="right")
  for name in ("octaves/doubling", "best loss", "transfers"):
    table.add_column(name, justify="right", no_wrap=True)
  for name, v in verdicts.items():
    optima = [_number(v["optimum_log2_lr"][d], ".2f") for d in depths]
    loss = [_number(v["best_loss"][d], ".3g") for d in (depths[0], depths[-1])]
    word = {True: "yes", False: "no", None: "cannot tell"}[v["transfers"]]
    table.add_row(name, *optima, _drift(v), " → ".join(loss), word)
  width = max(Console().width, 115)  # narrower, the numbers would break apart
  Console(width=width).print(table)
  print("L=...: log2 of the fitted best learning rate. Best loss: shallowest → deepest.")
  for name, v in verdicts.items():
    print(f"{name}: {v['reason']}")
    for depth, reason in v["why_no_optimum"].items():
      print(f"  no optimum at depth {depth}: {reason}")


def _number(value: float | None, spec: str) -> str:
  return "–" if value is None else format(value, spec)


def _drift(v: dict[str, Any]) -> str:
  drift, ci95 = v["octaves_per_doubling"], v["ci95"]
  interval = "" if ci95 is None else f" [{ci95[0]:+.2f}, {ci95[1]:+.2f}]"
  return "–" if drift is None else f"{drift:+.2f}{interval}"
