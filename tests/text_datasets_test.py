"""Local data of the datasets library, offline, and every wrong data set."""

import gc
import warnings

import pytest

from experiments._lib.text import TextSource
from flax_depthmup import DepthMupError
from tests.text_test import json_lines, read, write


@pytest.fixture
def offline(tmp_path, monkeypatch):
  """The datasets library without a network, its cache in the test's folder."""
  import datasets
  import huggingface_hub.constants

  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  for module in (datasets.config, huggingface_hub.constants):
    monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
  datasets.disable_progress_bars()
  return datasets


@pytest.mark.parametrize("builder", ["json", "text", "parquet", "arrow"])
def test_local_builders_of_datasets(tmp_path, offline, builder):
  texts = ["one", "two ä 中", "three"]
  path = tmp_path / "data"
  rows = offline.Dataset.from_dict({"id": [1, 2, 3], "body": texts})
  column = "body"
  if builder == "text":
    path.write_text("".join(f"{t}\n" for t in texts))
    column = "text"
  elif builder == "arrow":
    rows.save_to_disk(tmp_path / "saved")
    path = next((tmp_path / "saved").glob("*.arrow"))
  else:
    getattr(rows, f"to_{builder}")(path)
  assert read(path, dataset=builder, column=column) == texts
  assert read(path, dataset=builder, column=column, limit=2) == texts[:2]
  if builder != "text":
    with pytest.raises(DepthMupError, match="no column 'text' but id, body; choose"):
      read(path, dataset=builder)
    with pytest.raises(DepthMupError, match="row 0: 'id' is 1; expected a string"):
      read(path, dataset=builder, column="id")


def test_csv_through_datasets(tmp_path, offline):
  path = write(tmp_path / "a.csv", b'id,text\n1,"one, two"\n2,three\n')
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # datasets leaves it to the collector
    assert read(path, dataset="csv") == ["one, two", "three"]
    gc.collect()


def test_a_data_set_saved_to_disk(tmp_path, offline):
  rows = offline.Dataset.from_dict({"text": ["one", "two"]})
  rows.save_to_disk(tmp_path / "one")
  both = offline.DatasetDict({"train": rows, "held": rows.select([1])})
  both.save_to_disk(tmp_path / "both")
  one, both = (str(tmp_path / name) for name in ("one", "both"))
  assert read(dataset=one) == read(dataset=both) == ["one", "two"]
  assert read(dataset=both, split="held") == ["two"]
  assert TextSource(dataset=one).identity["files"] != TextSource(dataset=both).identity
  with pytest.raises(DepthMupError, match="no split x; choose --hf_split from train, held"):
    read(dataset=both, split="x")
  with pytest.raises(DepthMupError, match="saved without a split x"):
    read(dataset=one, split="x")
  with pytest.raises(DepthMupError, match="it has no --hf_config"):
    read(dataset=one, config="en")
  with pytest.raises(DepthMupError, match="brings its own files"):
    read("a.txt", dataset=one)
  rows.select([]).to_parquet(tmp_path / "none")
  with pytest.raises(DepthMupError, match="holds no row"):
    read(tmp_path / "none", dataset="parquet")


@pytest.mark.slow
def test_data_sets_that_are_not_there(offline):
  for name in ("no/such", "nosuchbuilder"):
    with pytest.raises(
      DepthMupError, match=f"--hf_dataset={name}: config=None, split=train"
    ):
      read(dataset=name)


def test_wrong_data_sets(tmp_path, offline, monkeypatch):
  monkeypatch.chdir(tmp_path)  # a builder without files looks for some below it
  path = write(tmp_path / "a.jsonl", json_lines(["a"]) + b'{"text": \n')
  with pytest.raises(DepthMupError, match="--hf_dataset=json: (row 0|config)"):
    read(path, dataset="json")
  with pytest.raises(DepthMupError, match="split=held: ValueError: Bad split: held"):
    read(path, dataset="json", split="held")
  with pytest.raises(DepthMupError, match="--hf_dataset=parquet"):
    read(path, dataset="parquet")
  with pytest.raises(DepthMupError, match="--hf_dataset=json"):
    read(dataset="json")
