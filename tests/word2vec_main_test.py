"""The main of word2vec at toy size: what it writes, continues and refuses."""

import json
import math
import os
import pathlib

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import word2vec
from experiments._lib import word2vec_config, word2vec_figure, word2vec_training
from experiments._lib.word2vec_config import LIMIT
from experiments._lib.word2vec_training import Training
from flax_depthmup import DepthMupError

ROOT = pathlib.Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "text"

TOY = {"widths": ["4", "8"], "seeds": 1, "text_epochs": 2, "batch_size": 64}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  monkeypatch.setattr(word2vec, "_SENTENCES", 144)
  monkeypatch.setattr(word2vec, "_QUESTIONS", 40)
  monkeypatch.setattr(word2vec_training, "_DRAWS", 8)


@pytest.fixture
def no_figures(monkeypatch):
  """Drawing them takes longer than a toy run."""
  for name in ("draw", "draw_embeddings"):
    monkeypatch.setattr(word2vec_figure, name, lambda *args: None)


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    word2vec.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def without_time(workdir):
  return [{k: v for k, v in r.items() if k != "seconds"} for r in lines(workdir)]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  rows = lines(tmp_path)
  assert rows[0]["width"] == "kernel"
  assert (rows[0]["words"], rows[0]["questions"]) == (91, 40)
  assert rows[0]["expected"] == pytest.approx(1 / 88)
  cells = [(r["width"], r["seed"], r["epoch"]) for r in rows[1:]]
  assert cells == [(w, 0, e) for w in (LIMIT, 4, 8) for e in (1, 2)]
  for r in rows[1:]:
    assert {"loss", "accuracy", "semantic", "syntactic", "seconds"} <= set(r)
    assert r["positions"] == 3 * 144
    assert (r["logit_rms"] == 0) == (r["width"] == LIMIT)
    assert ("points" in r) == (r["epoch"] == 2)
  assert len(rows[-1]["points"]["column 0"]) == 12
  assert rows[2]["loss"] < rows[1]["loss"] < math.log(2)  # all see the same stream
  for name in ("word2vec.png", "word2vec_embeddings.png"):
    assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
  found = json.loads((tmp_path / "summary.json").read_text())["word2vec"]
  assert set(found) == {
    "accuracy_rises_with_width",
    "logits_converge",
    "kernel_regime_at_chance",
  }
  assert found["logits_converge"]["seen"] is None
  assert not (tmp_path / "states").exists()
  told = capsys.readouterr().out
  assert "91 words, 576 tokens, 432 positions an epoch; 40 of 40 analogies" in told
  assert "cannot tell: logits converge" in told
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: lr is 0.3, this run has 0.4"):
    run(tmp_path, cbow_lr=0.4)


@pytest.mark.usefixtures("no_figures")
def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  """Once between epochs of a width, once between widths; the end is the same."""
  run(tmp_path / "whole")
  look, count = Training._look, 0
  trained = []

  def interrupt(self, cell, u, v, epoch, folder):
    nonlocal count
    count += 1
    trained.append((cell[0], epoch))
    if count in (2, 6):
      raise KeyboardInterrupt
    return look(self, cell, u, v, epoch, folder)

  monkeypatch.setattr(Training, "_look", interrupt)
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut")
  assert [r["width"] for r in lines(tmp_path / "cut")] == ["kernel", LIMIT, LIMIT, 4, 4]
  run(tmp_path / "cut")
  assert trained == [
    (LIMIT, 0),
    *[(LIMIT, 1)] * 2,
    (4, 0),
    (4, 1),
    *[(8, 0)] * 2,
    (8, 1),
  ]
  assert without_time(tmp_path / "cut") == without_time(tmp_path / "whole")
  summaries = ((tmp_path / d / "summary.json").read_bytes() for d in ("whole", "cut"))
  assert next(summaries) == next(summaries)


