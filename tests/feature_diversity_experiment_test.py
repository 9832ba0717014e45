"""Its main at toy size, continued, with wrong flags; the verdict on records of any kind."""

import json
import math

import pytest
from absl.testing import flagsaver

from experiments import feature_diversity
from experiments._lib import feature_diversity_training as training
from experiments._lib import feature_diversity_verdict as verdict
from flax_depthmup import DepthMupError

TOY = {
  "parametrizations": ["ode"],
  "activations": ["relu"],
  "depths": ["4", "8"],
  "width": 8,
  "seeds": 2,
  "snapshots": ["0", "2", "6"],
  "batch_size": 8,
  "probe_images": 8,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    feature_diversity.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert len(records) == 2 * 2 * 3 * 2  # depths, seeds, snapshots, epsilons
  assert list(records[0]) == [
    "parametrization",
    "activation",
    "depth",
    "seed",
    "step",
    "loss",
    "epsilon",
    "d",
    "scaled",
    "kappa",
    "kappa_error",
    "diverged",
  ]
  assert {r["epsilon"] for r in records} == {1 / 4, 1 / 2}  # of the least depth
  assert {r["scaled"] for r in records if r["epsilon"] == 1 / 4} == {1}
  assert all((r["loss"] is None) == (r["step"] == 0) for r in records)
  start = [r["kappa"] for r in records if r["step"] == 0]
  assert sum(start) / len(start) == pytest.approx(0.5, abs=0.15)
  moved = {
    r["d"] for r in records if (r["depth"], r["seed"], r["epsilon"]) == (8, 0, 1 / 2)
  }
  assert len(moved) == 3
  summary = json.loads((tmp_path / "summary.json").read_text())["feature_diversity"]
  assert set(summary["claims"]) == {
    "ode, relu: falls in training",
    "ode, relu: falls with depth",
  }
  for claim in summary["claims"].values():
    assert set(claim) == {"claim", "measured", "seen", "reason"}
  assert summary["kappa"]["ode, relu"]["L = 8, step 0"] == pytest.approx(
    (start[4] + start[6]) / 2
  )
  assert summary["diverged"] == []
  assert (tmp_path / "feature_diversity.png").read_bytes()[:4] == b"\x89PNG"
  assert not (tmp_path / "states").exists()
  assert "kappa falls in training" in capsys.readouterr().out
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: width is 8, this run has 16"):
    run(tmp_path, width=16)


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  monkeypatch.setattr(training, "CHUNK", 1)
  run(tmp_path / "whole")
  monkeypatch.setattr(training, "KEEP_SECONDS", 0.0)
  states = []
  look = training.Training._look

  def interrupt(self, step, *args):
    states.append((self._net.depth, step))
    if states.count((self._net.depth, 6)) == 1 and step == 6:
      raise KeyboardInterrupt
    return look(self, step, *args)

  monkeypatch.setattr(training.Training, "_look", interrupt)
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut")
  run(tmp_path / "cut")
  # Neither a net that was finished nor a step before a kept state is taken again.
  assert states == [(4, 0), (4, 2), (4, 6), (4, 6), (8, 0), (8, 2), (8, 6), (8, 6)]
  for name in ("results.jsonl", "summary.json"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_nets_that_diverge_are_said_to(tmp_path, capsys):
  run(tmp_path, learning_rate=1e30)
  last = [r for r in lines(tmp_path) if r["step"] == 6]
  assert all(r["diverged"] and r["d"] is None and r["kappa"] is None for r in last)
  summary = json.loads((tmp_path / "summary.json").read_text())["feature_diversity"]
  assert all(c["seen"] is None for c in summary["claims"].values())
  assert "ode, relu, L = 8, seed 1" in summary["diverged"]
  assert "diverged: ode, relu, L = 4, seed 0" in capsys.readouterr().out


BAD = {
  "workdir": (None, "--workdir is missing"),
  "dataset": ("imagenet", "--dataset=imagenet: expected one of digits"),
  "parametrizations": (["depth-mup"], "'depth-mup' is unknown"),
  "activations": (["swish"], "activation='swish'"),
  "depths": (["2", "8"], "--depths=2: of fewer than 4 blocks"),
  "snapshots": (["0"], "--snapshots='0': expected distinct steps, one of them above 0"),
  "learning_rate": (float("nan"), "--learning_rate=nan"),
  "block_multiplier": (0.0, "--block_multiplier=0.0"),
  "probe_images": (0, "--probe_images=0"),
  "seeds": (0, "--seeds=0"),
  "width": (-3, "--width=-3"),
  "base_width": (0, "--base_width=0"),
  "base_depth": (0, "--base_depth=0"),
  "batch_size": (0, "--batch_size=0"),
  "optimizer": ("adamw2", "--optimizer=adamw2: expected one of adam"),
  "steps": (5, "--steps=5: feature_diversity has none; leave it out"),
  "activation": ("relu", "--activation=relu: feature_diversity has none"),
}


@pytest.mark.parametrize("flag", BAD)
def test_every_flag_with_a_wrong_value(tmp_path, flag):
  value, words = BAD[flag]
  values = {"workdir": str(tmp_path / "w")} | TOY | {flag: value}
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    feature_diversity.main([])
  assert not (tmp_path / "w" / "config.json").exists()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"parametrizations": []}, "--parametrizations: expected distinct names"),
    ({"parametrizations": ["ode", "ode"]}, "--parametrizations: expected distinct"),
    ({"activations": ["abs", "abs"]}, "--activations: expected distinct"),
    ({"depths": ["8", "8"]}, "--depths='8,8'"),
    ({"snapshots": ["0", "0", "5"]}, "--snapshots='0,0,5'"),
    ({"snapshots": ["5", "x"]}, "--snapshots='5,x'"),
    ({"dataset": "cifar10", "data_dir": "/nowhere"}, "has no data_batch_1.bin"),
  ],
)
def test_other_wrong_values(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", **values)


POINTS = {"depth_mup": (0.5, 0.5), "ode": (1.0, 0.0)}


def records(kappas, seeds=2):
  """Records of nets of these kappas, by (parametrization, activation, depth, step)."""
  found = []
  for (name, activation, depth, step), kappa in kappas.items():
    for seed in range(seeds):
      own = kappa + 0.002 * seed
      for epsilon in (1 / 256, 1 / 16):
        scaled = (256 * epsilon) ** (1 - own)
        found.append(
          {
            "parametrization": name,
            "activation": activation,
            "depth": depth,
            "seed": seed,
            "step": step,
            "epsilon": epsilon,
            "scaled": scaled,
            "kappa": own,
            "kappa_error": 0.01,
            "diverged": False,
          }
        )
  return found


PAPER = {
  ("depth_mup", "relu", 256, 0): 0.5,
  ("depth_mup", "relu", 256, 9): 0.47,
  ("depth_mup", "relu", 512, 0): 0.5,
  ("depth_mup", "relu", 512, 9): 0.46,
  ("ode", "relu", 256, 0): 0.5,
  ("ode", "relu", 256, 9): 0.28,
  ("ode", "relu", 512, 0): 0.5,
  ("ode", "relu", 512, 9): 0.2,
  ("depth_mup", "abs", 256, 0): 0.5,
  ("depth_mup", "abs", 256, 9): 0.49,
  ("depth_mup", "abs", 512, 0): 0.5,
  ("depth_mup", "abs", 512, 9): 0.48,
}
NAMES = {
  "depth_mup, relu: near 1/2": {("depth_mup", "relu", 512, 9): 0.39},
  "depth_mup, relu: d(1/16)": {("depth_mup", "relu", 512, 9): 0.41},
  "depth_mup, abs: near 1/2": {("depth_mup", "abs", 512, 0): 0.61},
  "depth_mup, abs: d(1/16)": {("depth_mup", "abs", 512, 9): 0.51},
  "ode, relu: falls in training": {("ode", "relu", d, 9): 0.6 for d in (256, 512)},
  "ode, relu: falls with depth": {("ode", "relu", 512, 9): 0.3},
  "ode, relu: d(1/16)": {("ode", "relu", 512, 9): 0.29},
  "depth_mup, relu against ode, relu": {  # the last step counts
    ("ode", "relu", d, t): kappa for d in (256, 512) for t, kappa in ((0, 0.2), (9, 0.48))
  },
  "depth_mup, abs against depth_mup, relu": {
    ("depth_mup", "abs", d, 9): 0.45 for d in (256, 512)
  },
}


def test_the_verdict_on_what_the_paper_shows():
  found = verdict.summarize(records(PAPER), POINTS)
  assert set(found["claims"]) == set(NAMES)
  assert all(claim["seen"] is True for claim in found["claims"].values())
  json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_on_something_else(name):
  found = verdict.summarize(records(PAPER | NAMES[name]), POINTS)
  assert found["claims"][name]["seen"] is False


def test_a_verdict_that_cannot_tell():
  one = {k: v for k, v in PAPER.items() if k[2] == 256 and k[1] == "relu"}
  claims = verdict.summarize(records(one), POINTS)["claims"]
  assert claims["ode, relu: falls with depth"]["seen"] is None
  assert "grows" not in claims["ode, relu: d(1/16)"]["claim"]
  start = {k: v for k, v in one.items() if k[3] == 0}
  claims = verdict.summarize(records(start), POINTS)["claims"]
  assert claims["ode, relu: falls in training"]["seen"] is None
  # Of one seed, the errors along the depth decide: 0.2 is many, 0.01 is less than two.
  claims = verdict.summarize(records(one, seeds=1), POINTS)["claims"]
  found = claims["ode, relu: falls in training"]
  assert found["seen"] is True
  half = 1.96 * math.hypot(0.01, 0.01)
  assert found["measured"]["ci95"] == pytest.approx([0.22 - half, 0.22 + half])
  close = one | {("ode", "relu", 256, 9): 0.49}
  claims = verdict.summarize(records(close, seeds=1), POINTS)["claims"]
  assert claims["ode, relu: falls in training"]["seen"] is None
