"""Steps as orbax writes and reads them. The only file that imports orbax."""

from typing import Any

import orbax.checkpoint as ocp
from etils import epath


class OrbaxSteps:
  """A folder for each step: a tree of arrays, and a note of JSON.

  Any method may raise what orbax raises, which is any exception.
  """

  _manager: Any  # orbax has no types

  def __init__(self, directory: epath.Path, asynchronous: bool):
    self._directory, self._asynchronous = directory, asynchronous
    self.reopen()

  def reopen(self) -> None:
    """Forgets which steps were there, after some have been deleted."""
    if hasattr(self, "_manager"):
      self._manager.close()
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        create=False,
        save_root_metadata=False,
        enable_async_checkpointing=self._asynchronous,
        # Reads nothing now, so that no damage stops it. With no number of steps to
        # keep it also deletes nothing: it would before the newest is sealed.
        lightweight_initialize=True,
      ),
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "note": ocp.JsonCheckpointHandler(),
      },
    )

  def write(self, step: int, state: Any, note: dict[str, Any]) -> None:
    """Writes a step, or begins to; the folder has its name when it is written."""
    items = {"state": ocp.args.StandardSave(state), "note": ocp.args.JsonSave(note)}
    try:
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    except Exception:
      self.reopen()  # else it would still count as writing
      raise

  def is_writing(self) -> bool:
    """Whether a step is still being written; takes microseconds."""
    return self._manager.is_saving_in_progress()

  def wait(self) -> None:
    """Returns when nothing is being written; raises what has gone wrong meanwhile."""
    self._manager.wait_until_finished()

  def note(self, step: int) -> dict[str, Any]:
    """The note of a step."""
    args = ocp.args.Composite(note=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args)["note"]

  def described(self, step: int) -> Any:
    """The state of a step as a tree of leaves with shape and dtype."""
    return self._manager.item_metadata(step)["state"].tree

  def state(self, step: int, abstract_state: Any) -> Any:
    """The state of a step, in the shapes and shardings that it is to have."""
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
    return self._manager.restore(step, args=args)["state"]

  def close(self) -> None:
    """Waits, and ends the threads."""
    self._manager.close()
