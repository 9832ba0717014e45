"""The entry point: from flags to shards, again, and with every flag wrong."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import lr_transfer, prepare_text  # noqa: F401  their flags do not clash
from experiments._lib import tokens
from experiments._lib.shards import open_shards
from experiments._lib.text import TextSource, documents
from flax_depthmup import DepthMupError

ROOT = pathlib.Path(__file__).parents[1]


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=None if workdir is None else str(workdir), **values):
    prepare_text.main([])


@pytest.fixture
def lines(tmp_path) -> str:
  path = tmp_path / "a.jsonl"
  records = [{"text": f"text {i}", "body": f"body {i}"} for i in range(50)]
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(path)


def test_without_flags_it_packs_the_embedded_text(tmp_path, capsys):
  run(tmp_path / "w")
  out = capsys.readouterr().out
  texts = list(documents(TextSource()))
  assert f"{len(texts)} documents, vocabulary of 257, in {tmp_path / 'w'}" in out
  shards = [open_shards(tmp_path / "w", split) for split in ("train", "validation")]
  total = sum(len(text.encode()) + 1 for text in texts)
  assert sum(s.tokens for s in shards) == total
  assert f"train: {shards[0].tokens:,} tokens in 1 shards" in out
  assert 0.01 * total < shards[1].tokens < 0.3 * total
  first = tokens.ByteTokenizer().decode(shards[0].read(0, len(texts[0].encode()) + 1))
  assert first == texts[0]
  summary = json.loads((tmp_path / "w" / "summary.json").read_text())["text"]
  assert summary["fingerprint"] == shards[0].fingerprint
  assert summary["tokens"] == {"train": shards[0].tokens, "validation": shards[1].tokens}
  assert summary["documents"] == len(texts)
  run(tmp_path / "w")
  assert "already done" in capsys.readouterr().out


def test_every_flag_reaches_the_shards(tmp_path, lines):
  import tokenizers

  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"body": 0, "END": 1, "?": 2}, "?")
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  words.save(str(tmp_path / "t.json"))
  run(
    tmp_path / "w",
    input=[lines],
    text_column="body",
    max_documents=20,
    tokenizer=str(tmp_path / "t.json"),
    end_token="END",
    validation=0.3,
    shard_tokens=10,
  )
  train, held = (open_shards(tmp_path / "w", s) for s in ("train", "validation"))
  assert train.array().reshape(-1, 3).tolist() == [[0, 2, 1]] * (train.tokens // 3)
  assert (train.tokens + held.tokens, train.vocab_size, train.end) == (60, 3, 1)
  assert 9 <= held.tokens <= 30
  assert len(np.load(tmp_path / "w" / "train-00000.npy")) == 10
  config = json.loads((tmp_path / "w" / "config.json").read_text())
  assert (config["input"], config["validation"]) == ([lines], 0.3)


def test_a_builder_with_files_gives_what_the_files_give(tmp_path, lines):
  run(tmp_path / "a", input=[lines])
  run(tmp_path / "b", input=[lines], hf_dataset="json")
  for name in ("train-00000.npy", "validation-00000.npy"):
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


WRONG = {
  "workdir": (None, "--workdir is missing"),
  "input": (["no.txt"], "--input=no.txt: no such file"),
  "hf_dataset": ("a/b", "--hf_dataset=a/b brings its own files"),
  "hf_config": ("en", "config=en, split=None without a data set"),
  "hf_split": ("train", "split=train without a data set"),
  "text_column": ("content", "line 1 has no field 'content' but text, body"),
  "max_documents": (0, "--max_documents=0"),
  "tokenizer": ("no.json", "--tokenizer=no.json: no such file"),
  "end_token": ("<e>", "--end_token=<e> is for a tokenizer.json"),
  "validation": (1.0, "--validation=1.0: expected a fraction"),
  "shard_tokens": (0, "--shard_tokens=0"),
}


@pytest.mark.parametrize("flag", WRONG)
def test_a_wrong_flag_is_named_and_claims_nothing(tmp_path, lines, flag):
  value, words = WRONG[flag]
  values = {"workdir": tmp_path / "w", "input": [lines], flag: value}
  with pytest.raises(DepthMupError, match=words):
    run(**values)
  assert not (tmp_path / "w").exists()


def test_another_run_in_the_same_folder_is_refused(tmp_path, lines):
  run(tmp_path / "w", input=[lines])
  with pytest.raises(
    DepthMupError, match="holds another run: validation is 0.1, this run has"
  ):
    run(tmp_path / "w", input=[lines], validation=0.2)
  with pathlib.Path(lines).open("a") as file:
    file.write('{"text": "more"}\n')
  with pytest.raises(DepthMupError, match=r"another corpus: source.files\[0\].bytes is"):
    run(tmp_path / "w", input=[lines])


def test_a_damaged_line_in_the_middle_is_one_sentence(tmp_path, lines):
  with pathlib.Path(lines).open("a") as file:
    file.write('{"text": "cut\n')
  command = [sys.executable, "-m", "experiments.prepare_text", f"--input={lines}"]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path / 'w'}"], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 1
  [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert f"{lines}, line 51 is no JSON" in error
  assert "Traceback" not in done.stderr
  # Mended, the same command does it.
  path = pathlib.Path(lines)
  path.write_text(path.read_text().replace('"cut\n', '"whole"}\n'))
  run(tmp_path / "w", input=[lines])
  assert open_shards(tmp_path / "w", "train").tokens > 300
