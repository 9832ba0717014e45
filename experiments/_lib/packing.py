"""Documents into packed token shards; `shards` says what they look like.

Documents are streamed: one document and one shard of each split are held at a time.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments._lib import tokens
from experiments._lib.shard_index import (
  SPLITS,
  Index,
  Shard,
  read_index,
  shard_path,
  write_file,
  write_index,
)
from experiments._lib.shards import open_shards
from experiments._lib.text import TextSource, documents
from flax_depthmup import DepthMupError

LARGEST = 2**28  # tokens of a shard: 1 GiB of uint32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """What is packed, and how; by default the embedded text as bytes.

  Attributes:
    source: the documents.
    tokenizer: what turns them into tokens.
    validation: the fraction of the documents that goes to the validation split,
      chosen by a hash of their number. If that is none, the same fraction of the
      tokens, from the end of the text.
    shard_tokens: tokens of a shard; the last of each split may be shorter.
  """

  source: TextSource = dataclasses.field(default_factory=TextSource)
  tokenizer: tokens.Tokenizer = dataclasses.field(default_factory=tokens.ByteTokenizer)
  validation: float = 0.1
  shard_tokens: int = 2**24

  def __post_init__(self):
    if not 0 < self.validation < 1:
      raise DepthMupError(
        f"--validation={self.validation}: expected a fraction between 0 and 1, such as 0.1"
      )
    if not 1 <= self.shard_tokens <= LARGEST:
      raise DepthMupError(
        f"--shard_tokens={self.shard_tokens}: expected 1 to {LARGEST} tokens"
      )

  @functools.cached_property
  def settings(self) -> dict[str, Any]:
    """All of it for JSON; local files by their hash.

    Raises:
      DepthMupError: see `TextSource.identity`.
    """
    return {
      "source": self.source.identity,
      "tokenizer": self.tokenizer.identity(),
      "validation": self.validation,
      "shard_tokens": self.shard_tokens,
    }


def prepare(
  folder: str | pathlib.Path,
  corpus: Corpus | None = None,
  on_document: Callable[[int], Any] | None = None,
) -> Index:
  """Makes the shards of a corpus, or finds them made.

  What an interrupted preparation left behind is deleted and made again. Only one
  process may prepare a folder at a time.

  Args:
    folder: where the shards go; made if missing.
    corpus: None for the embedded text as bytes.
    on_document: called after each document with its number of tokens.

  Returns:
    The index. Shards found made have been read and agree with it.

  Raises:
    DepthMupError: the folder holds shards of another corpus, or damaged ones; the
      corpus cannot be read, or holds fewer than two tokens.
  """
  corpus = Corpus() if corpus is None else corpus
  folder = pathlib.Path(folder)
  settings = corpus.settings
  found = read_index(folder)
  if found is not None:
    difference = _difference(found.settings, json.loads(json.dumps(settings)))
    if difference:
      raise DepthMupError(
        f"{folder} holds shards of another corpus: {difference}; use another folder, or "
        "delete that one"
      )
    for split in SPLITS:
      open_shards(folder, split).verify()
    return found
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise DepthMupError(f"{folder} cannot be made: {error.strerror}") from None
  _delete_leftovers(folder)
  index = _pack(folder, corpus, on_document)
  write_index(folder, index)
  return index


def in_validation(number: int, fraction: float) -> bool:
  """Whether a document goes to the validation split; the first never does."""
  digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest()
  return number > 0 and int.from_bytes(digest, "little") < fraction * 2**64


def _pack(
  folder: pathlib.Path, corpus: Corpus, on_document: Callable[[int], Any] | None
) -> Index:
  dtype = tokens.dtype(corpus.tokenizer.vocab_size)
  train, validation = (
    _Writer(folder, split, dtype, corpus.shard_tokens) for split in SPLITS
  )
  end = np.array([corpus.tokenizer.end], dtype)
  number = -1
  for number, document in enumerate(documents(corpus.source)):
    ids = corpus.tokenizer.encode(document)
    writer = validation if in_validation(number, corpus.validation) else train
    writer.append(ids)
    writer.append(end)
    if on_document is not None:
      on_document(len(ids) + 1)
  train.flush()
  validation.flush()
  if not validation.shards:
    _move_tail(train, validation, corpus.validation)
  splits = {"train": tuple(train.shards), "validation": tuple(validation.shards)}
  identity = corpus.tokenizer.identity()
  return Index(corpus.settings, identity, dtype.str, number + 1, splits)


class _Writer:
  """Fills the shards of one split, one after the other."""

  def __init__(self, folder: pathlib.Path, split: str, dtype: np.dtype, size: int):
    self._folder, self._split = folder, split
    self._buffer, self._filled = np.empty(size, dtype), 0
    self.shards: list[Shard] = []

  def append(self, ids: np.ndarray) -> None:
    """Adds tokens; a full shard goes to disk."""
    while len(ids):
      count = min(len(ids), len(self._buffer) - self._filled)
      self._buffer[self._filled : self._filled + count] = ids[:count]
      self._filled += count
      ids = ids[count:]
      if self._filled == len(self._buffer):
        self.flush()

  def flush(self) -> None:
    """Writes what has come together as a shard, if anything has."""
    if not self._filled:
      return
    ids = self._buffer[: self._filled]
    path = shard_path(self._folder, self._split, len(self.shards))
    write_file(path, lambda file: np.save(file, ids))
    self.shards.append(Shard(len(ids), hashlib.sha256(ids).hexdigest()))
    self._filled = 0

  def cut(self, start: int) -> Iterator[np.ndarray]:
    """Takes the tokens from `start` on out again, giving them shard by shard."""
    size = len(self._buffer)
    first, kept = divmod(start, size)
    numbers = range(first, len(self.shards))
    del self.shards[first:]
    for number in numbers:
      path = shard_path(self._folder, self._split, number)
      ids = np.load(path)
      path.unlink()
      self.append(ids[:kept])
      yield ids[kept:]
      kept = 0
    self.flush()


def _move_tail(train: _Writer, validation: _Writer, fraction: float) -> None:
  """Moves the last tokens to the validation split, for a corpus of few documents."""
  total = sum(shard.tokens for shard in train.shards)
  if total < 2:
    raise DepthMupError(
      f"the corpus holds {total} token; training and validation need one each: give more "
      "text"
    )
  count = min(max(round(fraction * total), 1), total - 1)
  for ids in train.cut(total - count):
    validation.append(ids)
  validation.flush()


def _delete_leftovers(folder: pathlib.Path) -> None:
  """Deletes what an interrupted preparation wrote, and nothing else."""
  own = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.npy|index\.json\.tmp")
  for path in folder.iterdir():
    if own.fullmatch(path.name):
      path.unlink()


def _difference(found: Any, wanted: Any, name: str = "") -> str:
  """The first difference of two settings in words; empty if there is none."""
  if isinstance(found, dict) and isinstance(wanted, dict):
    pairs = [(f"{name}.{key}", key) for key in sorted({*found, *wanted})]
    inner = [_difference(found.get(key), wanted.get(key), path) for path, key in pairs]
    return next(filter(None, inner), "")
  if isinstance(found, list) and isinstance(wanted, list):
    if len(found) != len(wanted):
      return f"{name[1:]} has {len(found)} entries, this one has {len(wanted)}"
    pairs = enumerate(zip(found, wanted, strict=True))
    return next(filter(None, (_difference(*two, f"{name}[{i}]") for i, two in pairs)), "")
  return "" if found == wanted else f"{name[1:]} is {found}, this one has {wanted}"
