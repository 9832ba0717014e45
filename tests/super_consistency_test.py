"""The super-consistency experiment: its main at toy size, every flag wrong."""

import json
import math

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import super_consistency
from experiments._lib import data, super_consistency_config
from flax_depthmup import DepthMupError

# The entry point ---------------------------------------------------------------------

TOY = {
  "parametrizations": ["depth_mup"],
  "widths": ["4", "8"],
  "depth": 2,
  "base_depth": 2,
  "seeds": 3,
  "steps": 4,
  "measure_every": 2,
  "batch_size": 16,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    super_consistency.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  if not flags.FLAGS.is_parsed():  # before the fixture of every test
    flags.FLAGS.mark_as_parsed()
  path = tmp_path_factory.mktemp("super_consistency") / "whole"
  run(path)
  return path


def test_a_toy_run_writes_what_it_promises(whole, capsys):
  rows = lines(whole)
  assert [(r["parametrization"], r["width"], r["seed"], r["step"]) for r in rows] == [
    ("depth_mup", width, seed, step)
    for width in (4, 8)
    for seed in (0, 1, 2)
    for step in (0, 2, 4)
  ]
  for r in rows:
    assert r["relative"] == pytest.approx(r["sharpness"])  # eta = 2
    assert 0 <= r["residual"] < 0.05 * r["sharpness"]
    assert (r["depth"], r["block_depth"], r["diverged"]) == (2, 1, False)
  assert len({r["loss"] for r in rows if r["step"] == 4}) == 6
  assert (whole / "super_consistency.png").read_bytes()[:4] == b"\x89PNG"
  found = json.loads((whole / "summary.json").read_text())["super_consistency"]
  assert set(found) == {"claims", "measured"}
  assert set(found["claims"]) == {f"depth_mup: {n}" for n in ("same", "edge", "loss")}
  about = json.loads((whole / "config.json").read_text())
  assert (about["experiment"], about["base_width"]) == ("super_consistency", 1)
  run(whole)
  told = capsys.readouterr().out
  assert "already done" in told
  assert "octaves/doubling" in told
  assert "under depth_mup the sharpness rises to the edge" in told
  with pytest.raises(DepthMupError, match="holds another run: seeds is 3, this run has 4"):
    run(whole, seeds=4)


def test_an_interrupted_run_continues(whole, tmp_path, monkeypatch):
  finished = []
  record = super_consistency.Nets._record

  def interrupt(self, *args):
    if len(finished) == 3:
      raise KeyboardInterrupt
    finished.append(args[:2])
    record(self, *args)

  with monkeypatch.context() as patch:
    patch.setattr(super_consistency.Nets, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path)
  kept = {(r["parametrization"], r["width"], r["seed"]) for r in lines(tmp_path)}
  assert 0 < len(kept) < 6
  trained = []
  records = super_consistency.Training.records

  def count(self, seed, on_chunk):
    trained.append((self._net.variant, self._net.width, seed))
    return records(self, seed, on_chunk)

  monkeypatch.setattr(super_consistency.Training, "records", count)
  run(tmp_path)
  assert len(trained) == 6 - len(kept)
  assert kept.isdisjoint(trained)
  for name in ("results.jsonl", "summary.json"):
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_adam_and_block_depth_2(tmp_path):
  one = {"parametrizations": ["depth_mup@2"], "widths": ["4"], "seeds": 1}
  run(tmp_path, optimizer="adam", **one)
  rows = lines(tmp_path)
  assert [r["step"] for r in rows] == [2, 4]
  for r in rows:
    assert r["block_depth"] == 2
    assert r["relative"] == pytest.approx(r["sharpness"] / 38 * 2**-3)


def config(**values):
  with flagsaver.flagsaver(**values):
    return super_consistency_config.from_flags()


def test_a_net_that_diverges_is_trained_no_further():
  c = config(**TOY)
  training = super_consistency.Training(c, c.nets()[0], data.load("digits", None))
  measured = iter([(2.0, 1.0, 0.0), (math.inf, 1.0, 0.0)])
  taken = []
  training._init = training._train = lambda *state: taken.append(state)
  training._measure = lambda *state: next(measured)
  rows = training.records(0, lambda: None)
  assert [r["diverged"] for r in rows] == [False, True, True]
  assert [math.isnan(r["loss"]) for r in rows] == [False, True, True]
  assert len(taken) == 2  # the start, and the steps to the second measurement


BAD = {
  "workdir": (None, "--workdir is missing"),
  "dataset": ("imagenet", "--dataset=imagenet: expected one of digits"),
  "axis": ("joint", "--axis=joint: super_consistency grows width or depth"),
  "parametrizations": (["muP"], "'muP' is unknown"),
  "widths": (["8", "8"], "--widths='8,8'"),
  "depths": (["2"], r"--depths=\['2'\]: super_consistency --axis=width has none"),
  "width": (8, "--width=8: super_consistency --axis=width has none"),
  "depth": (0, "depth=0"),
  "base_depth": (0, "--base_depth=0"),
  "base_width": (-1, "--base_width=-1"),
  "seeds": (0, "--seeds=0"),
  "steps": (0, "--steps=0"),
  "measure_every": (3, "--measure_every=3 with --steps=4"),
  "batch_size": (0, "--batch_size=0"),
  "optimizer": ("lion", "--optimizer=lion: expected one of sgd, adam"),
  "log2_lr": (float("nan"), "--log2_lr=nan"),
  "activation": ("swish", "activation='swish'"),
  "norm": ("batch", "norm='batch'"),
  "block_multiplier": (0.0, "--block_multiplier=0.0"),
  "block_depth": (2, "--block_depth=2: super_consistency has none"),
  "mesh": ("data:2", "--mesh=data:2: super_consistency has none"),
  "eps": (1e-8, "--eps=1e-08: super_consistency has none"),
}


@pytest.mark.parametrize("flag", BAD)
def test_every_flag_with_a_wrong_value(tmp_path, flag):
  value, words = BAD[flag]
  values = {"workdir": str(tmp_path / "w")} | TOY | {flag: value}
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    super_consistency.main([])
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"parametrizations": []}, "at least one"),
    ({"parametrizations": ["ode", "ode"]}, "distinct"),
    ({"parametrizations": ["ode@0"]}, "'ode@0' has no number of matrices"),
    ({"parametrizations": ["ode@"]}, "'ode@' has no number of matrices"),
    ({"optimizer": "adam", "parametrizations": ["ntk@2"]}, "ntk is defined for sgd"),
    ({"measure_every": 4}, "--measure_every=4 with --steps=4"),
    ({"axis": "depth", "depth": None}, "--widths=.*--axis=depth has none"),
    ({"axis": "depth", "widths": None}, "--depth=2: super_consistency --axis=depth"),
    ({"log2_lr": 127.0}, "rates of float32"),
    ({"dataset": "cifar10"}, "--data_dir"),
    ({"dataset": "cifar10", "data_dir": "/nowhere"}, "has no data_batch_1.bin"),
    ({"batch_size": 2000}, "--batch_size=2000: digits has 1797 images"),
  ],
)
def test_other_wrong_values(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", **values)
  assert not (tmp_path / "w" / "config.json").exists()
