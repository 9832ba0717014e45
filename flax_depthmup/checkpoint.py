"""Checkpoints of a training state; the only file that imports orbax."""

import pathlib
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Checkpoints:
  """The newest states of one run, in a directory of its own.

  A save is atomic: after a crash at any moment the directory holds the states
  whose saves had finished.
  """

  def __init__(self, directory: pathlib.Path, keep: int = 1):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=False, create=True
    )
    self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

  def save(self, step: int, state: Any, note: dict[str, Any]) -> None:
    """Writes a tree of arrays and a note that JSON can hold; returns when written."""
    items = {"state": ocp.args.StandardSave(state), "note": ocp.args.JsonSave(note)}
    self._manager.save(step, args=ocp.args.Composite(**items), force=True)

  def latest(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """(step, state, note) of the newest readable save; None when there is none.

    Args:
      abstract_state: the tree of `jax.ShapeDtypeStruct`, with shardings, that
        the state is restored to.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      items = {
        "state": ocp.args.StandardRestore(abstract_state),
        "note": ocp.args.JsonRestore(),
      }
      try:
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
      except (ValueError, KeyError, TypeError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(
          f"the checkpoint of step {step} cannot be read and is passed over: {first}",
          stacklevel=2,
        )
        continue
      return step, found["state"], found["note"]
    return None

  def close(self) -> None:
    """Ends the threads of the manager."""
    self._manager.close()


def abstract(state: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""

  def describe(x: Any) -> Any:
    if isinstance(x, np.ndarray):
      return x  # restored as numpy
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

  return jax.tree.map(describe, state)
