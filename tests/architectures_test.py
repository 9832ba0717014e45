"""Blocks compared over depth: main at toy size, continued, wrong flags; the claims."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

import flax_depthmup as dmup
from experiments import architectures
from experiments._lib import architectures_config, architectures_figure, sweeps
from experiments._lib.architectures_config import variant
from experiments._lib.architectures_verdict import judge
from flax_depthmup import DepthMupError

TOY = {
  "variants": ["abs", "relu+pre+layer_norm+k2"],
  "depths": ["2", "4"],
  "base_depth": 2,
  "log2_lrs": "-9:-5:1",
  "width": 8,
  "seeds": 2,
  "steps": 6,
  "window": 3,
  "batch_size": 8,
  "chunk": 6,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    architectures.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def read(**values):
  with flagsaver.flagsaver(**(TOY | values)):
    return architectures_config.from_flags()


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert len(records) == 2 * 2 * 5 * 2
  assert {(r["variant"], r["depth"], r["blocks"]) for r in records} == {
    ("abs", 2, 2),
    ("abs", 4, 4),
    ("relu+pre+layer_norm+k2", 2, 1),
    ("relu+pre+layer_norm+k2", 4, 2),
  }
  assert "log2_multiplier" not in records[0]
  assert "Best training loss" in capsys.readouterr().out
  verdict = json.loads((tmp_path / "summary.json").read_text())["architectures"]
  assert set(verdict["best"]) == set(verdict["transfer"]) == set(TOY["variants"])
  first, other = TOY["variants"]
  assert set(verdict["claims"]) == {
    f"{first} beats {other}",
    f"{first} gains more than {other}",
    f"{first} over depth",
    f"{other} over depth",
  }
  for claim in verdict["claims"].values():
    assert set(claim) == {"claim", "measured", "seen", "reason"}
  assert (tmp_path / "architectures.png").read_bytes()[:4] == b"\x89PNG"
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["variants"] == TOY["variants"]
  assert not {"activation", "block_depth", "pre_nonlinearity", "norm"} & set(config)
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: variants"):
    run(tmp_path, variants=["abs"])


def test_multipliers_are_swept_too(tmp_path):
  run(tmp_path, variants=["abs"], log2_multipliers="-2,0", depths=["2"])
  records = lines(tmp_path)
  assert len(records) == 5 * 2 * 2
  best = json.loads((tmp_path / "summary.json").read_text())["architectures"]["best"]
  means = {}
  for r in records:
    place = r["log2_lr"], r["log2_multiplier"]
    means.setdefault(place, []).append(math.log(r["loss"]))
  lowest = min(means, key=lambda place: np.mean(means[place]))
  found = best["abs"]["2"]
  assert (found["log2_lr"], found["log2_multiplier"]) == lowest
  assert found["loss"] == pytest.approx(math.exp(np.mean(means[lowest])))


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  fields = {"variants": ["abs"], "depths": ["2"]}
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
  run(tmp_path / "cut", **fields)
  for name in ("results.jsonl", "summary.json", "architectures.png"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_depths_count_layers():
  """As many weight matrices in branches, and at base depth no depth factor."""
  names = ["abs", "relu+k2", "abs+rms_norm+k4"]
  asked = read(variants=names, depths=["4", "8"], base_depth=8)
  nets = {net.folder: net.model for net in asked.nets(None)}
  x = jnp.ones((1, 5))
  for name in names:
    for depth in (4, 8):
      params = dmup.abstract_init(nets[f"{name}-{depth}"], jax.random.key(0), x)[0]
      branches = jax.tree.leaves(params["stack"])
      assert sum(leaf.shape[0] for leaf in branches) == depth
    model = nets[f"{name}-8"]
    assert model.parametrization.branch_multiplier(model.depth) == 1
    shallow = nets[f"{name}-4"]
    assert shallow.parametrization.branch_multiplier(shallow.depth) == math.sqrt(2)


def test_variants():
  v = variant("abs+k3+pre+rms_norm")
  assert (v.activation, v.block_depth, v.pre_nonlinearity, v.norm) == (
    "abs",
    3,
    True,
    "rms_norm",
  )
  v = variant("tanh")
  assert (v.activation, v.block_depth, v.pre_nonlinearity, v.norm) == (
    "tanh",
    1,
    False,
    None,
  )


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"variants": []}, "--variants: expected distinct variants"),
    ({"variants": ["abs", "abs"]}, "--variants: expected distinct variants"),
    ({"variants": ["swish"]}, "activation='swish'"),
    ({"variants": [""]}, "activation=''"),
    ({"variants": ["abs+post"]}, "'post' of 'abs\\+post' is unknown"),
    ({"variants": ["abs+k0"]}, "'k0' of 'abs\\+k0' is unknown"),
    ({"variants": ["abs+k2+k3"]}, "states its block_depth twice"),
    ({"variants": ["abs+layer_norm+rms_norm"]}, "states its norm twice"),
    ({"variants": ["abs+k3"]}, "--base_depth: 2 layers are no whole number of blocks"),
    ({"variants": ["abs+k2"], "depths": ["5"]}, "--depths: 5 layers are no whole number"),
    ({"parametrizations": ["ode", "standard"]}, "under one parametrization"),
    ({"activation": "relu"}, "--activation=relu: architectures has none"),
    ({"block_depth": 2}, "--block_depth=2: architectures has none"),
    ({"pre_nonlinearity": True}, "--pre_nonlinearity=True: architectures has none"),
    ({"norm": "layer_norm"}, "--norm=layer_norm: architectures has none"),
    ({"model": "transformer"}, "--model=transformer --axis=None: architectures"),
    ({"axis": "width", "widths": ["8"]}, "--axis=width: architectures"),
    (
      {"log2_multipliers": "-1,0", "block_multiplier": 1.0},
      "--block_multiplier=1.0: architectures with a grid of block multipliers",
    ),
    ({"block_multiplier": -1.0}, "--block_multiplier=-1.0"),
    ({"log2_lr": -8.0}, "--log2_lr=-8.0: architectures has none"),
    ({"chunk": 0}, "--chunk=0"),
    ({"workdir": None}, "--workdir is missing"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  values = {"workdir": str(tmp_path / "w")} | TOY | values
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    architectures.main([])
  assert not (tmp_path / "w").exists()


# The verdict -------------------------------------------------------------------

DEPTHS = (4, 8, 16)


def records(levels, seeds=3, place=-7.0, drift=None, noise=0.01):
  """Valleys of known best log-loss by variant: one number per depth, None diverges."""
  rng = np.random.default_rng(0)
  found = []
  for name, best in levels.items():
    for i, (depth, level) in enumerate(zip(DEPTHS, best, strict=True)):
      for x in np.arange(-10, -3.9, 0.5):
        at = place + (drift or {}).get(name, 0) * i
        for seed in range(seeds):
          log_loss = (level or 0) + 0.2 * (x - at) ** 2 + noise * rng.normal()
          found.append(
            {
              "variant": name,
              "parametrization": "depth_mup",
              "depth": depth,
              "log2_lr": float(x),
              "seed": seed,
              "loss": math.exp(log_loss),
              "diverged": level is None,
            }
          )
  return found


def claims(levels, **fields):
  asked = read(variants=list(levels), depths=[str(d) for d in DEPTHS])
  return judge(asked, records(levels, **fields))["claims"]


def test_the_better_block_and_by_how_much():
  found = claims({"abs": (0.5, 0.3, 0.1), "relu": (0.5, 0.4, 0.4)})
  better, gain = found["abs beats relu"], found["abs gains more than relu"]
  assert (better["seen"], gain["seen"]) == (True, True)
  measured = better["measured"]
  assert measured["mean_difference"] == pytest.approx(0.3, abs=0.03)
  assert measured["standard_error"] < 0.02
  assert measured["ci95"][0] < measured["mean_difference"] < measured["ci95"][1]
  assert measured["loss"]["abs"] == pytest.approx(math.exp(0.1), rel=0.02)
  assert gain["measured"]["mean_difference"] == pytest.approx(0.3, abs=0.03)
  assert gain["measured"]["gain"]["relu"] == pytest.approx(0.1, abs=0.03)
  other = claims({"relu": (0.5, 0.4, 0.4), "abs": (0.5, 0.3, 0.1)})
  assert other["relu beats abs"]["seen"] is False
  alike = claims({"abs": (0.5, 0.4, 0.4), "relu": (0.5, 0.4, 0.4)}, noise=0.05)
  assert alike["abs beats relu"]["seen"] is None


def test_the_interval_is_students_over_paired_seeds():
  """Against the textbook's paired t test."""
  from scipy.stats import ttest_rel

  levels = {"abs": (0.5, 0.3, 0.1), "relu": (0.5, 0.4, 0.2)}
  rows = records(levels)
  asked = read(variants=list(levels), depths=[str(d) for d in DEPTHS])
  verdict = judge(asked, rows)
  best = {n: verdict["best"][n]["16"]["log2_lr"] for n in levels}
  logs = {
    n: [
      math.log(r["loss"])
      for r in rows
      if (r["variant"], r["depth"]) == (n, 16) and r["log2_lr"] == best[n]
    ]
    for n in levels
  }
  oracle = ttest_rel(logs["relu"], logs["abs"]).confidence_interval(0.95)
  found = verdict["claims"]["abs beats relu"]["measured"]["ci95"]
  assert found == pytest.approx([oracle.low, oracle.high])


