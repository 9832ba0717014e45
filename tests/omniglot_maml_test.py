"""First-order MAML on Omniglot: its claims, and its main at toy size."""

import json
import math
import pathlib
import shutil

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import omniglot_maml
from experiments._lib import omniglot_config, omniglot_training
from experiments._lib.omniglot_verdict import claims
from flax_depthmup import DepthMupError
from tests.omniglot_test import members, write

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data" / "omniglot"

# Claims ------------------------------------------------------------------------------


#: Standard error of a seed's accuracy that comes from how hard its tasks are.
HARD = 0.03


def records(accuracies, error=0.004):
  """Of two seeds; the model's name -> its accuracy.

  Their difference has the standard error `error` in 50 batches of tasks that are common
  to the models of a seed; each for itself has HARD in addition.
  """
  noise = np.random.default_rng(0).normal(size=(50, 16))
  # Without mean and correlation, and of standard error 1.
  noise = np.linalg.qr(noise - noise.mean(axis=0))[0] * math.sqrt(50 * 49)
  common, own, found = noise.T[:2], iter(noise.T[2:]), []
  for model, value in accuracies.items():
    name, _, width = model.partition(" ")
    for seed in (0, 1):
      found.append(
        {
          "name": name,
          "width": int(width) if width else None,
          "seed": seed,
          "test_accuracy": value + 0.001 * (-1) ** seed,
          "test_error": math.hypot(error, HARD),
          "test_batches": (value + next(own) * error + common[seed] * HARD).tolist(),
        }
      )
  return found


GOOD = {"width 2": 0.4, "width 8": 0.5, "width 32": 0.55, "limit": 0.555, "relu_ntk": 0.45}


def seen(error=0.004, **changes):
  values = {k: v for k, v in (GOOD | changes).items() if v is not None}
  found = claims(records(values, error), 5)
  json.dumps(found, allow_nan=False)
  return {name: c["seen"] for name, c in found.items()}


def test_claims_that_hold_and_that_do_not():
  assert seen() == {"rises": True, "limit": True, "chance": True, "kernels": True}
  assert seen(**{"width 8": 0.395})["rises"] is True  # a fall within noise
  assert seen(**{"width 8": 0.37})["rises"] is False
  assert seen(**{"width 32": 0.2})["rises"] is False
  assert seen(limit=0.58)["limit"] is False
  assert seen(limit=0.53)["limit"] is False
  assert seen(relu_ntk=0.57)["kernels"] is False
  assert seen(relu_ntk=0.553)["kernels"] is None
  assert seen(relu_ntk=0.1)["chance"] is False
  assert "kernels" not in seen(relu_ntk=None)
  assert seen(**{"width 2": None, "width 8": None})["rises"] is None
  assert seen(error=0.05)["limit"] is None
  assert seen(error=0.012)["limit"] is None  # a difference of 2 % might hide


def test_differences_are_those_of_the_same_tasks():
  found = claims(records(GOOD), 5)
  value, error = found["limit"]["measured"]["difference"]
  assert value == pytest.approx(0.005)
  # Of two seeds, each the difference of two models with 0.004 of their own.
  assert error == pytest.approx(0.004)
  assert found["limit"]["measured"]["limit"][1] == pytest.approx(0.0214, abs=1e-4)


# Main --------------------------------------------------------------------------------

