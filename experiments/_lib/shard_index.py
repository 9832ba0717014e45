"""What a folder of token shards says about itself: index.json."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import IO, Any

from flax_depthmup import DepthMupError

#: Every folder has both.
SPLITS = ("train", "validation")
#: Of every damage to a folder of shards.
REMEDY = "delete the folder and prepare it again"


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a split: how many tokens it holds, and the sha256 of their bytes."""

  tokens: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
  """What a folder of shards holds.

  Attributes:
    settings: what it was made from; see `packing.Corpus`.
    tokenizer: the identity of the tokenizer.
    dtype: of the tokens on disk.
    documents: how many there are, of all splits.
    splits: the shards of each split, in order.
  """

  settings: dict[str, Any]
  tokenizer: dict[str, Any]
  dtype: str
  documents: int
  splits: dict[str, tuple[Shard, ...]]

  def tokens(self, split: str) -> int:
    """Number of tokens of a split."""
    return sum(shard.tokens for shard in self.splits[split])

  @property
  def fingerprint(self) -> str:
    """A hash of the tokenizer's identity and all tokens; where they came from is not in."""
    fields = dataclasses.asdict(self)
    content = [fields[name] for name in ("tokenizer", "dtype", "splits")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shard_path(folder: pathlib.Path, split: str, number: int) -> pathlib.Path:
  """Where a shard lies."""
  return folder / f"{split}-{number:05d}.npy"


def read_index(folder: pathlib.Path) -> Index | None:
  """The index of a folder; None if it has none.

  Raises:
    DepthMupError: it is damaged.
  """
  path = folder / "index.json"
  try:
    fields = json.loads(path.read_text())
    promised = fields.pop("fingerprint")
    splits = {
      name: tuple(Shard(**shard) for shard in fields["splits"][name]) for name in SPLITS
    }
    index = Index(**(fields | {"splits": splits}))
    whole = index.fingerprint == promised
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (ValueError, TypeError, KeyError, AttributeError):
    whole = False
  if not whole:
    raise DepthMupError(f"{path} is damaged, or no index of token shards; {REMEDY}")
  return index


def write_index(folder: pathlib.Path, index: Index) -> None:
  """Writes index.json whole or not at all.

  Raises:
    DepthMupError: no room on the disk, or no right to write.
  """
  fields = {"fingerprint": index.fingerprint} | dataclasses.asdict(index)
  content = json.dumps(fields, indent=1).encode()
  path, temporary = folder / "index.json", folder / "index.json.tmp"
  write_file(temporary, lambda file: file.write(content))
  os.replace(temporary, path)


def write_file(path: pathlib.Path, write: Callable[[IO[bytes]], Any]) -> None:
  """Writes a file and waits until it is on the disk, whatever the machine does next.

  Raises:
    DepthMupError: no room on the disk, or no right to write.
  """
  try:
    with path.open("wb") as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
  except OSError as error:
    raise DepthMupError(
      f"{path} cannot be written: {error.strerror or error}; make room, or use another "
      "folder"
    ) from None
