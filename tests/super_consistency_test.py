"""The super-consistency experiment: its claims, its nets, and its main at toy size."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

import flax_depthmup as dmup
from experiments import super_consistency
from experiments._lib import super_consistency_config, super_consistency_verdict
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import sgd_preconditioner

CIFAR = pathlib.Path(__file__).parents[2] / "shared" / "data" / "cifar10"

# Claims ------------------------------------------------------------------------------

STEPS = range(0, 101, 10)


def rising(n, t):
  """The same for every size: from 1/16 to the edge."""
  return 2 ** -max(4 - t / 10, 0)


def records(variants, sizes=(32, 64, 128), seeds=3, size="width"):
  """Of sharpness over the threshold and loss by law(n, t), with scatter."""
  rng = np.random.default_rng(0)
  rows = []
  for name, (sharpness, loss) in variants.items():
    for n in sizes:
      for seed in range(seeds):
        for t in STEPS:
          value = sharpness(n, t) * 2 ** rng.normal(0, 0.02)
          lost = not math.isfinite(value)
          rows.append(
            {
              "parametrization": name,
              size: n,
              "seed": seed,
              "step": t,
              "relative": None if lost else value,
              "loss": None if lost else loss(n, t) * 2 ** rng.normal(0, 0.02),
              "diverged": lost,
            }
          )
  return rows


def parting(n, t):
  return 2 ** (-t / 50 - (t / 100) * math.log2(n / 32))


def together(n, t):
  return 2 ** (-t / 50)


def judged(variants, **fields):
  found = super_consistency_verdict.summarize(records(variants, **fields), "width")
  json.dumps(found, allow_nan=False)
  for c in found["claims"].values():
    assert {"claim", "measured", "seen", "reason"} == set(c)
  return found


def seen(variants, **fields):
  return {name: c["seen"] for name, c in judged(variants, **fields)["claims"].items()}


def test_claims_are_seen_where_they_hold():
  lazy = (lambda n, t: (n / 32) ** -0.4 / 16, together)
  found = judged({"depth_mup": (rising, parting), "ntk": lazy})
  assert {name: c["seen"] for name, c in found["claims"].items()} == {
    "depth_mup: same": True,
    "depth_mup: edge": True,
    "depth_mup: loss": True,
    "ntk: departs": True,
    "ntk: further apart": True,
    "ntk: hardly sharpens": True,
  }
  ours, ntk = found["measured"]["depth_mup"], found["measured"]["ntk"]
  assert ours["octaves_per_doubling"] == pytest.approx(0, abs=0.03)
  assert ntk["octaves_per_doubling"] == pytest.approx(-0.4, abs=0.03)
  # Octaves 0, -0.4, -0.8 have the standard deviation 0.4.
  assert ntk["spread"] == pytest.approx(0.4, abs=0.03)
  assert ntk["largest_spread"] >= ntk["spread"]
  assert ours["sharpening"]["128"] == pytest.approx(4, abs=0.1)
  assert ours["highest"]["32"] == pytest.approx(1, abs=0.05)
  # At the end the losses are at -2, -3 and -4 octaves.
  assert ours["loss_spread"][1] == pytest.approx(1, abs=0.05)


def test_claims_are_not_seen_where_they_do_not():
  growing = (lambda n, t: rising(n, t) * (n / 32) ** 0.5, together)
  assert seen({"depth_mup": growing, "ntk": (rising, together)}) == {
    "depth_mup: same": False,
    "depth_mup: edge": True,
    "depth_mup: loss": False,
    "ntk: departs": False,
    "ntk: further apart": False,
    "ntk: hardly sharpens": False,
  }
  below = (lambda n, t: 0.1 * rising(n, t), parting)
  assert seen({"depth_mup": below})["depth_mup: edge"] is False


def test_claims_say_when_they_cannot_tell():
  drifting = (lambda n, t: rising(n, t) * (n / 32) ** -0.2, parting)
  found = seen({"depth_mup": drifting, "0.5:0": drifting})
  assert (found["depth_mup: same"], found["0.5:0: departs"]) == (None, None)
  near = (lambda n, t: max(rising(n, t), 0.6), parting)
  assert seen({"depth_mup": near})["depth_mup: edge"] is None
  alone = judged({"depth_mup": (rising, parting), "ode": (rising, parting)}, sizes=(32,))
  assert {c["seen"] for n, c in alone["claims"].items() if "edge" not in n} == {None}
  assert "fewer than two widths" in alone["claims"]["depth_mup: same"]["reason"]


def test_nets_that_diverge_say_so():
  def lost(n, t):
    return math.nan if n == 128 and t >= 50 else rising(n, t)

  found = judged({"depth_mup": (lost, parting), "mup": (lost, parting)})
  claims = {name: c["seen"] for name, c in found["claims"].items()}
  assert claims == {
    "depth_mup: same": False,
    "depth_mup: edge": None,
    "depth_mup: loss": None,
    "mup: departs": True,
    "mup: further apart": None,
  }
  assert found["claims"]["mup: departs"]["reason"] == "nets of width 128 diverged"
  assert found["measured"]["mup"]["diverged"] == [128]
  assert found["measured"]["mup"]["highest"]["128"] is None
  everywhere = (lambda n, t: math.nan, parting)
  assert seen({"a": everywhere, "b": everywhere})["b: departs"] is None


def test_depth_grows_too():
  rows = records({"depth_mup": (rising, parting)}, size="depth")
  found = super_consistency_verdict.summarize(rows, "depth")
  assert "same at every depth" in found["claims"]["depth_mup: same"]["claim"]


# Nets --------------------------------------------------------------------------------


def config(**values):
  with flagsaver.flagsaver(**values):
    return super_consistency_config.from_flags()


def test_ntk_is_unit_weights_behind_multipliers():
  """A gradient step in weights of variance 1 is D times one in ours."""
  c = config(parametrizations=["ntk"], widths=["8"], depth=2, base_depth=2, base_width=2)
  model = c.model(c.nets()[0]).clone(train_boundary=True)
  x = jax.random.normal(jax.random.key(0), (6, 5))
  params, scales = dmup.init(model, jax.random.key(1), x)
  kinds = {"input": 1.0, "stack": 2.0, "readout": 2.0}  # sqrt of 8 / 2 behind width

  def ours(unit):
    return {k: jax.tree.map(lambda w, r=r: w / r, unit[k]) for k, r in kinds.items()}

  unit = {k: jax.tree.map(lambda w, r=r: w * r, params[k]) for k, r in kinds.items()}
  stds = {k: float(jnp.std(jax.tree.leaves(v)[0])) for k, v in unit.items()}
  # 1/sqrt(fan_in) of the base net, as there everywhere: the multiplier is what is left.
  assert stds["stack"] == pytest.approx(2**-0.5, rel=0.25)
  assert stds["readout"] == pytest.approx(2**-0.5, rel=0.25)

  def loss(params):
    return jnp.mean(model.apply({"params": params}, x) ** 2)

  in_unit = jax.grad(lambda unit: loss(ours(unit)))(unit)
  step = jax.tree.map(
    lambda d, g: d * g, sgd_preconditioner(scales), jax.grad(loss)(params)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours(in_unit), step
  )


def test_variants_and_sizes():
  c = config(axis="depth", depths=["2", "4"], width=8)
  assert [n.variant for n in c.nets()] == ["depth_mup"] * 2 + ["depth_mup@2"] * 2
  assert [c.model(n).block_depth for n in c.nets()] == [1, 1, 2, 2]
  assert c.sizes == ((8, 2), (8, 4))
  c = config(widths=["16", "8"], depth=3)
  assert c.sizes == ((8, 3), (16, 3))
  assert c.threshold == 2 / c.lr == 1
  c = config(optimizer="adam", log2_lr=-1.0)
  assert c.variants == ("depth_mup", "standard")
  assert c.threshold == pytest.approx(76)


# The entry point ---------------------------------------------------------------------

TOY = {
  "parametrizations": ["depth_mup", "ntk"],
  "widths": ["4", "8"],
  "depth": 2,
  "base_depth": 2,
  "seeds": 2,
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
  path = tmp_path_factory.mktemp("super_consistency") / "whole"
  run(path)
  return path


def test_a_toy_run_writes_what_it_promises(whole, capsys):
  rows = lines(whole)
  assert [(r["parametrization"], r["width"], r["seed"], r["step"]) for r in rows] == [
    (name, width, seed, step)
    for name in ("depth_mup", "ntk")
    for width in (4, 8)
    for seed in (0, 1)
    for step in (0, 2, 4)
  ]
  for r in rows:
    assert r["relative"] == pytest.approx(r["sharpness"])  # eta = 2
    assert 0 <= r["residual"] < 0.05 * r["sharpness"]
    assert (r["depth"], r["block_depth"], r["diverged"]) == (2, 1, False)
  assert len({r["loss"] for r in rows if r["step"] == 4}) == 8
  assert (whole / "super_consistency.png").read_bytes()[:4] == b"\x89PNG"
  found = json.loads((whole / "summary.json").read_text())["super_consistency"]
  assert set(found) == {"claims", "measured"}
  assert {"depth_mup: same", "depth_mup: edge", "ntk: departs"} <= set(found["claims"])
  about = json.loads((whole / "config.json").read_text())
  assert (about["experiment"], about["base_width"]) == ("super_consistency", 1)
  run(whole)
  told = capsys.readouterr().out
  assert "already done" in told
  assert "octaves/doubling" in told
  assert "under depth_mup the sharpness rises to the edge" in told
  with pytest.raises(DepthMupError, match="holds another run: seeds is 2, this run has 3"):
    run(whole, seeds=3)


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
  assert 0 < len(kept) < 8
  trained = []
  records = super_consistency.Training.records

  def count(self, seed, on_chunk):
    trained.append((self._net.variant, self._net.width, seed))
    return records(self, seed, on_chunk)

  monkeypatch.setattr(super_consistency.Training, "records", count)
  run(tmp_path)
  assert len(trained) == 8 - len(kept)
  assert kept.isdisjoint(trained)
  for name in ("results.jsonl", "summary.json"):
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_adam_and_nets_that_diverge(tmp_path):
  one = {"parametrizations": ["depth_mup@2"], "widths": ["4"], "seeds": 1}
  run(tmp_path / "adam", optimizer="adam", **one)
  rows = lines(tmp_path / "adam")
  assert [r["step"] for r in rows] == [2, 4]
  for r in rows:
    assert r["block_depth"] == 2
    assert r["relative"] == pytest.approx(r["sharpness"] / 38 * 2**-3)
  run(tmp_path / "lost", log2_lr=100.0, **one)
  rows = lines(tmp_path / "lost")
  assert [r["diverged"] for r in rows] == [False, True, True]
  assert rows[-1]["loss"] is rows[-1]["sharpness"] is rows[-1]["relative"] is None


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
    ({"optimizer": "adam"}, "ntk is defined for sgd"),
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


@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10 files beside the checkout")
def test_on_cifar10(tmp_path):
  one = {"parametrizations": ["depth_mup"], "widths": ["4"], "seeds": 1}
  run(tmp_path, dataset="cifar10", data_dir=str(CIFAR), **one)
  assert len(lines(tmp_path)) == 3
