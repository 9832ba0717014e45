"""Against theory: Tensor Programs VI, section 7, point by point, boundaries exact."""

import dataclasses
from fractions import Fraction

import pytest

from flax_depthmup import DepthMupError, classify

#                alpha, gamma: init, training, nontrivial, faithful, learning, linear, kappa
POINTS = {
  ("1/2", "1/2"): (True, True, True, True, True, True, 0.5),
  ("1/2", 0): (True, False, True, False, False, False, None),
  ("1/2", 1): (True, True, False, False, False, False, None),
  ("3/4", "1/4"): (True, True, True, True, True, True, 0.0),
  (1, 0): (True, True, True, True, True, False, 0.0),
  (1, 1): (True, True, False, False, False, False, None),
  ("3/2", "-1/2"): (True, True, True, False, True, False, None),
  (0, 0): (False, False, True, False, False, False, None),
  (0, 1): (False, False, True, False, False, False, None),
  ("499/1000", "501/1000"): (False, False, True, False, False, False, None),
  ("1/2", "499999/1000000"): (True, False, True, False, False, False, None),
  ("1001/1000", "-1/1000"): (True, True, True, False, True, False, None),
}


@pytest.mark.parametrize("point", POINTS)
def test_regime(point):
  regime = classify(*point)
  found = (
    regime.stable_at_init,
    regime.stable_in_training,
    regime.nontrivial,
    regime.faithful,
    regime.feature_learning,
    regime.layerwise_linear,
    regime.feature_diversity,
  )
  assert found == POINTS[point]


@pytest.mark.parametrize(
  ("point", "name"),
  [
    ((0.5, 0.5), "Depth-muP"),
    ((1.0, 0.0), "redundant (ODE)"),
    ((0.75, 0.25), "redundant"),
    ((0, 0), "unstable at initialization"),
    ((0.5, 0.0), "unstable in training"),
    ((0.5, 1.0), "trivial (does not move)"),
    ((2, -1), "unfaithful"),
  ],
)
def test_name(point, name):
  assert classify(*point).name == name


def test_floats_mean_the_fraction_they_are_close_to():
  assert classify(2 / 3, 1 / 3) == classify(Fraction(2, 3), Fraction(1, 3))
  assert classify(0.1 + 0.2 + 0.2, 0.5).name == "Depth-muP"
  assert classify(0.5 - 1e-6, 0.5 + 1e-6).name == "unstable at initialization"


def test_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    classify(1, 0).alpha = 2


@pytest.mark.parametrize("bad", ["x", None, float("nan"), float("inf"), "1/0", True, 1j])
def test_bad_exponent(bad):
  with pytest.raises(DepthMupError, match="gamma"):
    classify(0.5, bad)
