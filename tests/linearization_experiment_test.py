"""Its main at toy size, continued, with wrong flags; the verdict on records of any kind."""

import json

import pytest
from absl.testing import flagsaver

from experiments import linearization
from experiments._lib import linearization_config, linearization_verdict
from experiments._lib.linearization_config import BLOCKS
from flax_depthmup import DepthMupError

TOY = {
  "parametrizations": ["depth_mup"],
  "block_depths": ["2"],
  "depths": ["2", "4"],
  "width": 8,
  "seeds": 2,
  "batch_size": 8,
  "probe_images": 8,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    linearization.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


#: Of the blocks whose gradients are compared, each another program.
SOME = {"relu": BLOCKS["relu"]}


def test_a_toy_run_continues_and_writes_what_it_promises(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(linearization, "BLOCKS", SOME)
  called = []
  for name in ("linearization", "gradients"):
    real = getattr(linearization.linearization_measuring, name)

    def once(config, what, dataset, real=real):
      called.append(what)
      if len(called) == 3:
        raise KeyboardInterrupt
      return real(config, what, dataset)

    monkeypatch.setattr(linearization.linearization_measuring, name, once)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path)
  assert len(lines(tmp_path)) == 2 * 2
  run(tmp_path)
  assert [getattr(what, "depth", what) for what in called] == [2, 4, "relu", "relu"]
  records = lines(tmp_path)
  nets, blocks = records[:4], records[4:]
  assert [(r["depth"], r["seed"]) for r in nets] == [(2, 0), (2, 1), (4, 0), (4, 1)]
  assert all(r["ratio"] > 100 * r["rounding"] for r in nets)
  assert all(r["distance"] > 100 * r["distance_rounding"] for r in nets)
  assert {r["ratio"] for r in nets} == {r["ratio"] for r in nets if not r["diverged"]}
  assert [r["block"] for r in blocks] == [name for name in SOME for _ in range(2)]
  b = 0.5  # the multiplier at L0 = 4 = L
  assert {r["theory"] for r in blocks} == {0.5 / (1 + b**2 / 2) ** 0.5}
  summary = json.loads((tmp_path / "summary.json").read_text())["linearization"]
  assert set(summary["claims"]) == {
    "depth_mup, k = 2: blocks",
    "depth_mup, k = 2: net",
    *(f"gradients: {name}" for name in SOME),
  }
  assert set(summary["slopes"]) == {"depth_mup, k = 2"}
  assert set(summary["cosines"]) == set(SOME)
  assert (tmp_path / "linearization.png").read_bytes()[:4] == b"\x89PNG"
  assert "linear in its own update goes as L^-0.5" in capsys.readouterr().out
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="another run: seeds is 2, this run has 3"):
    run(tmp_path, seeds=3)


