"""Folders of files, and the checksums of what is in them.

Paths are `pathlib` paths or what behaves like them, for instance in a bucket. Layer:
standard library only.
"""

import contextlib
import io
import os
import pathlib
import zlib
from typing import IO

#: Large, because a busy Python thread beside this one costs milliseconds a chunk.
_CHUNK_BYTES = 16 << 20


def list_files(folder: pathlib.Path) -> list[str]:
  """Names of all files below a folder, with slashes, sorted."""
  found = []
  for path in folder.iterdir():
    if path.is_dir():
      found += [f"{path.name}/{name}" for name in list_files(path)]
    else:
      found.append(path.name)
  return sorted(found)


def remove_folder(folder: pathlib.Path) -> None:
  """Removes a folder with all that is in it."""
  for path in list(folder.iterdir()):
    if path.is_dir():
      remove_folder(path)
    else:
      path.unlink(missing_ok=True)
  folder.rmdir()


def checksum(path: pathlib.Path, durable: bool = False) -> list[int]:
  """[size in bytes, CRC-32] of a file.

  Args:
    path: the file.
    durable: bring it to the disk first, where there is one.
  """
  size, crc = 0, 0
  with path.open("rb") as file:
    if durable:
      flush(file)
    while chunk := file.read(_CHUNK_BYTES):
      size, crc = size + len(chunk), zlib.crc32(chunk, crc)
  return [size, crc]


def file_fault(folder: pathlib.Path, name: str, size: int, crc: int) -> str:
  """How a file differs from its checksum, as half a sentence; empty when it does not."""
  try:
    found_size, found_crc = checksum(folder / name)
  except FileNotFoundError:
    return f"{name} is missing"
  except OSError as error:
    return f"{name} cannot be read: {error.strerror or error}"
  if found_size != size:
    return f"{name} has {found_size} bytes, {size} were written"
  if found_crc != crc:
    return f"{name} has CRC-32 {found_crc:08x}, {crc:08x} was written"
  return ""


def flush(file: IO[bytes]) -> None:
  """Brings what was written to an open file to the disk, where there is one."""
  with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # a bucket's file
    file.flush()
    os.fsync(file.fileno())
