"""Checkpoints that cannot lie: what is restored was saved whole, by the same run.

Orbax writes the arrays and the note of a step (`orbax_steps`), `seals` vouches for the
files, `identity` and `state_trees` compare them with the run. Layer: these, jax.
"""

import json
import math
import os
import warnings
from typing import Any

import jax
from etils import epath

from flax_depthmup import state_trees
from flax_depthmup.checkpoint_writer import CheckpointWriter, first_line
from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.identity import as_json, difference
from flax_depthmup.orbax_steps import OrbaxSteps
from flax_depthmup.processes import gather, raise_together
from flax_depthmup.seals import SealedSteps

#: (step, state, note)
Checkpoint = tuple[int, Any, dict[str, Any]]

abstract = state_trees.abstract


class _UnreadableError(Exception):
  """A checkpoint cannot be read; the message says why."""


class Checkpoints:
  """The newest states of one run, and the best, in a directory of its own.

  A step counts from the moment it is sealed. Older ones are deleted only after that,
  so a run killed at any moment goes on from a whole one.

  Several processes share the directory, and all of them call every method but `poll`
  in the same order. Two runs in one directory are not kept apart.
  """

  def __init__(
    self, directory: str | os.PathLike[str], keep: int = 1, asynchronous: bool = False
  ):
    """Makes or reopens the directory.

    Args:
      directory: a folder, or the address of one in a bucket ("gs://bucket/run").
      keep: how many of the newest checkpoints stay, besides the best.
      asynchronous: `save` returns when the arrays are copied off the devices, and
        the rest happens behind the training; else it returns when the step is sealed.

    Raises:
      DepthMupError: it cannot be written to, or holds steps but no seals at all.
    """
    check_size(keep, "keep")
    path = epath.Path(directory)
    self._directory = path if "://" in str(directory) else path.absolute()
    self._asynchronous = asynchronous
    self._steps = SealedSteps(self._directory)
    self._claim()
    self._orbax = OrbaxSteps(self._directory, asynchronous)
    newest = max(self.steps(), default=-1)
    self._writer = CheckpointWriter(self._steps, self._orbax, keep, newest)

  def save(
    self,
    step: int,
    state: Any,
    note: dict[str, Any],
    validation_loss: float | None = None,
  ) -> None:
    """Saves a state, after the save before is sealed.

    Its buffers may be donated, and its numpy arrays changed, once this has returned.

    Args:
      step: above every step that the directory holds.
      state: a tree of jax arrays (random keys too) and numpy arrays.
      note: what JSON can hold; what the run is, under "identity".
      validation_loss: the step with the lowest is kept beyond the newest; None or
        nan when there was no evaluation.

    Raises:
      DepthMupError: this save or the one before could not be written, the step is
        not the newest, the note is no JSON, or a leaf of the state no array.
    """
    self.wait()
    if step <= self._writer.newest:
      raise DepthMupError(
        f"step {step} cannot be saved: {self._directory} holds step {self._writer.newest}; "
        "go on from what latest() gives, or use another directory"
      )
    state_trees.check_arrays(state)
    note = as_json(note, f"the note of step {step}")
    loss = None if validation_loss is None else float(validation_loss)
    known = loss is not None and math.isfinite(loss)
    self._writer.begin(step, state, note, loss if known else None)
    if not self._asynchronous:
      self.wait()

  def poll(self) -> None:
    """Goes on with a save once it is written; to be called every training step.

    Takes microseconds.

    Raises:
      DepthMupError: the save has failed.
    """
    self._writer.poll()

  def wait(self) -> None:
    """Returns when the last save is sealed by all processes.

    Raises:
      DepthMupError: one of them could not write it.
    """
    self._writer.wait()

  def close(self) -> None:
    """Waits for the last save, and ends the threads.

    Raises:
      DepthMupError: it could not be written.
    """
    try:
      self._writer.close()
    finally:
      self._orbax.close()

  def steps(self) -> list[int]:
    """Steps that the directory holds, whole or not, in order."""
    return json.loads(gather(json.dumps(self._steps.all()))[0])

  def best_step(self) -> int | None:
    """The sealed step of the lowest validation loss; None when none has one."""
    return json.loads(gather(json.dumps(self._steps.best()))[0])

  def latest(
    self, abstract_state: Any, identity: dict[str, Any] | None = None
  ) -> Checkpoint | None:
    """The newest whole checkpoint; None when there is none at all.

    Newer ones, damaged or unfinished, are set aside with a warning each, after an
    older one has been restored.

    Args:
      abstract_state: the tree of `jax.ShapeDtypeStruct`, with the shardings that the
        state is restored to; numpy leaves are restored as numpy.
      identity: compared with the note's, when given, before arrays are read.

    Raises:
      DepthMupError: there are checkpoints, but none can be read; or the newest whole
        one is of another run.
    """
    self.wait()
    faults: dict[int, str] = {}
    found = None
    steps = self.steps()
    while steps and found is None:
      step = steps.pop()
      try:
        found = self._read(step, abstract_state, identity)
      except _UnreadableError as error:
        faults[step] = str(error)
    if found is None and faults and not self._only_begun(faults):
      told = "; ".join(f"step {step}: {fault}" for step, fault in faults.items())
      raise DepthMupError(
        f"{self._directory} holds checkpoints, but none can be read ({told}); bring them "
        "back from a copy, or delete that directory to start from scratch"
      )
    going_on = f"going on from step {found[0]}" if found else "starting from scratch"
    for step, fault in faults.items():
      warnings.warn(
        f"the checkpoint of step {step} in {self._directory} cannot be read and is "
        f"passed over: {fault}; {going_on}",
        stacklevel=2,
      )
    if faults:
      self._set_aside(list(faults))
    return found

  def restore(
    self, step: int, abstract_state: Any, identity: dict[str, Any] | None = None
  ) -> Checkpoint:
    """The checkpoint of one step, such as `best_step()`; arguments as for `latest`.

    Raises:
      DepthMupError: there is none, it cannot be read, or is of another run.
    """
    self.wait()
    steps = self.steps()
    if step not in steps:
      raise DepthMupError(
        f"{self._directory} has no checkpoint of step {step}; it has {steps}"
      )
    try:
      return self._read(step, abstract_state, identity)
    except _UnreadableError as error:
      raise DepthMupError(
        f"the checkpoint of step {step} in {self._directory} cannot be read: {error}; "
        "take another step"
      ) from error.__cause__

  # The directory ------------------------------------------------------------------

  def _claim(self) -> None:
    """Makes the directory, by the first process, and sees whether all can write."""
    for action in (
      self._steps.make if jax.process_index() == 0 else lambda: None,
      lambda: self._steps.probe(jax.process_index()),
    ):
      failure = None
      try:
        action()
      except OSError as error:
        failure = DepthMupError(
          f"{self._directory} cannot be written to: {error.strerror or error}; give "
          "another directory for checkpoints"
        )
      except DepthMupError as error:
        failure = error
      raise_together(failure)

  def _only_begun(self, faults: dict[int, str]) -> bool:
    """Whether all there is is one step, whose writing was interrupted."""
    (step, *others) = faults
    begun = step not in self._steps.sealed() and self._steps.folder(step).exists()
    return json.loads(gather(json.dumps(begun and not others))[0])

  def _set_aside(self, steps: list[int]) -> None:
    if jax.process_index() == 0:
      for step in steps:
        self._steps.set_aside(step)
    gather("")
    self._orbax.reopen()
    self._writer.newest = max(self.steps(), default=-1)

  def _read(self, step: int, wanted: Any, identity: dict[str, Any] | None) -> Checkpoint:
    """Reads a checkpoint that is whole, and of this run.

    Raises:
      _UnreadableError: it is not whole.
      DepthMupError: it is of another run.
    """
    state_trees.check_abstract(wanted)
    fault = self._steps.fault(step, jax.process_index(), jax.process_count())
    faults = gather(fault)
    if fault := next(filter(None, faults), ""):
      raise _UnreadableError(fault)
    try:
      note = self._orbax.note(step)
      if identity is not None:
        own = as_json(identity, "identity")
        self._check_same(step, difference(note.get("identity", {}), own))
      saved = self._orbax.described(step)
      self._check_same(step, state_trees.first_difference(saved, wanted))
      state = self._orbax.state(step, wanted)
      self._check_same(step, state_trees.first_other_dtype(state, wanted))
    except DepthMupError:
      raise
    # Not RuntimeError: running out of memory must not cost a checkpoint.
    except (ValueError, KeyError, TypeError, OSError) as error:
      raise _UnreadableError(f"orbax cannot restore it: {first_line(error)}") from error
    return step, state, note

  def _check_same(self, step: int, difference: str) -> None:
    if difference:
      raise DepthMupError(
        f"checkpoint of step {step} in {self._directory}: {difference}; resume with the "
        "same, or use another directory"
      )