def test_nets_that_diverge_are_said_to(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(linearization, "BLOCKS", SOME)
  run(tmp_path, learning_rate=3e38)
  assert all(r["diverged"] and r["ratio"] is None for r in lines(tmp_path)[:4])
  summary = json.loads((tmp_path / "summary.json").read_text())["linearization"]
  assert summary["claims"]["depth_mup, k = 2: blocks"]["seen"] is None
  assert "diverged" in capsys.readouterr().out


BAD = {
  "workdir": (None, "--workdir is missing"),
  "dataset": ("imagenet", "--dataset=imagenet: expected one of digits"),
  "parametrizations": (["depth-mup"], "'depth-mup' is unknown"),
  "block_depths": (["0"], "--block_depths='0'"),
  "depths": (["1"], "--depths=1: one block has no neighbour"),
  "activation": ("swish", "activation='swish'"),
  "norm": ("batch", "norm='batch'"),
  "learning_rate": (0.0, "--learning_rate=0.0"),
  "block_multiplier": (-1.0, "--block_multiplier=-1.0"),
  "probe_images": (0, "--probe_images=0"),
  "steps": (0, "--steps=0"),
  "seeds": (0, "--seeds=0"),
  "width": (0, "--width=0"),
  "base_width": (0, "--base_width=0"),
  "base_depth": (0, "--base_depth=0"),
  "batch_size": (0, "--batch_size=0"),
  "optimizer": ("adamw2", "--optimizer=adamw2: expected one of adam"),
  "block_depth": (2, "--block_depth=2: linearization has none; leave it out"),
  "snapshots": (["5"], "linearization has none"),
}


@pytest.mark.parametrize("flag", BAD)
def test_every_flag_with_a_wrong_value(tmp_path, flag):
  value, words = BAD[flag]
  values = {"workdir": str(tmp_path / "w")} | TOY | {flag: value}
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    linearization.main([])
  assert not (tmp_path / "w" / "config.json").exists()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"parametrizations": []}, "--parametrizations: expected distinct names"),
    ({"parametrizations": ["ode", "ode"]}, "--parametrizations: expected distinct"),
    ({"block_depths": ["two"]}, "--block_depths='two'"),
    ({"dataset": "mnist"}, "--data_dir"),
  ],
)
def test_other_wrong_values(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", **values)


def test_the_default_norm_and_activation_are_smooth():
  with flagsaver.flagsaver(**TOY):
    config = linearization_config.from_flags()
  assert (config.activation, config.norm, config.steps) == ("tanh", "rms_norm", 1)


POINTS = {"depth_mup": (0.5, 0.5), "ode": (1.0, 0.0), "0:0": (0.0, 0.0)}


def records(
  exponent, distance, noise=0.0, name="depth_mup", depths=(4, 16, 64), rounding=1e-9
):
  """Records of nets whose ratio and distance are these powers of the depth."""
  found = []
  for depth in depths:
    for seed in range(2):
      other = (1 + noise) ** (1 if (seed + depth // 16) % 2 else -1)
      found.append(
        {
          "measure": "linearization",
          "parametrization": name,
          "block_depth": 2,
          "depth": depth,
          "seed": seed,
          "ratio": 0.1 * depth**exponent * other,
          "distance": 0.1 * depth**distance * other,
          "rounding": rounding,
          "distance_rounding": rounding,
          "diverged": False,
        }
      )
  return found


@pytest.mark.parametrize(
  ("exponent", "distance", "fields", "blocks", "net"),
  [
    (-0.5, 0.0, {}, True, True),
    (-0.3, 0.3, {}, False, False),
    (0.0, 0.0, {"name": "ode"}, True, True),
    (-0.5, -0.5, {"name": "ode"}, False, False),
    (-0.5, 0.0, {"noise": 1.0}, None, None),
    (-0.5, 0.0, {"depths": (4,)}, None, None),
    (-0.5, 0.0, {"rounding": 1.0}, None, None),  # what is no more than rounding
  ],
)
def test_the_verdict_on_slopes(exponent, distance, fields, blocks, net):
  some = records(exponent, distance, **fields)
  found = linearization_verdict.summarize(some, POINTS, "tanh")
  label = f"{fields.get('name', 'depth_mup')}, k = 2"
  claims = found["claims"]
  assert claims[f"{label}: blocks"]["seen"] is blocks
  assert claims[f"{label}: net"]["seen"] is net
  if not {"depths", "rounding"} & set(fields):
    slope = found["slopes"][label]["ratio"]
    assert slope["slope"] == pytest.approx(exponent, abs=0.2)
    assert slope["ci95"][0] <= slope["slope"] <= slope["ci95"][1]
  json.dumps(found, allow_nan=False)


def test_a_kink_halves_the_exponent_and_no_theory_makes_no_claim():
  some = records(-0.25, 0.0)
  claims = linearization_verdict.summarize(some, POINTS, "relu")["claims"]
  assert claims["depth_mup, k = 2: blocks"]["seen"] is True
  assert "L^-0.25" in claims["depth_mup, k = 2: blocks"]["claim"]
  some = records(0.0, 0.0, name="0:0")
  assert linearization_verdict.summarize(some, POINTS, "tanh")["claims"] == {}


@pytest.mark.parametrize(("cosine", "seen"), [(0.52, True), (0.56, False)])
def test_the_verdict_on_cosines(cosine, seen):
  one = {"measure": "gradient_diversity", "block": "relu", "depth": 8, "seed": 0}
  some = [one | {"cosine": cosine, "theory": 0.5}]
  found = linearization_verdict.summarize(some, POINTS, "tanh")
  assert found["claims"]["gradients: relu"]["seen"] is seen
