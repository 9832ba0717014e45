"""Every flag of word2vec with a wrong value."""

import math

import pytest
from absl.testing import flagsaver

from experiments import word2vec
from flax_depthmup import DepthMupError
from tests.word2vec_main_test import TOY, _short  # noqa: F401 (a fixture of every test)

BAD = [
  ({"workdir": None}, "--workdir is missing"),
  ({"text": "/no/file"}, "--text needs --questions"),
  ({"questions": "/no/file"}, "--text needs --questions"),
  ({"text": "/no/file", "questions": "/no/file"}, "--text=/no/file cannot be read"),
  ({"widths": ["x"]}, "--widths='x'"),
  ({"widths": ["0"]}, "--widths='0'"),
  ({"widths": ["2", "1", "4"]}, "--widths=1: expected at least 2"),
  ({"seeds": 0}, "--seeds=0"),
  ({"text_epochs": 0}, "--text_epochs=0: expected a whole number of at least 1"),
  ({"min_count": 0}, "--min_count=0"),
  ({"min_count": 10**6}, "only 0 of 90 words are left with --min_count=1000000"),
  ({"max_vocabulary": 0}, "--max_vocabulary=0"),
  ({"max_vocabulary": 5}, "none of the 40 questions of the synthetic text"),
  ({"context_window": 0}, "--context_window=0"),
  ({"subsample": -1.0}, "--subsample=-1.0: expected a finite number of at least 0"),
  ({"negatives": 0}, "--negatives=0"),
  ({"cbow_lr": 0.0}, "--cbow_lr=0.0: expected a positive number"),
  ({"cbow_lr": math.nan}, "--cbow_lr=nan"),
  ({"weight_decay": -1.0}, "--weight_decay=-1.0"),
  ({"batch_size": 0}, "--batch_size=0"),
  ({"batch_size": 10_000}, "--batch_size=10000: expected at most 4096"),
  ({"readout_sigma": math.inf}, "--readout_sigma=inf"),
  ({"embedding_memory_gib": 0.0}, "--embedding_memory_gib=0.0"),
  ({"optimizer": "adam"}, "--optimizer=adam: word2vec has none"),
  ({"window": 5}, "--window=5: word2vec has none"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=lambda v: str(v)[:30])
def test_wrong_flags(tmp_path, values, words):
  with (
    flagsaver.flagsaver(**({"workdir": str(tmp_path / "w")} | TOY | values)),
    pytest.raises(DepthMupError, match=words),
  ):
    word2vec.main([])
  assert not (tmp_path / "w" / "config.json").exists()
