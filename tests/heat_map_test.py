"""The heat map: main at toy size, continued, with wrong flags; its claims on known maps."""

import itertools
import json
import math

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import heat_map
from experiments._lib import heat_map_figure, heat_map_verdict, sweeps, transfer_config
from flax_depthmup import DepthMupError

TOY = {
  "parametrizations": ["depth_mup"],
  "depths": ["2", "4"],
  "log2_lrs": "-9,-6",
  "log2_multipliers": "-2:0:1",
  "block_depth": 2,
  "activation": "abs",
  "norm": "layer_norm",
  "width": 8,
  "seeds": 2,
  "steps": 6,
  "window": 3,
  "batch_size": 8,
  "chunk": 6,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    heat_map.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert len(records) == 2 * 2 * 3 * 2
  members = {(r["log2_lr"], r["log2_multiplier"], r["seed"]) for r in records}
  assert len(members) == 2 * 3 * 2
  assert "octaves of a" in capsys.readouterr().out
  verdict = json.loads((tmp_path / "summary.json").read_text())["heat_map"]
  assert set(verdict["maps"]) == set(verdict["transfer"]) == {"depth_mup"}
  net = verdict["maps"]["depth_mup"]["4"]
  assert {"loss", "log2_lr", "log2_multiplier", "edge", "valley"} <= set(net)
  assert net["valley"]["reason"] or net["valley"]["slope"]
  assert net["loss"] == pytest.approx(_lowest(records, 4))
  claims = verdict["claims"]
  assert set(claims) == {f"depth_mup: {word}" for word in ("multiply", "add", "turns")}
  for claim in claims.values():
    assert set(claim) == {"claim", "measured", "seen", "reason"}
  assert (tmp_path / "heat_map.png").read_bytes()[:4] == b"\x89PNG"
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: block_depth is 2"):
    run(tmp_path, block_depth=1)


def _lowest(records, depth):
  """The smallest geometric mean over seeds."""
  places = {}
  for r in records:
    if r["depth"] == depth:
      places.setdefault((r["log2_lr"], r["log2_multiplier"]), []).append(r["loss"])
  return min(math.exp(np.mean(np.log(v))) for v in places.values())


def test_a_transformer_takes_the_flags():
  values = {"model": "transformer", "head_dim": 4, "sequence_length": 8}
  unused = dict.fromkeys(("block_depth", "activation", "norm"))
  with flagsaver.flagsaver(**(TOY | unused | values)):
    config = transfer_config.from_flags(heat_map.ENTRY)
  assert len(config.members()) == 2 * 3 * 2
  (net, _) = sweeps.grown(config, vocab=256)
  assert (net.model.depth, net.model.vocab, net.columns["depth"]) == (2, 256, 2)


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  fields = {"depths": ["2"]}
  run(tmp_path / "whole", **fields)
  record = sweeps.Sweeps._record

  def interrupt(*args):
    record(*args)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(sweeps.Sweeps, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut", **fields)
  assert 0 < len(lines(tmp_path / "cut")) < 12
  run(tmp_path / "cut", **fields)
  for name in ("results.jsonl", "summary.json", "heat_map.png"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"block_multiplier": 1.0}, "--block_multiplier=1.0: heat_map has none"),
    ({"log2_multipliers": "a"}, "--log2_multipliers='a' is no grid"),
    ({"log2_multipliers": "-200,0"}, "--log2_multipliers: float32 holds"),
    ({"log2_lrs": "1:0:1"}, "--log2_lrs='1:0:1' is no grid"),
    ({"weight_decay": 0.1}, "--weight_decay=0.1: heat_map has none"),
    ({"chunk": 0}, "--chunk=0"),
    ({"workdir": None}, "--workdir is missing"),
    ({"window": 7}, "--window=7 is longer"),
    ({"head_dim": 8}, "--head_dim=8: heat_map --model=mlp has none"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  values = {"workdir": str(tmp_path / "w")} | TOY | values
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    heat_map.main([])
  assert not (tmp_path / "w").exists()


# The verdict -------------------------------------------------------------------

RATES, MULTIPLIERS = np.arange(-9, -3.9, 0.5), np.arange(-6, 1.1, 1.0)


def records(slopes, point=(0.5, 0.5), noise=0.005, drift=0.0):
  """Valleys of the slopes given by depth, through (-6.5 + drift per depth, -2.5)."""
  rng = np.random.default_rng(0)
  found = []
  for i, (depth, slope) in enumerate(slopes.items()):
    for x, a, seed in itertools.product(RATES, MULTIPLIERS, range(3)):
      dx, da = x + 6.5 - drift * i, a + 2.5
      n = math.hypot(1, slope)
      along, across = (dx + slope * da) / n, (da - slope * dx) / n
      found.append(
        {
          "parametrization": "p",
          "alpha": point[0],
          "gamma": point[1],
          "depth": depth,
          "log2_lr": float(x),
          "log2_multiplier": float(a),
          "seed": seed,
          "loss": math.exp(0.15 * across**2 + 0.008 * along**2 + noise * rng.normal()),
          "diverged": bool(across * np.sign(dx) > 4),
        }
      )
  return found


def test_two_parametrizations_are_two_rows(tmp_path):
  both = [r | {"parametrization": p} for p in ("p", "q") for r in records({2: -2})]
  verdict = heat_map_verdict.judge(both, "depth", "mlp", 2)
  assert verdict["maps"]["p"] == verdict["maps"]["q"]
  heat_map_figure.draw(both, verdict["maps"], "depth", "title", tmp_path / "f.png")
  assert (tmp_path / "f.png").exists()


def judge(slopes, model="mlp", block_depth=2, **fields):
  return heat_map_verdict.judge(records(slopes, **fields), "depth", model, block_depth)


def seen(verdict):
  return {name.removeprefix("p: "): c["seen"] for name, c in verdict["claims"].items()}


def test_the_claims_are_about_the_slopes():
  v = judge({2: -2.1, 64: -1.05})
  assert seen(v) == {"multiply": True, "add": True, "turns": True}
  assert v["maps"]["p"]["2"]["valley"]["slope"] == pytest.approx(-2.1, rel=0.05)
  assert seen(judge({2: -2.1, 64: -2.1})) == {"multiply": True, "add": False, "turns": None}
  assert seen(judge({2: -1, 64: -2})) == {"multiply": False, "add": False, "turns": False}
  assert seen(judge({2: -3, 64: -1}, block_depth=3))["multiply"] is True
  assert seen(judge({2: -1.5, 64: -1.5}))["multiply"] is None
  assert seen(judge({2: -2, 64: -1}, noise=2.0)) == dict.fromkeys(
    ("multiply", "add", "turns")
  )


def test_no_claims_where_theory_makes_none():
  assert judge({2: -2, 64: -1}, point=(1.0, 0.0))["claims"] == {}
  assert judge({2: -2, 64: -1}, block_depth=1)["claims"] == {}
  assert judge({2: -2})["claims"] == {}


@pytest.mark.parametrize(
  ("drift", "sees"), [(0.0, True), (0.3, True), (0.7, False), (-0.3, False)]
)
def test_the_claims_of_a_transformer(drift, sees):
  depths = dict.fromkeys((2, 4, 8, 16), -1e3)  # the loss does not depend on a
  v = judge(depths, "transformer", drift=drift, noise=0.002)
  assert seen(v)["rate"] is sees or drift == 0.0
  assert seen(v)["insensitive"] is True
  narrow = judge(dict.fromkeys((2, 4), -0.2), "transformer")
  assert seen(narrow)["insensitive"] is False


def test_octaves_of_multiplier():
  """y = 0.1 |a + 1|: within log 1.05 on both sides, 2 * 0.488 octaves, interpolated."""
  x = np.arange(-4, 3.0)
  octaves, beyond = heat_map_verdict._octaves(x, 0.1 * np.abs(x + 1))
  assert octaves == pytest.approx(2 * math.log(1.05) / 0.1)
  assert beyond is False
  assert heat_map_verdict._octaves(x, np.zeros(7)) == (6.0, True)
  assert heat_map_verdict._octaves(x, np.array([0, 0, 1, 1, 1, 1, 1]))[1] is True
  # A hole that diverged counts from neither side.
  octaves, _ = heat_map_verdict._octaves(x, np.array([9, 9, 0, np.inf, 0, 9, 9.0]))
  assert octaves == pytest.approx(2 * math.log(1.05) / 9)


@pytest.mark.parametrize("lost", [2, 64])
def test_a_net_that_diverges_everywhere(tmp_path, lost):
  dead = [r | {"diverged": r["depth"] == lost} for r in records({2: -2, 64: -1})]
  v = heat_map_verdict.judge(dead, "depth", "mlp", 2)
  json.dumps(v, allow_nan=False)
  assert v["maps"]["p"][str(lost)]["loss"] is None
  assert v["maps"]["p"][str(lost)]["octaves_of_multiplier"] is None
  kept = "multiply" if lost == 64 else "add"
  assert seen(v) == dict.fromkeys(("multiply", "add", "turns")) | {kept: True}
  heat_map_figure.draw(dead, v["maps"], "depth", "title", tmp_path / "f.png")
  assert (tmp_path / "f.png").exists()
