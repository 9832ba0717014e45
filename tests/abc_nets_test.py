"""Finite nets of abc-parametrizations: their slopes in width, and the symmetry."""

from fractions import Fraction as F

import numpy as np
import pytest

from experiments._lib.finite_abc import TANH, train
from flax_depthmup.limits.abc import (
  AbcParametrization,
  abc_mup,
  abc_ntp,
  abc_sp,
  abc_up,
  with_layer_rates,
)
from flax_depthmup.limits.abc_classify import classify_abc

HALF = F(1, 2)


#: Points of tanh nets: their L, and what the theory says of x^1 .. x^L, f_0 and f.
POINTS = {
  "SP": abc_sp(2),
  "NTP": abc_ntp(2),
  "muP": abc_mup(2),
  "UP_1/4": abc_up("1/4", 2),
  # The first layer of SP learns too slowly: r_1 = 1, r = 0.
  "SP, logits/sqrt(n), c = 0": AbcParametrization([0, 0, HALF], [0, HALF, HALF], 0),
  "muP, c = 1/2": AbcParametrization(abc_mup(2).a, abc_mup(2).b, HALF),
  "NNGP": AbcParametrization([0, HALF, HALF], [0, 0, HALF], 0),
  "readout from zero": AbcParametrization([-HALF, 0, HALF], [HALF, HALF, 3], 0),
  # Features move by Theta(1) while f vanishes: trivial, and yet r = 0.
  "trivial, r = 0": AbcParametrization([F(-3, 4), 1], [F(3, 4), HALF], 0),
  "first of three slow": with_layer_rates([0] * 4, [0, HALF, HALF, 1], [F(-1, 2), 0, 0, 1]),
  "last of three slow": with_layer_rates([0] * 4, [0, HALF, HALF, 1], [-1, 0, "1/2", 1]),
}


def measured_slopes(point, widths, seeds):
  """Slopes in log n of the movement of every x^l, of f_0 and of f, after two steps."""
  x = np.random.default_rng(7).normal(size=(3, 4))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  y = np.array([[[1.0, -1.0, 0.5, -0.5]], [[-1.0, -1.0, 1.0, 1.0]]])
  sizes = []
  for n in widths:
    nets = train(point, n, TANH, x[:2, None], y, x[2:], eta=0.5, seeds=range(seeds))
    f0, f = nets.outputs[:, 0], nets.outputs[:, -1] - nets.outputs[:, 0]
    sizes.append([*nets.movements()[-1], np.sqrt(np.mean(f0**2)), np.sqrt(np.mean(f**2))])
  return np.polyfit(np.log(widths), np.log(sizes), 1)[0]


def predicted_slopes(point):
  found = classify_abc(point.a, point.b, point.c)
  slopes = [*found.feature_slopes, found.initial_output_slope, found.output_slope]
  return np.array(slopes, float)


@pytest.mark.parametrize("name", POINTS)
def test_slopes_of_finite_nets(name):
  """64 seeds; the fitted slopes scatter by 0.02 and narrow nets are off by 0.06."""
  point = POINTS[name]
  widths = (32, 64, 128, 256) if point.hidden_layers > 1 else (128, 256, 512, 1024)
  found = measured_slopes(point, widths, 64)
  np.testing.assert_allclose(found, predicted_slopes(point), atol=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(POINTS)[:6])
def test_slopes_of_wide_nets(name):
  found = measured_slopes(POINTS[name], (256, 512, 1024, 2048), 50)
  np.testing.assert_allclose(found, predicted_slopes(POINTS[name]), atol=0.08)


@pytest.mark.parametrize("theta", ["1/7", -0.81, 2])
@pytest.mark.parametrize("point", [abc_sp(3), abc_up("1/3", 2), abc_sp(2, c="3/4")])
def test_shifted_points_train_alike(point, theta):
  rng = np.random.default_rng(3)
  inputs, probes = rng.normal(size=(6, 2, 5)), rng.normal(size=(3, 5))
  targets = rng.normal(size=(6, 2, 2))

  def trajectory(of):
    return train(of, 50, TANH, inputs, targets, probes, eta=0.3, seeds=[0, 1])

  before, after = trajectory(point), trajectory(point.shift(theta))
  moved = np.abs(before.outputs[:, -1] - before.outputs[:, 0]).max()
  assert moved > 0.1
  np.testing.assert_allclose(after.outputs, before.outputs, atol=1e-11)
  np.testing.assert_allclose(after.features, before.features, atol=1e-11)
  # Without its share of the rate, a shift is another training.
  half = AbcParametrization(point.shift(theta).a, point.shift(theta).b, point.c)
  assert np.abs(trajectory(half).outputs - before.outputs).max() > 1e-3


def test_the_finite_nets_descend_the_gradient():
  """One step against finite differences of the loss, with multipliers in the step."""
  point = AbcParametrization(["1/3", "1/4", -0.2], [0.1, "1/3", 0.5], "1/5")
  n, eta = 6, 1e-4
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(1, 3, 4)), rng.normal(size=(1, 3, 2))
  nets = train(point, n, TANH, x, y, x[0], eta=eta, seeds=[5])
  shapes = [(n, 4), (n, n), (2, n)]
  w = [
    n ** -float(b) * np.random.default_rng([5, layer]).standard_normal(shape)
    for layer, (b, shape) in enumerate(zip(point.b, shapes, strict=True))
  ]

  def outputs(weights):
    h = x[0]
    for layer, a in enumerate(point.a):
      h = h @ (n ** -float(a) * weights[layer]).T
      h = h if layer == 2 else np.tanh(h)
    return h

  def loss(weights):
    return np.sum((outputs(weights) - y[0]) ** 2) / 2 / 3

  stepped = []
  for layer, weights in enumerate(w):
    gradient = np.zeros_like(weights)
    for index in np.ndindex(*weights.shape):
      ends = []
      for sign in (1, -1):
        other = [v.copy() for v in w]
        other[layer][index] += sign * 1e-5
        ends.append(loss(other))
      gradient[index] = (ends[0] - ends[1]) / 2e-5
    stepped.append(weights - eta * n ** -float(point.c) * gradient)
  np.testing.assert_allclose(nets.outputs[0, 0], outputs(w), rtol=1e-12)
  change = nets.outputs[0, 1] - nets.outputs[0, 0]
  np.testing.assert_allclose(change, outputs(stepped) - outputs(w), rtol=1e-5)
