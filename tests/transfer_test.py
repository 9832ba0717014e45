"""The verdict on synthetic curves whose truth is known, and on ragged ones."""

import itertools
import math

import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import fit_optimum, transfer_verdict

RATES = np.arange(-13, -4.9, 0.5)
DEPTHS = (4, 8, 16, 32, 64)


def records(drift=0.0, noise=0.03, seeds=3, start=-8.2, wall=None, name="p", draw=0):
  """Skewed valleys whose bottom moves by `drift` octaves per doubling.

  Beyond `wall` octaves above the optimum the net diverges.
  """
  rng = np.random.default_rng(draw)
  out = []
  for depth, seed, rate in itertools.product(DEPTHS, range(seeds), RATES):
    u = rate - (start + drift * math.log2(depth / 4))
    log_loss = 0.2 * u**2 * (1.3 if u > 0 else 1) - 2 - 0.1 * math.log2(depth)
    out.append(
      {
        "parametrization": name,
        "depth": depth,
        "log2_lr": float(rate),
        "seed": seed,
        "loss": math.exp(log_loss + noise * rng.normal()),
        "diverged": wall is not None and u > wall,
      }
    )
  return out


def verdict(**fields):
  return transfer_verdict(records(**fields))["p"]


def test_an_optimum_that_stays():
  v = verdict()
  assert v["transfers"] is True
  assert abs(v["octaves_per_doubling"]) < 0.05
  assert v["ci95"][0] <= v["octaves_per_doubling"] <= v["ci95"][1]
  for optimum in v["optimum_log2_lr"].values():
    assert optimum == pytest.approx(-8.2, abs=0.15)
  losses = list(v["best_loss"].values())
  assert losses == sorted(losses, reverse=True)
  assert 0 <= v["regret_of_transfer"] < 0.01


def test_the_interval_covers_the_truth():
  """20 fixed draws of 5 seeds; a 95 % interval from five seeds covers most."""
  verdicts = [verdict(noise=0.1, seeds=5, draw=draw) for draw in range(20)]
  covers = [v["ci95"][0] <= 0 <= v["ci95"][1] for v in verdicts]
  widths = [v["ci95"][1] - v["ci95"][0] for v in verdicts]
  assert sum(covers) >= 17
  assert max(widths) < 0.5


@pytest.mark.parametrize("drift", [-0.5, 0.5, -0.9])
def test_an_optimum_that_moves(drift):
  v = verdict(drift=drift, start=-8.2 if drift < 0 else -10.2)
  assert v["transfers"] is False
  assert v["octaves_per_doubling"] == pytest.approx(drift, abs=0.07)
  assert v["regret_of_transfer"] > 0.05


def test_noise_gives_no_number():
  v = verdict(noise=1.5)
  assert v["transfers"] is None
  assert all(x is None for x in v["optimum_log2_lr"].values())
  assert "optimum" in v["reason"]
  # A flat curve, whatever its noise, has no optimum either.
  flat = [
    {
      **r,
      "loss": math.exp(-2 + 1e-3 * ((r["seed"] * 31 + int(10 * r["log2_lr"]) * 17) % 97)),
    }
    for r in records()
  ]
  assert transfer_verdict(flat)["p"]["octaves_per_doubling"] is None


@pytest.mark.parametrize("step", [0.5, 1, 2])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_hardly_ever_an_optimum_in_noise(seeds, step):
  """200 fixed draws of noise on a grid of any step. Measured: at most 3 %."""
  rates = np.arange(-13, -4.9, step)
  draws = [np.random.default_rng(d).normal(size=(seeds, len(rates))) for d in range(200)]
  found = [fit_optimum(rates, table).log2_lr is not None for table in draws]
  assert np.mean(found) <= 0.03


