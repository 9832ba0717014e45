"""Metrics of a run: JSON lines, TensorBoard, and a device that never waits for them."""

import collections
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax

#: Steps that may be under way before the host waits for the oldest of them.
_UNDER_WAY = 8


class Metrics:
  """Writes results.jsonl, a record a line; optionally TensorBoard's files too."""

  def __init__(self, path: pathlib.Path, after: int, tensorboard: bool):
    """Opens the file to write on.

    Args:
      path: results.jsonl.
      after: records of later steps are of a run that was interrupted; they are
        dropped, since these steps are taken again.
      tensorboard: write to the folder tensorboard beside it.
    """
    kept = [line for line in _lines(path) if json.loads(line)["step"] <= after]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)
    self._file = path.open("a")
    self._board = None
    if tensorboard:
      from tensorboardX import SummaryWriter

      self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=after + 1)

  def write(self, record: dict[str, Any]) -> None:
    """Writes one record, with its `step` and `split`."""
    self._file.write(json.dumps(record) + "\n")
    self._file.flush()
    if self._board is not None:
      for name, value in record.items():
        if name not in ("step", "split") and value is not None:
          self._board.add_scalar(f"{record['split']}/{name}", value, record["step"])

  def close(self) -> None:
    """Ends the files."""
    self._file.close()
    if self._board is not None:
      self._board.close()


def _lines(path: pathlib.Path) -> Iterable[str]:
  """Whole lines; a kill may have cut the last one."""
  if not path.exists():
    return []
  lines = path.read_text().split("\n")
  return [line for line in lines[:-1] if _is_record(line)]


def _is_record(line: str) -> bool:
  try:
    return isinstance(json.loads(line)["step"], int)
  except (ValueError, KeyError, TypeError):
    return False


class Behind:
  """Hands values over once the device has them, a few steps behind the training.

  Fetching a value at once would leave the device idle until the next step is
  dispatched.
  """

  def __init__(self, take: Callable[[int, dict[str, Any]], None]):
    """`take` is called with (step, values as Python numbers), in order."""
    self._take = take
    # Processes have to meet a loss that is not finite at the same step.
    self._eager = jax.process_count() == 1
    self._waiting: collections.deque[tuple[int, Any]] = collections.deque()

  def put(self, step: int, values: dict[str, jax.Array]) -> None:
    """Queues the values of a step; takes what is ready."""
    for x in jax.tree.leaves(values):
      x.copy_to_host_async()
    self._waiting.append((step, values))
    while len(self._waiting) > _UNDER_WAY or (self._waiting and self._ready()):
      self._next()

  def drain(self) -> None:
    """Takes everything, waiting for it."""
    while self._waiting:
      self._next()

  def _ready(self) -> bool:
    return self._eager and all(x.is_ready() for x in jax.tree.leaves(self._waiting[0][1]))

  def _next(self) -> None:
    step, values = self._waiting.popleft()
    self._take(step, jax.tree.map(float, values))
