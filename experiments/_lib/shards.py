"""Reading packed token shards.

A folder of shards, as `packing.prepare` writes it:

  train-00000.npy ...        [tokens] uint16 or uint32: documents, each followed by the
  validation-00000.npy ...   end token, cut without regard to documents
  index.json                 what is in them; written last, so a folder without it is of
                             an interrupted preparation

Nothing is held in memory and no file is kept open, so a reader is shared by threads and
sent to other processes as it is.
"""

import hashlib
import operator
import pathlib

import numpy as np

from experiments._lib.shard_index import REMEDY, SPLITS, Index, read_index, shard_path
from flax_depthmup import DepthMupError


def open_shards(folder: str | pathlib.Path, split: str) -> "TokenShards":
  """The tokens of a split, "train" or "validation".

  Raises:
    DepthMupError: no such folder or split, the preparation did not finish, or a shard
      is missing, truncated or of another type than the index says.
  """
  folder = pathlib.Path(folder)
  if split not in SPLITS:
    raise DepthMupError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
  if not folder.is_dir():
    raise DepthMupError(
      f"{folder} is no folder; make it with python -m experiments.prepare_text "
      f"--workdir={folder}"
    )
  index = read_index(folder)
  if index is None:
    raise DepthMupError(
      f"{folder} has no index.json: no token shards, or their preparation was interrupted; "
      "run the command that prepares them again"
    )
  return TokenShards(folder, split, index)


class TokenShards:
  """The tokens of one split, read from disk when asked for.

  Attributes:
    tokens: how many there are.
    fingerprint: of the whole folder, for a run's config; see `Index`.
    tokenizer: the identity of the tokenizer.
    vocab_size: ids are below it.
    end: the id that follows every document.
  """

  def __init__(self, folder: pathlib.Path, split: str, index: Index):
    self._split, self._dtype = split, np.dtype(index.dtype)
    self._shards = index.splits[split]
    self._paths = [shard_path(folder, split, i) for i in range(len(self._shards))]
    self._ends = np.cumsum([shard.tokens for shard in self._shards])
    self._headers = [
      _check(path, shard.tokens, self._dtype)
      for path, shard in zip(self._paths, self._shards, strict=True)
    ]
    self.tokens = index.tokens(split)
    self.fingerprint = index.fingerprint
    self.tokenizer = index.tokenizer
    self.vocab_size: int = index.tokenizer["vocab_size"]
    self.end: int = index.tokenizer["end"]

  def read(self, start: int, stop: int) -> np.ndarray:
    """Tokens [stop - start] int32, across shards.

    Raises:
      DepthMupError: not 0 <= start <= stop <= tokens, or a shard has been cut since it
        was opened.
    """
    if not 0 <= start <= stop <= self.tokens:
      raise DepthMupError(
        f"tokens {start} to {stop} of {self._split} are not among its {self.tokens}"
      )
    out = np.empty(stop - start, np.int32)
    filled = 0
    while filled < len(out):
      position = start + filled
      i = int(np.searchsorted(self._ends, position, side="right"))
      count = int(min(stop, self._ends[i])) - position
      skipped = position - int(self._ends[i]) + self._shards[i].tokens
      piece = self._read_shard(i, skipped, count)
      out[filled : filled + count] = piece
      filled += count
    return out

  def array(self) -> np.ndarray:
    """All tokens at once, [tokens] int32."""
    return self.read(0, self.tokens)

  def windows(self, length: int) -> "Windows":
    """Windows of `length` inputs with their targets; see `Windows`.

    Raises:
      DepthMupError: fewer tokens than one window, or a length that is no positive
        whole number.
    """
    return Windows(self, length)

  def verify(self) -> None:
    """Reads everything and compares it with the hashes of the index.

    Raises:
      DepthMupError: a shard holds other tokens.
    """
    for i, (path, shard) in enumerate(zip(self._paths, self._shards, strict=True)):
      piece = self._read_shard(i, 0, shard.tokens)
      if hashlib.sha256(piece.tobytes()).hexdigest() != shard.sha256:
        raise DepthMupError(f"{path} holds other tokens than its index says; {REMEDY}")

  def _read_shard(self, i: int, skipped: int, count: int) -> np.ndarray:
    """Tokens [count] of one shard. Unlike a memory map, a cut file raises."""
    offset = self._headers[i] + skipped * self._dtype.itemsize
    try:
      piece = np.fromfile(self._paths[i], self._dtype, count, offset=offset)
    except FileNotFoundError:
      piece = ()
    if len(piece) != count:
      raise DepthMupError(f"{self._paths[i]} has been cut or deleted; {REMEDY}")
    return piece


class Windows:
  """Windows of length + 1 tokens at stride length, by number: a source for grain.

  Window w gives inputs w[:-1] and targets w[1:], so every token but the very first
  is a target exactly once, save for a rest shorter than a window at the end.
  """

  def __init__(self, shards: TokenShards, length: int):
    if not isinstance(length, int | np.integer) or length < 1:
      raise DepthMupError(f"length={length!r}: expected a positive whole number of tokens")
    if shards.tokens < length + 1:
      raise DepthMupError(
        f"{shards.tokens} tokens are fewer than one window of length {length} and its "
        f"last target, {length + 1}; use a length of at most {shards.tokens - 1}, or more "
        "text"
      )
    self._shards, self._length = shards, int(length)

  def __len__(self) -> int:
    return (self._shards.tokens - 1) // self._length

  def __getitem__(self, i: int) -> np.ndarray:
    """Window i, [length + 1] int32."""
    i = operator.index(i)
    if not 0 <= i < len(self):
      raise IndexError(f"window {i} of {len(self)}")
    start = i * self._length
    return self._shards.read(start, start + self._length + 1)

  def __repr__(self) -> str:
    # grain compares this with the one in a checkpoint before it continues.
    return f"Windows({self._shards.fingerprint}, length={self._length})"


def _check(path: pathlib.Path, tokens: int, dtype: np.dtype) -> int:
  """The size of a shard's header; raises `DepthMupError` unless it is as promised."""
  try:
    with path.open("rb") as file:
      version = np.lib.format.read_magic(file)
      if version != (1, 0):
        raise ValueError
      shape, _, found = np.lib.format.read_array_header_1_0(file)
      header = file.tell()
  except FileNotFoundError:
    raise DepthMupError(f"{path} is missing; {REMEDY}") from None
  except (ValueError, EOFError):
    raise DepthMupError(f"{path} is no .npy file, or damaged; {REMEDY}") from None
  if (shape, found) != ((tokens,), dtype):
    raise DepthMupError(
      f"{path} holds {found} of shape {shape}, the index says {dtype} of shape "
      f"({tokens},); {REMEDY}"
    )
  size, promised = path.stat().st_size, header + tokens * dtype.itemsize
  if size != promised:
    raise DepthMupError(
      f"{path} has {size} bytes, expected {promised}: it is truncated or damaged; {REMEDY}"
    )
  return header