TOY = {
  "train_sets": ["a"],
  "test_sets": ["b"],
  "widths": ["2"],
  "seeds": 1,
  "steps": 1,
  "baseline_steps": 1,
  "baselines": ["relu_ntk"],
  "batch_size": 4,
  "ways": 3,
  "test_tasks": 200,
  "validation_tasks": 200,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("archives")
  write(folder / "a.zip", members({"Latin": 2, "Greek": 2}, "a"))
  write(folder / "b.zip", members({"Tagalog": 4}, "b"))
  write(folder / "c.zip", members({"Korean": 1}, "c"))
  return str(folder)


def run(path, folder, **values):
  values = {"workdir": str(path), "data_dir": folder} | TOY | values
  with flagsaver.flagsaver(**values):
    omniglot_maml.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_main(tmp_path, folder, capsys):
  run(tmp_path, folder, validation_sets=["c"])
  rows = lines(tmp_path)
  assert [(r["name"], r["width"]) for r in rows] == [
    ("width", 2),
    ("limit", None),
    ("relu_ntk", None),
  ]
  for r in rows:
    assert 0 < r["validation_accuracy"] <= 1
    assert 0 <= r["test_accuracy"] <= 1
    assert r["test_error"] < 0.1
    assert len(r["test_batches"]) == 50
    assert np.mean(r["test_batches"]) == pytest.approx(r["test_accuracy"], abs=1e-6)
    assert not r["diverged"]
    assert [step for step, _ in r["train_curve"]] == [1]
  found = json.loads((tmp_path / "summary.json").read_text())["omniglot_maml"]
  assert {"rises", "limit", "chance", "kernels"} == set(found)
  assert (tmp_path / "omniglot_maml.png").stat().st_size > 10_000
  assert not (tmp_path / "states").exists()
  told = capsys.readouterr().out
  assert "the limit is within noise of the largest width" in told
  run(tmp_path, folder, validation_sets=["c"])
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: ways is 3, this run has 2"):
    run(tmp_path, folder, validation_sets=["c"], ways=2)


def test_an_interrupted_run_continues_within_a_model(tmp_path, folder, monkeypatch):
  monkeypatch.setattr(omniglot_training, "EPOCH", 1)
  monkeypatch.setattr(omniglot_training, "KEEP_SECONDS", 0)
  monkeypatch.setattr(omniglot_maml.omniglot_figure, "draw", lambda *_: None)
  values = {"baselines": [], "validation_sets": ["c"], "steps": 3}
  run(tmp_path / "whole", folder, **values)
  steps, advance = [], omniglot_training._advance

  def interrupt(learner, *args):
    steps.append(learner.width)
    if steps == [2, 2, 2, None, None]:
      raise KeyboardInterrupt
    return advance(learner, *args)

  monkeypatch.setattr(omniglot_training, "_advance", interrupt)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "cut", folder, **values)
  assert len(lines(tmp_path / "cut")) == 1
  run(tmp_path / "cut", folder, **values)
  assert steps[5:] == [None, None]  # the second and the third meta-step of the limit
  for name in ("results.jsonl", "summary.json"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_the_best_state_is_tested_and_training_goes_on(tmp_path, folder, monkeypatch):
  monkeypatch.setattr(omniglot_training, "EPOCH", 1)
  monkeypatch.setattr(omniglot_maml.omniglot_figure, "draw", lambda *_: None)
  values = {"baselines": []}
  for steps in (2, 4):
    run(tmp_path / f"{steps}", folder, steps=steps, **values)
  accuracy_of, scores = omniglot_training.Training._accuracy, []

  def scripted(self, learner, state, part, *args):
    if part == "test":
      return accuracy_of(self, learner, state, part, *args)
    return scores.pop(0), 0.01, []

  monkeypatch.setattr(omniglot_training.Training, "_accuracy", scripted)
  values |= {"steps": 4, "validation_sets": ["c"]}
  for best, script in ((2, [0.3, 0.6, 0.5, 0.6]), (4, [0.3, 0.6, 0.5, 0.7])):
    scores += script * 2  # a width, and the limit
    run(tmp_path / f"best-{best}", folder, **values)
  for rows in zip(*(lines(d) for d in sorted(tmp_path.iterdir())), strict=True):
    two, four, best_two, best_four = rows
    assert (best_two["best_meta_step"], best_four["best_meta_step"]) == (2, 4)
    assert best_four["validation_accuracy"] == 0.7
    assert two["test_accuracy"] != four["test_accuracy"]
    assert best_two["test_accuracy"] == two["test_accuracy"]
    assert best_four["test_accuracy"] == four["test_accuracy"]


BAD = [
  ({"workdir": None}, "--workdir is missing"),
  ({"data_dir": None}, "--data_dir is missing"),
  ({"data_dir": "/absent"}, "/absent has no a.zip"),
  ({"train_sets": []}, "--train_sets=''"),
  ({"train_sets": ["a", "a"]}, "--train_sets='a,a'"),
  ({"train_sets": ["../a"]}, "--train_sets='../a'"),
  ({"test_sets": ["b/"]}, "--test_sets='b/'"),
  ({"test_sets": ["b/Latin"]}, "no such alphabet"),
  ({"test_sets": ["b"], "train_sets": ["a", "b/Tagalog"]}, "every alphabet of it is named"),
  ({"test_sets": ["c"]}, "--test_sets have 1 characters: too few for --ways=3"),
  ({"widths": ["0"]}, "--widths='0'"),
  ({"seeds": 0}, "--seeds=0"),
  ({"steps": 0}, "--steps=0"),
  ({"baseline_steps": -1}, "--baseline_steps=-1"),
  ({"baselines": ["ntk"]}, "--baselines='ntk'"),
  ({"baselines": ["relu_ntk", "relu_ntk"]}, "expected distinct"),
  ({"ways": 1}, "--ways=1"),
  ({"shots": 20}, "--shots=20 and --queries=1"),
  ({"queries": 0}, "--queries=0"),
  ({"inner_lr": math.nan}, "--inner_lr=nan"),
  ({"test_inner_steps": 0}, "--test_inner_steps=0"),
  ({"test_tasks": 0}, "--test_tasks=0"),
  ({"test_tasks": 1}, "--test_tasks=1: one task tells no error"),
  ({"meta_clip": 0.0}, "--meta_clip=0.0"),
  ({"meta_lr": -0.1}, "--meta_lr=-0.1"),
  ({"init_sigma_u": -1.0}, "--init_sigma_u=-1.0"),
  ({"bias_multiplier": math.inf}, "--bias_multiplier=inf"),
  ({"width": 64}, "--width=64: omniglot_maml has none"),
  ({"depths": ["4"]}, "omniglot_maml has none"),
  ({"axis": "width"}, "--axis=width: omniglot_maml has none"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=lambda v: str(v)[:30])
def test_wrong_flags(tmp_path, folder, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", folder, **values)
  assert not (tmp_path / "w" / "config.json").exists()


def test_no_other_model(tmp_path, folder):
  with flagsaver.as_parsed(model="mlp"), pytest.raises(DepthMupError, match="--model=mlp"):
    run(tmp_path, folder)


def test_other_archives_are_another_run(tmp_path, folder, monkeypatch):
  monkeypatch.setattr(omniglot_maml.omniglot_figure, "draw", lambda *_: None)
  own = tmp_path / "archives"
  shutil.copytree(folder, own)
  run(tmp_path / "w", str(own), baselines=[])
  write(own / "b.zip", members({"Tagalog": 5}, "b"))
  with pytest.raises(DepthMupError, match="holds another run: archives"):
    run(tmp_path / "w", str(own), baselines=[])


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="Omniglot's small archives are absent")
def test_the_official_small_sets(tmp_path):
  """300 meta-steps: far from the end, but width and the limit tell already."""
  names = ("train_sets", "test_sets", "ways", "batch_size")
  own = {n: omniglot_config.flags.FLAGS[n].default for n in names}
  run(
    tmp_path,
    str(DATA),
    **own,
    widths=["2", "32", "512"],
    steps=300,
    baselines=[],
    test_tasks=1600,
  )
  found = json.loads((tmp_path / "summary.json").read_text())["omniglot_maml"]
  assert found["rises"]["seen"] is True
  # The limit is at width 512 (0.3 ± 0.2 points above), far from width 2 (13 below).
  apart, error = found["limit"]["measured"]["difference"]
  assert abs(apart) < 0.015
  assert error < 0.004
  assert found["chance"]["seen"] is True
