"""The slope of a valley on forms whose truth is known, on noise, and on ragged maps.

Every draw is seeded, so nothing here can flake; tolerances are three times the scatter
measured.
"""

import math

import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics.valley import fit_valley

RATES = np.arange(-10, -4.9, 0.5)
MULTIPLIERS = np.arange(-8, 1.1, 1.0)


def losses(
  slope, *, length=6.0, breadth=1.2, center=(-7.4, -3.2), noise=0.0, seeds=3, draw=0
):
  """Log-losses of an elliptic bowl whose long axis has this slope, in octaves."""
  x, a = np.meshgrid(RATES - center[0], MULTIPLIERS - center[1], indexing="ij")
  along, across = _coordinates(x, a, slope)
  form = 0.25 * (along / length) ** 2 + 0.25 * (across / breadth) ** 2
  return form + noise * np.random.default_rng(draw).normal(size=(seeds, *form.shape))


def _coordinates(x, a, slope):
  angle = math.atan(slope)
  return (
    x * math.cos(angle) + a * math.sin(angle),
    a * math.cos(angle) - x * math.sin(angle),
  )


def fitted(*args, **fields):
  return fit_valley(RATES, MULTIPLIERS, losses(*args, **fields))


@pytest.mark.parametrize("slope", [-2, -1, -0.5, 0.7, 1.5])
def test_a_valley_of_known_slope(slope):
  exact = fitted(slope)
  assert exact.slope == pytest.approx(slope, rel=1e-6)
  assert exact.angle == pytest.approx(math.degrees(math.atan(slope)) % 180)
  assert exact.aspect == pytest.approx(5)
  assert exact.reason is None
  found = [fitted(slope, noise=0.02, draw=draw) for draw in range(20)]
  for v in found:
    assert v.slope == pytest.approx(slope, rel=0.15)
    assert v.ci95[0] <= v.slope <= v.ci95[1]
  covers = [v.ci95[0] <= slope <= v.ci95[1] for v in found]
  assert sum(covers) >= 17  # of 20; a 95 % interval


def test_the_axis_goes_through_the_bottom():
  v = fitted(-2, center=(-7.4, -3.2))
  dx, da = v.center[0] + 7.4, v.center[1] + 3.2
  assert da == pytest.approx(-2 * dx, abs=1e-9)


@pytest.mark.parametrize(("power", "slope"), [(1, -1), (2, -2), (3, -3)])
@pytest.mark.parametrize("penalty", ["rate", "multiplier"])
def test_what_depends_on_a_eta_to_a_power(power, slope, penalty):
  """F(a eta^k), steeper above than below, and a mild cost of either alone.

  The form is not elliptic and the cost turns its axis a little: 10 %.
  """
  x, a = np.meshgrid(RATES, MULTIPLIERS, indexing="ij")
  product = (a + 3.2) + power * (x + 7.4)
  wall = np.where(product > 0, 0.15, 0.08) * product**2
  mild = (x + 7.4) ** 2 if penalty == "rate" else (a + 3.2) ** 2 / power**2
  v = fit_valley(RATES, MULTIPLIERS, (wall + 0.004 * mild)[None])
  assert v.slope == pytest.approx(slope, rel=0.1)


def test_swapping_the_axes_inverts_the_slope():
  grid = np.arange(-9, 0.1, 0.75)
  x, a = np.meshgrid(grid + 4.4, grid + 4.4, indexing="ij")
  along, across = _coordinates(x, a, -2)
  table = (0.25 * (along / 6) ** 2 + 0.25 * across**2)[None]
  one = fit_valley(grid, grid, table)
  other = fit_valley(grid, grid, table.transpose(0, 2, 1))
  assert one.slope * other.slope == pytest.approx(1, rel=1e-6)


def test_a_round_bowl_has_no_valley():
  for noise in (0.0, 0.02):
    found = [fitted(-1, length=2, breadth=2, noise=noise, draw=d) for d in range(20)]
    assert all(v.slope is None and "are a bowl" in v.reason for v in found)
  # Rotating what has no long axis changes nothing.
  assert fitted(-3, length=2, breadth=2).reason == fitted(0.4, length=2, breadth=2).reason


def test_a_bowl_that_is_hardly_longer_than_wide():
  assert "1.5 times as long as wide" in fitted(-1, length=2.1, breadth=1.4).reason
  assert fitted(-1, length=3.2, breadth=1.4).slope is not None


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.03, 0.001])
@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_has_no_valley(seeds, noise):
  """40 fixed draws of noise of any size, with nothing under it. Measured: none."""
  for shape in ((11, 10), (5, 5)):
    draws = [np.random.default_rng(d).normal(size=(seeds, *shape)) for d in range(40)]
    x, a = (np.arange(n) / 2 for n in shape)
    found = [fit_valley(x, a, noise * z).angle is not None for z in draws]
    assert np.mean(found) <= 0.03


