"""The writing of checkpoints, behind the training: first by orbax, then the seal.

Layer: `orbax_steps`, `seals`, jax.
"""

import concurrent.futures
import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from flax_depthmup.errors import DepthMupError
from flax_depthmup.orbax_steps import OrbaxSteps
from flax_depthmup.processes import raise_together
from flax_depthmup.seals import SealedSteps


class CheckpointWriter:
  """Writes one step at a time: saving, then sealing, then removing older ones.

  Attributes:
    newest: the newest step that has been written; -1 before the first.
  """

  def __init__(self, steps: SealedSteps, orbax: OrbaxSteps, keep: int, newest: int):
    self.newest = newest
    self._steps, self._orbax, self._keep = steps, orbax, keep
    self._process, self._processes = jax.process_index(), jax.process_count()
    self._saving: tuple[int, float | None] | None = None
    self._sealing: tuple[int, concurrent.futures.Future[None]] | None = None
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "seal")
    self._wrote = False

  def begin(self, step: int, state: Any, note: dict[str, Any], loss: float | None) -> None:
    """Starts to write a step; the one before must be finished.

    Raises:
      DepthMupError: it cannot be written.
    """
    with _naming(step, self._steps):
      if self._process == 0:
        self._steps.remove_unfinished()
      self._orbax.write(step, state, note)
    self._saving = step, loss

  def poll(self) -> None:
    """Starts to seal when orbax is done; takes microseconds.

    Raises:
      DepthMupError: the step could not be written.
    """
    if self._sealing is not None and self._sealing[1].done():
      self._finish_sealing()
    if self._saving is not None and not self._orbax.is_writing():
      self._start_sealing()

  def wait(self) -> None:
    """Returns when the step is sealed by all processes.

    Raises:
      DepthMupError: one of them could not write it.
    """
    failure = None
    try:
      if self._saving is not None:
        self._start_sealing()
      if self._sealing is not None:
        self._finish_sealing()
    except DepthMupError as error:
      failure = error
    raise_together(failure)

  def close(self) -> None:
    """Waits, and ends the thread.

    Raises:
      DepthMupError: the last step could not be written.
    """
    try:
      self.wait()
      if self._process == 0 and self._wrote:  # other processes were late to seal
        self._steps.prune(self._keep)
    finally:
      self._thread.shutdown()

  def _start_sealing(self) -> None:
    assert self._saving is not None
    (step, loss), self._saving = self._saving, None
    with _naming(step, self._steps):
      self._orbax.wait()
    self.newest, self._wrote = step, True
    self._sealing = step, self._thread.submit(self._seal, step, loss)

  def _seal(self, step: int, loss: float | None) -> None:
    self._steps.seal(step, loss, self._process, self._processes)
    if self._process == 0:
      self._steps.prune(self._keep)

  def _finish_sealing(self) -> None:
    assert self._sealing is not None
    (step, future), self._sealing = self._sealing, None
    with _naming(step, self._steps):
      future.result()


def first_line(error: BaseException) -> str:
  """What an error is, in a line."""
  told = str(error).strip().splitlines()
  return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__


@contextlib.contextmanager
def _naming(step: int, steps: SealedSteps) -> Iterator[None]:
  """Turns whatever goes wrong into an error that names the step and its place."""
  try:
    yield
  except Exception as error:
    raise DepthMupError(
      f"the checkpoint of step {step} in {steps.directory} could not be written: "
      f"{first_line(error)}; make that place writable, with space left, and run again"
    ) from error
