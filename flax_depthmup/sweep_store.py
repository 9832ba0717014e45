"""What a sweep leaves on disk, so that it can be interrupted at any moment.

  sweep.json            what the sweep is; another sweep is refused
  members_00000.npz     losses of finished members, one file a wave
  running.npz           losses so far of the wave in training
  state/                its newest saved state

Every file is replaced whole. Layer: `checkpoint`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from flax_depthmup.errors import DepthMupError


@dataclasses.dataclass(frozen=True)
class Finished:
  """Losses [wave, steps] and divergence [wave] of the members [wave].

  `lanes` is the size of the wave with its padding, that of the saved state.
  """

  members: np.ndarray
  losses: np.ndarray
  diverged: np.ndarray
  lanes: int


class SweepStore:
  """The directory of one sweep; without a directory, it forgets everything."""

  def __init__(
    self,
    directory: str | pathlib.Path | None,
    members: dict[str, np.ndarray],
    steps: int,
    config: dict[str, Any],
    save_seconds: float,
  ):
    self.save_seconds = save_seconds
    self._steps = steps
    self._directory = None if directory is None else pathlib.Path(directory)
    self._checkpoints = None
    self._finished: list[Finished] = []
    if self._directory is None:
      return
    self._directory.mkdir(parents=True, exist_ok=True)
    values = {
      name: hashlib.sha256(f"{v.dtype}{v.shape}".encode() + v.tobytes()).hexdigest()
      for name, v in members.items()
    }
    identity = {"steps": steps, "members": values, "config": config}
    try:
      identity = json.loads(json.dumps(identity))
    except TypeError as error:
      raise DepthMupError(f"config {config} cannot be written as JSON: {error}") from None
    self._claim(identity)
    self._finished = [self._read(p) for p in sorted(self._directory.glob("members_*.npz"))]

  def _claim(self, identity: dict[str, Any]) -> None:
    path = self._directory / "sweep.json"
    if not path.exists():
      replace(path, json.dumps(identity, indent=1).encode())
      return
    try:
      found = json.loads(path.read_text())
    except ValueError:
      raise DepthMupError(
        f"{path} is no JSON: not a sweep's directory, or damaged; use another directory"
      ) from None
    for key in identity:
      if found.get(key) != identity[key]:
        raise DepthMupError(
          f"{path} holds another sweep: {key} is {found.get(key)}, this one has "
          f"{identity[key]}; use another directory, or delete that one"
        )

  def _read(self, path: pathlib.Path) -> Finished:
    try:
      with path.open("rb") as raw, np.load(raw) as file:
        found = Finished(**{name: file[name] for name in file.files})
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
      raise DepthMupError(
        f"{path} cannot be read ({type(error).__name__}): it is truncated or no result "
        "of a sweep; delete it, and its members are trained again"
      ) from None
    return found

  def finished(self) -> Iterator[Finished]:
    """What former calls have finished."""
    return iter(self._finished)

  def finished_members(self) -> np.ndarray:
    """Indices of the members that have finished."""
    return np.concatenate([[], *(f.members for f in self._finished)]).astype(int)

  def running(
    self, wave: np.ndarray, lanes: int, state: Any
  ) -> tuple[int, Any, np.ndarray, np.ndarray]:
    """(step, state, losses, diverged) that `wave` is to go on from.

    `state` is the initial one; it is what comes back when nothing was saved.
    """
    losses = np.full((len(wave), self._steps), np.nan, np.float32)
    fresh = 0, state, losses, np.zeros(len(wave), bool)
    path = self._directory and self._directory / "running.npz"
    if path is None or not path.exists() or not (self._directory / "state").exists():
      return fresh
    so_far = self._read(path)
    if not np.array_equal(so_far.members, wave) or so_far.lanes != lanes:
      return fresh  # another number of devices laid the members out
    from flax_depthmup import checkpoint  # orbax is slow to import

    found = self._open().latest(checkpoint.abstract(state))
    if found is None or found[2]["members"] != wave.tolist():
      return fresh
    step, state, note = found
    losses[:, :step] = so_far.losses[:, :step]
    return step, state, losses, np.array(note["diverged"])

  def flush(self, running: Finished) -> None:
    """Writes the losses so far of the wave in training."""
    if self._directory is not None:
      self._write(self._directory / "running.npz", running)

  def save(self, step: int, state: Any, running: Finished) -> None:
    """Saves the state of the wave in training, after a `flush`."""
    if self._directory is None:
      return
    note = {
      "members": running.members.tolist(),
      "diverged": running.diverged.tolist(),
    }
    self._open().save(step, state, note)

  def finish(self, wave: Finished) -> None:
    """Writes the losses of a finished wave, and drops its state."""
    if self._directory is None:
      return
    self._write(self._directory / f"members_{wave.members[0]:05d}.npz", wave)
    if self._checkpoints is not None:
      self._checkpoints.clear()

  def close(self) -> None:
    """The sweep is over: only results stay."""
    if self._checkpoints is not None:
      self._checkpoints.close()
    if self._directory is not None:
      shutil.rmtree(self._directory / "state", ignore_errors=True)
      (self._directory / "running.npz").unlink(missing_ok=True)

  def _open(self) -> Any:
    if self._checkpoints is None:
      from flax_depthmup import checkpoint  # orbax is slow to import

      self._checkpoints = checkpoint.Checkpoints(self._directory / "state")
    return self._checkpoints

  def _write(self, path: pathlib.Path, found: Finished) -> None:
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **dataclasses.asdict(found))
    os.replace(temporary, path)


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_bytes(content)
  os.replace(temporary, path)
