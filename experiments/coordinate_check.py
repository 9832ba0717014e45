r"""Do activations and updates scale with width and depth as the parametrization says?

The coordinate check of Tensor Programs V (arXiv 2203.03466, appendix D.1) over width,
and of CompleteP (arXiv 2505.01618, Figure 7) over depth: nets of growing size take a few
steps on one batch, and the slopes of log size of every module's output, of its change,
and of what each branch's own update does, are compared with the exponents that theory
predicts (`flax_depthmup.diagnostics.coordinate_check`). Two more probes look at what
full-size gradients hide: the rule for eps, and weight decay.

  python -m experiments.coordinate_check --workdir=DIR

checks Depth-muP on 8x8 digits, and plants six mistakes, each of which must turn it red:
no branch multiplier, no mean subtraction, no update factor, the update factor on all
layers, one eps for all, weight decay inside of the scaling. --faults= plants none. Other
nets and parametrizations, thirty steps, CIFAR-10:

  python -m experiments.coordinate_check --workdir=DIR --model=transformer --faults= \
    --parametrizations=complete_p,depth_mup --widths=64,128,256 --depths=2,4,8,16
  python -m experiments.coordinate_check --workdir=DIR --steps=30 --faults= \
    --parametrizations=depth_mup,ode,0.5:0,standard
  python -m experiments.coordinate_check --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --width=256 --widths=256,512,1024,2048 \
    --depths=8,16,32,64,128,256 --block_multiplier=0.7071

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a row per module, quantity, time, size and seed),
summary.json (slopes and verdicts) and a figure for each check. Interrupted, the same
command continues.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from experiments._lib import app, coordinate_table, data, described
from experiments._lib import flags as reading
from experiments._lib.coordinate_config import NAME, Settings, from_flags
from experiments._lib.sweeps import load
from experiments._lib.sweeps_claims import claim, tell
from experiments._lib.workdir import Workdir
from flax_depthmup.diagnostics import (
  CoordinateCheck,
  coordinate_rows,
  draw_coordinates,
  judge_coordinates,
  loss_scales,
)


def measure(settings: Settings, workdir: Workdir, dataset: data.Dataset) -> list[Any]:
  """The rows of all checks and sizes; those that are there already are kept."""
  kept = workdir.results() if (workdir.path / "results.jsonl").exists() else []
  done = {(row["check"], row["width"], row["depth"]) for row in kept}
  nets = [(c, size) for c in settings.checks for size in settings.net.sizes]
  probes = functools.cache(functools.partial(_loss_scales, settings, dataset=dataset))
  with app.progress(total=len(nets), unit="net") as bar:
    for check, (width, depth) in nets:
      bar.set_description(f"{check}, width {width}, depth {depth}", refresh=False)
      if (check, width, depth) not in done:
        kept += _rows(settings, check, width, depth, dataset, probes(check))
        workdir.write_results(kept)
      bar.update()
  return kept


def _loss_scales(settings: Settings, check: str, dataset: data.Dataset) -> dict[str, float]:
  """Of the probes of one check, from its smallest net."""
  name, fault = settings.checks[check]
  smallest = settings.model(name, fault, *settings.net.sizes[0], dataset.vocab)
  return loss_scales(smallest, settings.training(fault, dataset))


def _rows(
  settings: Settings,
  check: str,
  width: int,
  depth: int,
  dataset: data.Dataset,
  scales: dict[str, float],
) -> list[dict[str, Any]]:
  name, fault = settings.checks[check]
  model = settings.model(name, fault, width, depth, dataset.vocab)
  rows = coordinate_rows(model, settings.training(fault, dataset), width, depth, scales)
  return [{"check": check, **row} for row in rows]


def judge(settings: Settings, rows: list[dict[str, Any]]) -> dict[str, CoordinateCheck]:
  """The verdict of each check."""
  vocab = 256  # of no account for the slopes
  return {
    check: judge_coordinates(
      [row for row in rows if row["check"] == check],
      settings.model(name, None, *settings.net.sizes[0], vocab).parametrization,
      settings.tolerance,
    )
    for check, (name, _) in settings.checks.items()
  }


def summarize(settings: Settings, found: dict[str, CoordinateCheck]) -> dict[str, Any]:
  """What summary.json holds."""
  claims = {}
  for check, (name, fault) in settings.checks.items():
    outcome, failed = found[check], _failures(found[check])
    measured = {"slopes": len(outcome.slopes), "not as predicted": len(failed)}
    if fault is None:
      words = f"coordinates scale as {name} predicts"
      claims[check] = claim(words, measured, outcome.passed, outcome.reason)
      continue
    words = f"the check of {name} turns red on {fault}"
    if found[name].passed is False:
      reason = f"it is red without: {found[name].reason}"
      claims[check] = claim(words, measured, None, reason)
    else:
      new = len(failed - _failures(found[name]))
      seen = True if new else None if outcome.passed is None else False
      claims[check] = claim(words, measured, seen, outcome.reason)
  slopes = {
    check: [dataclasses.asdict(s) for s in outcome.slopes]
    for check, outcome in found.items()
  }
  return {"claims": claims, "slopes": slopes}


def _failures(outcome: CoordinateCheck) -> set[tuple[Any, ...]]:
  return {(s.axis, s.probe, s.quantity, s.module, s.t) for s in outcome.failures}


def main(argv: Sequence[str]) -> None:
  """Runs the check that the flags describe."""
  del argv
  settings = from_flags()
  which = "the smallest, the widest and the deepest net of each, no mistake planted"
  if described.stops(NAME, settings.described_nets, which):
    return
  config = {**dataclasses.asdict(settings), "net": settings.net.described()}
  workdir = Workdir(reading.WORKDIR.value, {"experiment": NAME, **config}, claim=False)
  summary = workdir.summary()
  if summary is not None and NAME in summary:
    print(f"already done: {workdir.path}")
  else:
    dataset = load(settings.net, workdir.path)
    workdir.claim()
    found = judge(settings, measure(settings, workdir, dataset))
    for check, outcome in found.items():
      figure = workdir.path / f"{check.replace(', ', '-').replace(':', '_')}.png"
      title = f"{settings.net.title()}: {check}"
      draw_coordinates(outcome.rows, outcome.slopes, figure, title)
    summary = {NAME: summarize(settings, found)}
    workdir.write_summary(summary)
  coordinate_table.show(summary[NAME])
  tell(summary[NAME]["claims"])
  print(f"figures: {workdir.path}/*.png")


if __name__ == "__main__":
  app.run(main)
