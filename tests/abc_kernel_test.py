"""The kernel of the kernel regime against finite nets and the paper's formula."""

import math
from fractions import Fraction as F

import numpy as np
import pytest

from experiments._lib.finite_abc import RELU, TANH, Activation, train
from flax_depthmup import DepthMupError
from flax_depthmup.limits.abc import (
  AbcParametrization,
  abc_mup,
  abc_ntp,
  abc_sp,
  abc_up,
  with_layer_rates,
)
from flax_depthmup.limits.abc_classify import classify_abc
from flax_depthmup.limits.abc_kernel import kernel_regime_kernel
from flax_depthmup.limits.duals import dual_derivative_covariance, duals

HALF = F(1, 2)
ABS = Activation(np.abs, np.sign)

#: Inputs of a net of 4 features, of different norms.
X = np.random.default_rng(7).normal(size=(4, 4))
X *= np.array([[1.2], [1.2], [1.0], [0.8]]) / np.linalg.norm(X, axis=1, keepdims=True)
K0 = X @ X.T


def slowed(rates):
  """NTP with rates eta n^(-rate) for its layers."""
  ntp = abc_ntp(len(rates) - 1)
  return with_layer_rates(ntp.a, ntp.b, rates)


POINTS = {
  "NTP": abc_ntp(2),
  "SP": abc_sp(2),
  "UP_1/4": abc_up("1/4", 2),
  "NNGP": AbcParametrization([0, HALF, HALF], [0, 0, HALF], 0),  # readout variance 1/n^2
  "readout from zero": AbcParametrization([0, HALF, HALF], [0, 0, 3], 0),
  "second of three frozen": slowed([0, 1, 0, 0]),
  "first and readout frozen": slowed([1, 0, 0, 1]),
  "one hidden layer": abc_ntp(1),
}


def formula(point, k0, phi, slope):
  """K from q_l, p_l of every layer: S_m with l*, v_l and E_l as the paper has them."""
  depth = point.hidden_layers
  a, b, c = point.a, point.b, point.c
  readout, step = a[-1] + b[-1], 2 * a[-1] + c
  q, p = [k0], [None]
  for _ in range(depth):
    p.append(slope(q[-1]))
    q.append(phi(q[-1]))
  s = [q[m] * math.prod(p[m + 1 :], start=np.ones_like(k0)) for m in range(depth + 1)]
  e = [-(readout + c - (0 if m == 1 else 1) + 2 * a[m - 1]) for m in range(1, depth + 1)]
  cumulative = [max(e[: m + 1]) for m in range(depth)]
  first = cumulative.index(cumulative[-1])  # l* - 1
  total = s[depth] * (step == 1)
  if readout - cumulative[-1] == 1:
    total = total + sum(s[m] for m in range(first, depth) if e[m] == cumulative[m])
  return total


def relu_duals():
  def split(k):
    norms = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    return norms, np.clip(k / norms, -1, 1)

  def phi(k):
    norms, c = split(k)
    return norms * (np.sqrt(1 - c**2) + (np.pi - np.arccos(c)) * c) / (2 * np.pi)

  return phi, lambda k: (np.pi - np.arccos(split(k)[1])) / (2 * np.pi)


@pytest.mark.parametrize("name", POINTS)
def test_the_formula_of_the_paper(name):
  found = kernel_regime_kernel(POINTS[name], K0, "relu")
  np.testing.assert_allclose(found, formula(POINTS[name], K0, *relu_duals()), rtol=1e-7)
  np.testing.assert_array_equal(found, found.T)
  assert np.linalg.eigvalsh(found)[0] > 0


