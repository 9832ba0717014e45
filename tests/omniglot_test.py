"""Omniglot's archives, whole and broken, and the tasks that are made of them."""

import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments._lib.omniglot_archives import DRAWINGS, read_archive
from experiments._lib.omniglot_tasks import load, sample
from flax_depthmup import DepthMupError

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data" / "omniglot"


def png(pixels):
  """Bytes of a black and white image; 0 is ink."""
  buffer = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
  return buffer.getvalue()


def drawing(seed, side=105):
  """A white sheet with a black rectangle somewhere in its upper left."""
  rng = np.random.default_rng(seed)
  pixels = np.ones((side, side))
  top, left = rng.integers(5, side // 3, size=2)
  pixels[top : top + 20, left : left + 10] = 0
  return pixels


def members(alphabets, root="toy"):
  """Name -> content of a small archive: alphabet -> number of characters."""
  return {
    f"{root}/{name}/character{c:02d}/{100 * a + c:04d}_{i:02d}.png": png(
      drawing((a, c, i % 2))
    )
    for a, (name, count) in enumerate(alphabets.items())
    for c in range(1, count + 1)
    for i in range(1, DRAWINGS + 1)
  }


TOY = members({"Latin": 2, "Greek": 1})


def write(path, content, **options):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
    archive.writestr("toy/", "")
    for name, data in content.items():
      archive.writestr(name, data)
  return path


def test_an_archive_is_read_in_memory(tmp_path):
  path = write(tmp_path / "toy.zip", TOY | {"toy/readme.txt": b"of no interest"})
  found = read_archive(path)
  assert list(found) == ["Greek", "Latin"]
  assert found["Latin"].shape == (2, DRAWINGS, 28, 28)
  assert found["Latin"].dtype == np.uint8
  assert os.listdir(tmp_path) == ["toy.zip"]
  wanted = 1 - drawing((0, 2, 1))  # Latin's second character, drawings of odd numbers
  first, second = found["Latin"][1, :2] / 255
  assert not np.array_equal(first, second)
  # Ink stays as much, and where it was: mean and centre of mass.
  assert first.mean() == pytest.approx(wanted.mean(), rel=0.03)
  for axis in (0, 1):
    centre = [
      (a.sum(axis=1 - axis) @ (np.arange(len(a)) + 0.5)) / a.sum() / len(a)
      for a in (first, wanted)
    ]
    assert centre[0] == pytest.approx(centre[1], abs=0.005)


def truncated(data):
  return data[: len(data) // 2]


def damaged(data):
  """One byte of the first drawing's compressed data is another."""
  at = data.index(b".png") + 40
  return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize(
  ("breaking", "words"),
  [
    (truncated, "truncated, damaged or no zip file"),
    (damaged, "truncated, damaged or no zip file"),
    (lambda data: b"<html>not found</html>", "no zip file"),
    (lambda data: b"", "no zip file"),
  ],
)
def test_a_broken_file(tmp_path, breaking, words):
  path = write(tmp_path / "toy.zip", TOY)
  path.write_bytes(breaking(path.read_bytes()))
  with pytest.raises(DepthMupError, match=words) as caught:
    read_archive(path)
  assert "\n" not in str(caught.value)


def test_a_broken_file_of_another_compression(tmp_path):
  path = tmp_path / "toy.zip"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
    for name, data in TOY.items():
      archive.writestr(name, data)
  data = bytearray(path.read_bytes())
  at = data.index(b".png") + 4  # the first drawing's, whose head comes first
  data[at + 9 : at + 40] = b"\xff" * 31
  path.write_bytes(data)
  with pytest.raises(DepthMupError, match="truncated, damaged or no zip file"):
    read_archive(path)


NAME = next(iter(TOY))
WRONG = {
  "parent": ({"../evil.png": b"x"}, "leads out of its folder"),
  "parent within": ({"toy/../../evil/character01/0001_01.png": b"x"}, "leads out"),
  "absolute": ({"/etc/character01/0001_01.png": b"x"}, "'/etc/.*leads out"),
  "drive": ({"C:/Latin/character01/0001_01.png": b"x"}, "leads out"),
  "other slashes": ({"..\\Latin\\character01\\0001_01.png": b"x"}, "leads out"),
  "no image": ({NAME: b"GIF89a"}, f"{NAME} is no PNG image"),
  "half an image": ({NAME: TOY[NAME][:60]}, "is no PNG image"),
  "another size": ({NAME: png(drawing(0, side=28))}, "28x28 pixels, expected 105x105"),
  "too large": ({NAME: bytes(2**19)}, "has 524288 bytes"),
  "one drawing too many": (
    {"toy/Latin/character01/0001_21.png": TOY[NAME]},
    "has 21 drawings of Latin/character01: expected 20",
  ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_member(tmp_path, name):
  changes, words = WRONG[name]
  path = write(tmp_path / "toy.zip", TOY | changes)
  with pytest.raises(DepthMupError, match=words):
    read_archive(path)
  assert os.listdir(tmp_path) == ["toy.zip"]


def test_missing_drawings_and_no_drawings(tmp_path):
  rest = dict(list(TOY.items())[1:])
  with pytest.raises(DepthMupError, match="has 19 drawings of Latin/character01"):
    read_archive(write(tmp_path / "fewer.zip", rest))
  other = {"strokes_background/Latin/character01/0001_01.txt": b"0,0,0"}
  with pytest.raises(DepthMupError, match="holds no drawings"):
    read_archive(write(tmp_path / "strokes.zip", other))
  with pytest.raises(DepthMupError, match=r"has no absent.zip: point --data_dir"):
    read_archive(tmp_path / "absent.zip")


def sets(train=("a",), validation=(), test=("b",)):
  return {"train": train, "validation": validation, "test": test}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("archives")
  write(folder / "a.zip", members({"Latin": 2, "Greek": 1}, "a"))
  write(folder / "b.zip", members({"Tagalog": 2, "Korean": 1}, "b"))
  return str(folder)


def test_parts_and_rotations(folder):
  found = load(folder, sets(validation=("b/Korean",)))
  assert {p: i.characters for p, i in found.items()} == {
    "train": 12,
    "validation": 4,
    "test": 2,
  }
  pixels = found["train"].pixels
  assert (pixels.shape, pixels.dtype) == ((240, 784), np.float32)
  assert pixels.min() == 0
  assert pixels.max() == 1
  images = pixels.reshape(4, 60, 28, 28)
  for turn in range(4):  # by quarters of a turn, each a class of its own
    np.testing.assert_array_equal(images[turn], np.rot90(images[0], turn, axes=(1, 2)))
  assert not np.array_equal(images[0], images[1])
  assert load(folder, sets())["validation"] is None
  # An alphabet that another entry names is left out of a whole archive.
  assert load(folder, sets(test=("a/Latin",)))["train"].characters == 4


@pytest.mark.parametrize(
  ("given", "words"),
  [
    (sets(test=("b/Latin",)), "b.zip has no such alphabet, only Korean, Tagalog"),
    (
      sets(test=("b",), validation=("b/Korean", "b/Tagalog")),
      "--test_sets=b: every alphabet of it is named in another set",
    ),
    (
      sets(test=("b/Korean",), validation=("a",), train=("a/Latin", "a/Greek")),
      "--validation_sets=a: every alphabet of it",
    ),
    (sets(test=("a",)), "alphabet Greek is in --train_sets and again in --test_sets"),
    (sets(test=("c",)), "has no c.zip"),
    (sets(train=("a/Latin",), test=("a/Latin",)), "Latin is in --train_sets and again"),
  ],
)
def test_wrong_sets(folder, given, words):
  with pytest.raises(DepthMupError, match=words):
    load(folder, given)


def test_tasks():
  tasks = sample("train", 0, 3, 4000, characters=12, ways=5, drawings=3)
  assert (tasks.shape, tasks.dtype) == ((4000, 5, 3), np.int32)
  np.testing.assert_array_equal(tasks, sample("train", 0, 3, 4000, 12, 5, 3))
  for other in (("test", 0, 3), ("train", 1, 3), ("train", 0, 4)):
    assert not np.array_equal(tasks, sample(*other, 4000, 12, 5, 3))
  characters, drawings = tasks // DRAWINGS, tasks % DRAWINGS
  assert (characters == characters[..., :1]).all()
  ordered = np.sort(characters[..., 0], axis=1)
  assert (np.diff(ordered) > 0).all()  # distinct classes
  assert (np.diff(np.sort(drawings, axis=2)) > 0).all()  # distinct drawings
  # Each label meets each character 4000/12 = 333 times, within 5.5 deviations of 17.5.
  for label in range(5):
    counts = np.bincount(characters[:, label, 0], minlength=12)
    assert np.abs(counts - 4000 / 12).max() < 96
  for place in range(3):
    counts = np.bincount(drawings[:, :, place].ravel(), minlength=20)
    assert np.abs(counts - 1000).max() < 170


@pytest.mark.skipif(not DATA.is_dir(), reason="Omniglot's small archives are absent")
def test_the_official_archives():
  found = load(
    str(DATA),
    sets(
      train=("images_background_small1",),
      test=("images_background_small2/Sanskrit", "images_background_small2/Tagalog"),
    ),
  )
  assert found["train"].characters == 4 * 136
  assert found["test"].characters == 42 + 17
  assert found["train"].pixels.mean() == pytest.approx(0.0763, abs=1e-3)  # ink is rare