def test_a_best_rate_on_the_edge_tells_nothing():
  found = claims({"abs": (0.5, 0.3, 0.1), "relu": (0.5, 0.4, 0.4)}, place=-3.5)
  for name in ("abs beats relu", "abs gains more than relu"):
    assert found[name]["seen"] is None
    assert (
      "the best learning rate is the largest of the grid, 2^-4" in found[name]["reason"]
    )
  (one,) = (claims({"abs": (0.5, 0.3, 0.1), "relu": (0.5, 0.4, 0.4)}, seeds=1),)
  assert one["abs beats relu"]["seen"] is None
  assert "run three" in one["abs beats relu"]["reason"]


def test_a_block_that_diverges():
  found = claims({"abs": (0.5, 0.3, 0.1), "relu": (0.5, 0.4, None)})
  assert found["abs beats relu"]["seen"] is True
  assert found["abs gains more than relu"]["seen"] is None
  found = claims({"abs": (0.5, 0.3, None), "relu": (0.5, 0.4, 0.4)})
  assert found["abs beats relu"]["seen"] is False
  found = claims({"abs": (0.5, 0.3, None), "relu": (0.5, 0.4, None)})
  assert found["abs beats relu"]["seen"] is None


def test_the_rate_stays_for_one_matrix_and_moves_for_two():
  levels = {"relu": (0.5, 0.4, 0.3), "relu+k2": (0.5, 0.4, 0.3)}
  for drifts, seen in (((0, 0.5), (True, True)), ((0.5, 0), (False, False))):
    drift = dict(zip(levels, drifts, strict=True))
    found = claims(levels, drift=drift)
    assert tuple(found[f"{n} over depth"]["seen"] for n in levels) == seen
    assert "moves with depth" in found["relu+k2 over depth"]["claim"]
    assert "stays over depth" in found["relu over depth"]["claim"]


