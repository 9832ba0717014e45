"""What the commutativity experiment draws, and the theory it is compared with.

Monte Carlo is compared within four standard errors at fixed seeds, plus what the
theory leaves out, of relative order 1/n, where it is asymptotic.
"""

import functools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from experiments._lib import commutativity_draws
from experiments._lib.commutativity_cells import (
  distance_width_first,
  limit,
  log_q_width_first,
  row,
)
from experiments._lib.commutativity_theory import _signs, _squares, log_norm
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics.covariance import summarize_draws

C0 = 0.3


@functools.cache
def drawn(family, width, depth, draws, seed=0):
  """log q [draws, 2] and 1 - c [draws]."""
  batches = list(commutativity_draws.draw(family, width, depth, C0, draws, seed))
  return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def with_matrices(family, width, depth, draws):
  """The same with the matrices themselves, in numpy."""
  skip, multiplier = {
    "scaled": (1, depth**-0.5),
    "unscaled": (1, 1),
    "mlp": (0, 2**0.5),
  }[family]
  rng = np.random.default_rng(5)
  inputs = np.array([[1, 0], [C0, math.sqrt(1 - C0**2)]]).T  # [features, inputs]
  y = rng.normal(size=(draws, width, 2)) @ inputs
  for _ in range(depth):
    w = rng.normal(size=(draws, width, width)) / math.sqrt(width)
    y = skip * y + multiplier * w @ np.maximum(y, 0)
  k = np.swapaxes(y, 1, 2) @ y / width
  q = np.diagonal(k, axis1=1, axis2=2)
  return np.log(q), 1 - k[:, 0, 1] / np.sqrt(q[:, 0] * q[:, 1])


@pytest.mark.parametrize("family", ["scaled", "unscaled", "mlp"])
def test_what_is_drawn_has_the_law_of_the_nets(family):
  """Kolmogorov-Smirnov, 1,500 nets of width 24 and depth 5 against as many."""
  log_q, distance = drawn(family, 24, 5, 1500)
  other_q, other_distance = with_matrices(family, 24, 5, 1500)
  for ours, theirs in (
    (log_q[:, 0], other_q[:, 0]),
    (log_q[:, 1], other_q[:, 1]),
    (log_q[:, 0] - log_q[:, 1], other_q[:, 0] - other_q[:, 1]),
    (distance, other_distance),
  ):
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_the_librarys_net_has_the_law_of_the_scaled_family():
  log_q, distance = drawn("scaled", 24, 5, 1500)
  net_q, net_distance = drawn("scaled_net", 24, 5, 400)
  for ours, theirs in ((log_q[:, 0], net_q[:, 0]), (distance, net_distance)):
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_draws_do_not_depend_on_the_batches(monkeypatch):
  whole = drawn("mlp", 24, 5, 1500)
  monkeypatch.setattr(commutativity_draws, "_AT_ONCE", 1)  # a net a device
  for part, other in zip(whole, drawn("mlp", 24, 5, 11), strict=True):
    np.testing.assert_allclose(part[:11], other, rtol=1e-4, atol=1e-5)
  assert not set(drawn("mlp", 24, 5, 11, seed=1)[1]) & set(whole[1])


def test_nearly_parallel_inputs_keep_their_distance():
  """1 - c far below float32's rounding of 1; norms far beyond float32's range."""
  distance = drawn("mlp", 24, 256, 64)[1]
  assert 0 < np.nanmedian(distance) < 1e-8
  log_q = drawn("unscaled", 24, 400, 64)[0]
  assert np.median(log_q) > 120  # float32 ends at 88
  assert np.isfinite(log_q).all()


@pytest.mark.parametrize("c", [0.0, 0.2, 0.7, 0.99])
def test_gaussian_moments_of_the_theory(c):
  """In polar coordinates: radius to the fourth power has mean 8, squared 2."""
  turn = math.acos(c)
  kinks = sorted({(k * math.pi / 2 + s) % (2 * math.pi) for k in (1, 3) for s in (0, turn)})

  def circle(f):
    whole = quad(f, 0, 2 * math.pi, points=kinks, epsabs=1e-12)[0]
    return whole / (2 * math.pi)

  def relu(x):
    return max(x, 0.0)

  squares = circle(lambda s: 8 * relu(math.cos(s)) ** 2 * relu(math.cos(s - turn)) ** 2)
  signs = circle(
    lambda s: 2 * math.copysign(1, math.cos(s)) * relu(math.cos(s - turn)) ** 2
  )
  assert _squares(np.array(c)) == pytest.approx(squares, abs=1e-9)
  assert _signs(np.array(c)) == pytest.approx(signs, abs=1e-9)


