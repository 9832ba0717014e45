"""Slopes of made-up rows against what each parametrization predicts."""

import itertools
import json

import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import draw_coordinates, judge_coordinates

DEPTHS, WIDTHS = (8, 16, 32), (64, 128, 256)
BASE = {"base_width": 64, "base_depth": 8}
#: Of a stack that does what Depth-muP predicts; (quantity, module, zone) -> slope.
DEPTH_MUP = {
  ("value", "input", "before"): 0,
  ("value", "stack", "inside"): 0,
  ("change", "stack", "inside"): 0,
  ("change", "readout", "after"): 0,
  ("branch", "stack/block", "inside"): -0.5,
}


def rows(slopes, axis="depth", noise=0.0, probe="training", t=3):
  sizes, other = {"depth": (DEPTHS, 64), "width": (WIDTHS, 8)}[axis]
  found = []
  for (key, slope), n, seed in itertools.product(slopes.items(), sizes, (0, 1, 2)):
    quantity, module, zone = key
    size = {"depth": n, "width": other} if axis == "depth" else {"width": n, "depth": other}
    l2 = (n / sizes[0]) ** slope * (1 + noise * (-1) ** (seed + n // 8))
    found.append(
      {**size, "module": module, "t": t, "l2": l2, "seed": seed}
      | {"quantity": quantity, "probe": probe, "zone": zone}
    )
  return found


def judge(slopes, p, **fields):
  return judge_coordinates(rows(slopes, **fields), p)


def test_what_is_predicted_passes():
  check = judge(DEPTH_MUP, dmup.depth_mup(**BASE))
  assert check.passed is True
  assert "all 5 slopes are as depth_mup predicts (Depth-muP)" in check.reason
  assert check.failures == ()


@pytest.mark.parametrize("key", DEPTH_MUP, ids=str)
@pytest.mark.parametrize("off", [-0.4, 0.4])
def test_each_slope_that_is_off_fails_and_is_named(key, off):
  check = judge(DEPTH_MUP | {key: DEPTH_MUP[key] + off}, dmup.depth_mup(**BASE))
  assert check.passed is False
  (failure,) = check.failures
  assert (failure.quantity, failure.module) == key[:2]
  assert f"{key[0]} of {key[1]} at t=3 over depth" in check.reason
  assert f"slope {DEPTH_MUP[key] + off:+.2f}" in check.reason


@pytest.mark.parametrize(
  ("alpha", "gamma", "change", "branch", "lowest"),
  [
    ("1/2", "1/2", 0, -0.5, 0),
    (1, 0, 0, 0, -0.5),
    ("1/2", 0, 0.5, 0, 0),
    (1, 1, -1, -1, -0.5),
  ],
)
def test_predictions_over_depth_follow_the_exponents(alpha, gamma, change, branch, lowest):
  p = dmup.depthwise(alpha=alpha, gamma=gamma, **BASE)
  slopes = judge(DEPTH_MUP, p).slopes
  found = {(s.quantity, s.module): s.predicted for s in slopes}
  assert found["change", "stack"] == (change, change)
  assert found["branch", "stack/block"] == (branch, branch)
  assert found["value", "input"] == (0, 0)
  # An unstable training has no power law of values once it trains.
  unstable = (alpha, gamma) == ("1/2", 0)
  assert found["value", "stack"] == (None if unstable else (lowest, 0))


def test_a_trained_boundary_widens_what_is_predicted():
  """Its own change, of slope 0, reaches everything behind."""
  p = dmup.depthwise(alpha=1, gamma=1, **BASE)
  check = judge(DEPTH_MUP | {("change", "input", "before"): 0}, p)
  found = {(s.quantity, s.module): s.predicted for s in check.slopes}
  assert found["change", "stack"] == (-1, 0)
  assert found["change", "input"] == (0, 0)


def test_over_width():
  slopes = dict.fromkeys(DEPTH_MUP, 0) | {("value", "readout", "after"): -0.5}
  p = dmup.depth_mup(**BASE)
  assert judge(slopes, p, axis="width").passed is True
  wrong = judge(slopes | {("change", "stack", "inside"): 1}, p, axis="width")
  assert wrong.passed is False
  assert "over width: slope +1.00" in wrong.reason
  none = judge(slopes, dmup.standard(**BASE), axis="width")
  assert none.passed is None
  assert "theory predicts no slopes here: standard is unstable" in none.reason


def test_decay_alone_does_not_make_an_unstable_net_pass():
  p = dmup.standard(**BASE)
  made = rows(DEPTH_MUP) + rows({("parameter", "w", None): 0}, probe="decay")
  check = judge_coordinates(made, p)
  assert check.passed is None
  assert "theory predicts no slopes here" in check.reason


def test_decay_alone_must_not_depend_on_size():
  key = ("parameter", "stack/block/kernel", None)
  p = dmup.depth_mup(**BASE)
  for axis in ("depth", "width"):
    assert judge({key: 0}, p, axis=axis, probe="decay").passed is True
    check = judge({key: -0.5}, p, axis=axis, probe="decay")
    assert check.passed is False
    assert "probe decay: slope -0.50" in check.reason


def test_noise_is_not_taken_for_a_verdict():
  check = judge(DEPTH_MUP, dmup.depth_mup(**BASE), noise=0.6)
  assert check.passed is None
  assert "too noisy to tell" in check.reason


def test_values_that_are_not_finite_or_vanish():
  p = dmup.depth_mup(**BASE)
  for bad, words in ((float("nan"), "not finite at depth 32"), (0.0, "zero at depth 32")):
    made = rows(DEPTH_MUP)
    for row in made:
      if row["depth"] == 32 and row["module"] == "readout":
        row["l2"] = bad
    check = judge_coordinates(made, p)
    assert check.passed is False
    assert words in check.reason
  made = rows(DEPTH_MUP)
  for row in made:
    if row["module"] == "readout":
      row["l2"] = 0.0  # frozen: it moves nowhere
  assert len(judge_coordinates(made, p).slopes) == 4
  made[0]["l2"] = None  # as JSON keeps what is not finite
  next(r for r in made if r["quantity"] == "change")["l2"] = None
  assert judge_coordinates(made, p).passed is False


def test_what_is_not_trained_does_not_pass():
  """No branch moves: only values are left, which say nothing of updates."""
  made = rows(DEPTH_MUP)
  for row in made:
    if row["quantity"] != "value":
      row["l2"] = 0.0
  check = judge_coordinates(made, dmup.depth_mup(**BASE))
  assert check.passed is None
  assert "no branch was trained" in check.reason


def test_a_module_called_in_several_zones_is_not_judged():
  made = rows(DEPTH_MUP | {("change", "norm", None): 1})
  check = judge_coordinates(made, dmup.depth_mup(**BASE))
  assert check.passed is True
  assert {s.module: s.predicted for s in check.slopes}["norm"] is None


def test_few_points_are_no_evidence():
  """One seed at three sizes has one degree of freedom: Student's t is 12.7."""
  made = [r for r in rows(DEPTH_MUP, noise=0.1) if r["seed"] == 0]
  made = [r for r in made if r["module"] == "readout"]
  for row in made:
    row["l2"] *= {8: 1.0, 16: 1.5, 32: 1.6}[row["depth"]]  # slope 0.3, far off a line
  check = judge_coordinates(made, dmup.depth_mup(**BASE))
  assert check.passed is None


def test_wrong_rows():
  p = dmup.depth_mup(**BASE)
  with pytest.raises(DepthMupError, match="a row is no mapping"):
    judge_coordinates([1], p)
  with pytest.raises(DepthMupError, match="is no Parametrization"):
    judge_coordinates(rows(DEPTH_MUP), None)
  with pytest.raises(DepthMupError, match="nothing to judge: give rows of at least three"):
    judge_coordinates([], p)
  with pytest.raises(DepthMupError, match="a row has no 'zone'"):
    judge_coordinates([{k: v for k, v in rows(DEPTH_MUP)[0].items() if k != "zone"}], p)
  with pytest.raises(DepthMupError, match="tolerance=-1"):
    judge_coordinates(rows(DEPTH_MUP), p, tolerance=-1)


def test_the_figure(tmp_path):
  both = rows(DEPTH_MUP) + rows(dict.fromkeys(DEPTH_MUP, 0), axis="width")
  check = judge_coordinates(both, dmup.depth_mup(**BASE))
  draw_coordinates(check.rows, check.slopes, tmp_path / "c.png", "title")
  assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
  json.dumps(check.rows)
  with pytest.raises(DepthMupError, match="no slopes to draw"):
    draw_coordinates(check.rows, (), tmp_path / "d.png")
