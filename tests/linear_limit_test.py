"""The experiment's main at toy size, continued, and with wrong flags."""

import json
import pathlib

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import linear_limit
from experiments._lib import linear_limit_runs
from experiments._lib.limit_slopes import slope_claim, width_slope
from flax_depthmup import DepthMupError

MNIST = pathlib.Path(__file__).parents[2] / "shared" / "data" / "mnist"
TOY = {
  "widths": ["8", "16", "32"],
  "depth": 4,
  "depths": ["4", "8", "16", "64"],
  "times": ["1", "2"],
  "seeds": 3,
  "batch_size": 2,
  "log2_lr": -3.0,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    linear_limit.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  finite = [r for r in records if r["net"] == "finite"]
  assert len(finite) == 3 * 3 * 2 * 5
  assert len([r for r in records if r["net"] == "infinite width"]) == 4 * 2 * 5
  limit = [r for r in records if r["net"] == "infinite"]
  assert len(limit) == 2 * 5
  assert all(0 < r["rms_error"] < 0.03 for r in limit)
  # At the input nothing depends on width's limit but the sample: rms |xi|.
  for r in limit:
    wide = [
      w["rms"]
      for w in records
      if w["net"] == "infinite width" and (w["time"], w["position"]) == (r["time"], 0.0)
    ]
    assert len(set(np.round(wide, 12))) == 1
  found = json.loads((tmp_path / "summary.json").read_text())["linear_limit"]
  assert set(found) == {"features", "outputs", "depth"}
  assert found["depth"]["measured"]["slope"] == pytest.approx(-1, abs=0.2)
  for name in ("width", "depth"):
    assert (tmp_path / f"linear_limit_{name}.png").read_bytes()[:4] == b"\x89PNG"
  assert "rms of the features" in capsys.readouterr().out
  run(tmp_path)
  assert "already done" in capsys.readouterr().out


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  run(tmp_path / "whole")
  original, calls = linear_limit_runs.of_net, []

  def stops(*args):
    calls.append(args)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return original(*args)

  monkeypatch.setattr(linear_limit, "of_net", stops)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "cut")
  run(tmp_path / "cut")
  assert len(calls) == 10  # three kept, one lost, six left
  for name in ("results.jsonl", "summary.json"):
    whole, cut = ((tmp_path / p / name).read_text() for p in ("whole", "cut"))
    assert whole == cut


def test_slopes_of_made_up_deviations():
  rng = np.random.default_rng(0)
  widths = (16, 32, 64, 128, 256, 512)
  made = {n: rng.normal(size=(100, 20)) * n**-0.5 for n in widths}
  _, (low, high) = width_slope(made)
  assert low < -0.5 < high
  assert high - low < 0.05
  assert slope_claim("", made, (-0.6, -0.4))["seen"] is True
  steep = {n: values * n**-0.5 for n, values in made.items()}
  assert slope_claim("", steep, (-0.6, -0.4))["seen"] is False
  assert slope_claim("", {n: v[:1] for n, v in made.items()}, (-0.6, -0.4))["seen"] is None
  assert width_slope({16: made[16], 32: made[32]}) is None


@pytest.mark.skipif(not MNIST.exists(), reason=f"no MNIST at {MNIST}")
def test_on_mnist(tmp_path):
  fields = {"widths": ["8", "16"], "seeds": 1, "depths": ["4", "8", "16"]}
  run(tmp_path, dataset="mnist", data_dir=str(MNIST), **fields)
  summary = json.loads((tmp_path / "summary.json").read_text())["linear_limit"]
  assert summary["features"]["seen"] is None  # two widths, one seed


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"depth": 6}, "--depth: 6 is no multiple of 4"),
    ({"depths": ["4", "9"]}, "--depths: 9 is no multiple of 4"),
    ({"widths": ["0"]}, "--widths='0': expected distinct whole numbers"),
    ({"times": ["0"]}, "--times='0'"),
    ({"seeds": 0}, "--seeds=0: expected a positive number"),
    ({"log2_lr": 31.0}, "--log2_lr=31.0: expected -30 to 30"),
    ({"block_multiplier": -1.0}, "--block_multiplier=-1.0"),
    ({"dataset": "mnist"}, "--data_dir"),
    ({"width": 32}, "--width=32: linear_limit has none"),
    ({"log2_lr": 20.0}, "diverges at infinite width"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path, **values)