@pytest.mark.parametrize(
  ("family", "width", "depth", "rest"),
  [
    ("scaled", 64, 16, 0.02),
    ("scaled", 24, 64, 0.05),
    ("unscaled", 64, 64, 0.1),
    ("mlp", 24, 1, 0.0),  # exact
    ("mlp", 64, 64, 0.0),
  ],
)
def test_fluctuations_of_log_q(family, width, depth, rest):
  """Mean and spread of 1,500 nets; `rest`: what first order in 1/n leaves, relative."""
  mean, std = log_norm(family, width, depth)
  log_q = drawn(family, width, depth, 1500)[0][:, 0]
  found = summarize_draws(log_q)
  allowed = rest * std
  assert abs(found.mean - mean) < 4 * found.mean_error + allowed
  assert abs(found.std - std) < 4 * found.std_error + allowed
  if family == "mlp" and width == 64:
    ratio = depth / width
    assert mean == pytest.approx(-2.5 * ratio, rel=0.05)
    assert std == pytest.approx(math.sqrt(5 * ratio), rel=0.05)


def test_the_input_layer_of_an_mlp():
  """Depth 0: log of chi-squared with n degrees of freedom over n, by quadrature."""
  q = stats.chi2(24)
  mean, std = log_norm("mlp", 24, 0)
  assert mean == pytest.approx(q.expect(lambda x: math.log(x / 24)), abs=1e-7)
  square = q.expect(lambda x: (math.log(x / 24) - mean) ** 2)
  assert std == pytest.approx(math.sqrt(square), abs=1e-7)


def test_limits_of_the_cells():
  np.testing.assert_allclose(limit(C0)[0], [1.6487213, 0.631372], atol=1e-6)
  assert log_q_width_first("unscaled", 10) == pytest.approx(10 * math.log(1.5))
  assert log_q_width_first("scaled", 10**6) == pytest.approx(0.5, abs=1e-6)
  assert log_q_width_first("mlp", 10) == 0
  assert 256**2 * distance_width_first("mlp", 256, C0) == pytest.approx(40.0, abs=0.1)
  assert distance_width_first("scaled", 4096, C0) == pytest.approx(1 - 0.382947, abs=1e-4)
  assert 0 < distance_width_first("unscaled", 4000, C0) < 1e-3  # 1.5^4000 is not formed


def test_dead_nets_are_counted_and_left_out():
  log_q, distance = np.zeros((20, 2)), np.full(20, 0.1)
  log_q[3, 1], distance[3] = -np.inf, np.nan
  found = row("mlp", 4, 2, C0, log_q, distance)
  assert (found["draws"], found["dead"]) == (20, 1)
  assert found["distance_mean"] == pytest.approx(0.1)
  log_q[8:] = -np.inf
  with pytest.raises(DepthMupError, match="in 13 of 20 nets of family mlp, width 4"):
    row("mlp", 4, 2, C0, log_q, distance)


def test_scaled_nets_are_as_near_to_the_limit_whatever_L_over_n():
  """rms error times sqrt(n) at L/n = 1/4 and 8/3: first order in 1/n, within 8 %."""
  goal = math.sqrt(math.e) * 2.14  # n var log q: 4.55 at L = 16, 4.64 at 64
  for width, depth in ((64, 16), (24, 64)):
    found = row("scaled", width, depth, C0, *drawn("scaled", width, depth, 1500))
    root = math.sqrt(width)
    error = 4 * root * found["q_aa_rms_error"]
    assert root * found["q_aa_rms"] == pytest.approx(goal, abs=error + 0.08 * goal)
    assert root * found["q_ab_rms"] == pytest.approx(2.45, abs=error + 0.08 * 2.45)
