"""The claims of the super-consistency experiment on made-up records, and its nets."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

import flax_depthmup as dmup
from experiments._lib import super_consistency_config, super_consistency_verdict
from flax_depthmup.diagnostics import sgd_preconditioner

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
