"""A `Description` as a table of the terminal. Layer: rich, imported when it is used."""

import re
import shutil
from typing import Any

#: A `Description`, and a `ParameterDescription`: their room imports this one.
Description = Any
Parameter = Any

#: Columns where there is no terminal, and the fewest: less would cut numbers.
_WIDTH, _NARROWEST = 160, 90
#: The second of the two columns that a family adds.
_EPS = "its eps"
#: Columns that the axes need beside the rest; in narrower tables the words alone name them.
_WIDE = 130


def number(value: float) -> str:
  """Four digits."""
  return f"{value:.4g}"


def factor(value: float) -> str:
  """Four digits, or 1/n: 0.25 is 1/4."""
  if 0 < value < 1 and abs(1 / value - round(1 / value)) < 1e-9 / value:
    return f"1/{round(1 / value)}"
  return number(value)


def text(description: Description) -> str:
  """The table as text as wide as the terminal, without colours."""
  import io

  from rich.console import Console

  more = 0 if description.family is None else len(description.family) + len(_EPS) + 2
  width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST + more)
  file = io.StringIO()
  Console(file=file, width=width, color_system=None, highlight=False).print(
    table(description, width)
  )
  return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def table(description: Description, width: int) -> Any:
  """A rich renderable for `width` columns: table, reasons by number, branches, notes."""
  from rich import box
  from rich.console import Group
  from rich.table import Table
  from rich.text import Text

  groups = _groups(description)
  reasons = list(dict.fromkeys(rows[0].why for rows in groups))
  measured = any(p.measured_std is not None for p in description.parameters)
  with_branch = description.branches is not None
  grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
  with_axes = width >= _WIDE
  for column in ["parameter", "shape"] + ["axes"] * with_axes:
    grid.add_column(column, overflow="fold")
  grid.add_column("kind", no_wrap=True)
  names = ["branch"] * with_branch + ["std"] + ["measured"] * measured
  names += ["mult", "Adam", "SGD", "eps"]
  family = [] if description.family is None else [description.family, _EPS]
  for column in [*names, *family, "why"]:
    grid.add_column(column, justify="right", no_wrap=True)  # numbers are never cut
  for rows in groups:
    first = rows[0]
    # Text, not str: rich reads [0] in a str as markup.
    cells = [_name(rows), str(first.shape)] + [first.axes] * with_axes + [first.kind]
    cells += [_yes(first.branch)] * with_branch + [number(first.init_std)]
    cells += [_measured(rows)] * measured + [factor(first.multiplier)]
    factors = [first.adam_update, first.sgd_update, first.eps_factor]
    factors += [first.family_update, first.family_eps] if family else []
    cells += ["-" if value is None else factor(value) for value in factors]
    grid.add_row(*map(Text, [*cells, str(reasons.index(first.why) + 1)]))
  lines = ["", "why"] + [f"{i:3d}  {why}" for i, why in enumerate(reasons, start=1)]
  return Group(grid, *map(Text, lines + _branches(description) + _notes(description)))


def _groups(description: Description) -> list[list[Parameter]]:
  """Parameters alike but for numbers in their names, together."""
  found: dict[tuple[Any, ...], list[Parameter]] = {}
  for p in description.parameters:
    stem = re.sub(r"\d+", "*", p.parameter)
    in_branch = p.branch if not p.branch else "inside"
    key = (stem, p.shape, p.why, p.init_std, in_branch, p.differs is True)
    found.setdefault(key, []).append(p)
  return list(found.values())


def _name(rows: list[Parameter]) -> str:
  """The name, a star for what differs in it: block_*/kernel (48 alike)."""
  if len(rows) == 1:
    return rows[0].parameter
  parts = zip(*(p.parameter.split("/") for p in rows), strict=True)
  same = [part[0] if len({*part}) == 1 else re.sub(r"\d+", "*", part[0]) for part in parts]
  return f"{'/'.join(same)} ({len(rows)} alike)"


def _yes(branch: str | None) -> str:
  return "yes" if branch else "no"


def _measured(rows: list[Parameter]) -> str:
  values = [p.measured_std for p in rows if p.measured_std is not None]
  if not values:
    return "-"
  low, high = number(min(values)), number(max(values))
  mark = " !" if rows[0].differs else ""
  return (low if low == high else f"{low} to {high}") + mark


def _branches(description: Description) -> list[str]:
  """A line for each kind of branch."""
  if description.branches is None:
    return ["", "No model was given, so that branches and their multipliers are not known."]
  found: dict[tuple[Any, ...], list[str]] = {}
  for b in description.branches:
    stem = re.sub(r"\d+", "*", b.path)
    words = "a traced scalar" if b.multiplier is None else factor(b.multiplier)
    p = b.parametrization
    rule = f"{p.name}, alpha {p.alpha}, gamma {p.gamma}, base depth {p.base_depth}"
    found.setdefault((stem, b.module, b.depth, words, rule), []).append(b.path)
  lines = ["", "branches"] if found else ["", "There is no residual branch."]
  for (stem, module, depth, words, rule), paths in found.items():
    name = paths[0] if len(paths) == 1 else f"{stem} ({len(paths)} alike)"
    lines.append(f"  {name}: {module}, {depth} blocks, multiplied by {words} ({rule})")
  return lines


def _notes(description: Description) -> list[str]:
  """What the columns mean, and what is to be looked at."""
  notes = ["", "mult: of the parameter in the forward pass. Adam, SGD, eps: factors on the"]
  notes[-1] += " learning rates and on eps of the base net."
  if description.family is not None:
    name = description.family
    notes.append(f"{name}: on the learning rate of such an optimizer; - where it takes")
    notes[-1] += " matrices alone, its eps where it has one."
  else:
    notes.append("Adam: and entrywise optimizers whose update does not follow the size of")
    notes[-1] += " gradients; those of whole matrices have other factors, give family=."
  if any(p.sgd_update is None for p in description.parameters):
    notes.append("SGD: - where the parametrization was published for Adam alone.")
  if any(p.kind == "vector" for p in description.parameters):
    notes.append("std of a vector: what the constant it starts at is multiplied by.")
  off = [p.parameter for p in description.parameters if p.differs]
  if off:
    notes.append(
      f"!: {len(off)} measured std differ from the init std by more than chance, first "
      f"{off[0]}. After training that is as it should be; right after init the initializer "
      "has another gain, or does not follow the scales (dmup.with_axes)."
    )
  return notes
