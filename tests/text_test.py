"""Every format gives the same documents, and every wrong file is named."""

import gzip
import json
import os
import pathlib

import pytest
import zstandard

from experiments._lib.text import TextSource, documents
from flax_depthmup import DepthMupError

SAMPLE = (
  pathlib.Path(__file__).parents[2] / "shared/data/text/commoncrawl-sample.warc.wet.gz"
)
TEXTS = ["One.\r\nTwo: ä, 中, 🙂\u2028 end", "", "three\n", '"\\ud83d" {'] * 3
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def json_lines(texts=TEXTS, column="text") -> bytes:
  return "".join(json.dumps({"id": 1, column: t}) + "\n" for t in texts).encode()


def wet(texts=TEXTS) -> bytes:
  """A WET file: a warcinfo record, then a conversion record a text."""
  records = [
    ("warcinfo", b"robots: none\r\n"),
    *(("conversion", t.encode()) for t in texts),
  ]
  return b"".join(
    b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: http://a/%d\r\nContent-Type: text/plain"
    b"\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (kind.encode(), i, len(content), content)
    for i, (kind, content) in enumerate(records)
  )


def read(*files, **fields) -> list[str]:
  return list(documents(TextSource(files=tuple(map(str, files)), **fields)))


def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return path


def test_the_embedded_text_is_english_in_a_fixed_order():
  found = list(documents(TextSource()))
  assert len(found) > 50
  assert sum(map(len, found)) > 300_000
  assert found[0].startswith('The "assert" statement')
  assert found == list(documents(TextSource()))
  assert TextSource().identity == TextSource().identity


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
  ("suffix", "content"),
  [(".jsonl", json_lines()), (".json", json_lines()), (".wet", wet())],
)
def test_every_format_gives_the_same_documents(tmp_path, suffix, content, packed):
  path = write(tmp_path / f"a.b{suffix}{packed}", PACK[packed](content))
  assert read(path) == TEXTS
  assert read(path, limit=2) == TEXTS[:2]


@pytest.mark.parametrize("packed", PACK)
def test_a_plain_file_is_one_document_with_its_line_ends(tmp_path, packed):
  path = write(tmp_path / f"a.txt{packed}", PACK[packed](TEXTS[0].encode()))
  assert read(path) == [TEXTS[0]]


@pytest.mark.skipif(not SAMPLE.is_file(), reason="no data folder beside the checkout")
def test_the_real_wet_file():
  [text] = read(SAMPLE)
  assert len(text.encode()) == 4456
  assert text.startswith("Escopete - Biquipedia, a enciclopedia libre\n")


def test_several_members_and_frames_are_read_to_the_end(tmp_path):
  for suffix, pack in ((".gz", gzip.compress), (".zst", zstandard.compress)):
    halves = pack(json_lines(TEXTS[:5])) + pack(b"") + pack(json_lines(TEXTS[5:]))
    assert read(write(tmp_path / f"a.jsonl{suffix}", halves)) == TEXTS


def test_zstandard_with_a_long_window_and_more_than_a_chunk(tmp_path):
  text = os.urandom(2**20).hex() * 2
  parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
  packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
  content = packed.compress(text.encode()) + packed.flush()
  assert len(content) > 2**20
  assert read(write(tmp_path / "a.txt.zst", content)) == [text]


def test_folders_globs_and_lists_in_the_order_of_their_paths(tmp_path):
  for name in ("b.txt", "a/z.txt", "a/y.txt", "c.jsonl", ".hidden"):
    write(tmp_path / name, json_lines([name]) if ".jsonl" in name else name.encode())
  everything = ["a/y.txt", "a/z.txt", "b.txt", "c.jsonl"]
  assert read(tmp_path) == everything
  assert read(tmp_path / "c.jsonl", tmp_path / "b.txt", tmp_path / "a") == everything
  assert read(tmp_path / "*.txt") == ["b.txt"]
  assert read(tmp_path / "**/*.txt") == everything[:3]
  (tmp_path / "[x].txt").write_text("brackets")
  assert read(tmp_path / "[x].txt") == ["brackets"]


def test_identity_follows_content_not_place(tmp_path):
  one, two = (write(tmp_path / d / "a.txt", b"hello") for d in ("x", "y"))
  first = TextSource(files=(str(one),)).identity
  assert json.loads(json.dumps(first)) == first == TextSource(files=(str(two),)).identity
  two.write_text("hallo")
  assert TextSource(files=(str(two),)).identity != first
  assert TextSource(files=(str(one),), column="t").identity != first


