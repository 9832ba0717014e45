"""A run that is asked to stop: by SIGTERM, as schedulers do before they take a machine."""

import signal
import threading
from types import TracebackType

import jax


class StopSignal:
  """Says whether SIGTERM has come, inside a `with`; all processes hear of it alike."""

  def __init__(self):
    self._asked = threading.Event()

  def __enter__(self) -> "StopSignal":
    self._several = jax.process_count() > 1
    if not self._several:  # jax's runtime listens itself where there are several
      self._before = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
  ) -> None:
    if not self._several:
      signal.signal(signal.SIGTERM, self._before)

  def asked(self, step: int) -> bool:
    """Whether to stop after this step; the same answer in all processes."""
    if self._several:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked.is_set()