def test_which_layers_are_seen():
  """Sums by hand, with linear nets: all q_l and S_m are k0."""
  counts = {
    "NTP": 3,
    "SP": 2,
    "UP_1/4": 3,
    "NNGP": 1,
    "readout from zero": 1,
    "second of three frozen": 3,
    "first and readout frozen": 2,
    "one hidden layer": 2,
  }
  for name, count in counts.items():
    found = kernel_regime_kernel(POINTS[name], K0, "identity")
    np.testing.assert_allclose(found, count * K0, rtol=1e-12)
  assert classify_abc(*_abc(POINTS["NNGP"])).nngp
  shifted = kernel_regime_kernel(abc_sp(2).shift("2/3"), K0, np.tanh)
  np.testing.assert_allclose(shifted, kernel_regime_kernel(abc_sp(2), K0, np.tanh))


def _abc(point):
  return point.a, point.b, point.c


# Finite nets ---------------------------------------------------------------------


def measured(point, activation, width, seeds, eta=0.2):
  """K(z, xi_t) of three steps at four probes z, and standard errors, [3, 4] each.

  f_(t+1)(z) - f_t(z) = -eta K chi, fitted over the seeds; nothing else of the theory.
  """
  y = np.array([1.0, -1.0, 0.5])
  nets = train(
    point, width, activation, X[:3, None], y[:, None, None], X, eta=eta, seeds=range(seeds)
  )
  f = nets.outputs[..., 0]
  chi = np.stack([f[:, t, t] - y[t] for t in range(3)], axis=1)[:, :, None]
  change = (f[:, 1:] - f[:, :-1]) / -eta
  weight = np.sum(chi**2, axis=0)
  kernel = np.sum(change * chi, axis=0) / weight
  residuals = (change - chi * kernel) * chi
  return kernel, np.sqrt(np.sum(residuals**2, axis=0)) / weight


def check(point, name, activation, width, seeds, bias):
  limit = kernel_regime_kernel(point, K0, name)[:3]
  found, error = measured(point, activation, width, seeds)
  # Seeds are fixed; 3.5 errors leave room for other machines' rounding. `bias` is what
  # the width adds to its fluctuations: up to 2% was measured at 256, none at 2048.
  np.testing.assert_array_less(np.abs(found - limit), 3.5 * error + bias * np.abs(limit))
  assert np.all(error < 0.06 * np.abs(limit).max())
  return found, error


@pytest.mark.parametrize("name", POINTS)
def test_tanh_nets(name):
  found, error = check(POINTS[name], np.tanh, TANH, 256, 64, 0.02)
  own = kernel_regime_kernel(POINTS[name], K0, np.tanh)[:3]
  for other, point in POINTS.items():  # the test tells points of one depth apart
    limit = kernel_regime_kernel(point, K0, np.tanh)[:3]
    if point.hidden_layers == POINTS[name].hidden_layers and not np.allclose(limit, own):
      far = np.abs(found - limit) > 6 * error + 0.04 * np.abs(limit)
      assert far.any(), other


@pytest.mark.parametrize("name", ["NTP", "first and readout frozen"])
@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_piecewise_linear_nets(name, activation):
  phi = {"relu": RELU, "abs": ABS}[activation]
  check(POINTS[name], activation, phi, 256, 64, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(POINTS)[:4])
def test_wide_tanh_nets(name):
  """Width 2048, 64 seeds; statistical errors of half a percent and no bias allowed."""
  check(POINTS[name], np.tanh, TANH, 2048, 64, 0.0)


# Duals ---------------------------------------------------------------------------

SMOOTH = {
  "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
  "softplus": (lambda x: np.logaddexp(x, 0), lambda x: 1 / (1 + np.exp(-x))),
  "cube": (lambda x: x**3, lambda x: 3 * x**2),
  "constant": (lambda x: 0 * x + 2, lambda x: 0 * x),
}
K = np.array([[1.7, 0.6, -0.9], [0.6, 0.4, -0.2], [-0.9, -0.2, 9.0]])


