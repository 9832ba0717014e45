"""Sealed steps: folders of which one can tell whether they are whole.

  STEP/                                 files of a step
  seals/STEP-PROCESS-of-PROCESSES.json  sizes and checksums of one process' share of them

A step is sealed when the parts of all processes are there. A part is written whole,
after the files that it speaks of. Layer: `files`, standard library only.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import zlib
from typing import Any

from flax_depthmup.errors import DepthMupError
from flax_depthmup.files import checksum, file_fault, flush, list_files, remove_folder

_STEP = re.compile(r"0|[1-9][0-9]*")
_PART = re.compile(r"([0-9]+)-([0-9]+)-of-([0-9]+)\.json")
_UNFINISHED = "*.orbax-checkpoint-tmp*"
_THREADS = 8

#: (process, processes) -> file.
_Parts = dict[tuple[int, int], pathlib.Path]


class SealedSteps:
  """The steps of one run, in its directory.

  Methods raise `OSError` where it cannot be read or written.

  Attributes:
    directory: of the run.
  """

  def __init__(self, directory: pathlib.Path):
    self.directory = directory
    self._seals = directory / "seals"

  def make(self) -> None:
    """Makes the folders, and removes steps that a killed run has left half-written.

    Raises:
      DepthMupError: there are steps, but no folder of seals.
    """
    steps = self.all() if self.directory.exists() else []
    if steps and not self._seals.exists():
      raise DepthMupError(
        f"{self.directory} holds step {steps[-1]} but no folder seals; bring that along, "
        "or use another directory"
      )
    self._seals.mkdir(parents=True, exist_ok=True)
    self.remove_unfinished()

  def probe(self, process: int = 0) -> None:
    """Writes a file, as saving will."""
    path = self._seals / f"probe-{process}"
    path.write_text("whether this place can be written to")
    path.unlink()

  def folder(self, step: int) -> pathlib.Path:
    """Where the files of a step are."""
    return self.directory / str(step)

  def all(self) -> list[int]:
    """Steps of which anything is there, a folder or a seal, in order."""
    names = [path.name for path in self.directory.iterdir()]
    return sorted({int(n) for n in names if _STEP.fullmatch(n)} | set(self._parts()))

  def sealed(self) -> list[int]:
    """Steps with all parts of their seal, in order; `fault` tells if they are whole."""
    return sorted(s for s, parts in self._parts().items() if not _lacking(parts))

  def best(self) -> int | None:
    """The sealed step of the lowest loss, the newest of several; None without any."""
    losses = {step: self._loss(step) for step in self.sealed()}
    known = [(loss, -step) for step, loss in losses.items() if loss is not None]
    return -min(known)[1] if known else None

  def seal(
    self, step: int, loss: float | None = None, process: int = 0, processes: int = 1
  ) -> None:
    """Seals this process' share of a folder that will not change any more.

    Args:
      step: the step; its folder holds the files of all processes.
      loss: what `best` goes by, finite; None when it is not known.
      process: index of this process.
      processes: how many write a part.
    """
    names = list_files(self.folder(step))
    share = names[process::processes]
    sums = {name: checksum(self.folder(step) / name, durable=True) for name in share}
    seal = {"step": step, "loss": loss, "count": len(names), "files": sums}
    path = self._seals / f"{step}-{process}-of-{processes}.json"
    temporary = self._seals / f"{path.name}.tmp"
    with temporary.open("wb") as file:
      file.write(json.dumps({"crc32": _crc32_of(seal), "seal": seal}).encode())
      flush(file)
    temporary.replace(path)

  def fault(self, step: int, process: int = 0, processes: int = 1) -> str:
    """What is wrong with a step, as half a sentence; empty when nothing is.

    Args:
      step: the step.
      process: index of this process, which looks at its share of the files.
      processes: how many look.
    """
    parts = self._parts().get(step, {})
    if parts and not self.folder(step).exists():
      return "its folder is gone"
    if lacking := _lacking(parts):
      return f"{lacking} is missing (its writing was interrupted)"
    sums: dict[str, list[int]] = {}
    counts = set()
    for path in parts.values():
      try:
        seal = _read(path, step)
      except (OSError, ValueError) as error:
        return f"its seal {path.name} is damaged ({error})"
      sums |= seal["files"]
      counts.add(seal["count"])
    if counts != {len(sums)}:
      return f"its seal speaks of {len(sums)} files, {max(counts)} were written"
    share = sorted(sums)[process::processes]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      folder = self.folder(step)
      faults = pool.map(lambda name: file_fault(folder, name, *sums[name]), share)
      return next(filter(None, faults), "")

  def set_aside(self, step: int) -> None:
    """Takes a step that cannot be read out of the way, as STEP.damaged.

    Not removed: it may be the disk that is at fault, for a while.
    """
    aside = self.directory / f"{step}.damaged"
    for path in self._parts().get(step, {}).values():
      path.unlink(missing_ok=True)
    if self.folder(step).exists():
      if aside.exists():
        remove_folder(aside)
      self.folder(step).rename(aside)

  def remove(self, step: int) -> None:
    """Removes a step; its seal first, so that what is left of it counts for nothing."""
    for path in self._parts().get(step, {}).values():
      path.unlink(missing_ok=True)
    if self.folder(step).exists():
      remove_folder(self.folder(step))

  def remove_unfinished(self) -> None:
    """Removes the temporary folders of steps that are not being written any more."""
    for path in list(self.directory.glob(_UNFINISHED)):
      remove_folder(path)

  def prune(self, keep: int) -> None:
    """Removes all below the newest sealed step but the `keep` newest and the best."""
    sealed = self.sealed()
    kept = {*sealed[-keep:], self.best()}
    for step in self.all():
      if sealed and step < sealed[-1] and step not in kept:
        self.remove(step)

  def _loss(self, step: int) -> float | None:
    for path in self._parts().get(step, {}).values():
      with contextlib.suppress(OSError, ValueError):
        return _read(path, step)["loss"]
    return None

  def _parts(self) -> dict[int, _Parts]:
    found: dict[int, _Parts] = {}
    for path in self._seals.iterdir() if self._seals.exists() else ():
      if match := _PART.fullmatch(path.name):
        step, process, processes = map(int, match.groups())
        found.setdefault(step, {})[process, processes] = path
    return found


def _lacking(parts: _Parts) -> str:
  """What a seal lacks; empty when it is complete."""
  if not parts:
    return "its seal"
  processes = max(processes for _, processes in parts)
  for process in range(processes):
    if (process, processes) not in parts:
      return f"part {process} of {processes} of its seal"
  return ""


def _read(path: pathlib.Path, step: int) -> dict[str, Any]:
  content = json.loads(path.read_bytes())
  if not isinstance(content, dict) or content.keys() != {"crc32", "seal"}:
    raise ValueError("no seal")
  if content["crc32"] != _crc32_of(content["seal"]):
    raise ValueError("its own checksum differs")
  if content["seal"]["step"] != step:
    raise ValueError(f"of step {content['seal']['step']}")
  return content["seal"]


def _crc32_of(seal: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(seal, sort_keys=True).encode())
