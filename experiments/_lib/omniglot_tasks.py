"""Characters for meta-training and meta-testing, and N-way K-shot tasks made of them."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments._lib.omniglot_archives import DRAWINGS, SIDE, digest, read_archive
from flax_depthmup import DepthMupError

PARTS = ("train", "validation", "test")
#: Stream of tasks -> a number of its own among the seeds.
_STREAMS = {part: number for number, part in enumerate(PARTS)}

#: Part -> sets: an archive's name without .zip, or ARCHIVE/ALPHABET.
Sets = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Images:
  """The drawings of one part.

  Attributes:
    pixels: [characters * 20, 784] float32, ink is 1; the 20 drawings of a character
      follow each other.
    characters: how many classes, rotations counted.
  """

  pixels: np.ndarray
  characters: int


def digests(folder: str, sets: Sets) -> dict[str, str]:
  """Archive -> sha256, of those that are read.

  Raises:
    DepthMupError: one is absent.
  """
  return {name: digest(path) for name, path in _paths(folder, sets).items()}


def _paths(folder: str, sets: Sets) -> dict[str, pathlib.Path]:
  """Archive -> file, in order."""
  names = {entry.partition("/")[0] for part in PARTS for entry in sets[part]}
  return {name: pathlib.Path(folder) / f"{name}.zip" for name in sorted(names)}


def load(folder: str, sets: Sets) -> dict[str, Images | None]:
  """The drawings of all parts; None for a part without sets.

  A character turned by 90, 180 and 270 degrees is three more characters for training and
  validation, not for test. A whole archive is without those of its alphabets that
  another entry names.

  Args:
    folder: of the archives.
    sets: by part.

  Raises:
    DepthMupError: as `read_archive`; an alphabet is not in its archive, or in two parts; a
      part has sets, but all their alphabets are named in another.
  """
  entries = {part: [entry.partition("/") for entry in sets[part]] for part in PARTS}
  archives = {n: read_archive(path) for n, path in _paths(folder, sets).items()}
  named = {alphabet for part in PARTS for _, _, alphabet in entries[part]}
  taken: dict[str, str] = {}
  found: dict[str, Images | None] = {}
  for part in PARTS:
    drawings = []
    for archive, _, alphabet in entries[part]:
      inside = archives[archive]
      if alphabet and alphabet not in inside:
        raise DepthMupError(
          f"--{part}_sets={archive}/{alphabet}: {archive}.zip has no such alphabet, only "
          f"{', '.join(inside)}"
        )
      for name in [alphabet] if alphabet else [n for n in inside if n not in named]:
        if name in taken:
          raise DepthMupError(
            f"the alphabet {name} is in --{taken[name]}_sets and again in --{part}_sets; "
            "name the alphabets you want, as ARCHIVE/ALPHABET"
          )
        taken[name] = part
        drawings.append(inside[name])
    if sets[part] and not drawings:
      raise DepthMupError(
        f"--{part}_sets={','.join(sets[part])}: every alphabet of it is named in another "
        "set, so nothing is left; leave some out there, or give another archive"
      )
    found[part] = _images(drawings, turned=part != "test") if drawings else None
  return found


def _images(alphabets: list[np.ndarray], turned: bool) -> Images:
  images = np.concatenate(alphabets)
  if turned:
    images = np.concatenate([np.rot90(images, k, axes=(2, 3)) for k in range(4)])
  pixels = images.reshape(-1, SIDE * SIDE).astype(np.float32) / 255
  return Images(pixels=pixels, characters=len(images))


def sample(
  part: str, seed: int, block: int, tasks: int, characters: int, ways: int, drawings: int
) -> np.ndarray:
  """Tasks, a function of the arguments alone: the same for every model.

  Args:
    part: which stream of tasks.
    seed: of the run.
    block: its place in the stream.
    tasks: how many.
    characters: there are to choose from.
    ways: classes of a task, distinct characters in random order.
    drawings: of each class, distinct, for support and queries together.

  Returns:
    [tasks, ways, drawings] int32 rows of `Images.pixels`; class w has the label w.
  """
  rng = np.random.default_rng((seed, _STREAMS[part], block))
  keys = rng.random((tasks, characters))
  chosen = np.argpartition(keys, ways - 1, axis=1)[:, :ways]
  # The order within a partition follows the position, that of the keys is random.
  order = np.argsort(np.take_along_axis(keys, chosen, axis=1), axis=1)
  chosen = np.take_along_axis(chosen, order, axis=1)
  which = rng.random((tasks, ways, DRAWINGS)).argsort(axis=2)[:, :, :drawings]
  return (chosen[:, :, None] * DRAWINGS + which).astype(np.int32)
