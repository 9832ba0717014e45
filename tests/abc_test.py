"""abc-parametrizations: the table of the paper, the classes and the symmetry."""

import itertools
import math
from fractions import Fraction as F

import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.limits.abc import (
  AbcParametrization,
  abc_mfp,
  abc_mup,
  abc_ntp,
  abc_sp,
  abc_up,
  with_layer_rates,
)
from flax_depthmup.limits.abc_classify import classify_abc

HALF = F(1, 2)


def regime(point):
  return classify_abc(point.a, point.b, point.c)


#: point, a, b, c, r, regime. The table of Tensor Programs IV, L = 1 and L = 3.
TABLE = {
  "SP": (abc_sp(3), [0, 0, 0, 0], [0, HALF, HALF, HALF], 1, HALF, "kernel"),
  "NTP": (abc_ntp(3), [0, HALF, HALF, HALF], [0, 0, 0, 0], 0, HALF, "kernel"),
  "NTP1": (abc_ntp(1), [0, HALF], [0, 0], 0, HALF, "kernel"),
  "MFP": (abc_mfp(), [0, 1], [0, 0], -1, 0, "feature learning"),
  "muP": (abc_mup(3), [-HALF, 0, 0, HALF], [HALF] * 4, 0, 0, "feature learning"),
  "muP1": (abc_mup(1), [-HALF, HALF], [HALF] * 2, 0, 0, "feature learning"),
  "UP": (abc_up("1/4", 2), [-F(1, 4), F(1, 4), HALF], [F(1, 4)] * 3, 0, F(1, 4), "kernel"),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_the_paper(name):
  point, a, b, c, r, regime_name = TABLE[name]
  assert point == AbcParametrization(a, b, c)
  found = regime(point)
  assert (found.r, found.name) == (r, regime_name)
  assert 2 * point.a[-1] + point.c == 1
  assert point.a[-1] + point.b[-1] + found.r == 1
  assert found.stable
  assert found.nontrivial
  assert found.failures == ()
  assert not found.nngp
  assert found.c_min == point.c  # c of the table is the least stable one
  assert found.max_learning_rate_exponent == 0
  assert found.maximally_initialized_readout
  assert found.maximally_updated[-1]
  learning = regime_name == "feature learning"
  assert found.maximally_updated[:-1] == (learning,) * point.hidden_layers
  assert found.learned_layers == (learning,) * point.hidden_layers


def test_standard_nets_with_a_constant_rate_are_unstable():
  found = regime(abc_sp(2, c=0))
  assert (found.r, found.name, found.c_min) == (-1, "unstable", 1)
  assert found.stable_at_init
  assert not found.stable_features
  assert not found.stable_logits
  assert len(found.failures) == 3
  assert found.max_learning_rate_exponent == -1
  assert found.feature_slopes is None
  assert found.output_slope is None
  assert found.initial_output_slope == 0
  shallow = regime(abc_sp(1, c=0))
  assert (shallow.r, shallow.name, shallow.stable_features) == (0, "unstable", True)


def test_one_hidden_layer_of_a_standard_net_does_not_move():
  """The column SP of the table is that of L >= 2: here r = 3/2, a Gaussian process."""
  found = regime(abc_sp(1))
  assert (found.r, found.name, found.nngp, found.c_min) == (F(3, 2), "kernel", True, 1)


def test_equal_points():
  assert abc_mfp().shift(-HALF).canonical() == abc_mup(1).canonical()
  assert abc_mup(1).shift(HALF) == abc_mfp()
  assert abc_up(0, 3) == abc_mup(3)
  assert abc_up(HALF, 3) == abc_ntp(3)
  assert abc_sp(3).canonical() != abc_ntp(3).canonical()
  assert abc_sp(3, 0).canonical() != abc_sp(3).canonical()
  assert len({abc_ntp(2), AbcParametrization((0, "1/2", 0.5), (0, 0, 0.0), 0)}) == 1
  for r in (0, 0.1, "1/3", HALF):
    for depth in (1, 2, 5):
      found = regime(abc_up(r, depth))
      assert found.r_l == (found.r,) * depth
      assert found.r == abc_up(r, depth).a[0] + HALF


def test_shifts_keep_all_but_the_names():
  for point in (abc_sp(3), abc_up("1/3", 2), abc_mup(1), abc_sp(2, 0)):
    before, after = regime(point), regime(point.shift("7/3"))
    assert after.parametrization != point
    assert after.canonical == before.canonical
    # c is a name too; what it may gain is not.
    assert after.c_min == before.c_min - F(14, 3)
    for field in set(before.__dataclass_fields__) - {"parametrization", "c_min"}:
      if field == "failures":
        assert len(after.failures) == len(before.failures)
      else:
        assert getattr(after, field) == getattr(before, field), field


def test_rates_of_layers_become_one_rate():
  point = with_layer_rates([0, 0, 0], [0, HALF, HALF], [-1, 0, 1], c="1/3")
  assert point.c == F(1, 3)
  assert point.canonical() == ((0, -1), (HALF, 0), (HALF, 1))
  # muP is SP with these rates and 1/sqrt(n) more initial readout.
  mup = with_layer_rates([0, 0, 0], [0, HALF, 1], [-1, 0, 1])
  assert mup.canonical() == abc_mup(2).canonical()
  same = abc_ntp(2)
  assert with_layer_rates(same.a, same.b, [same.c] * 3, c=same.c) == same


def points(depth, step=HALF):
  """Stable initializations of all rates on a grid, one a class of the symmetry."""
  rates = [step * k for k in range(round(-3 / 2 / step), round(2 / step))]
  b = [F(0), *[HALF] * (depth - 1)]
  for last in (HALF, F(3, 4), F(1), F(3, 2)):
    for layer_rates in itertools.product(rates, repeat=depth + 1):
      yield with_layer_rates([0] * (depth + 1), [*b, last], layer_rates)


@pytest.mark.parametrize("depth", [1, 2])
def test_mup_alone_updates_and_initializes_maximally(depth):
  """Over a grid of points; and the alternatives of the dichotomy exclude each other."""
  names = dict.fromkeys(("unstable", "trivial", "kernel", "feature learning"), 0)
  for point in points(depth):
    found = regime(point)
    names[found.name] += 1
    maximal = all(found.maximally_updated) and found.maximally_initialized_readout
    assert (found.stable and maximal) == (found.canonical == abc_mup(depth).canonical())
    # A layer learns features only if all after it do.
    assert list(found.learned_layers) == sorted(found.learned_layers)
    if found.name == "feature learning":
      assert found.learned_layers[-1]
      assert found.initial_output_slope < 0  # f_0 vanishes
    if found.nngp:
      assert found.name == "kernel"
      assert found.maximally_updated[-1]
  assert min(names.values()) >= 3


def test_the_least_stable_rate_is_that_of_a_scan():
  # Here r is the binding one of the conditions, by the updates of the readout.
  late = with_layer_rates([0, 0, 0], [0, HALF, F(3, 2)], [0, F(-3, 2), 0])
  assert regime(late).c_min == F(5, 4)
  for point in (late, *itertools.islice(points(2), 0, None, 31)):
    found = regime(point)
    scan = [found.c_min + F(k, 16) for k in (-64, -16, -4, -2, -1, 0, 1, 2, 16, 64)]
    stable = [c for c in scan if classify_abc(point.a, point.b, c).stable]
    assert stable == scan[5:]
    assert found.max_learning_rate_exponent == point.c - found.c_min
    assert found.stable == (found.max_learning_rate_exponent >= 0)
  assert classify_abc([0, 0, 0], [0, 0, HALF], 0).c_min is None


UNSTABLE_AT_INIT = {
  "input": ([HALF, 0, 0], [0, HALF, HALF], "a_1 + b_1 = 1/2 is not 0"),
  "hidden": ([0, 0, 0], [0, 0, HALF], "a_2 + b_2 = 0 is not 1/2"),
  "readout": ([0, 0, 0], [0, HALF, "1/4"], "a_3 + b_3 = 1/4 is below 1/2"),
}


@pytest.mark.parametrize("name", UNSTABLE_AT_INIT)
def test_unstable_at_initialization(name):
  a, b, words = UNSTABLE_AT_INIT[name]
  found = classify_abc(a, b, 4)
  assert not found.stable_at_init
  assert found.name == "unstable"
  assert found.failures[0].startswith(words)
  assert found.c_min is None
  assert found.max_learning_rate_exponent is None
  # Hidden layers that are right still say how large f is.
  assert found.initial_output_slope == (F(1, 4) if name == "readout" else None)


BAD = {
  "lengths": (lambda: classify_abc([0, 0], [0, 0, 0], 0), "a has 2 entries and b has 3"),
  "one layer": (lambda: classify_abc([0], [0], 0), r"a=\[0\]: expected a sequence of at"),
  "a number": (lambda: classify_abc(0, 0, 0), "a=0: expected a sequence"),
  "a text": (lambda: classify_abc("01", "01", 0), "a='01': expected a sequence"),
  "an entry": (lambda: classify_abc([0, "x"], [0, 0], 0), "a_2='x' is no finite"),
  "nan": (lambda: classify_abc([0, 0], [0, math.nan], 0), "b_2=nan"),
  "rate": (lambda: classify_abc([0, 0], [0, 0], None), "c=None"),
  "large": (lambda: classify_abc([0, 0], [0, 0], 17), "c=17 is beyond"),
  "theta": (lambda: abc_sp(1).shift("half"), "theta='half'"),
  "shifted out": (lambda: abc_sp(1).shift(16), "c=.*beyond"),
  "MFP deep": (lambda: abc_mfp(2), "hidden_layers=2: .* use abc_mup"),
  "MFP none": (lambda: abc_mfp(0), "hidden_layers=0"),
  "no layers": (lambda: abc_sp(0), "hidden_layers=0"),
  "half a layer": (lambda: abc_ntp(1.5), "hidden_layers=1.5"),
  "muP of a flag": (lambda: abc_mup(True), "hidden_layers=True"),
  "UP above": (lambda: abc_up(0.6, 2), "r=0.6: .*0 <= r <= 1/2"),
  "UP below": (lambda: abc_up("-1/9", 2), "r='-1/9'"),
  "UP of a word": (lambda: abc_up("x", 2), "r='x'"),
  "rates": (lambda: with_layer_rates([0, 0], [0, 0], [0, 0, 0]), "rates has 3 entries"),
  "one rate": (lambda: with_layer_rates([0, 0], [0, 0], 1), "rates=1: expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  call, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call()
