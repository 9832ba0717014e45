"""The limit of deep linear nets against Catalan numbers, figure 4 and finite nets."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import comb

from experiments._lib.finite_mlp import train_finite
from flax_depthmup import DepthMupError
from flax_depthmup.limits.deep_linear import deep_linear_limit

#: As in figure 4 of Tensor Programs IV, from its vector data; eta = 0.1 at depth 1 and
#: 0.2 at depth 2, sigma_u = sigma_w = 1, sigma_v = 0.1.
SIGNS = np.array([1 if c == "+" else -1 for c in "++-+--+--++--+++-+-+"], float)
FIGURE_4 = {
  1: (
    0.1,
    ".5 .4041 .7122 .4332 .6748 .5462 .5562 .5461 .4488 .6512 .5342 .5616 .4654 .6286 "
    ".5210 .4348 .6601 .4536 .6365 .4687",
  ),
  2: (0.2, ".5 .3168 .9826 .4586 .6854 .5092 .5950 .5152 .4362 .6600"),
}


def square(f, y):
  return f - y


def identity(h):
  return h


def data(steps, batch, d, d_out, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(steps, batch, d)), rng.normal(size=(steps, batch, d_out))


def rms(x):
  return math.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("depth", FIGURE_4)
def test_figure_4_linear(depth):
  eta, losses = FIGURE_4[depth][0], np.array(FIGURE_4[depth][1].split(), float)
  y, x = SIGNS[: len(losses), None, None], np.ones((len(losses), 1, 1))
  f = deep_linear_limit(x, y, square, eta, hidden_layers=depth, d_out=1, sigma_v=0.1)
  ours = (f.outputs - y)[:, 0, 0] ** 2 / 2
  np.testing.assert_allclose(ours, losses, atol=5e-5)  # half of the last digit


# Two hidden layers without Tensor Programs: all vectors are polynomials in the initial W,
# and (1/n) U^T (W^T W)^k U tends to sigma_u^2 sigma_w^(2k) times the Catalan number C_k.


class Words:
  """Vectors [d + d_out, K] of coefficients, at k: in layer 1 on (W^T W)^k U and
  (W^T W)^k W^T n V, in layer 2 on (W W^T)^k W U and (W W^T)^k n V."""

  def __init__(self, d, d_out, powers, sigma_u, sigma_w, sigma_v):
    self.d, k = d, np.add.outer(np.arange(powers), np.arange(powers))

    def moments(k):
      return sigma_w ** (2 * k) * comb(2 * k, k) / (k + 1)

    self.grams = []
    for shift_u, shift_v in ((0, 1), (1, 0)):
      of_u = sigma_u**2 * moments(k + shift_u)
      of_v = sigma_v**2 * moments(k + shift_v)
      self.grams.append(np.stack([of_u] * d + [of_v] * d_out))

  def inner(self, layer, a, b):
    return np.einsum("aik,ikl,bil->ab", a, self.grams[layer - 1], b)

  def times_w(self, a):
    """W a, from layer 1 to 2: one power more of words that begin with W^T n V."""
    out = a.copy()
    out[:, self.d :, 1:], out[:, self.d :, 0] = a[:, self.d :, :-1], 0
    return out

  def times_w_transposed(self, a):
    out = a.copy()
    out[:, : self.d, 1:], out[:, : self.d, 0] = a[:, : self.d, :-1], 0
    return out

  def train(self, x, y, eta):
    d_out, powers = y.shape[2], self.grams[0].shape[-1]
    u = np.zeros((self.d, self.d + d_out, powers))
    v = np.zeros((d_out, self.d + d_out, powers))
    u[np.arange(self.d), np.arange(self.d), 0] = 1
    v[np.arange(d_out), self.d + np.arange(d_out), 0] = 1
    learned = []  # pairs (dh, x) of rates eta: W = W_0 - (eta/n) sum dh x^T
    outputs = []
    for xi, target in zip(x, y, strict=True):
      x1 = np.tensordot(xi, u, 1)
      x2 = self.times_w(x1)
      for dh, old in learned:
        x2 = x2 - eta * np.tensordot(self.inner(1, x1, old), dh, 1)
      outputs.append(self.inner(2, x2, v))
      chi = outputs[-1] - target
      dh2 = np.tensordot(chi, v, 1)
      dh1 = self.times_w_transposed(dh2)
      for dh, old in learned:
        dh1 = dh1 - eta * np.tensordot(self.inner(2, dh2, dh), old, 1)
      learned.append((dh2, x1))
      v = v - eta * np.tensordot(chi.T, x2, 1)
      u = u - eta * np.tensordot(xi.T, dh1, 1)
    return np.stack(outputs)


@pytest.mark.parametrize(("d", "d_out", "batch"), [(1, 1, 1), (2, 3, 2)])
def test_two_hidden_layers_by_catalan_numbers(d, d_out, batch):
  x, y = data(6, batch, d, d_out)
  sigmas = {"sigma_u": 0.8, "sigma_w": 1.2, "sigma_v": 0.7}
  exact = Words(d, d_out, 14, *sigmas.values()).train(x, y, 0.1)
  ours = deep_linear_limit(x, y, square, 0.1, hidden_layers=2, d_out=d_out, **sigmas)
  np.testing.assert_allclose(ours.outputs, exact, atol=1e-12)
  without = deep_linear_limit(
    x, y, square, 0.1, hidden_layers=2, d_out=d_out, decoupled=True, **sigmas
  )
  assert np.abs(without.outputs - exact).max() > 0.01  # Zdot left out


def test_probes_are_looked_at_only():
  x, y = data(5, 2, 3, 2)
  probes = np.concatenate([x[3], np.eye(3)])
  alone = deep_linear_limit(x, y, square, 0.2, hidden_layers=3, d_out=2)
  ours = deep_linear_limit(x, y, square, 0.2, hidden_layers=3, d_out=2, probes=probes)
  np.testing.assert_array_equal(ours.outputs, alone.outputs)
  assert ours.probe_outputs.shape == (6, 5, 2)
  assert alone.probe_outputs.shape == (6, 0, 2)
  np.testing.assert_allclose(ours.probe_outputs[3, :2], ours.outputs[3], atol=1e-12)
  # The net is linear in its input.
  linear = np.einsum("pd,tdo->tpo", probes, ours.probe_outputs[:, 2:])
  np.testing.assert_allclose(ours.probe_outputs, linear, atol=1e-12)


def test_rates_and_examples_that_teach_nothing():
  x, y = data(4, 2, 2, 1)
  still = deep_linear_limit(x, y, square, 0.0, hidden_layers=2, d_out=1)
  np.testing.assert_allclose(still.outputs, 0.0, atol=1e-12)
  # Targets that are met give chi = 0 and Zhat of variance zero.
  ours = deep_linear_limit(x, 0 * y, square, 0.3, hidden_layers=3, d_out=1)
  np.testing.assert_allclose(ours.outputs, 0.0, atol=1e-12)
  rates = np.array([0.1, 0.0, 0.2, 0.3])
  skipped = [0, 2, 3]
  ours = deep_linear_limit(x, y, square, rates, hidden_layers=2, d_out=1)
  fewer = deep_linear_limit(
    x[skipped], y[skipped], square, rates[skipped], hidden_layers=2, d_out=1
  )
  np.testing.assert_allclose(ours.outputs[skipped], fewer.outputs, atol=1e-12)


def converge(depth, widths, seeds, *, steps=6, decoupled=False):
  """Slope of the RMS error, and the mean of the widest nets in standard errors."""
  x, y = data(steps, 2, 2, 2, seed=7)
  net = {"hidden_layers": depth, "d_out": 2, "decoupled": decoupled, "sigma_v": 0.8}
  limit = deep_linear_limit(x, y, square, 0.08, **net).outputs
  errors = []
  for width in widths:
    f, _ = train_finite(width, range(seeds), x, y, square, 0.08, identity, **net)
    errors.append(rms(f - limit))
  far = np.abs(f.mean(0) - limit) / (f.std(0) / math.sqrt(seeds))
  return np.polyfit(np.log(widths), np.log(errors), 1)[0], far.max(), limit


@pytest.mark.parametrize(("depth", "decoupled"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)])
def test_finite_nets_converge(depth, decoupled):
  widths = [8, 16, 32, 64, 128, 256]
  slope, far, _ = converge(depth, widths, 60, decoupled=bool(decoupled))
  assert slope == pytest.approx(-0.5, abs=0.1)
  assert far < 4.5  # of 24 numbers; the bias at this width is less than a standard error


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("decoupled", [False, True])
def test_finite_nets_converge_over_many_doublings(depth, decoupled):
  widths = [16, 32, 64, 128, 256, 512, 1024]
  slope, far, limit = converge(depth, widths, 64, steps=8, decoupled=decoupled)
  assert slope == pytest.approx(-0.5, abs=0.1)
  assert far < 4.5
  assert rms(limit) > 0.1


def test_targets_may_be_trees():
  """Of arrays [T, ...], or listed step by step: the same run."""
  x, y = data(4, 2, 2, 1)
  goal = collections.namedtuple("Goal", "y scale")(y, np.arange(4.0))
  net = {"hidden_layers": 2, "d_out": 1}

  def scaled(f, target):
    return target["scale"] * (f - target["y"])

  listed = [{"y": y[t], "scale": float(t)} for t in range(4)]
  want = deep_linear_limit(x, listed, scaled, 0.2, **net).outputs
  of_dict = deep_linear_limit(x, goal._asdict(), scaled, 0.2, **net).outputs
  np.testing.assert_array_equal(of_dict, want)
  of_tuple = deep_linear_limit(
    x, goal, lambda f, g: g.scale * (f - g.y), 0.2, **net
  ).outputs
  np.testing.assert_array_equal(of_tuple, want)
  assert rms(want[2:]) > 0.01


@pytest.mark.parametrize("scalar", [jnp.asarray, np.array, np.float32])
def test_rates_of_no_axis(scalar):
  x, y = data(3, 2, 2, 1)
  run = functools.partial(deep_linear_limit, x, y, square, hidden_layers=2, d_out=1)
  np.testing.assert_array_equal(run(scalar(0.25)).outputs, run(0.25).outputs)


def call(**changes):
  x, y = data(3, 2, 2, 1)
  arguments = {
    "inputs": x,
    "targets": y,
    "loss_derivative": square,
    "learning_rate": 0.1,
    "hidden_layers": 2,
    "d_out": 1,
  }
  deep_linear_limit(**arguments | changes)


BAD = {
  "inputs": ({"inputs": np.ones((3, 2))}, r"inputs: found shape \(3, 2\)"),
  "ragged inputs": ({"inputs": [[1.0], [1.0, 2.0]]}, "inputs: found list"),
  "targets": ({"targets": np.ones((2, 2, 1))}, "targets: found 2, expected 3"),
  "short tree": ({"targets": {"y": np.ones((2, 1))}}, r"shapes \(2, 1\), expected 3"),
  "ragged tree": ({"targets": {"y": np.ones(3), "z": 1.0}}, r"\(3,\), \(\), expected 3"),
  "empty tree": ({"targets": {}}, "shapes none, expected 3"),
  "a list in a tree": ({"targets": {"y": [1.0, 2.0, 3.0]}}, "expected 3"),
  "unsorted tree": ({"targets": {"y": np.ones(3), 1: np.ones(3)}}, "targets: found {'y'"),
  "mapping of no tree": (
    {"targets": collections.UserDict(a=1, b=2, c=3)},
    "targets: found {'a'",
  ),
  "a key": (
    {"targets": {"y": np.ones((3, 2, 1))}, "loss_derivative": lambda f, y: y["z"]},
    "fails at step 0 .* targets of dict .KeyError: 'z'",
  ),
  "an attribute": (
    {"loss_derivative": lambda f, y: y.foo},
    r"targets of shape \(2, 1\) .AttributeError: .*foo",
  ),
  "an error of its own": ({"loss_derivative": lambda f, y: 1 / 0}, "ZeroDivisionError"),
  "ragged target": (
    {"targets": [[[1.0], [1.0, 2.0]]] * 3},
    "loss_derivative fails .* targets of list .ValueError",
  ),
  "rate of arrays": ({"learning_rate": np.array("fast")}, "learning_rate='fast'"),
  "nan of no axis": ({"learning_rate": jnp.asarray(math.nan)}, "learning_rate=nan"),
  "a random key": ({"learning_rate": jax.random.key(0)}, "learning_rate="),
  "d_out": ({"d_out": 0}, "d_out=0"),
  "another d_out": ({"d_out": 2, "targets": np.ones((3, 2, 3))}, "broadcast"),
  "loss": ({"loss_derivative": lambda f, y: f[0]}, "loss_derivative returns shape"),
  "no loss": ({"loss_derivative": None}, "loss_derivative=None"),
  "rate": ({"learning_rate": math.inf}, "learning_rate=inf"),
  "depth": ({"hidden_layers": 0}, "hidden_layers=0"),
  "half a layer": ({"hidden_layers": 1.5}, "hidden_layers=1.5"),
  "sigma_u": ({"sigma_u": -1}, "sigma_u=-1"),
  "sigma_w": ({"sigma_w": "1"}, "sigma_w='1'"),
  "sigma_v": ({"sigma_v": math.nan}, "sigma_v=nan"),
  "probes": ({"probes": np.ones((2, 3))}, r"probes: .*\[P, 2\]"),
  "decoupled": ({"decoupled": "yes"}, "decoupled='yes'"),
  "explosion": ({"learning_rate": 1e100}, "leave float64 at step"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  changes, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call(**changes)
