"""What a sweep leaves on disk, so that it can be interrupted at any moment.

  sweep.json            what the sweep is; another sweep is refused
  members_00000.npz     losses of finished members, one file a wave
  running.npz           losses so far of the wave in training, to look at
  state/                its newest saved state, with the losses up to there

Every file is replaced whole; a state and its losses are saved together, so no
two files have to agree. Several processes share the directory: the first writes the
files, all save the state. Layer: `checkpoint`, `processes`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import jax
import numpy as np

from flax_depthmup.errors import DepthMupError
from flax_depthmup.processes import gather, raise_together


@dataclasses.dataclass(frozen=True)
class Wave:
  """Losses [wave, steps so far] and divergence [wave] of the members [wave]."""

  members: np.ndarray
  losses: np.ndarray
  diverged: np.ndarray


class SweepStore:
  """The directory of one sweep; without a directory, it forgets everything.

  With several processes, all of them make the same calls.
  """

  def __init__(
    self,
    directory: str | pathlib.Path | None,
    identity: dict[str, Any],
    save_seconds: float,
  ):
    self._save_seconds, self._last_save = save_seconds, 0.0
    self._directory = None if directory is None else pathlib.Path(directory)
    self._writes = self._directory is not None and jax.process_index() == 0
    self._checkpoints: dict[str, Any] = {}
    self._finished: list[Wave] = []
    if self._directory is None:
      return
    together(lambda: self._claim(identity) if self._writes else None)
    together(lambda: self._load(identity))
    if len({*gather(str(self.finished_members().tolist()))}) > 1:
      raise DepthMupError(
        f"directory={directory} holds other results for another process; give one that "
        "all processes share"
      )

  @property
  def _folder(self) -> pathlib.Path:
    assert self._directory is not None  # nothing is read or written without one
    return self._directory

  def _claim(self, identity: dict[str, Any]) -> None:
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise DepthMupError(
        f"directory={self._folder} cannot be made: {error.strerror}; give another"
      ) from None
    path = self._folder / "sweep.json"
    if not path.exists():
      replace(path, lambda file: file.write(json.dumps(identity, indent=1).encode()))

  def _load(self, identity: dict[str, Any]) -> None:
    path = self._folder / "sweep.json"
    if not path.exists():
      raise DepthMupError(
        f"{path}, written by the first process, is not there for another; give a directory "
        "that all processes share"
      )
    try:
      found = json.loads(path.read_text())
    except ValueError:
      found = None
    if not isinstance(found, dict):
      raise DepthMupError(
        f"{path} is no JSON object: not a sweep's directory, or damaged; use another"
      )
    for key in identity:
      if found.get(key) != identity[key]:
        raise DepthMupError(
          f"{path} holds another sweep: {key} is {found.get(key)}, this one has "
          f"{identity[key]}; use another directory, or delete that one"
        )
    count, steps = identity["count"], identity["steps"]
    paths = sorted(self._folder.glob("members_*.npz"))
    self._finished = [_read(path, count, steps) for path in paths]

  def finished(self) -> Iterator[Wave]:
    """What former calls have finished."""
    return iter(self._finished)

  def finished_members(self) -> np.ndarray:
    """Indices of the members that have finished."""
    return np.concatenate([[], *(f.members for f in self._finished)]).astype(int)

  def running(
    self, wave: Wave, lanes: int, state: Any
  ) -> tuple[int, Any, np.ndarray, np.ndarray]:
    """(step, state, losses, diverged) that a wave is to go on from.

    Args:
      wave: at its start, with losses of shape [wave, steps].
      lanes: size of the wave with its padding, that of the state.
      state: its shapes, dtypes and shardings. Step 0 and None come back when nothing
        was saved.
    """
    self._last_save = time.monotonic()
    fresh = 0, None, wave.losses, wave.diverged
    if self._directory is None or not _first((self._folder / "state").exists()):
      return fresh
    from flax_depthmup import checkpoint  # orbax is slow to import

    abstract = checkpoint.abstract({"state": state, "losses": wave.losses})
    try:
      found = self._open(wave, lanes).latest(abstract)
    except DepthMupError as error:
      warnings.warn(
        f"a saved state cannot be read and is passed over: {error}", stacklevel=2
      )
      self._drop(wave, lanes)
      return fresh
    if found is None:
      return fresh
    step, saved, note = found
    if note["members"] != wave.members.tolist():
      self._drop(wave, lanes)
      return fresh
    return step, saved["state"], np.array(saved["losses"]), np.array(note["diverged"])

  def keep(self, step: int, wave: Wave, lanes: int, state: Any) -> None:
    """Keeps the wave in training: its losses so far, now and then also its state.

    Args:
      step: steps done.
      wave: with losses of shape [wave, steps].
      lanes: see `running`.
      state: after these steps.
    """
    if self._directory is None:
      return
    if self._writes:
      so_far = dataclasses.replace(wave, losses=wave.losses[:, :step])
      _write(self._folder / "running.npz", so_far)
    if not _first(time.monotonic() - self._last_save >= self._save_seconds):
      return
    note = {"members": wave.members.tolist(), "diverged": wave.diverged.tolist()}
    saved = {"state": state, "losses": wave.losses}
    self._open(wave, lanes).save(step, saved, note)
    self._last_save = time.monotonic()

  def finish(self, wave: Wave, lanes: int) -> None:
    """Writes the losses of a finished wave, and drops its state."""
    if self._writes:
      _write(self._folder / f"members_{wave.members[0]:05d}.npz", wave)
    if self._directory is not None:
      self._drop(wave, lanes)

  def close(self, done: bool) -> None:
    """Ends the writing; when the sweep is done, only results stay."""
    if jax.process_count() > 1 and not done:
      return  # one that has failed alone must not wait for the others
    for checkpoints in self._checkpoints.values():
      checkpoints.close()
    if self._writes and done:
      shutil.rmtree(self._folder / "state", ignore_errors=True)
      (self._folder / "running.npz").unlink(missing_ok=True)

  def _drop(self, wave: Wave, lanes: int) -> None:
    used = self._checkpoints.pop(self._name(wave, lanes), None)
    if used is not None:
      used.close()
    if self._writes:
      folder = self._folder / "state" / self._name(wave, lanes)
      shutil.rmtree(folder, ignore_errors=True)

  def _name(self, wave: Wave, lanes: int) -> str:
    """States of another layout over devices have other shapes: another folder."""
    return f"{wave.members[0]:05d}-{len(wave.members)}-of-{lanes}"

  def _open(self, wave: Wave, lanes: int) -> Any:
    from flax_depthmup import checkpoint  # orbax is slow to import

    name = self._name(wave, lanes)
    if name not in self._checkpoints:
      folder = self._folder / "state" / name
      self._checkpoints[name] = checkpoint.Checkpoints(folder)
    return self._checkpoints[name]


def fingerprint(arrays: list[Any]) -> str:
  """A hash of arrays: dtypes, shapes and values."""
  digest = hashlib.sha256()
  for array in arrays:
    if hasattr(array, "dtype") and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
      array = jax.random.key_data(array)
    array = np.asarray(array)
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def _first(value: Any) -> Any:
  """The value that the first process has."""
  return json.loads(gather(json.dumps(value))[0])


def together(action: Callable[[], Any]) -> Any:
  """What an action gives; raises in all processes when it fails in one.

  Raises:
    DepthMupError: one has raised this.
  """
  result = failure = None
  try:
    result = action()
  except DepthMupError as error:
    failure = error
  raise_together(failure)
  return result


def replace(path: pathlib.Path, write: Callable[[IO[bytes]], Any]) -> None:
  """Writes a file whole or not at all, also when the machine goes down."""
  temporary = path.with_name(path.name + ".tmp")
  with temporary.open("wb") as file:
    write(file)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _write(path: pathlib.Path, wave: Wave) -> None:
  replace(path, lambda file: np.savez(file, **vars(wave)))


def _read(path: pathlib.Path, count: int, steps: int) -> Wave:
  try:
    with path.open("rb") as raw, np.load(raw) as file:
      found = Wave(**{name: file[name] for name in file.files})
    whole = found.losses.shape == (len(found.members), steps)
    why = "" if whole and max(found.members) < count else "other members or steps"
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    why = type(error).__name__
  if why:
    raise DepthMupError(
      f"{path} cannot be read ({why}): it is truncated or no result of this sweep; delete "
      "it, and its members are trained again"
    )
  return found
