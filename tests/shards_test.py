"""Windows against slices of the whole stream, and every damage to a folder."""

import json
import pickle

import numpy as np
import pytest

from experiments._lib.packing import prepare
from experiments._lib.shards import open_shards
from flax_depthmup import DepthMupError
from tests.packing_test import corpus, expected


@pytest.mark.parametrize("length", [1, 2, 5, 49, 50, 51, 99, 100, 133, 250])
def test_windows_are_slices_of_the_whole_stream(tmp_path, length):
  prepare(tmp_path / "s", corpus(tmp_path))
  shards = open_shards(tmp_path / "s", "train")
  whole = expected()["train"]
  windows = shards.windows(length)
  assert len(windows) == (len(whole) - 1) // length
  for i in range(len(windows)):
    window = windows[i]
    assert window.dtype == np.int32
    np.testing.assert_array_equal(window, whole[i * length : (i + 1) * length + 1])
  # No room for another one.
  assert len(whole) < (len(windows) + 1) * length + 1
  for wrong in (-1, len(windows)):
    with pytest.raises(IndexError):
      windows[wrong]


def test_windows_longer_than_the_text_or_of_no_length(tmp_path):
  prepare(tmp_path / "s", corpus(tmp_path))
  shards = open_shards(tmp_path / "s", "validation")
  assert len(shards.windows(shards.tokens - 1)) == 1
  with pytest.raises(DepthMupError, match=f"use a length of at most {shards.tokens - 1}"):
    shards.windows(shards.tokens)
  for wrong in (0, -3, 2.5):
    with pytest.raises(DepthMupError, match=f"length={wrong}: expected a positive whole"):
      shards.windows(wrong)
  with pytest.raises(DepthMupError, match="not among its"):
    shards.read(3, shards.tokens + 1)


def test_windows_are_a_source_for_grain_and_go_to_other_processes(tmp_path):
  import grain

  prepare(tmp_path / "s", corpus(tmp_path))
  windows = open_shards(tmp_path / "s", "train").windows(8)
  sent = pickle.dumps(windows)
  assert len(sent) < 5000
  batches = grain.MapDataset.source(pickle.loads(sent)).shuffle(seed=3).batch(4)
  rows = np.concatenate([batches[i] for i in range(len(batches))])
  all_rows = np.stack([windows[i] for i in range(len(windows))])
  assert sorted(r.tobytes() for r in rows) == sorted(r.tobytes() for r in all_rows)
  other = open_shards(tmp_path / "s", "train").windows(9)
  assert repr(windows) != repr(other)


def test_every_damage_is_named(tmp_path):
  prepare(tmp_path / "s", corpus(tmp_path))
  folder = tmp_path / "s"
  shard, index = folder / "train-00001.npy", folder / "index.json"
  whole = shard.read_bytes()
  fields = json.loads(index.read_text())

  def both_name(words, prepares=True):
    with pytest.raises(DepthMupError, match=words):
      open_shards(folder, "train")
    if prepares:
      with pytest.raises(DepthMupError, match=words):
        prepare(folder, corpus(tmp_path))

  for cut in (0, 5, 60, len(whole) - 1):
    shard.write_bytes(whole[:cut])
    both_name(r"train-00001.npy .*damaged; delete the folder and prepare it again")
  shard.write_bytes(whole + b"x")
  both_name("train-00001.npy has 229 bytes, expected 228")
  np.save(shard, np.load(folder / "train-00000.npy").astype(np.int64))
  both_name(r"holds int64 of shape \(50,\), the index says uint16 of shape \(50,\)")
  np.save(shard, np.zeros(49, np.uint16))
  both_name(r"holds uint16 of shape \(49,\)")
  np.save(shard, np.zeros(50, np.uint16))
  with pytest.raises(DepthMupError, match="train-00001.npy holds other tokens than its"):
    prepare(folder, corpus(tmp_path))
  shard.unlink()
  both_name("train-00001.npy is missing; delete the folder")
  shard.write_bytes(whole)
  open_shards(folder, "train").verify()
  damaged = [
    "",
    "[]",
    index.read_text()[:-9],
    json.dumps({k: v for k, v in fields.items() if k != "splits"}),
    json.dumps(fields | {"dtype": "<u4"}),
    json.dumps(fields | {"splits": fields["splits"] | {"train": []}}),
    json.dumps({"run": 1}),
  ]
  for text in damaged:
    index.write_text(text)
    both_name("index.json is damaged, or no index of token shards; delete the folder")
  index.unlink()
  both_name("has no index.json", prepares=False)
  with pytest.raises(DepthMupError, match="is no folder; make it with python -m exp"):
    open_shards(tmp_path / "none", "train")
  with pytest.raises(DepthMupError, match="split='test': expected one of train, valid"):
    open_shards(folder, "test")
  (tmp_path / "file").write_text("x")
  with pytest.raises(DepthMupError, match="file cannot be made"):
    prepare(tmp_path / "file", corpus(tmp_path))


def test_a_shard_cut_while_it_is_open(tmp_path):
  prepare(tmp_path / "s", corpus(tmp_path))
  shards = open_shards(tmp_path / "s", "train")
  path = tmp_path / "s" / "train-00001.npy"
  path.write_bytes(path.read_bytes()[:-2])
  with pytest.raises(DepthMupError, match="train-00001.npy has been cut or deleted"):
    shards.array()
  path.unlink()
  with pytest.raises(DepthMupError, match="train-00001.npy has been cut or deleted"):
    shards.array()