@pytest.mark.parametrize("seed", range(40))
def test_no_optimum_in_pure_noise(seed):
  """Curves of noise alone. Measured: no false alarm in 500 draws of 2, 3 or 5 seeds."""
  table = np.random.default_rng(seed).normal(size=(3, len(RATES)))
  assert fit_optimum(RATES, table).log2_lr is None


def test_hardly_ever_an_optimum_in_noise_on_a_short_grid():
  """Five rates: nothing outside the window can warn. Measured: 2 of 300 draws."""
  draws = [np.random.default_rng(seed).normal(size=(3, 5)) for seed in range(300)]
  found = [fit_optimum(RATES[:5], table).log2_lr is not None for table in draws]
  assert sum(found) <= 6


def test_one_seed_cannot_tell():
  v = verdict(seeds=1)
  assert (v["transfers"], v["ci95"]) == (None, None)
  assert "seed" in v["reason"]
  assert v["octaves_per_doubling"] is not None


def test_an_optimum_that_jumps_or_creeps_far_does_not_transfer():
  places = {4: -8.0, 8: -9.4, 16: -8.0, 32: -9.4, 64: -8.0}
  jumping = [
    {**r, "log2_lr": r["log2_lr"] - 8.2 - places[r["depth"]] + 16.4} for r in records()
  ]
  v = transfer_verdict(jumping)["p"]
  assert v["transfers"] is not True
  v = verdict(drift=0.19, noise=0.001)  # within 0.2, but 0.76 octaves in all: still fine
  assert v["transfers"] is True


def test_a_far_optimum_is_refused_though_its_slope_is_small():
  depths = dict(zip(DEPTHS, (8, 64, 512, 4096, 32768), strict=True))
  far = [{**r, "depth": depths[r["depth"]]} for r in records(drift=0.4, noise=0.001)]
  v = transfer_verdict(far)["p"]
  assert abs(v["octaves_per_doubling"]) < 0.2
  assert v["transfers"] is False
  assert "octaves from the smallest" in v["reason"]


def test_a_loss_of_zero_is_a_small_loss():
  zero = [{**r, "loss": 0.0 if r["loss"] < 0.1 else r["loss"]} for r in records()]
  assert transfer_verdict(zero)["p"]["best_loss"]["64"] < 1e-30


def test_edges_are_named():
  low = verdict(start=-13.4)
  assert "extend it below" in low["why_no_optimum"]["4"]
  high = verdict(start=-4.6)
  assert "extend it above" in high["why_no_optimum"]["4"]
  assert low["transfers"] is None
  assert low["optimum_log2_lr"]["4"] is None


def test_the_last_rate_before_divergence_is_no_optimum():
  v = verdict(wall=-0.8)
  assert "last before divergence" in v["why_no_optimum"]["4"]


def test_divergence_beyond_the_optimum_is_fine():
  assert verdict(wall=1.4)["transfers"] is True


def test_a_depth_that_never_trains_does_not_transfer():
  dead = [{**r, "diverged": r["diverged"] or r["depth"] == 64} for r in records()]
  v = transfer_verdict(dead)["p"]
  assert v["transfers"] is False
  assert v["best_loss"]["64"] is None
  assert v["regret_of_transfer"] is None
  assert "at depth 64 every learning rate diverges" in v["reason"]


def test_a_rate_counts_as_diverged_when_one_seed_diverged():
  table = np.log(np.array([[3.0, 1.0, 2.0, 3.0], [3.0, np.inf, 2.0, 3.0]]))
  assert fit_optimum(np.arange(4.0), table).best_log2_lr == 2


def test_two_valleys_are_no_optimum():
  x = np.arange(-13, -4, 1.0)
  y = np.array([3, 1, 3, 4, 4, 4, 3, 1.001, 3])
  noise = np.random.default_rng(0).normal(size=(3, len(x)))
  found = fit_optimum(x, y + 0.01 * noise)
  assert found.log2_lr is None
  assert "as low at" in found.reason


