"""The block multiplier's transfer: main at toy size, continued, with wrong flags."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import lr_transfer, multiplier_transfer
from experiments._lib import sweeps
from flax_depthmup import DepthMupError

TOY = {
  "parametrizations": ["depth_mup"],
  "depths": ["4", "8"],
  "log2_multipliers": "-3:1:1",
  "log2_lr": -7.0,
  "width": 16,
  "seeds": 2,
  "steps": 8,
  "window": 4,
  "batch_size": 16,
  "chunk": 4,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    multiplier_transfer.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert len(records) == 2 * 5 * 2
  assert {r["log2_lr"] for r in records} == {-7}
  assert {r["log2_multiplier"] for r in records} == {-3, -2, -1, 0, 1}
  shown = capsys.readouterr().out
  assert "best block multiplier transfer" in shown
  summary = json.loads((tmp_path / "summary.json").read_text())["multiplier_transfer"]
  assert set(summary["transfer"]) == {"depth_mup"}
  for verdict in summary["transfer"].values():
    assert set(verdict["optimum_log2_multiplier"]) == {"4", "8"}
  claim = summary["claims"]["depth_mup"]
  assert set(claim) == {"claim", "measured", "seen", "reason"}
  assert " rate" not in claim["reason"]
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["experiment"] == "multiplier_transfer"
  assert (config["block_multiplier"], config["log2_lrs"]) == (None, [-7])
  assert (tmp_path / "multiplier_transfer.png").read_bytes()[:4] == b"\x89PNG"
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: steps is 8"):
    run(tmp_path, steps=9)


def test_the_multiplier_is_the_one_of_the_record(tmp_path):
  """The net with multiplier 2^-1 is that of --block_multiplier=0.5."""
  run(tmp_path / "grid", depths=["4"])
  other = {"log2_multipliers": None, "log2_lr": None, "log2_lrs": "-9:-5:1"}
  with flagsaver.flagsaver(
    **(TOY | other | {"depths": ["4"]}), workdir=str(tmp_path / "one"), block_multiplier=0.5
  ):
    lr_transfer.main([])
  by_a = {(r["log2_multiplier"], r["seed"]): r["loss"] for r in lines(tmp_path / "grid")}
  one = {r["seed"]: r["loss"] for r in lines(tmp_path / "one") if r["log2_lr"] == -7}
  for seed in (0, 1):
    assert by_a[-1, seed] == pytest.approx(one[seed], rel=1e-6)
    assert abs(by_a[-3, seed] / one[seed] - 1) > 1e-3


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  fields = {"depths": ["4"]}
  run(tmp_path / "whole", **fields)
  record = sweeps.Sweeps._record

  def interrupt(*args):
    record(*args)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(sweeps.Sweeps, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut", **fields)
  assert 0 < len(lines(tmp_path / "cut")) < 10
  assert not (tmp_path / "cut" / "summary.json").exists()
  run(tmp_path / "cut", **fields)
  for name in ("results.jsonl", "summary.json", "multiplier_transfer.png"):
    assert (tmp_path / "whole" / name).read_bytes() == (
      tmp_path / "cut" / name
    ).read_bytes()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"log2_lr": float("nan")}, "--log2_lr=nan"),
    ({"log2_lr": 200.0}, "rates of float32"),
    ({"log2_lrs": "-8"}, "--log2_lrs=-8: multiplier_transfer has none"),
    ({"block_multiplier": 1.0}, "--block_multiplier=1.0: multiplier_transfer has none"),
    ({"log2_multipliers": "1:0:1"}, "--log2_multipliers='1:0:1' is no grid"),
    ({"log2_multipliers": "500"}, "--log2_multipliers: float32 holds"),
    ({"chunk": 0}, "--chunk=0"),
    ({"workdir": None}, "--workdir is missing"),
    ({"seeds": 0}, "--seeds=0"),
    ({"parametrizations": []}, "at least one"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  values = {"workdir": str(tmp_path / "w")} | TOY | values
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    multiplier_transfer.main([])
  assert not (tmp_path / "w").exists()


def test_the_claim_is_about_the_optimum():
  """Synthetic curves whose optimum stays, and moves by half an octave a doubling."""
  for drift, seen in ((0.0, True), (-0.5, False)):
    rng = np.random.default_rng(0)
    records = [
      {
        "parametrization": "depth_mup",
        "alpha": 0.5,
        "gamma": 0.5,
        "depth": depth,
        "log2_multiplier": a,
        "seed": seed,
        "loss": np.exp(0.2 * (a + 1 - drift * i) ** 2 + 0.02 * rng.normal()),
        "diverged": False,
      }
      for i, depth in enumerate((4, 8, 16))
      for a in np.arange(-4, 2.1, 0.5)
      for seed in range(3)
    ]
    verdicts = multiplier_transfer.transfer_verdict(records, "depth", "log2_multiplier")
    found = multiplier_transfer.claims(records, verdicts, "depth")["depth_mup"]
    assert found["seen"] is seen
    elsewhere = [r | {"alpha": 0.0, "gamma": 0.0} for r in records]
    assert multiplier_transfer.claims(elsewhere, verdicts, "depth") == {}