WRONG = {
  "no.txt": (None, "no.txt: no such file"),
  "*.nothing": (None, "no glob that matches"),
  "a.pdf": (b"x", r"a.pdf is of unknown format; expected .txt, .jsonl"),
  "a": (b"x", "unknown format"),
  "a.warc.gz": (b"x", "unknown format"),
  "empty.txt": (b"", "empty.txt holds no document"),
  "empty.jsonl": (b"", "empty.jsonl holds no document"),
  "empty.jsonl.gz": (b"", "empty.jsonl.gz holds no document"),
  "empty.txt.zst": (b"", "empty.txt.zst holds no document"),
  "info.wet": (wet([]), "info.wet holds no document"),
  "latin.txt": (b"abc\xe4", r"latin.txt: byte 3 \(0xe4\) is no UTF-8"),
  "cut.jsonl": (json_lines()[:-4], "cut.jsonl, line 12 is no JSON"),
  "array.json": (b'[{"text": "a"}]', "array.json, line 1 is a JSON list"),
  "pretty.json": (b'{\n "text": "a"}', "pretty.json, line 1 is no JSON"),
  "blank.jsonl": (json_lines(["a"]) + b"\n", "blank.jsonl, line 2 is no JSON"),
  "latin.jsonl": (json_lines(["a"]) + b'{"text": "\xe4"}', r"line 2: byte 10 \(0xe4\)"),
  "deep.jsonl": (b"[" * 100_000, "deep.jsonl, line 1 is no JSON"),
  "number.jsonl": (b'{"text": 3}\n', "number.jsonl, line 1: 'text' is 3; expected a"),
  "field.jsonl": (b'{"body": "a", "id": 3}\n', "no field 'text' but body, id; choose"),
  "half.jsonl": (b'{"text": "ab\\ud83d"}\n', "half a surrogate pair at character 2"),
  "no.jsonl.gz": (b"hello", "no.jsonl.gz is no whole .gz file"),
  "no.jsonl.zst": (b"hello", "no.jsonl.zst is no whole .zst file"),
  "no.wet": (b"hello\n" * 9, "no.wet is no WET file"),
  "latin.wet": (wet(["ab"]).replace(b"ab", b"\xe4b"), r"record 1 \(http://a/1\): byte 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_file(tmp_path, name):
  content, words = WRONG[name]
  if content is not None:
    write(tmp_path / name, content)
  with pytest.raises(DepthMupError, match=words):
    read(tmp_path / name)


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".wet"])
def test_a_cut_packed_file_is_never_taken_for_a_whole_one(tmp_path, suffix, packed):
  content = {".txt": TEXTS[0].encode(), ".jsonl": json_lines(), ".wet": wet()}[suffix]
  whole = PACK[packed](content)
  for cut in range(1, len(whole), 3):
    with pytest.raises(DepthMupError, match=f"no whole {packed} file"):
      read(write(tmp_path / f"a{suffix}{packed}", whole[:cut]))


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_damaged_bytes_of_a_packed_file_are_found(tmp_path, packed):
  compressor = zstandard.ZstdCompressor(write_checksum=True)
  whole = {".gz": gzip.compress, ".zst": compressor.compress}[packed](json_lines())
  start = 10 if packed == ".gz" else 0  # of the data: gzip ignores most of its header
  for i in range(start, len(whole), 5):
    damaged = whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :]
    with pytest.raises(DepthMupError):
      read(write(tmp_path / f"a.jsonl{packed}", damaged))


def test_a_cut_wet_file_never_gives_a_document_that_is_not_there(tmp_path):
  texts = ["one\r\n\r\n", "two", "three"]
  ends = [len(wet(texts[:i])) for i in range(4)]
  for cut in range(1, ends[-1]):
    path = write(tmp_path / "a.wet", wet(texts)[:cut])
    # A document is whole before the four bytes that close its record.
    whole = [texts[:i] for i in (1, 2, 3) if 0 <= ends[i] - cut <= 4]
    if whole:
      assert read(path) == whole[0]
    else:
      with pytest.raises(DepthMupError, match="a.wet"):
        read(path)


def test_wrong_sources(tmp_path):
  with pytest.raises(DepthMupError, match="empty folder"):
    read(tmp_path)
  path = write(tmp_path / "a.txt", b"x")
  with pytest.raises(DepthMupError, match=r"names .*a.txt twice"):
    read(path, tmp_path)
  with pytest.raises(DepthMupError, match="files='a.txt' is a string"):
    TextSource(files="a.txt")
  with pytest.raises(DepthMupError, match="split=x without a data set"):
    TextSource(split="x")
  with pytest.raises(DepthMupError, match="--max_documents=0"):
    TextSource(limit=0)
  with pytest.raises(DepthMupError, match="brings its own files; leave --input away"):
    TextSource(dataset="allenai/c4", files=("a.txt",))
  write(tmp_path / "b.pdf", b"x")
  with pytest.raises(DepthMupError, match="b.pdf is of unknown format"):
    next(documents(TextSource(files=(str(tmp_path),))))  # before a.txt is read
  write(tmp_path / "c.txt", b"")
  with pytest.raises(DepthMupError, match="c.txt is empty"):
    _ = TextSource(files=(str(tmp_path / "*.txt"),)).identity
