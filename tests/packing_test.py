"""Packed shards against the plain concatenation of the documents."""

import gzip
import json
import pathlib
import shutil

import numpy as np
import pytest
import zstandard

from experiments._lib import packing, tokens
from experiments._lib.packing import Corpus, in_validation, prepare
from experiments._lib.shards import open_shards
from experiments._lib.text import TextSource
from flax_depthmup import DepthMupError

SAMPLE = (
  pathlib.Path(__file__).parents[2] / "shared/data/text/commoncrawl-sample.warc.wet.gz"
)
TEXTS = [f"Document {i}: " + "ä" * (i % 7) for i in range(40)] + [""]


class Wide(tokens.ByteTokenizer):
  """Bytes far up in a vocabulary that needs 32 bits."""

  vocab_size = 2**20

  def encode(self, text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.uint32) + 2**19


def corpus(folder: pathlib.Path, texts=TEXTS, **fields) -> Corpus:
  folder.mkdir(exist_ok=True)
  path = folder / "corpus.jsonl"
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  source = TextSource(files=(str(path),))
  return Corpus(source=source, **{"validation": 0.2, "shard_tokens": 50} | fields)


def stream(texts, tokenizer=None) -> np.ndarray:
  tokenizer = tokenizer or tokens.ByteTokenizer()
  pieces = [p for text in texts for p in (tokenizer.encode(text), [tokenizer.end])]
  return np.concatenate(pieces).astype(np.int32)


def expected(validation=0.2) -> dict[str, np.ndarray]:
  held = [in_validation(i, validation) for i in range(len(TEXTS))]
  return {
    split: stream([t for t, h in zip(TEXTS, held, strict=True) if h == want])
    for split, want in (("train", False), ("validation", True))
  }


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize("size", [3, 50, 2**24])
def test_shards_hold_the_documents_one_after_another(tmp_path, size):
  index = prepare(tmp_path / "s", corpus(tmp_path, shard_tokens=size))
  assert index.documents == len(TEXTS)
  for split, tokens_ in expected().items():
    shards = open_shards(tmp_path / "s", split)
    np.testing.assert_array_equal(shards.array(), tokens_)
    assert (shards.tokens, shards.end, shards.vocab_size) == (len(tokens_), 256, 257)
    sizes = [shard.tokens for shard in index.splits[split]]
    assert set(sizes[:-1]) <= {size}
    files = sorted((tmp_path / "s").glob(f"{split}-*.npy"))
    assert [len(np.load(path)) for path in files] == sizes
    assert np.load(files[0]).dtype == np.uint16


def test_a_large_vocabulary_takes_32_bits(tmp_path):
  index = prepare(tmp_path / "s", corpus(tmp_path, tokenizer=Wide()))
  found = open_shards(tmp_path / "s", "train").array()
  assert np.load(tmp_path / "s" / "train-00000.npy").dtype == np.uint32
  assert (index.dtype, found.max() > 2**19, found.min()) == ("<u4", True, 256)


def test_the_validation_documents_are_a_function_of_number_and_fraction():
  numbers = range(20_000)
  for fraction in (0.01, 0.1, 0.5):
    held = [in_validation(i, fraction) for i in numbers]
    assert np.mean(held) == pytest.approx(fraction, rel=0.1)
    assert held == [in_validation(i, fraction) for i in numbers]
  small, large = ({i for i in numbers if in_validation(i, f)} for f in (0.01, 0.1))
  assert small < large
  assert not in_validation(0, 0.999_999)


