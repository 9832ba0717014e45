"""Tokenizers: bytes, or a tokenizer.json."""

import hashlib
import pathlib
from typing import Any, Protocol

import numpy as np

from flax_depthmup import DepthMupError


class Tokenizer(Protocol):
  """Text to token ids and back.

  Attributes:
    vocab_size: ids are below it; the end-of-document id counts.
    end: the id that follows every document.
  """

  vocab_size: int
  end: int

  def encode(self, text: str) -> np.ndarray:
    """Ids [tokens] of `dtype(vocab_size)`, without the end of the document."""

  def decode(self, ids: np.ndarray) -> str:
    """The text of ids [tokens]; ends of documents are left out."""

  def identity(self) -> dict[str, Any]:
    """What tells it from another tokenizer, for JSON."""


def dtype(vocab_size: int) -> np.dtype:
  """The smallest type of ids on disk: uint16 or uint32, little-endian."""
  return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def load(path: str | None = None, end_token: str | None = None) -> Tokenizer:
  """The tokenizer of a tokenizer.json, or bytes without one.

  Args:
    path: the file, as the `tokenizers` library writes it; None for bytes.
    end_token: its token for the end of a document, such as <|endoftext|>.

  Raises:
    DepthMupError: the file is missing or damaged, the token is not in it or not
      given; or it is given without a file.
  """
  if path is not None:
    return FileTokenizer(path, end_token)
  if end_token is not None:
    raise DepthMupError(
      f"--end_token={end_token} is for a tokenizer.json; bytes have an end of their own: "
      "leave it away, or give --tokenizer"
    )
  return ByteTokenizer()


class ByteTokenizer:
  """The 256 bytes of UTF-8, and id 256 for the end of a document."""

  vocab_size = 257
  end = 256

  def encode(self, text: str) -> np.ndarray:
    """See `Tokenizer`."""
    return np.frombuffer(text.encode(), np.uint8).astype(dtype(self.vocab_size))

  def decode(self, ids: np.ndarray) -> str:
    """See `Tokenizer`; a character cut in two becomes U+FFFD."""
    ids = _without_end(ids, self)
    return ids.astype(np.uint8).tobytes().decode(errors="replace")

  def identity(self) -> dict[str, Any]:
    """See `Tokenizer`."""
    return {"kind": "bytes", "vocab_size": self.vocab_size, "end": self.end}


class FileTokenizer:
  """A tokenizer.json, through the `tokenizers` library.

  Documents are encoded whole, whatever truncation or padding the file asks for, and
  without the special tokens that it would put around them. A special token that is
  spelled out in a document is text like any other.
  """

  def __init__(self, path: str, end_token: str | None):
    import tokenizers

    if not pathlib.Path(path).is_file():
      raise DepthMupError(f"--tokenizer={path}: no such file; give a tokenizer.json")
    content = pathlib.Path(path).read_bytes()
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises plain Exception
      reason = str(error).splitlines()[0]
      raise DepthMupError(
        f"--tokenizer={path} is no tokenizer.json, or damaged: {reason}; get it again"
      ) from None
    self.end = self._find_end(path, end_token)
    self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1
    self._sha256 = hashlib.sha256(content).hexdigest()
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self._tokenizer.encode_special_tokens = True

  def _find_end(self, path: str, end_token: str | None) -> int:
    found = None if end_token is None else self._tokenizer.token_to_id(end_token)
    if found is not None:
      return found
    added = self._tokenizer.get_added_tokens_decoder().values()
    names = [token.content for token in added if token.special]
    raise DepthMupError(
      f"--tokenizer={path} needs a token that ends a document, "
      + ("none was given" if end_token is None else f"it has none named {end_token!r}")
      + f"; choose --end_token from its special tokens ({', '.join(names) or 'none'}) or "
      "its vocabulary"
    )

  def encode(self, text: str) -> np.ndarray:
    """See `Tokenizer`.

    Raises:
      DepthMupError: the tokenizer has no id for something in the text.
    """
    try:
      ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as error:  # the library raises plain Exception
      raise DepthMupError(
        f"the tokenizer cannot encode {text[:40]!r}: {error}; use another --tokenizer"
      ) from None
    return np.array(ids, dtype(self.vocab_size))

  def decode(self, ids: np.ndarray) -> str:
    """See `Tokenizer`."""
    ids = _without_end(ids, self)
    return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)

  def identity(self) -> dict[str, Any]:
    """See `Tokenizer`."""
    return {
      "kind": "tokenizer.json",
      "sha256": self._sha256,
      "vocab_size": self.vocab_size,
      "end": self.end,
    }


def _without_end(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
  ids = np.asarray(ids, np.int64).ravel()
  wrong = ids[(ids < 0) | (ids >= tokenizer.vocab_size)]
  if wrong.size:
    raise DepthMupError(
      f"token id {wrong[0]} cannot be decoded: ids are 0 to {tokenizer.vocab_size - 1}"
    )
  return ids[ids != tokenizer.end]