def test_an_exact_parabola():
  x = np.arange(-12, -6, 0.5)
  found = fit_optimum(x, np.tile(0.3 * (x + 9.17) ** 2 - 1, (2, 1)))
  assert found.log2_lr == pytest.approx(-9.17)


def test_several_parametrizations_apart():
  v = transfer_verdict(records() + records(drift=-0.5, name="q"))
  assert [v[name]["transfers"] for name in ("p", "q")] == [True, False]


def renamed(swept, table):
  return [{swept if k == "log2_lr" else k: v for k, v in r.items()} for r in table]


@pytest.mark.parametrize("swept", ["log2_multiplier", "log2_weight_decay"])
def test_another_hyperparameter_is_judged_alike(swept):
  for fields in ({}, {"drift": -0.5}, {"wall": -0.8}, {"noise": 1.5}, {"start": -13.4}):
    rate = verdict(**fields)
    other = transfer_verdict(renamed(swept, records(**fields)), swept=swept)["p"]
    assert f"optimum_{swept}" in other
    assert "optimum_log2_lr" not in other
    assert other[f"optimum_{swept}"] == rate["optimum_log2_lr"]
    for key in ("octaves_per_doubling", "ci95", "best_loss", "transfers"):
      assert other[key] == rate[key]


def test_the_words_are_those_of_the_hyperparameter():
  low = records(start=-13.4)
  dead = [{**r, "diverged": r["diverged"] or r["depth"] == 64} for r in records()]
  for table, words in (
    (low, "at depth 4 the best multiplier is the smallest of the grid, 2^-13"),
    (dead, "at depth 64 every multiplier diverges"),
    (renamed("log2_lr", records(seeds=1)), "one seed, or unequal numbers of seeds"),
  ):
    v = transfer_verdict(renamed("log2_multiplier", table), swept="log2_multiplier")["p"]
    said = " ".join([v["reason"], *v["why_no_optimum"].values()])
    assert words in said
    assert " rate" not in said
  decay = "log2_weight_decay"
  v = transfer_verdict(renamed(decay, low), swept=decay)["p"]
  assert "the best weight decay is the smallest" in v["why_no_optimum"]["4"]
  assert (
    "the best rate is the smallest" in transfer_verdict(low)["p"]["why_no_optimum"]["4"]
  )


@pytest.mark.parametrize(
  ("swept", "words"),
  [
    ("log2_multiplier", "has no 'log2_multiplier'"),
    ("dropout", "swept='dropout': expected the name of a column of base-2 logarithms"),
    ("log2_", "swept='log2_'"),
    (None, "swept=None"),
  ],
)
def test_a_column_that_is_not_there_or_no_logarithm(swept, words):
  with pytest.raises(DepthMupError, match=words):
    transfer_verdict(records(), swept=swept)


def test_holes_of_another_hyperparameter():
  table = renamed("log2_multiplier", records())
  for bad, words in (
    (table[1:], r"lacks \(seed, log2_multiplier\).*give each seed every multiplier"),
    ([{**table[0], "log2_multiplier": "x"}], "log2_multiplier='x'"),
  ):
    with pytest.raises(DepthMupError, match=words):
      transfer_verdict(bad, swept="log2_multiplier")


@pytest.mark.parametrize(
  ("bad", "words"),
  [
    ([], "no results"),
    ([{"depth": 4}], "has no 'parametrization'"),
    ([3], "a result is 3"),
    ([{**records()[0], "depth": 0}], "depth of a result=0"),
    ([{**records()[0], "log2_lr": "x"}], "log2_lr='x'"),
    ([{**records()[0], "loss": True}], "loss=True"),
    (records()[1:], r"lacks \(seed, log2_lr\)"),
    (records() + records()[:1], "twice"),
    ([{**records()[0], "loss": -1.0}], "loss -1.0"),
  ],
)
def test_errors(bad, words):
  with pytest.raises(DepthMupError, match=words):
    transfer_verdict(bad)