def test_the_rate_is_judged_at_the_shallow_multiplier():
  """Of two multipliers, a worse one's optimum moves, the best one's stays."""
  rows = [r | {"log2_multiplier": -1.0} for r in records({"relu": (0.5, 0.4, 0.3)})]
  moved = records({"relu": (0.9, 0.8, 0.1)}, drift={"relu": 0.7})
  rows += [r | {"log2_multiplier": 0.0} for r in moved]
  asked = read(variants=["relu"], depths=[str(d) for d in DEPTHS])
  verdict = judge(asked, rows)
  assert verdict["transfer"]["relu"]["transfers"] is True
  assert verdict["best"]["relu"]["16"]["log2_multiplier"] == 0.0
  rows = [r | {"log2_multiplier": -1.0 - r["log2_multiplier"]} for r in rows]
  assert judge(asked, rows)["transfer"]["relu"]["transfers"] is True


def test_a_figure_of_what_diverged(tmp_path):
  levels = {"abs": (0.5, 0.3, None), "relu": (None, None, None)}
  rows = [r | {"log2_multiplier": float(a)} for a in (0, 1) for r in records(levels)]
  asked = read(variants=list(levels), depths=[str(d) for d in DEPTHS])
  verdict = judge(asked, rows)
  json.dumps(verdict, allow_nan=False)
  architectures_figure.draw(rows, verdict, asked.title(), tmp_path / "f.png")
  assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
