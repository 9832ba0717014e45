"""Super consistency's main at toy size, continued, and with every flag wrong."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import super_consistency
from experiments._lib import super_consistency_config
from experiments._lib.super_consistency_training import Training
from flax_depthmup import DepthMupError

TOY = {
  "widths": ["4", "8", "16"],
  "base_depth": 2,
  "seeds": 2,
  "steps": 4,
  "measure_every": 2,
  "batch_size": 16,
}


def run(folder, **values):
  with flagsaver.flagsaver(**({"workdir": str(folder)} | TOY | values)):
    super_consistency.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert {r["width"] for r in records} == {4, 8, 16}
  assert {r["step"] for r in records} == {0, 2, 4}
  assert len(records) == 2 * 3 * 2 * 3
  assert all(np.isfinite(r["sharpness"]) for r in records)
  summary = json.loads((tmp_path / "summary.json").read_text())["super_consistency"]
  assert all({"claim", "seen", "reason"} <= set(c) for c in summary["claims"].values())
  assert (tmp_path / "super_consistency.png").read_bytes()[:4] == b"\x89PNG"
  capsys.readouterr()
  run(tmp_path)
  assert "already done" in capsys.readouterr().out


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  run(tmp_path / "whole")
  records, count = Training.records, 0

  def interrupt(*args):
    nonlocal count
    count += 1
    if count == 9:  # six nets start at once
      raise KeyboardInterrupt
    return records(*args)

  with monkeypatch.context() as patch:
    patch.setattr(Training, "records", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut")
  assert 0 < len(lines(tmp_path / "cut")) < 36
  run(tmp_path / "cut")
  whole, cut = (lines(tmp_path / name) for name in ("whole", "cut"))
  for a, b in zip(whole, cut, strict=True):
    assert a["sharpness"] == pytest.approx(b["sharpness"], rel=1e-3)


def test_over_depth_by_adam(tmp_path):
  run(
    tmp_path, widths=None, depths=["2", "4", "8"], width=8, axis="depth", optimizer="adam"
  )
  assert {r["depth"] for r in lines(tmp_path)} == {2, 4, 8}


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"workdir": None}, "--workdir is missing"),
    ({"steps": 5}, "--measure_every=2 with --steps=5"),
    ({"steps": 0}, "--steps=0"),
    ({"optimizer": "lion"}, "--optimizer=lion"),
    ({"log2_lr": float("nan")}, "--log2_lr=nan"),
    ({"dataset": "imagenet"}, "--dataset=imagenet"),
    ({"parametrizations": ["depth_mup@x"]}, "has no number of matrices"),
    ({"parametrizations": ["nope"]}, "'nope' is unknown"),
    ({"parametrizations": ["ntk"], "optimizer": "adam"}, "ntk is defined for sgd"),
    ({"block_depth": 2}, "--block_depth=2: super_consistency has none"),
    ({"widths": ["0"]}, "--widths"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", **values)


def test_ntk_is_the_tangent_parametrization():
  """One rate for all weights behind multipliers 1/sqrt(fan_in): with the multipliers in
  the weights, gradient descent on them is divided by the fan-in."""
  p = super_consistency_config._parametrization("ntk", 4, 2)
  scales = [
    super_consistency_config.dmup.resolve(axes, shape, p)
    for axes, shape in (("embed -> embed", (16, 16)), ("(inputs) -> embed", (3, 16)))
  ]
  assert [s.update_factor * s.gradient_factor for s in scales] == [0.25, 1.0]