def plane(function, k):
  """E function(u) function(v) for every pair by a fine rectangle rule on the plane."""
  z = np.arange(-9, 9, 0.05)
  weight = 0.05 * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
  found = np.empty_like(k)
  for i, j in np.ndindex(*k.shape):
    u = math.sqrt(k[i, i]) * z
    slope = k[i, j] / math.sqrt(k[i, i])
    rest = math.sqrt(max(k[j, j] - slope**2, 0))
    v = slope * z[:, None] + rest * z[None, :]
    found[i, j] = np.sum(weight * function(u) * (function(v) @ weight))
  return found


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_duals(name):
  phi, derivative = SMOOTH[name]
  found = duals(K, phi)
  np.testing.assert_allclose(found.phi, plane(phi, K), rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(found.derivative, plane(derivative, K), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("activation", ["relu", "abs", "identity"])
def test_kinked_duals_obey_price(activation):
  """P = dD/dK_ab, by differences of the dual; and the kinks' own values at c = +-1."""
  found = duals(K, activation)
  for i, j in ((0, 1), (0, 2), (1, 2)):
    ends = []
    for sign in (1, -1):
      k = K.copy()
      k[i, j] = k[j, i] = K[i, j] + sign * 1e-5
      ends.append(duals(k, activation).phi[i, j])
    slope = (ends[0] - ends[1]) / 2e-5
    assert found.derivative[i, j] == pytest.approx(slope, abs=1e-8)
  same = np.array([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
  ends = {"relu": (0.5, 0.0), "abs": (1.0, -1.0), "identity": (1.0, 1.0)}[activation]
  p = dual_derivative_covariance(same, activation)
  np.testing.assert_allclose(p[0], [ends[0], ends[0], ends[1]], atol=1e-15)


def test_inputs_of_norm_zero():
  k0 = np.array([[0.0, 0.0], [0.0, 1.0]])
  for activation in ("relu", "abs", "identity", np.tanh):
    k = kernel_regime_kernel(abc_ntp(3), k0, activation)
    np.testing.assert_allclose(k[0], 0, atol=1e-15)
    assert k[1, 1] > 0.1
  k = duals(k0, SMOOTH["softplus"][0])
  np.testing.assert_allclose(k.derivative[0], [0.25, 0.25], rtol=1e-8)
  np.testing.assert_allclose(k.phi[0, 0], math.log(2) ** 2, rtol=1e-12)


def call(point=None, k0=None, activation="relu"):
  k0 = np.eye(2) if k0 is None else k0
  kernel_regime_kernel(abc_ntp(2) if point is None else point, k0, activation)


BAD = {
  "muP": ({"point": abc_mup(2)}, "is feature learning, with r = 0: expected"),
  "unstable": ({"point": abc_sp(2, 0)}, r"is unstable \(r = -1 is below 0.*kernel regime"),
  "trivial": ({"point": abc_sp(2, 2)}, r"a=\(0, 0, 0\).*c=2 is trivial, with r = 3/2"),
  "no point": ({"point": "NTP"}, "expected an AbcParametrization"),
  "no covariance": ({"k0": [[1.0, 2.0], [2.0, 1.0]]}, "eigenvalue"),
  "not square": ({"k0": np.ones(3), "activation": np.tanh}, "shape"),
  "a name": ({"activation": "tanh"}, "'tanh' has no closed form"),
  "a number": ({"activation": 3}, "activation=3"),
  "a kink": ({"activation": lambda x: np.maximum(x, 0)}, "not smooth enough"),
  "a jump": ({"activation": np.sign}, "not smooth enough"),
  "sharp": ({"activation": np.tanh, "k0": [[400.0]]}, "variance 400 of input 0"),
  "infinite": (
    {"activation": lambda x: np.where(np.abs(x) > 9, np.inf, x)},
    r"not finite everywhere on \[-13, 13\]",
  ),
  "one number": ({"activation": np.sum}, "no real array of that shape"),
  "not vectorized": ({"activation": math.tanh}, "vectorized function"),
  "complex": ({"activation": lambda x: x + 0j}, "no real array"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  values, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call(**values)