@pytest.mark.parametrize("size", [3, 50, 2**24])
@pytest.mark.parametrize("texts", [["x" * 333], ["ab", "cd"], [""] * 3, ["x" * 100]])
def test_few_documents_give_the_end_of_their_tokens(tmp_path, texts, size):
  fields = {"shard_tokens": size, "validation": 0.01}
  prepare(tmp_path / "s", corpus(tmp_path, texts, **fields))
  train, held = (open_shards(tmp_path / "s", s) for s in ("train", "validation"))
  whole = stream(texts)
  np.testing.assert_array_equal(np.concatenate([train.array(), held.array()]), whole)
  assert held.tokens == max(1, round(0.01 * len(whole)))
  files = [p for p in (tmp_path / "s").glob("train-*.npy") if p.stat().st_size]
  assert len(files) == -(-train.tokens // size)


def test_a_corpus_of_one_token_cannot_be_split(tmp_path):
  with pytest.raises(DepthMupError, match="the corpus holds 1 token;"):
    prepare(tmp_path / "s", corpus(tmp_path, [""]))


@pytest.mark.skipif(not SAMPLE.is_file(), reason="no data folder beside the checkout")
def test_wet_and_json_lines_give_the_same_bytes(tmp_path):
  text = gzip.decompress(SAMPLE.read_bytes())[-4 - 4456 : -4].decode()  # its last record
  lines = (json.dumps({"text": text}) + "\n").encode()
  files = {
    "a.jsonl": lines,
    "a.jsonl.gz": gzip.compress(lines),
    "a.jsonl.zst": zstandard.compress(lines),
    "a.txt": text.encode(),
  }
  shutil.copy(SAMPLE, tmp_path / SAMPLE.name)
  for name, data in files.items():
    (tmp_path / name).write_bytes(data)
  found = {}
  for name in (SAMPLE.name, *files):
    source = TextSource(files=(str(tmp_path / name),))
    folder = tmp_path / f"shards of {name}"
    index = prepare(folder, Corpus(source=source, shard_tokens=1000))
    found[name] = content(folder), index.fingerprint
  assert len(found[SAMPLE.name][0]) == 5 + 1
  assert all(value == found[SAMPLE.name] for value in found.values())


def test_done_is_done_and_other_settings_are_refused(tmp_path):
  first = prepare(tmp_path / "s", corpus(tmp_path))
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir()}
  assert prepare(tmp_path / "s", corpus(tmp_path)) == first
  assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir()} == before
  wrong = {
    "shard_tokens is 50, this one has 51": corpus(tmp_path, shard_tokens=51),
    "validation is 0.2, this one has 0.3": corpus(tmp_path, validation=0.3),
    "tokenizer.vocab_size is 257, this one": corpus(tmp_path, tokenizer=Wide()),
    r"source.files\[0\].bytes is \d+, this one": corpus(tmp_path / "other", ["a", "b"]),
    "source.embedded is None, this one has pydoc": Corpus(shard_tokens=50, validation=0.2),
  }
  for words, other in wrong.items():
    with pytest.raises(DepthMupError, match=f"another corpus: {words}"):
      prepare(tmp_path / "s", other)


def test_fingerprint_tells_data_apart(tmp_path):
  made = [
    prepare(tmp_path / str(i), corpus(tmp_path / f"c{i}", texts))
    for i, texts in enumerate([TEXTS, TEXTS, [*TEXTS[:-1], "x"], TEXTS[::-1]])
  ]
  prints = [index.fingerprint for index in made]
  assert prints[0] == prints[1] == open_shards(tmp_path / "0", "train").fingerprint
  assert len(set(prints)) == 3


def test_an_interrupted_preparation_starts_afresh(tmp_path, monkeypatch):
  prepare(tmp_path / "whole", corpus(tmp_path))
  folder = tmp_path / "s"
  folder.mkdir()
  (folder / "train-notes.npy").write_text("mine")
  (folder / "index.json.tmp").write_text("{")

  def interrupt(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(packing, "write_index", interrupt)
    with pytest.raises(KeyboardInterrupt):
      prepare(folder, corpus(tmp_path, shard_tokens=7))
  assert len(content(folder)) > 3 * len(content(tmp_path / "whole"))
  with pytest.raises(DepthMupError, match="has no index.json: .*interrupted; run the"):
    open_shards(folder, "train")
  with pytest.raises(KeyboardInterrupt):
    prepare(folder, corpus(tmp_path), interrupt)  # after its first document
  assert set(content(folder)) == {"train-notes.npy"}
  prepare(folder, corpus(tmp_path))
  found = content(folder)
  assert found.pop("train-notes.npy") == b"mine"
  assert found == content(tmp_path / "whole")
  assert not (folder / "index.json.tmp").exists()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(np, "save", full)
  with pytest.raises(DepthMupError, match=r"-00000.npy cannot be written: No space left"):
    prepare(tmp_path / "s", corpus(tmp_path))


@pytest.mark.parametrize(
  ("field", "value"),
  [("validation", v) for v in (0, 1, -0.1, float("nan"))]
  + [("shard_tokens", v) for v in (0, -1, 2**28 + 1)],
)
def test_wrong_settings(field, value):
  with pytest.raises(DepthMupError, match=f"--{field}={value}: expected"):
    Corpus(**{field: value})


def test_memory_does_not_grow_with_the_corpus(tmp_path):
  import tracemalloc

  peaks = []
  for count in (100, 1000):
    made = corpus(tmp_path / str(count), ["x" * 2000] * count, shard_tokens=10_000)
    _ = made.settings
    tracemalloc.start()
    prepare(tmp_path / f"s{count}", made)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
  assert peaks[1] < 1.2 * peaks[0] + 200_000  # of 4 MB of tokens
