"""Finished and unfinished work directories, read for a report and left as they are."""

import dataclasses
import io
import json
import pathlib
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from PIL import Image

from flax_depthmup import DepthMupError

#: A folder with one of them is a work directory.
_MARKS = ("config.json", "results.jsonl", "summary.json")
#: Entries of config.json that say where a run comes from and not what it is.
_ORIGIN = ("versions", "experiment", "command")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
  """A PNG file.

  Attributes:
    name: of the file.
    png: its bytes.
    width, height: in pixels.
  """

  name: str
  png: bytes
  width: int
  height: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What a work directory holds.

  Attributes:
    folder: its path, as it was given.
    config: config.json.
    summary: summary.json; None: the run is not finished.
    records: of results.jsonl.
    figures: by name.
  """

  folder: str
  config: dict[str, Any]
  summary: dict[str, Any] | None
  records: list[dict[str, Any]]
  figures: list[Figure]

  @property
  def experiment(self) -> str | None:
    """Name of the entry point, where the config has it."""
    name = self.config.get("experiment")
    return name.rpartition(".")[2] or None if isinstance(name, str) else None

  @property
  def title(self) -> str:
    """The entry point's name, else the folder's."""
    return self.experiment or pathlib.Path(self.folder).resolve().name or self.folder

  @property
  def command(self) -> str | None:
    """The command line, where the config has it."""
    command = self.config.get("command")
    if isinstance(command, list):
      return shlex.join(map(str, command))
    return command and str(command)

  @property
  def versions(self) -> dict[str, Any]:
    """Package -> version."""
    return self.config["versions"]

  @property
  def settings(self) -> dict[str, Any]:
    """The config without its origin."""
    return {k: v for k, v in self.config.items() if k not in _ORIGIN}


def find(paths: Iterable[str]) -> list[pathlib.Path]:
  """Work directories: those given, and for another folder all those below it.

  Args:
    paths: folders. What is below one comes in the order of its names.

  Raises:
    DepthMupError: no paths, a path is no folder, there is none below it, or a
      directory is named twice.
  """
  found: dict[pathlib.Path, pathlib.Path] = {}
  for path in paths:
    for folder in _expand(path):
      place = folder.resolve()
      if place in found:
        raise DepthMupError(
          f"--workdirs names {folder} twice, first as {found[place]}; leave one out (a "
          "folder of work directories stands for all of them)"
        )
      found[place] = folder
  if not found:
    raise DepthMupError("--workdirs is missing: give work directories, --workdirs=DIR,DIR")
  return list(found.values())


def _expand(path: str) -> list[pathlib.Path]:
  folder = pathlib.Path(path)
  if not path or not folder.is_dir():
    what = "is a file" if folder.is_file() else "is no folder"
    globs = " (wildcards are not expanded)" if set("*?[") & set(path) else ""
    raise DepthMupError(
      f"--workdirs: {path!r} {what}{globs}; give work directories, or a folder that "
      "holds them"
    )
  if below := list(_below(folder)):
    return below
  raise DepthMupError(
    f"--workdirs: {path} is no work directory and has none below it: no config.json; give "
    "the --workdir of a run"
  )


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  if _is_marked(folder):
    yield folder
    return
  for path in sorted(folder.iterdir()):
    # Links to other folders might lead in circles.
    linked = path.is_symlink() and not _is_marked(path)
    if path.is_dir() and not linked and not path.name.startswith("."):
      yield from _below(path)


def _is_marked(folder: pathlib.Path) -> bool:
  return any((folder / name).exists() for name in _MARKS)


def read(folder: pathlib.Path) -> Run:
  """A work directory.

  Raises:
    DepthMupError: a file is missing, cut short or otherwise damaged.
  """
  if not (folder / "config.json").is_file():
    raise DepthMupError(
      f"{folder} has no config.json, so nobody knows of which run it is; leave it out of "
      "--workdirs, or delete it and run again"
    )
  leave = "leave it out of --workdirs"
  config = _object(
    folder / "config.json", f"{leave}, or delete the whole folder and run again"
  )
  if not isinstance(config.get("versions"), dict):
    raise DepthMupError(f"{folder}/config.json is of no run: it has no versions; {leave}")
  done = (folder / "summary.json").exists()
  run = Run(
    folder=str(folder),
    config=config,
    summary=_object(folder / "summary.json", "delete it and run again") if done else None,
    records=list(_records(folder / "results.jsonl", done)),
    figures=[_figure(path) for path in sorted(folder.glob("*.png"))],
  )
  if done and run.figures and not run.records:
    raise DepthMupError(
      f"{folder}/results.jsonl is missing or empty, and {run.figures[0].name} was drawn "
      "from it; bring it back, or delete the whole folder and run again"
    )
  return run


def _object(path: pathlib.Path, remedy: str) -> dict[str, Any]:
  found = _json(path.read_bytes())
  if not isinstance(found, dict) or not found:
    raise DepthMupError(f"{path} is damaged: no JSON object; {remedy}")
  return found


def _json(data: bytes) -> Any:
  """None where it is no JSON."""
  try:
    return json.loads(data)
  except (ValueError, RecursionError):
    return None


def _records(path: pathlib.Path, done: bool) -> Iterator[dict[str, Any]]:
  """Records; a run that is under way may be in the middle of its last line."""
  if not path.exists():
    return
  *lines, rest = path.read_bytes().split(b"\n")
  if rest and done:
    raise _damaged(path, f"line {len(lines) + 1} is cut short")
  for number, line in enumerate(lines, 1):
    record = _json(line)
    if not isinstance(record, dict):
      raise _damaged(path, f"line {number} is no JSON object")
    yield record


def _figure(path: pathlib.Path) -> Figure:
  png = path.read_bytes()
  try:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
      width, height = image.size
      image.verify()
  except Exception:  # pillow promises no class of what it raises
    raise _damaged(path, "no whole PNG image") from None
  return Figure(name=path.name, png=png, width=width, height=height)


def _damaged(path: pathlib.Path, what: str) -> DepthMupError:
  return DepthMupError(
    f"{path} is damaged: {what}; delete it, with summary.json, and run again"
  )