def test_a_flat_map_has_no_valley():
  v = fit_valley(RATES, MULTIPLIERS, np.zeros((3, 11, 10)))
  assert v.slope is None
  assert v.reason
  draws = [np.random.default_rng(d).normal(size=(3, 11, 10)) for d in range(20)]
  reasons = [fit_valley(RATES, MULTIPLIERS, 1e-3 * z).reason for z in draws]
  inside = [r for r in reasons if "of the grid" not in r]  # the best is not on an edge
  assert len(inside) > 5
  assert all("hardly rises across the lowest cells" in r for r in inside)


def test_divergence():
  lost = np.full((3, 11, 10), np.inf)
  assert fit_valley(RATES, MULTIPLIERS, lost).reason == "diverges everywhere"
  table = losses(-2, noise=0.01)
  above = RATES[:, None] + MULTIPLIERS / 2 > -7.4 - 1.6 + 2.0
  table[0][above] = np.nan  # one seed is enough
  v = fit_valley(RATES, MULTIPLIERS, table)
  assert v.slope == pytest.approx(-2, rel=0.15)
  table[:, RATES > -9.7] = np.inf
  assert fit_valley(RATES, MULTIPLIERS, table).slope is None


@pytest.mark.parametrize(
  ("center", "words"),
  [
    ((-11.5, -3.2), "the best rate is the smallest of the grid, 2^-10; extend it below"),
    ((-3.5, -3.2), "the best rate is the largest of the grid, 2^-5; extend it above"),
  ],
)
def test_an_optimum_on_the_edge(center, words):
  v = fitted(-2, length=3, breadth=1.4, center=center)
  assert (v.slope, v.angle, v.reason) == (None, None, words)
  rates_first = fit_valley(
    MULTIPLIERS, RATES, losses(-2, length=3, breadth=1.4, center=center).transpose(0, 2, 1)
  )
  assert rates_first.reason == words.replace("rate", "multiplier")


def test_a_valley_that_runs_out_of_the_grid_has_its_slope():
  center = (-7.4 + 3.5, -3.2 - 7)  # along the axis, below the lowest multiplier
  table = losses(-2, length=9, center=center)
  assert np.unravel_index(table[0].argmin(), table[0].shape)[1] == 0
  assert fit_valley(RATES, MULTIPLIERS, table).slope == pytest.approx(-2, rel=1e-3)


def test_a_loss_that_does_not_depend_on_the_multiplier():
  x, _ = np.meshgrid(RATES + 7.4, MULTIPLIERS, indexing="ij")
  noise = 0.01 * np.random.default_rng(0).normal(size=(3, *x.shape))
  v = fit_valley(RATES, MULTIPLIERS, 0.2 * x**2 + noise)
  assert (v.slope, v.ci95) == (None, None)
  assert "may be vertical" in v.reason
  assert v.angle == pytest.approx(90, abs=2)
  assert v.angle_ci95[0] <= v.angle <= v.angle_ci95[1]


def test_a_direction_that_is_hardly_known():
  found = [
    fitted(-1, length=3, breadth=1.4, noise=0.04, seeds=2, draw=d) for d in range(20)
  ]
  refused = [v for v in found if v.slope is None]
  assert len(refused) > 10
  assert any("degrees only" in v.reason or "hardly rises" in v.reason for v in refused)


def test_seeds_that_disagree_widen_the_interval():
  alike = fitted(-1.5, noise=0.01)
  apart = np.concatenate([losses(s, noise=0.01, seeds=1) for s in (-1.8, -1.5, -1.25)])
  v = fit_valley(RATES, MULTIPLIERS, apart)
  width, wide = (w.ci95[1] - w.ci95[0] for w in (alike, v))
  assert wide > 2 * width


@pytest.mark.parametrize(
  ("x", "a", "shape"),
  [
    (RATES, MULTIPLIERS, (3, 10, 11)),
    (RATES, MULTIPLIERS, (11, 10)),
    (RATES, MULTIPLIERS, (0, 11, 10)),
    (RATES[::-1], MULTIPLIERS, (3, 11, 10)),
    (RATES, np.zeros(10), (3, 11, 10)),
    (np.zeros((2, 2)), MULTIPLIERS, (3, 11, 10)),
    (np.array([]), MULTIPLIERS, (3, 0, 10)),
  ],
)
def test_errors(x, a, shape):
  with pytest.raises(DepthMupError, match="expected increasing rates and multipliers"):
    fit_valley(x, a, np.zeros(shape))
