"""Omniglot from its official archives: zip files of drawings, read without unpacking.

Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program
induction (Science 2015): images_background.zip, images_evaluation.zip and the two small
images_background_small1.zip and images_background_small2.zip. Members are
ARCHIVE/ALPHABET/characterNN/XXXX_MM.png, 20 drawings MM of each character, 105x105 pixels,
black on white.
"""

import hashlib
import io
import lzma
import pathlib
import re
import struct
import zipfile
import zlib

import numpy as np

from flax_depthmup import DepthMupError

#: Drawings of a character, and pixels along a side after resizing.
DRAWINGS, SIDE = 20, 28
_ORIGINAL_SIDE = 105
_MEMBER = re.compile(r"(?:[^/]+/)?([^/]+)/character(\d+)/\d+_(\d+)\.png")
#: Bytes of a drawing, unpacked; the official ones have a few hundred.
_LARGEST = 2**18
_DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
  EOFError,
  NotImplementedError,
  struct.error,
)

#: Of an alphabet: character number -> drawing number -> member.
_Members = dict[int, dict[int, zipfile.ZipInfo]]


def digest(path: pathlib.Path) -> str:
  """The sha256 of an archive.

  Raises:
    DepthMupError: the file is absent.
  """
  _must_be(path)
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_archive(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The drawings of an archive, in memory; nothing is written anywhere.

  Args:
    path: the zip file.

  Returns:
    Alphabet -> [characters, 20, 28, 28] bytes, 255 where there is ink, resized with
    antialiased bilinear interpolation; alphabets and characters in order.

  Raises:
    DepthMupError: the file is absent, no zip file, truncated or damaged, holds no
      drawings of Omniglot or not all of a character, a drawing of another size, or a
      member whose name leads out of a folder.
  """
  _must_be(path)
  try:
    with zipfile.ZipFile(path) as archive:
      alphabets = _members(archive, path)
      return {
        name: np.stack(
          [_character(archive, path, drawings) for _, drawings in sorted(found.items())]
        )
        for name, found in sorted(alphabets.items())
      }
  except _DAMAGE as error:
    raise DepthMupError(
      f"{path} is truncated, damaged or no zip file ({error}); download it again"
    ) from None


def _must_be(path: pathlib.Path) -> None:
  if not path.is_file():
    raise DepthMupError(
      f"{path.parent} has no {path.name}: point --data_dir at the official archives"
    )


def _members(archive: zipfile.ZipFile, path: pathlib.Path) -> dict[str, _Members]:
  """The drawings that the archive lists, by alphabet."""
  found: dict[str, _Members] = {}
  for info in archive.infolist():
    parts = info.filename.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", info.filename):
      raise DepthMupError(
        f"{path} has the member {info.filename!r}, which leads out of its folder: this is "
        "no archive of Omniglot; download it again"
      )
    match = _MEMBER.fullmatch(info.filename)
    if match is None:
      continue
    alphabet, character, drawing = match[1], int(match[2]), int(match[3])
    if info.file_size > _LARGEST or info.flag_bits & 1:
      raise DepthMupError(
        f"{path}: {info.filename} has {info.file_size} bytes or a password, as no drawing "
        "of Omniglot is; download the archive again"
      )
    found.setdefault(alphabet, {}).setdefault(character, {})[drawing] = info
  if not found:
    raise DepthMupError(
      f"{path} holds no drawings ALPHABET/characterNN/XXXX_MM.png: this is no archive of "
      "Omniglot's images; give images_background.zip or one like it"
    )
  for alphabet, characters in found.items():
    for character, drawings in characters.items():
      if len(drawings) != DRAWINGS:
        raise DepthMupError(
          f"{path} has {len(drawings)} drawings of {alphabet}/character{character:02d}: "
          f"expected {DRAWINGS}; download it again"
        )
  return found


def _character(
  archive: zipfile.ZipFile, path: pathlib.Path, drawings: dict[int, zipfile.ZipInfo]
) -> np.ndarray:
  return np.stack([_drawing(archive, path, i) for _, i in sorted(drawings.items())])


def _drawing(
  archive: zipfile.ZipFile, path: pathlib.Path, info: zipfile.ZipInfo
) -> np.ndarray:
  """[28, 28] bytes."""
  from PIL import Image, UnidentifiedImageError

  content = archive.read(info)  # checks its CRC
  broken = (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error)
  try:
    image = Image.open(io.BytesIO(content), formats=["PNG"])
    size = image.size
    grey = image.convert("L") if size == (_ORIGINAL_SIDE,) * 2 else None
  except (*broken, zlib.error, EOFError, Image.DecompressionBombError) as error:
    raise DepthMupError(
      f"{path}: {info.filename} is no PNG image ({error}); download the archive again"
    ) from None
  if grey is None:
    raise DepthMupError(
      f"{path}: {info.filename} has {size[0]}x{size[1]} pixels, expected "
      f"{_ORIGINAL_SIDE}x{_ORIGINAL_SIDE} as in Omniglot's archives"
    )
  ink = Image.fromarray(255 - np.asarray(grey))
  return np.asarray(ink.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
