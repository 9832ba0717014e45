r"""Does it matter whether width or depth tends to infinity first?

Hayou and Yang (arXiv 2302.00453), Hayou (arXiv 2310.01683): in residual nets whose
branches are scaled, <Y_L, Y_L>/n and <Y_L(a), Y_L(b)>/n at initialization have one limit
however n and L grow, and are as near to it at every L/n. In unscaled residual nets and in
MLPs without skips they are not: there the order of the limits decides. A grid of widths
and depths, L/n from 1/16 to 16, many nets of each:

  python -m experiments.commutativity --workdir=DIR

draws 1,000 nets of each of the three families in each cell, and 256 of dmup.ResidualMLP
in six cells (width 256 at depth 16 is the dearest). Larger:

  python -m experiments.commutativity --workdir=DIR --draws=20000 --net_draws=2000 \
    --cells=32:32,128:128,512:512,2048:2048,16:256,64:1024,256:4096,4096:256,1024:64 \
    --net_cells=32:32,128:128,512:512,64:1024,1024:64

The papers' own grids are not stated here: their text was out of reach; theirs is the
theorem. The widths and depths were chosen for their ratios.

Means mislead where log q spreads by more than 1: so of unscaled nets and MLPs medians,
and means and spreads of log q, are compared with theory, which
experiments/_lib/commutativity_theory.py derives for finite n and L. What is drawn, and
how: experiments/_lib/commutativity_draws.py.

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per cell), summary.json (the claims, under
"commutativity"; a pair of numbers is a value and its standard error) and
commutativity.png. Interrupted, the same command continues with the next cell.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments._lib import app, commutativity_figure, described
from experiments._lib import flags as reading
from experiments._lib.commutativity_cells import Row, row
from experiments._lib.commutativity_claims import claims
from experiments._lib.commutativity_draws import FAMILIES, FEATURES, draw, scaled_net
from experiments._lib.described import Described
from experiments._lib.sweeps_claims import tell
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics.covariance import FEWEST

_CELLS = flags.DEFINE_list(
  "cells",
  "32:32,64:64,128:128,256:256,16:256,64:16,64:256,256:16,64:1024",
  "width:depth of the nets.",
)
_NET_CELLS = flags.DEFINE_list(
  "net_cells",
  "32:32,64:64,16:256,64:16,64:256,256:16",
  "Those of family scaled_net, whose cost is n^2 L.",
)
_FAMILIES = flags.DEFINE_list("families", [*FAMILIES], "Which nets.")
_DRAWS = flags.DEFINE_integer("draws", 1000, "Nets of a cell.")
_NET_DRAWS = flags.DEFINE_integer("net_draws", 256, "Likewise of scaled_net.")
_C0 = flags.DEFINE_float("c0", 0.3, "Correlation of the two inputs.")

_NAME = "commutativity"
_FOREIGN = (
  "dataset data_dir width depth base_width base_depth steps batch_size optimizer "
  "activation block_depth pre_nonlinearity norm block_multiplier train_boundary head_dim "
  "sequence_length patch rules mesh"
)

Cell = tuple[str, int, int]  # family, width, depth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds; see the flags' own help.

  Attributes:
    cells: (family, width, depth), in the order they are drawn in.
    draws: by family.
  """

  experiment: str
  cells: tuple[Cell, ...]
  draws: dict[str, int]
  c0: float
  draw_seed: int


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  reading.refuse(_NAME, _FOREIGN.split())
  families = _FAMILIES.value
  if not families or len(set(families)) != len(families) or set(families) - set(FAMILIES):
    raise DepthMupError(
      f"--families={','.join(families)!r}: expected distinct ones of {', '.join(FAMILIES)}"
    )
  for flag in (_DRAWS, _NET_DRAWS):
    if flag.value < FEWEST:
      raise DepthMupError(f"--{flag.name}={flag.value}: expected at least {FEWEST}")
  if not -1 < _C0.value < 1:
    raise DepthMupError(f"--c0={_C0.value}: expected a number between -1 and 1")
  if not 0 <= reading.DRAW_SEED.value < 2**31:
    raise DepthMupError(f"--draw_seed={reading.DRAW_SEED.value}: expected 0 to 2^31 - 1")
  plain, nets = _sizes(_CELLS), _sizes(_NET_CELLS)
  return Config(
    experiment=_NAME,
    cells=tuple(
      (family, *size)
      for family in families
      for size in (nets if family == "scaled_net" else plain)
    ),
    draws={f: (_NET_DRAWS if f == "scaled_net" else _DRAWS).value for f in families},
    c0=_C0.value,
    draw_seed=reading.DRAW_SEED.value,
  )


