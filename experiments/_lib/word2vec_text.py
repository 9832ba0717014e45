"""The words of a text file: plain, .gz, or .zip of one member, as text8.zip is."""

import contextlib
import gzip
import io
import lzma
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from flax_depthmup import DepthMupError

#: Stands for the end of a line, which ends a sentence; word 0 of every vocabulary.
END_OF_LINE = "</s>"

_CHUNK = 2**24  # characters read at once
_OTHER = re.compile(r"[^a-z\n]+")


def words(path: pathlib.Path, clean: bool = True) -> Iterator[list[str]]:
  """The words of a text, in lists of a few million, `END_OF_LINE` among them.

  Args:
    path: in UTF-8; text8 is one line, so a line need not fit into memory.
    clean: lower-case, and all but a-z separates words; else only white space does.

  Raises:
    DepthMupError: there is no such file, or it is damaged, no UTF-8, or without words.
  """
  count, rest = 0, ""
  with _opened(path) as file:
    text = io.TextIOWrapper(file, encoding="utf-8")
    while True:
      part = text.read(_CHUNK)
      whole = rest + (part.lower() if clean else part)
      if clean:
        whole = _OTHER.sub(" ", whole)
      # The last word may go on in the next part.
      cut = len(whole) if not part else 1 + max(whole.rfind(" "), whole.rfind("\n"))
      rest = whole[cut:]
      found = whole[:cut].replace("\n", f" {END_OF_LINE} ").split()
      count += sum(word != END_OF_LINE for word in found)
      if found:
        yield found
      if not part:
        break
  if not count:
    raise DepthMupError(f"{path} holds no words; give another --text, or --clean=false")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
  """The bytes of the text; what is wrong with them becomes one sentence."""
  try:
    with contextlib.ExitStack() as stack:
      if path.suffix == ".gz":
        yield stack.enter_context(gzip.open(path))
      elif path.suffix == ".zip":
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = [m for m in archive.infolist() if not m.is_dir()]
        if len(members) != 1:
          raise DepthMupError(
            f"{path} holds {len(members)} files; expected one, as in text8.zip: unpack "
            "it and give the text itself"
          )
        yield stack.enter_context(archive.open(members[0]))
      else:
        yield stack.enter_context(path.open("rb"))
  except UnicodeDecodeError as error:
    raise DepthMupError(
      f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); convert it, or "
      "unpack it and name it .gz or .zip by what it is"
    ) from None
  except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError) as error:
    raise DepthMupError(f"{path} is damaged ({error}); get it again") from None
  except (NotImplementedError, RuntimeError) as error:  # an encrypted or exotic member
    raise DepthMupError(f"{path} cannot be unpacked ({error}); unpack it first") from None
  except OSError as error:
    if error.errno is None:  # of gzip and bz2, whose data are damaged
      raise DepthMupError(f"{path} is damaged ({error}); get it again") from None
    raise DepthMupError(f"--text={path} cannot be read: {error.strerror}") from None
