"""The best of a grid over learning rates, and over block multipliers where swept."""

import dataclasses
import math
from typing import Any

import numpy as np

from experiments._lib.sweeps_records import Records, log_loss
from flax_depthmup.diagnostics import transfer_verdict


@dataclasses.dataclass(frozen=True)
class Best:
  """The place of the grid with the lowest log-loss, averaged over seeds.

  Attributes:
    log2_lr: None where in every place some seed diverged.
    log2_multiplier: likewise; None too where it is not swept.
    log_losses: [seeds] there; None where all diverged.
    edge: in words, which end of the grid it lies at; None inside.
  """

  log2_lr: float | None
  log2_multiplier: float | None
  log_losses: np.ndarray | None
  edge: str | None

  def shown(self) -> dict[str, Any]:
    """As summary.json holds it: the loss is the geometric mean over seeds."""
    loss = None if self.log_losses is None else math.exp(np.mean(self.log_losses))
    found = {"loss": loss, "log2_lr": self.log2_lr}
    if self.log2_multiplier is not None:
      found["log2_multiplier"] = self.log2_multiplier
    return found | {"edge": self.edge}


def find_best(records: Records) -> Best:
  """The best of the grid of one net."""
  table: dict[tuple[float, float | None], list[float]] = {}
  for r in sorted(records, key=lambda r: r["seed"]):
    table.setdefault((r["log2_lr"], r.get("log2_multiplier")), []).append(log_loss(r))
  place = min(table, key=lambda p: np.mean(table[p]))
  if not math.isfinite(np.mean(table[place])):
    return Best(None, None, None, None)
  names, grids = ("learning rate", "block multiplier"), zip(*table, strict=True)
  edges = [_edge(*x) for x in zip(names, place, map(set, grids), strict=True)]
  edge = " and ".join(filter(None, edges)) or None
  return Best(*place, np.array(table[place]), edge)


def _edge(name: str, value: float | None, grid: set[float | None]) -> str | None:
  if len(grid) < 2 or value not in (min(grid), max(grid)):
    return None
  which = "smallest" if value == min(grid) else "largest"
  return f"the best {name} is the {which} of the grid, 2^{value:g}"


def at_small_multiplier(records: Records, size: str) -> Records:
  """The records of the block multiplier that is best for the smallest of the nets.

  A hyperparameter tuned there, kept for the larger ones; all records where multipliers
  are not swept.
  """
  smallest = min(r[size] for r in records)
  best = find_best([r for r in records if r[size] == smallest])
  place = best.log2_multiplier
  if best.log2_lr is None:  # diverged everywhere
    place = records[0].get("log2_multiplier")
  return [r for r in records if r.get("log2_multiplier") == place]


def rate_transfer(records: Records, size: str, group: str) -> dict[str, Any]:
  """`transfer_verdict` of the learning rate, each group `at_small_multiplier`.

  Args:
    records: of nets that differ in the size and the grouping column.
    size: the column that grows.
    group: the column that stands for the parametrization.
  """
  kept = []
  for name in dict.fromkeys(r[group] for r in records):
    own = [r | {"parametrization": name} for r in records if r[group] == name]
    kept += at_small_multiplier(own, size)
  return transfer_verdict(kept, size)
