"""The training loop: steps, evaluations, checkpoints, metrics, and how it ends."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments._lib import app
from experiments._lib.loader import Batches
from experiments._lib.metrics import Behind, Metrics
from experiments._lib.stopping import StopSignal
from experiments._lib.train_program import Program
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError
from flax_depthmup.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cadence:
  """When things happen, in steps, and what is kept; no part of what a run is.

  Attributes:
    log_every: steps between two records.
    eval_every: between evaluations; there is one at the end as well.
    save_every: between checkpoints; there is one at the end as well.
    keep: newest checkpoints that stay, besides the best.
    tensorboard: write its files too.
    profile: first and last step to record; None: none.
  """

  log_every: int
  eval_every: int
  save_every: int
  keep: int
  tensorboard: bool
  profile: tuple[int, int] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """What one example is, to report speed in.

  Attributes:
    unit: "tokens" or "images".
    units: of a batch.
    flops: of forward and backward, per unit.
    peak: operations per second of all devices at their best; None: not known.
  """

  unit: str
  units: int
  flops: float
  peak: float | None


class Run:
  """One run in its work directory, from where it was left to its end."""

  def __init__(
    self,
    program: Program,
    batches: Batches,
    validation: Callable[[], Iterator[Any]],
    workdir: Workdir,
    identity: dict[str, Any],
    *,
    steps: int,
    seed: int,
    cadence: Cadence,
    work: Work,
  ):
    """Restores the newest checkpoint that can be trusted, or makes the first state.

    Args:
      program: init, step and evaluation.
      batches: for training.
      validation: starts the batches of an evaluation.
      workdir: where everything goes.
      identity: what the run is, for JSON; a checkpoint of another is refused.
      steps: of the whole run.
      seed: of the parameters.
      cadence: when to log, evaluate and save.
      work: for the speed.

    Raises:
      DepthMupError: the checkpoints are of another run, or none of them can be read.
    """
    self._program, self._batches, self._validation = program, batches, validation
    self._workdir, self._identity, self._steps = workdir, identity, steps
    self._cadence, self._work = cadence, work
    self._checkpoints = Checkpoints(
      workdir.path / "checkpoints", keep=cadence.keep, asynchronous=True
    )
    found = self._checkpoints.latest(program.abstract_state(), identity)
    if found is None:
      self._start, self._state = 0, program.init(seed)
    else:
      self._start, self._state, note = found
      batches.restore(note["data"])
    self._saved = self._start
    self._metrics: Metrics | None = None
    self._profiling = False

  def train(self) -> dict[str, Any] | None:
    """Trains to the end.

    Returns:
      The record of the last evaluation; None if the run was asked to stop before,
      and has saved its state.

    Raises:
      DepthMupError: a loss is not finite; the checkpoints before it are kept.
    """
    self._mark = time.monotonic(), self._start
    behind = Behind(self._take)
    record, whole = None, False
    try:
      if jax.process_index() == 0:
        path = self._workdir.path / "results.jsonl"
        self._metrics = Metrics(path, self._start, self._cadence.tensorboard)
      with (
        StopSignal() as stop,
        app.progress(
          total=self._steps, initial=self._start, unit="step", disable=self._metrics is None
        ) as self._bar,
      ):
        for step in range(self._start + 1, self._steps + 1):
          with self._profiled(step):
            batch = next(self._batches)
            self._state, values = self._program.step(self._state, batch)
          behind.put(step, values)
          self._checkpoints.poll()
          asked, last = stop.asked(step), step == self._steps
          evaluated = last or step % self._cadence.eval_every == 0
          if evaluated:
            behind.drain()
            record = self._evaluate(step)
          # What was evaluated is saved: it may be the best.
          if evaluated or asked or step % self._cadence.save_every == 0:
            behind.drain()
            self._save(step, record["loss"] if evaluated else None)
          if asked and not last:
            self._checkpoints.wait()
            whole = True
            return None
      if record is None:  # the last step had been taken before
        record = self._evaluate(self._steps)
      whole = True
      return record
    finally:
      self._stop_profile()
      # Processes close together; one that fails alone must not wait for the others.
      if whole or jax.process_count() == 1:
        self._checkpoints.close()
      if self._metrics is not None:
        self._metrics.close()

  def _take(self, step: int, values: dict[str, float]) -> None:
    """Values of a step, as they come from the devices."""
    self._check_finite(step, values)
    if self._metrics is None:
      return
    self._bar.update(step - self._bar.n)
    if step == self._start + 1:
      self._mark = time.monotonic(), step  # what came before was compilation
    if step % self._cadence.log_every and step != self._steps:
      return
    now, (then, before) = time.monotonic(), self._mark
    self._mark = now, step
    speed = used = None
    if step > before:
      speed = (step - before) * self._work.units / max(now - then, 1e-9)
      used = speed * self._work.flops / self._work.peak if self._work.peak else None
    self._bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
    self._metrics.write(
      {"step": step, "split": "train", **values}
      | {f"{self._work.unit}_per_second": speed, "model_flop_utilization": used}
    )

  def _evaluate(self, step: int) -> dict[str, Any]:
    """Averages over the validation batches, and writes the record."""
    sums: dict[str, Any] = {}
    count = 0
    for batch in self._validation():
      values = self._program.evaluate(self._state, batch)
      sums = {k: sums.get(k, 0.0) + v for k, v in values.items()}
      count += 1
    means = {k: float(v) / count for k, v in sums.items()}
    record = {"step": step, "split": "validation", **means}
    self._check_finite(step, means)
    if self._metrics is not None and step > self._start:  # else it was written before
      self._metrics.write(record)
    self._mark = time.monotonic(), step
    return record

  def _save(self, step: int, loss: float | None) -> None:
    if step == self._saved:
      return
    note = {"data": self._batches.state(), "identity": self._identity}
    self._checkpoints.save(step, self._state, note, loss)
    self._saved = step

  def _check_finite(self, step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
      if math.isfinite(value):
        continue
      raise DepthMupError(
        f"the {name} of step {step} is {value}: training diverged. The checkpoint of step "
        f"{self._saved} is kept in {self._workdir.path}; start again in another --workdir "
        "with a smaller --lr, a longer --warmup or a smaller --clip"
      )

  @contextlib.contextmanager
  def _profiled(self, step: int) -> Iterator[None]:
    """Records the steps that are to be profiled and are still to be taken."""
    first, last = self._cadence.profile or (0, 0)
    if max(first, self._start + 1) == step <= last:
      jax.profiler.start_trace(str(self._workdir.path / "profile"))
      self._profiling = True
    yield
    if step == last:
      jax.block_until_ready(self._state)
      self._stop_profile()

  def _stop_profile(self) -> None:
    if self._profiling:
      jax.profiler.stop_trace()
      self._profiling = False