@pytest.mark.usefixtures("no_figures")
def test_finished_cells_behind_a_retrained_one_are_kept(tmp_path, monkeypatch):
  """Figures fail, so no summary is written; then the limit's logits are lost."""
  with monkeypatch.context() as patch:
    patch.setattr(word2vec_figure, "draw", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(tmp_path)
  whole = without_time(tmp_path)
  (tmp_path / "states" / "logits-0-0.npz").unlink()
  look, trained = Training._look, []

  def interrupt(self, cell, u, v, epoch, folder):
    if epoch == 1:
      raise KeyboardInterrupt
    trained.append(cell)
    return look(self, cell, u, v, epoch, folder)

  with monkeypatch.context() as patch:
    patch.setattr(Training, "_look", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path)
  assert [r["width"] for r in lines(tmp_path)] == ["kernel", LIMIT, 4, 4, 8, 8]
  monkeypatch.setattr(
    Training, "_look", lambda *args: trained.append(args[1]) or look(*args)
  )
  run(tmp_path)
  assert trained == [(LIMIT, 0)] * 2
  assert without_time(tmp_path) == whole


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_state_is_named(tmp_path, monkeypatch):
  def interrupt(self, cell, u, v, epoch, folder):
    if epoch == 1:
      raise KeyboardInterrupt
    return {"accuracy": 0.0}

  with monkeypatch.context() as patch:
    patch.setattr(Training, "_look", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path)
  state = tmp_path / "states" / "state-limit-0.npz"
  state.write_bytes(state.read_bytes()[:1000])
  with pytest.raises(DepthMupError, match=r"state-limit-0.npz is damaged; delete it"):
    run(tmp_path)


@pytest.mark.usefixtures("no_figures")
def test_a_width_that_diverges_ends(tmp_path, capsys):
  run(tmp_path, cbow_lr=1e30, widths=["4"])
  rows = lines(tmp_path)[1:]
  assert [(r["width"], r["epoch"], r["diverged"]) for r in rows] == [
    (LIMIT, 1, True),
    (4, 1, True),
  ]
  assert "diverged: 4, limit; give a smaller --cbow_lr" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_options_reach_the_run(tmp_path):
  def last(name, infinite=False, **values):
    values |= {"widths": ["4"], "text_epochs": 1, "infinite": infinite}
    run(tmp_path / name, **values)
    return lines(tmp_path / name)[-1]

  plain = last("plain")
  sequential = last("sequential", sequential=True)
  decay = last("decay", lazy_decay=False)
  of_text = {"single_target": True, "readout_sigma": 1.0, "uniform_embeddings": False}
  text = last("text", infinite=True, **of_text)
  assert len({r["loss"] for r in (plain, sequential, decay, text)}) == 4
  assert sequential["loss"] == pytest.approx(plain["loss"], rel=0.05)
  assert decay["loss"] == pytest.approx(plain["loss"], rel=1e-2)
  assert decay["logit_rms"] is None
  assert text["logit_rms"] > 0


# A text ----------------------------------------------------------------------------------

QUESTIONS = ": city-in-state\none two three four\ntwo one four three\n: gram1\none x y z\n"


def files(folder):
  """A text of six words, and questions; one cannot be asked."""
  rng = np.random.default_rng(0)
  names = ["one", "Two", "three", "Four", "five", "six"]
  text = "\n".join(" ".join(rng.permutation(names)) for _ in range(60))
  (folder / "text").write_text(text)
  (folder / "questions.txt").write_text(QUESTIONS)
  return {"text": str(folder / "text"), "questions": str(folder / "questions.txt")}


def test_a_text_of_ones_own(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(word2vec_figure, "draw", lambda *args: None)
  own = files(tmp_path) | {"widths": ["4"], "infinite": False}
  run(tmp_path / "run", **own, text_epochs=1, subsample=0.1)
  assert "7 words, 419 tokens" in capsys.readouterr().out
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert config["sampling"]["window"] == 8
  assert (config["sampling"]["negatives"], config["lr"]) == (25, 0.05)
  assert (config["min_count"], config["weight_decay"]) == (5, 1e-3)
  last = lines(tmp_path / "run")[-1]
  assert last["syntactic"] is None
  points = last["points"]
  assert [*points] == ["city-in-state, first", "city-in-state, second"]
  assert {len(group) for group in points.values()} == {2}
  for name, other in (("questions", "one six"), ("text", "two one")):
    path = pathlib.Path(own[name])
    content = path.read_text()
    path.write_text(other + content[len(other) :])  # of the same size
    with pytest.raises(DepthMupError, match=f"holds another run: {name}_sha256 is"):
      run(tmp_path / "run", **own, text_epochs=1, subsample=0.1)
    path.write_text(content)
  capsys.readouterr()
  run(tmp_path / "run", **own, text_epochs=1, subsample=0.1)
  assert "already done" in capsys.readouterr().out
  pathlib.Path(own["questions"]).unlink()
  with pytest.raises(DepthMupError, match=r"--questions=.* cannot be read: No such file"):
    run(tmp_path / "run", **own)


def test_questions_that_cannot_be_asked(tmp_path):
  own = files(tmp_path) | {"clean": False}
  with pytest.raises(DepthMupError, match="none of the 3 questions of --questions="):
    run(tmp_path / "run", **own)
  assert not (tmp_path / "run" / "config.json").exists()


# Memory ----------------------------------------------------------------------------------


def test_what_the_limit_needs(tmp_path):
  """text8 and fil9, as the module's text has it."""
  with flagsaver.flagsaver(**files(tmp_path), widths=["64"]):
    config = word2vec_config.from_flags()
  bytes_ = config.needed_bytes(LIMIT, 71_291)
  matrices = 2 * 4 * 71_291**2
  assert matrices / 1e9 == pytest.approx(40.7, abs=0.05)
  assert matrices / 2**30 == pytest.approx(37.9, abs=0.05)
  assert (bytes_ - matrices) / 1e9 == pytest.approx(1.5, abs=0.05)
  assert pytest.approx(162, abs=0.5) == 2 * 4 * 142_276**2 / 1e9
  told = " ".join(word2vec.__doc__.split())
  assert "40.7 GB (37.9 GiB) for two matrices and 1.5 GB for a batch of 64" in told
  assert "fil9 (142,276) needs 162 GB" in told
  assert config.needed_bytes(64, 71_291) < 4e7 + 2e6
  with flagsaver.flagsaver(**files(tmp_path), readout_sigma=1.0):
    assert word2vec_config.from_flags().needed_bytes(LIMIT, 71_291) == 2 * bytes_


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
  words = (
    r"width limit needs .* GiB of memory for two matrices 91 x 91 and a batch, and there"
  )
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path, embedding_memory_gib=1e-4, widths=["2"])
  assert not (tmp_path / "config.json").exists()
  with flagsaver.flagsaver(**TOY):
    config = word2vec_config.from_flags()
  word2vec_config.check_memory(config, 91)
  machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  with pytest.raises(DepthMupError, match="--infinite=false"):
    word2vec_config.check_memory(config, int((machine / 8) ** 0.5) + 1)

  class Device:
    platform = "gpu"

    def __init__(self, stats):
      self.memory_stats = lambda: stats

    def __str__(self):
      return "gpu:0"

  monkeypatch.setattr(jax, "local_devices", lambda: [Device({"bytes_limit": 2**30})])
  word2vec_config.check_memory(config, 10_000)
  with pytest.raises(DepthMupError, match="there are 1;"):
    word2vec_config.check_memory(config, 12_000)
  monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
  with pytest.raises(DepthMupError, match="gpu:0 does not tell its memory"):
    word2vec_config.check_memory(config, 91)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/text beside the checkout")
def test_real_text(tmp_path, capsys):
  """A small net on the official questions: the files are read as they are."""
  own = {
    "text": str(REAL / "wikitext-2.valid.txt"),
    "questions": str(REAL / "questions-words.txt"),
    "max_vocabulary": 3000,
  }
  small = {"min_count": 1, "infinite": False, "widths": ["8"], "negatives": 2}
  run(tmp_path, **own, **small, text_epochs=1, subsample=1e-5)
  told = capsys.readouterr().out
  assert "3,000 words" in told
  assert "of 2,283 analogies can be asked" in told
  assert lines(tmp_path)[-1]["loss"] < math.log(2)
