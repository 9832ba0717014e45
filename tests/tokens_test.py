"""Round trips of the tokenizers, and every wrong tokenizer.json."""

import json
import pathlib

import numpy as np
import pytest
import tokenizers

from experiments._lib import tokens
from flax_depthmup import DepthMupError

TEXTS = ["", "Hello, world!\n", "ä 中 🙂 \x00\ufeff", "a<|endoftext|>b [PAD]" * 9]
END = "<|endoftext|>"


def write(path, **changes) -> str:
  """A byte-level BPE that asks for truncation, padding and a special token in front."""
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=[END, "[PAD]"],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator(["hello world, a world of worlds"] * 5, trainer)
  bpe.post_processor = tokenizers.processors.TemplateProcessing(
    single=f"{END} $A", special_tokens=[(END, 0)]
  )
  bpe.enable_truncation(4)
  bpe.enable_padding(length=100, pad_id=1, pad_token="[PAD]")
  path.write_text(json.dumps(json.loads(bpe.to_str()) | changes))
  return str(path)


def test_bytes():
  t = tokens.load()
  assert (t.vocab_size, t.end) == (257, 256)
  assert t.identity() == {"kind": "bytes", "vocab_size": 257, "end": 256}
  ids = t.encode("aä")
  assert ids.tolist() == [97, 195, 164]
  assert ids.dtype == "<u2"
  for text in TEXTS:
    assert t.decode(t.encode(text)) == text
  assert t.decode(np.array([104, 256, 105])) == "hi"
  assert t.decode(np.array([195])) == "\ufffd"


def test_a_tokenizer_file(tmp_path):
  path = write(tmp_path / "tokenizer.json")
  t = tokens.load(path, END)
  assert t.end == 0
  assert (
    t.vocab_size == len(json.loads(pathlib.Path(path).read_text())["model"]["vocab"]) < 300
  )
  for text in TEXTS:
    ids = t.encode(text)
    assert ids.dtype == "<u2"
    assert t.decode(ids) == text
    # Neither put in front, nor cut, nor padded, nor read out of the document.
    assert not {0, 1} & set(ids.tolist())
  assert len(t.encode("hello world")) < len("hello world")
  ids = np.concatenate([t.encode("hello"), [t.end], t.encode(" world")])
  assert t.decode(ids) == "hello world"
  assert t.decode(np.array([1])) == "[PAD]"


def test_identity_tells_tokenizers_apart(tmp_path):
  one = tokens.load(write(tmp_path / "a.json"), END).identity()
  assert json.loads(json.dumps(one)) == one
  assert one == tokens.load(write(tmp_path / "b.json"), END).identity()
  other = tokens.load(write(tmp_path / "c.json", truncation=None), END).identity()
  assert other["sha256"] != one["sha256"]
  assert tokens.load(str(tmp_path / "a.json"), "[PAD]").identity() != one


def test_dtype_holds_every_id():
  for size in (2, 257, 2**16, 2**16 + 1, 2**20):
    assert np.iinfo(tokens.dtype(size)).max >= size - 1
  assert (tokens.dtype(2**16), tokens.dtype(2**16 + 1)) == ("<u2", "<u4")


def test_vocab_size_counts_added_tokens_and_gaps(tmp_path):
  path = write(tmp_path / "tokenizer.json")
  fields = json.loads(pathlib.Path(path).read_text())
  fields["model"]["vocab"]["zz"] = 999
  gap = tokens.load(write(tmp_path / "gap.json", model=fields["model"]), END)
  assert gap.vocab_size == 1000
  tokenizer = tokenizers.Tokenizer.from_file(path)
  tokenizer.add_special_tokens(["[NEW]"])
  tokenizer.save(str(tmp_path / "new.json"))
  new = tokens.load(str(tmp_path / "new.json"), "[NEW]")
  assert new.end == new.vocab_size - 1


def test_wrong_tokenizers(tmp_path):
  path = write(tmp_path / "tokenizer.json")
  with pytest.raises(DepthMupError, match="no such file"):
    tokens.load(str(tmp_path / "no.json"), END)
  with pytest.raises(
    DepthMupError, match=r"none named '</s>'; .*\(<\|endoftext\|>, \[PAD\]"
  ):
    tokens.load(path, "</s>")
  with pytest.raises(DepthMupError, match="none was given; choose --end_token"):
    tokens.load(path)
  with pytest.raises(DepthMupError, match="bytes have an end of their own"):
    tokens.load(None, END)
  for content in (b"", b"{}", b"\xff", pathlib.Path(path).read_bytes()[:-9]):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DepthMupError, match=r"bad.json is no tokenizer.json, or damaged"):
      tokens.load(str(tmp_path / "bad.json"), END)
  for t in (tokens.load(), tokens.load(path, END)):
    for wrong in (-1, t.vocab_size):
      with pytest.raises(DepthMupError, match=f"token id {wrong} cannot be decoded"):
        t.decode(np.array([5, wrong]))


def test_text_without_ids(tmp_path):
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "END": 1}, "[UNK]"))
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  words.save(str(tmp_path / "w.json"))
  t = tokens.load(str(tmp_path / "w.json"), "END")
  assert t.encode("a a").tolist() == [0, 0]
  with pytest.raises(DepthMupError, match="cannot encode 'a b'"):
    t.encode("a b")
