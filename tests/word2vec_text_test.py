"""Word2Vec's reader of texts: plain and packed, whole and damaged."""

import gzip
import zipfile

import numpy as np
import pytest

from experiments._lib import word2vec_text
from experiments._lib.word2vec_text import END_OF_LINE
from flax_depthmup import DepthMupError

TEXT = "The cat's 2 paws.\r\nÀ la carte;\n\nthe END"
CLEAN = ["the", "cat", "s", "paws", "</s>", "la", "carte", "</s>", "</s>", "the", "end"]


def write(path, content=b""):
  if path.suffix == ".gz":
    path.write_bytes(gzip.compress(content))
  elif path.suffix == ".zip":
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
      archive.writestr("text8", content)
  else:
    path.write_bytes(content)
  return path


def all_words(path, clean=True):
  return [word for part in word2vec_text.words(path, clean) for word in part]


@pytest.mark.parametrize("name", ["text8", "text8.gz", "text8.zip"])
def test_words_of_a_text(tmp_path, name):
  path = write(tmp_path / name, TEXT.encode())
  assert all_words(path) == CLEAN
  kept = ["The", "cat's", "2", "paws.", END_OF_LINE, "À", "la", "carte;"]
  assert all_words(path, clean=False)[:8] == kept


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_words_across_parts(tmp_path, monkeypatch, size):
  monkeypatch.setattr(word2vec_text, "_CHUNK", size)
  assert all_words(write(tmp_path / "text", TEXT.encode())) == CLEAN


def test_wrong_texts(tmp_path):
  def fails(path, words, **values):
    with pytest.raises(DepthMupError, match=words):
      all_words(path, **values)

  fails(tmp_path / "none", "none cannot be read: No such file")
  fails(tmp_path, "cannot be read: Is a directory")
  fails(write(tmp_path / "empty", b""), "empty holds no words")
  fails(write(tmp_path / "digits", b"1 2\n3"), r"digits holds no words; .* --clean=false")
  fails(write(tmp_path / "empty.zip", b""), "holds no words")
  fails(write(tmp_path / "latin", "é".encode("latin-1")), "latin is no text in UTF-8")
  many = np.random.default_rng(0).integers(97, 123, 5000).astype(np.uint8).tobytes()
  for name in ("cut.gz", "cut.zip"):
    path = write(tmp_path / name, many)
    path.write_bytes(path.read_bytes()[:1000])
    fails(path, f"{name} is damaged")
  for name in ("flipped.gz", "flipped.zip"):
    content = bytearray(write(tmp_path / name, many).read_bytes())
    content[1000:1040] = bytes(40)
    (tmp_path / name).write_bytes(content)
    fails(tmp_path / name, f"{name} is damaged")
  for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
    path = tmp_path / f"method{method}.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
      archive.writestr("text8", many)
    content = bytearray(path.read_bytes())
    content[60:1000] = bytes(940)
    path.write_bytes(content)
    fails(path, f"{path.name} is damaged")
  for name in ("plain.gz", "plain.zip"):
    (tmp_path / name).write_bytes(b"not packed at all")
    fails(tmp_path / name, f"{name} is damaged")
  with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
    archive.writestr("a", "a b")
    archive.writestr("b", "a b")
  fails(tmp_path / "two.zip", "holds 2 files; expected one")
