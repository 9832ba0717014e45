"""The verdict of a run that asks what transfers, as a table on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

_NAMES = {"log2_lr": "learning rate", "log2_multiplier": "block multiplier"}


def show(verdicts: dict[str, Any], size: str, swept: str = "log2_lr") -> None:
  """Prints one row per parametrization, and a line for each optimum not found."""
  name, optimum = _NAMES[swept], f"optimum_{swept}"
  table = Table(title=f"Does the best {name} transfer over {size}?")
  letter = {"depth": "L", "width": "n"}[size]
  sizes = list(next(iter(verdicts.values()))[optimum])
  table.add_column("parametrization", no_wrap=True)
  for n in sizes:
    table.add_column(f"{letter}={n}", justify="right")
  for column in ("octaves/doubling", "best loss", "transfers"):
    table.add_column(column, justify="right", no_wrap=True)
  for own, v in verdicts.items():
    optima = [_number(v[optimum][n], ".2f") for n in sizes]
    loss = [_number(v["best_loss"][n], ".3g") for n in (sizes[0], sizes[-1])]
    word = {True: "yes", False: "no", None: "cannot tell"}[v["transfers"]]
    table.add_row(own, *optima, _drift(v), " → ".join(loss), word)
  width = max(Console().width, 115)  # narrower, the numbers would break apart
  Console(width=width).print(table)
  print(f"{letter}=...: log2 of the fitted best {name}. Best loss: smallest → largest.")
  for own, v in verdicts.items():
    print(f"{own}: {v['reason']}")
    for n, reason in v["why_no_optimum"].items():
      print(f"  no optimum at {size} {n}: {reason}")


def _number(value: float | None, spec: str) -> str:
  return "–" if value is None else format(value, spec)


def _drift(v: dict[str, Any]) -> str:
  drift, ci95 = v["octaves_per_doubling"], v["ci95"]
  interval = "" if ci95 is None else f" [{ci95[0]:+.2f}, {ci95[1]:+.2f}]"
  return "–" if drift is None else f"{drift:+.2f}{interval}"
