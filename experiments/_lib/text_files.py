"""Documents from files: plain text, JSON lines and Common Crawl WET, compressed or not."""

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from flax_depthmup import DepthMupError

_CHUNK = 2**20  # compressed bytes read at once


def read(path: pathlib.Path, column: str = "text") -> Iterator[str]:
  """The documents of one file, its format told by its name.

    .txt            plain text in UTF-8; the file is one document
    .jsonl, .json   JSON lines; the text is the field `column` of each line
    .wet            Common Crawl; its `conversion` records, as in *.warc.wet.gz

  each also as .gz or .zst.

  Raises:
    DepthMupError: unknown format; the file is empty, truncated or damaged. Names the
      file, and the line, byte or record.
  """
  reader = _READERS[check_format(path)]
  count = -1
  with _opened(path) as file:
    for count, document in enumerate(reader(path, file, column)):  # noqa: B007
      yield document
  if count < 0:
    raise DepthMupError(f"{path} holds no document; leave it out, or get it again")


def check_format(path: pathlib.Path) -> str:
  """The suffix that tells the format, without that of the compression.

  Raises:
    DepthMupError: no known format.
  """
  suffixes = path.suffixes
  if suffixes and suffixes[-1] in _UNPACKERS:
    suffixes.pop()
  if not suffixes or suffixes[-1] not in _READERS:
    raise DepthMupError(
      f"{path} is of unknown format; expected {', '.join(_READERS)}, also with .gz or "
      ".zst; rename it, or read it with --hf_dataset=parquet, csv or arrow"
    )
  return suffixes[-1]


def _plain(path: pathlib.Path, file: BinaryIO, column: str) -> Iterator[str]:
  del column
  content = file.read()
  if content:
    yield _decoded(content, str(path))


def _json_lines(path: pathlib.Path, file: BinaryIO, column: str) -> Iterator[str]:
  for number, line in enumerate(file, 1):
    place = f"{path}, line {number}"
    try:
      record = json.loads(_decoded(line, place))
    except (ValueError, RecursionError) as error:
      raise DepthMupError(
        f"{place} is no JSON ({error}); expected an object a line, such as "
        f'{{"{column}": "..."}}; mend or remove the line'
      ) from None
    if not isinstance(record, dict):
      raise DepthMupError(
        f"{place} is a JSON {type(record).__name__}; expected an object a line, such as "
        f'{{"{column}": "..."}}'
      )
    if column not in record:
      raise DepthMupError(
        f"{place} has no field {column!r} but {', '.join(record) or 'none'}; choose with "
        "--text_column"
      )
    text = record[column]
    if not isinstance(text, str):
      raise DepthMupError(
        f"{place}: {column!r} is {text!r:.40}; expected a string; choose another field "
        "with --text_column, or mend the line"
      )
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise DepthMupError(
        f"{place}: {column!r} has half a surrogate pair at character {error.start}, which "
        "is no text; mend or remove the line"
      ) from None
    yield text


def _wet(path: pathlib.Path, file: BinaryIO, column: str) -> Iterator[str]:
  del column
  from warcio.archiveiterator import ArchiveIterator
  from warcio.exceptions import ArchiveLoadFailed

  try:
    for number, record in enumerate(ArchiveIterator(file)):
      headers = record.rec_headers
      content = record.content_stream().read()
      place = f"{path}, record {number} ({headers.get_header('WARC-Target-URI') or '-'})"
      # Of a cut file, warcio hands the last record over as if it were whole.
      promised = headers.get_header("Content-Length")
      if promised != str(len(content)):
        raise DepthMupError(
          f"{place} has {len(content)} bytes, its header promises {promised or 'none'}: "
          "the file is truncated or damaged; download it again"
        )
      if record.rec_type == "conversion":
        yield _decoded(content, place)
  except ArchiveLoadFailed as error:
    raise DepthMupError(f"{path} is no WET file, or damaged: {error}") from None


_READERS = {".txt": _plain, ".jsonl": _json_lines, ".json": _json_lines, ".wet": _wet}


def _decoded(content: bytes, place: str) -> str:
  try:
    return content.decode()
  except UnicodeDecodeError as error:
    raise DepthMupError(
      f"{place}: byte {error.start} (0x{content[error.start]:02x}) is no UTF-8; convert "
      "the text to UTF-8"
    ) from None


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
  """The file's content, unpacked."""
  with path.open("rb") as file:
    if path.suffix in _UNPACKERS:
      with io.BufferedReader(_Stream(_unpacked(path, file))) as stream:
        yield stream
    else:
      yield file


def _unpacked(path: pathlib.Path, file: BinaryIO) -> Iterator[bytes]:
  try:
    yield from _UNPACKERS[path.suffix](file)
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise DepthMupError(
      f"{path} is no whole {path.suffix} file ({error}); download it again"
    ) from None


def _gzip(file: BinaryIO) -> Iterator[bytes]:
  with gzip.open(file) as content:
    while chunk := content.read(_CHUNK):
      yield chunk


def _zstandard(file: BinaryIO) -> Iterator[bytes]:
  """Frame after frame; zstandard's own reader takes a cut file for a whole one."""
  import zstandard

  # Frames packed with --long ask for more memory than the library grants by itself.
  unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)
  frame, packed = None, b""
  try:
    while packed := packed or file.read(_CHUNK):
      frame = frame or unpacker.decompressobj()
      yield frame.decompress(packed)
      packed = b""
      if frame.eof:
        packed, frame = frame.unused_data, None
  except zstandard.ZstdError as error:
    raise EOFError(error) from None
  if frame is not None:
    raise EOFError("it ends in the middle of a frame")


_UNPACKERS = {".gz": _gzip, ".zst": _zstandard}


class _Stream(io.RawIOBase):
  """Chunks of bytes as a file."""

  def __init__(self, chunks: Iterator[bytes]):
    self._chunks, self._rest = chunks, memoryview(b"")

  def readable(self) -> bool:
    """Always."""
    return True

  def readinto(self, target: memoryview) -> int:
    """Fills `target` as far as one chunk goes; 0 at the end."""
    while not self._rest:
      chunk = next(self._chunks, None)
      if chunk is None:
        return 0
      self._rest = memoryview(chunk)
    count = min(len(target), len(self._rest))
    target[:count], self._rest = self._rest[:count], self._rest[count:]
    return count
