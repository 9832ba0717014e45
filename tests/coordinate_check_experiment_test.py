"""The coordinate check's main at toy size, continued, and with every flag wrong."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import coordinate_check
from experiments._lib import coordinate_config, data
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import CoordinateCheck, Slope

TOY = {
  "width": 16,
  "depths": ["2", "4", "8"],
  "seeds": 2,
  "steps": 1,
  "batch_size": 8,
  "faults": ["decay_inside"],
  "tolerance": 0.4,
}


def run(folder, **values):
  with flagsaver.flagsaver(**({"workdir": str(folder)} | TOY | values)):
    coordinate_check.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert {r["check"] for r in records} == {"depth_mup", "depth_mup, decay_inside"}
  columns = "width depth module t l1 l2 mean std optimizer lr seed"
  assert set(columns.split()) <= set(records[0])
  found = json.loads((tmp_path / "summary.json").read_text())["coordinate_check"]
  red = found["claims"]["depth_mup, decay_inside"]
  assert red["seen"] is True
  assert "probe decay" in red["reason"]
  assert found["slopes"]["depth_mup"][0]["axis"] == "depth"
  for name in ("depth_mup", "depth_mup-decay_inside"):
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
  config = json.loads((tmp_path / "config.json").read_text())
  assert (config["experiment"], config["net"]["base_depth"]) == ("coordinate_check", 2)
  assert "turns red on decay_inside" in capsys.readouterr().out
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: tolerance"):
    run(tmp_path, tolerance=0.3)


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  run(tmp_path / "whole", faults=[])
  rows, count = coordinate_check._rows, 0

  def interrupt(*args):
    nonlocal count
    count += 1
    if count == 3:
      raise KeyboardInterrupt
    return rows(*args)

  with monkeypatch.context() as patch:
    patch.setattr(coordinate_check, "_rows", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut", faults=[])
  assert {r["depth"] for r in lines(tmp_path / "cut")} == {2, 4}
  run(tmp_path / "cut", faults=[])
  for name in ("results.jsonl", "summary.json"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def outcome(*passed):
  """A check of as many slopes."""
  fields = {"axis": "depth", "probe": "decay", "quantity": "parameter", "t": 1}
  fields |= {"slope": 0.0, "stderr": 0.0, "predicted": (0.0, 0.0), "reason": ""}
  slopes = tuple(Slope(module=f"w{i}", passed=p, **fields) for i, p in enumerate(passed))
  return CoordinateCheck(rows=[], slopes=slopes, passed=all(passed), reason="why")


@pytest.mark.parametrize(
  ("sound", "spoilt", "seen"),
  [
    ((True, True), (True, False), True),
    ((True, True), (True, True), False),
    ((True, False), (True, False), None),
  ],
)
def test_a_mistake_counts_only_where_the_sound_net_is_green(sound, spoilt, seen):
  with flagsaver.flagsaver(**TOY):
    settings = coordinate_config.from_flags()
  found = {"depth_mup": outcome(*sound), "depth_mup, decay_inside": outcome(*spoilt)}
  claims = coordinate_check.summarize(settings, found)["claims"]
  assert claims["depth_mup"]["seen"] is all(sound)
  assert claims["depth_mup, decay_inside"]["seen"] is seen


def test_mistakes_that_change_nothing_are_not_planted():
  with flagsaver.flagsaver(
    **TOY | {"faults": None, "parametrizations": ["ode", "0.5:0.5"]}
  ):
    checks = coordinate_config.from_flags().checks
  ode = {fault for name, fault in checks.values() if name == "ode"}
  assert ode == {None, "no_branch_multiplier", "no_mean_subtraction", "plain_eps"}
  assert len(checks) == 4 + 7


@pytest.mark.slow
def test_other_nets_and_optimizers(tmp_path):
  values = {"faults": [], "depths": ["2"], "widths": ["16", "32", "64"], "width": 8}
  run(tmp_path, model="resnet", optimizer="sgd", **values)
  assert {r["width"] for r in lines(tmp_path)} == {16, 32, 64}
  assert {r["probe"] for r in lines(tmp_path)} == {"training", "decay"}  # SGD has no eps


def test_the_transformer_of_the_flags():
  values = {"faults": [], "model": "transformer", "head_dim": 8, "sequence_length": 8}
  values |= {"parametrizations": ["complete_p"], "depths": ["2", "4", "8"]}
  with flagsaver.flagsaver(**TOY | values):
    settings = coordinate_config.from_flags()
  model = settings.model("complete_p", None, 16, 4, vocab=11)
  assert (model.depth, model.heads, model.block_multiplier) == (4, 2, 0.7)
  assert model.parametrization.base_depth == 2
  tokens = np.arange(80).reshape(10, 8).astype(np.int32) % 11
  how = settings.training(None, data.Dataset(tokens, tokens, vocab=11))
  assert how.inputs.shape == (8, 8)
  assert np.isfinite(how.loss(np.zeros((8, 8, 11), np.float32)))


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"workdir": None}, "--workdir is missing"),
    ({"faults": ["typo"]}, "'typo' is unknown; expected some of no_branch_multiplier"),
    ({"faults": ["plain_eps", "plain_eps"]}, "distinct names"),
    ({"model": "resnet"}, "--faults are planted in residual MLPs"),
    ({"weight_decay": 0.0}, "needs a --weight_decay above 0"),
    ({"weight_decay": -1.0}, "--weight_decay=-1"),
    ({"eps": 0.0}, "--eps=0"),
    ({"weight_decay": float("inf")}, "--weight_decay=inf"),
    ({"optimizer": "sgd", "eps": 1e-8, "faults": []}, "--eps=1e-08: coordinate_check"),
    ({"eps": 1e-30}, "vanish in float32"),
    ({"tolerance": 0.0}, "--tolerance=0"),
    ({"depths": ["2", "4"]}, "two points always lie on a line"),
    ({"depths": ["2", "x", "4"]}, "--depths"),
    ({"widths": ["0"]}, "--widths"),
    ({"steps": 0}, "--steps=0"),
    ({"seeds": 0}, "--seeds=0"),
    ({"log2_lr": float("nan")}, "--log2_lr=nan"),
    ({"log2_lr": float("inf")}, "--log2_lr=inf"),
    ({"optimizer": "adam2"}, "--optimizer=adam2"),
    ({"log2_lrs": "-9,-8"}, "--log2_lrs=-9,-8: coordinate_check has none"),
    ({"parametrizations": ["nope"]}, "'nope' is unknown"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", **values)
