"""Documents of text: embedded, from files, or through Hugging Face datasets."""

import dataclasses
import functools
import glob
import hashlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from experiments._lib import text_datasets, text_files
from flax_depthmup import DepthMupError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSource:
  """Where documents come from; by default, Python's help topics, in English.

  The help topics ship with Python and differ from version to version.

  Attributes:
    files: files, folders (all that is in them) or globs; see `text_files.read` for
      the formats. A set of files is read in the order of their paths.
    dataset: a data set for the Hugging Face `datasets` library; see
      `text_datasets.read`. With `files`, the name of the builder that reads them.
    config: the data set's configuration.
    split: the data set's split; None for "train".
    column: field of a JSON line, or column of a data set, that holds the text.
    limit: at most that many documents; None for all.
  """

  files: tuple[str, ...] = ()
  dataset: str | None = None
  config: str | None = None
  split: str | None = None
  column: str = "text"
  limit: int | None = None

  def __post_init__(self):
    if isinstance(self.files, str):
      raise DepthMupError(f"files={self.files!r} is a string; give a tuple of paths")
    if self.dataset is None and (self.config is not None or self.split is not None):
      raise DepthMupError(
        f"config={self.config}, split={self.split} without a data set; name one with "
        "--hf_dataset, or leave --hf_config and --hf_split away"
      )
    if self.files and self.dataset and text_datasets.is_repository(self.dataset):
      raise DepthMupError(
        f"--hf_dataset={self.dataset} brings its own files; leave --input away, or name a "
        "builder that reads them: json, text, csv, parquet or arrow"
      )
    if self.limit is not None and self.limit < 1:
      raise DepthMupError(f"--max_documents={self.limit}: expected a positive number")

  @functools.cached_property
  def paths(self) -> tuple[pathlib.Path, ...]:
    """The files, folders and globs resolved, in the order of the paths.

    Raises:
      DepthMupError: one is missing, holds nothing, or a file is named twice.
    """
    found = sorted(path for name in self.files for path in _expand(name))
    for one, other in itertools.pairwise(found):
      if one == other:
        raise DepthMupError(f"--input names {one} twice; name every file once")
    return tuple(found)

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What the documents are, for JSON: local content by its hash, else by name.

    Reads every local file once.

    Raises:
      DepthMupError: a file is missing, empty or of unknown format.
    """
    identity: dict[str, Any] = {"column": self.column, "limit": self.limit}
    paths = self.paths
    if self.dataset is not None:
      folder = pathlib.Path(self.dataset)
      name = folder.resolve().name if folder.is_dir() else self.dataset
      identity |= {"dataset": name, "config": self.config, "split": self.split}
      if folder.is_dir() and not paths:
        paths = _expand(self.dataset)
    elif paths:
      for path in paths:
        text_files.check_format(path)
    else:
      return identity | {"embedded": "pydoc_data.topics", "sha256": _embedded_hash()}
    return identity | {"files": [_file_identity(path) for path in paths]}


def documents(source: TextSource) -> Iterator[str]:
  """The documents of a source, one after the other, in an order that never changes.

  Raises:
    DepthMupError: a file is missing, empty, truncated, damaged or of unknown
      format; the data set, its configuration, split or column does not exist.
  """
  if source.dataset is not None:
    found = text_datasets.read(
      source.dataset, source.config, source.split, source.column, source.paths
    )
  elif source.files:
    paths = source.paths
    for path in paths:  # all of them before the first is read, which may take hours
      text_files.check_format(path)
    found = itertools.chain.from_iterable(
      text_files.read(path, source.column) for path in paths
    )
  else:
    found = iter(_embedded())
  return itertools.islice(found, source.limit)


def _expand(name: str) -> list[pathlib.Path]:
  """The files that a path, a folder or a glob stands for."""
  path = pathlib.Path(name)
  if path.is_file():
    return [path]
  if path.is_dir():
    found = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
    if not found:
      raise DepthMupError(f"{path} is an empty folder; give a file or folder of text")
    return sorted(found)
  matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
  found = [pathlib.Path(match) for match in matches]
  if not found:
    raise DepthMupError(
      f"--input={name}: no such file, and no glob that matches one; check the path"
    )
  return [path for match in found for path in (_expand(str(match)))]


def _file_identity(path: pathlib.Path) -> dict[str, Any]:
  size = path.stat().st_size
  if not size:
    raise DepthMupError(f"{path} is empty; leave it out, or get it again")
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return {"name": path.name, "bytes": size, "sha256": digest}


def _embedded() -> list[str]:
  from pydoc_data.topics import topics

  return [topics[name] for name in sorted(topics)]


def _embedded_hash() -> str:
  return hashlib.sha256("\0".join(_embedded()).encode()).hexdigest()
