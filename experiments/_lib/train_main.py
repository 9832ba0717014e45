"""What train_lm and train_resnet do around a run: its directory, its end, its figure."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from experiments._lib import flags as reading
from experiments._lib import loss_figure
from experiments._lib.training import Run
from experiments._lib.workdir import Workdir


def train(config: Any, build: Callable[[Any, Workdir], Run]) -> None:
  """Runs or continues what a config describes, and writes what came of it.

  Args:
    config: a dataclass; says what the run is.
    build: makes the run.
  """
  what = dataclasses.asdict(config)
  del what["data_dir"]  # the data's fingerprint is in the checkpoints; it may move
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is None:
    run = build(config, workdir)
    workdir.claim()
    record = run.train()
    if record is None:
      _say(f"stopped and saved in {workdir.path}; the same command continues")
      return
    summary = {"steps": record["step"], "validation_loss": record["loss"]}
    if jax.process_index() == 0:
      loss_figure.draw(workdir.results(), workdir.path / "loss.png")
    workdir.write_summary(summary)
  else:
    _say(f"already done: {workdir.path}")
  _say(f"validation loss after {summary['steps']} steps: {summary['validation_loss']:.4f}")


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text)