def _sizes(flag: flags.FlagHolder) -> list[tuple[int, int]]:
  """The (width, depth) of a flag."""
  try:
    sizes = [tuple(int(part) for part in text.split(":")) for text in flag.value]
  except ValueError:
    sizes = []
  good = sizes and len(set(sizes)) == len(sizes)
  if not good or any(len(size) != 2 or min(size) < 1 for size in sizes):
    raise DepthMupError(
      f"--{flag.name}={','.join(flag.value)!r}: expected distinct pairs width:depth, such "
      "as 32:32,64:256"
    )
  return sizes


def measure(config: Config, workdir: Workdir) -> list[Row]:
  """All records; cells that have one are not drawn again."""
  found: dict[Cell, Row] = {}
  if (workdir.path / "results.jsonl").exists():
    found = {(r["family"], r["width"], r["depth"]): r for r in workdir.results()}
  left = [cell for cell in config.cells if cell not in found]
  total = sum(config.draws[family] for family, _, _ in left)
  with app.progress(total=total, unit="net") as bar:
    for cell in left:
      family, width, depth = cell
      bar.set_description(f"{family}, width {width}, depth {depth}", refresh=False)
      log_q, distance = [], []
      draws = config.draws[family]
      for q, apart in draw(family, width, depth, config.c0, draws, config.draw_seed):
        log_q.append(q)
        distance.append(apart)
        bar.update(len(q))
      values = np.concatenate(log_q), np.concatenate(distance)
      found[cell] = row(family, width, depth, config.c0, *values)
      workdir.write_results(found[c] for c in config.cells if c in found)
  return workdir.results()


def described_nets(config: Config) -> list[Described]:
  """The shallowest and the deepest of family scaled_net, for --describe."""
  cells = sorted((c for c in config.cells if c[0] == "scaled_net"), key=lambda c: c[2])
  example = jax.ShapeDtypeStruct((1, FEATURES), np.float32)
  return [
    Described(f"scaled_net, width {w}, depth {d}", scaled_net(w, d), example)
    for _, w, d in (described.ends(cells) if cells else [])
  ]


def show(rows: list[Row], found: dict[str, Any]) -> None:
  """Prints the cells and the claims."""
  commutativity_figure.show(rows)
  tell(found)


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  if jax.process_count() > 1:
    raise DepthMupError("commutativity runs in one process; leave out --distributed")
  config = from_flags()
  nets = described_nets(config)
  instead = "without the family scaled_net it draws vectors alone"
  if not nets and described.stops_without(_NAME, instead):
    return
  which = "the shallowest and the deepest net of family scaled_net; none is trained"
  if described.stops(_NAME, lambda: nets, which):
    return
  workdir = Workdir(reading.WORKDIR.value, dataclasses.asdict(config))
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    show(workdir.results(), summary[_NAME])
    return
  rows = measure(config, workdir)
  found = claims(rows)
  figure = workdir.path / f"{_NAME}.png"
  title = f"Nets at initialization, relu, two inputs of correlation {config.c0:g}"
  commutativity_figure.draw(rows, title, figure)
  workdir.write_summary({_NAME: found})
  show(rows, found)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
