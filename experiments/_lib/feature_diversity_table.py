"""The verdict of a feature-diversity run on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from experiments._lib.feature_diversity_verdict import means, values
from experiments._lib.sweeps_claims import tell


def show(records: list[dict[str, Any]], found: dict[str, Any]) -> None:
  """Prints kappa by net and step, and a line for each claim."""
  steps = sorted({r["step"] for r in records})
  smallest = min((r["epsilon"] for r in records if not r["diverged"]), default=None)
  table = Table(title="Feature-diversity exponent kappa (1/2: Brownian, 0: smooth)")
  for name in ("parametrization", "activation", "L"):
    table.add_column(name, no_wrap=True)
  for step in steps:
    table.add_column(f"step {step}", justify="right", no_wrap=True)
  kappas, errors = values(records, "kappa"), values(records, "kappa_error")
  for variant, own in kappas.items():
    mean, error = means(own), means(errors[variant])
    depths = {
      r["depth"] for r in records if variant == (r["parametrization"], r["activation"])
    }
    for depth in sorted(depths):
      cells = [_cell(mean.get((depth, t)), error.get((depth, t))) for t in steps]
      table.add_row(*variant, str(depth), *cells)
  width = max(Console().width, 40 + 16 * len(steps))  # narrower, numbers would be cut
  Console(width=width).print(table)
  if smallest is not None:
    print(f"Fitted to parts of the depth from {smallest:.3g}, over four octaves at most.")
  print("±: the scatter along the depth of a net, mean over the seeds.")
  tell(found["claims"])
  for name in found["diverged"]:
    print(f"diverged: {name}")


def _cell(kappa: float | None, error: float | None) -> str:
  if kappa is None:
    return "diverged"
  return f"{kappa:.3f}" if error is None else f"{kappa:.3f} ± {error:.3f}"
