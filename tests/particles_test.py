"""The limit by particles against figure 4, exact limits, quadrature and finite nets."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib.finite_mlp import train_finite
from flax_depthmup import DepthMupError
from flax_depthmup.limits.activation import derivatives
from flax_depthmup.limits.deep_linear import deep_linear_limit
from flax_depthmup.limits.one_hidden import one_hidden_limit
from flax_depthmup.limits.one_hidden_nets import sobol_net
from flax_depthmup.limits.particles import particle_limit

SIGNS = np.array([-1.0, -1, 1, 1, -1, -1, -1, -1])
#: Losses of figure 4 of Tensor Programs IV, phi(x) = x^2, y = + - - +, by decoupled.
QUADRATIC = {False: [0.5, 1.213, 0.363, 0.845], True: [0.5, 1.1976, 0.2672, 1.2904]}


def square(f, y):
  return f - y


def softmax(f, labels):
  p = np.exp(f - f.max(1, keepdims=True))
  return (p / p.sum(1, keepdims=True) - np.eye(f.shape[1])[labels]) / len(f)


def identity(h):
  return h


def rms(x):
  return math.sqrt(np.mean(np.square(x)))


def figure_4(decoupled, particles, groups):
  """Losses and their standard errors."""
  y = np.array([1.0, -1.0, -1.0, 1.0])[:, None, None]
  ours = particle_limit(
    np.ones((4, 1, 1)),
    y,
    square,
    0.02,
    jnp.square,
    hidden_layers=2,
    d_out=1,
    sigma_v=0.1,
    particles=particles,
    groups=groups,
    decoupled=decoupled,
  )
  residual = (ours.outputs - y).ravel()
  return residual**2 / 2, np.abs(residual) * ours.outputs_error.ravel()


@pytest.mark.parametrize("decoupled", [False, True])
def test_figure_4_quadratic(decoupled):
  losses, errors = figure_4(decoupled, 20_000, 8)
  assert (errors < 0.015).all()
  # Five, as eight groups tell them badly; half of the last digit given.
  np.testing.assert_array_less(np.abs(losses - QUADRATIC[decoupled]), 5 * errors + 5e-4)
  other = np.abs(losses - QUADRATIC[not decoupled])[2:]
  assert (other > 10 * errors[2:]).all()


@pytest.mark.slow
@pytest.mark.parametrize("decoupled", [False, True])
def test_figure_4_quadratic_by_a_million_particles(decoupled):
  losses, errors = figure_4(decoupled, 50_000, 20)
  assert (errors < 0.004).all()
  np.testing.assert_array_less(np.abs(losses - QUADRATIC[decoupled]), 4 * errors + 5e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("decoupled", [False, True])
def test_linear_is_exact(depth, decoupled):
  """Second moments of the noise are exact, so there is no Monte Carlo error."""
  rng = np.random.default_rng(1)
  x, labels = rng.normal(size=(5, 3, 2)), rng.integers(0, 2, size=(5, 3))
  net = {"hidden_layers": depth, "d_out": 2, "sigma_w": 1.2, "decoupled": decoupled}
  net |= {"probes": rng.normal(size=(5, 2)), "sigma_u": 0.9, "sigma_v": 0.8}
  exact = deep_linear_limit(x, labels, softmax, 0.7, **net)
  ours = particle_limit(x, labels, softmax, 0.7, identity, particles=256, groups=2, **net)
  np.testing.assert_allclose(ours.outputs, exact.outputs, atol=1e-12)
  np.testing.assert_allclose(ours.probe_outputs, exact.probe_outputs, atol=1e-12)
  assert ours.outputs_error.max() < 1e-12


def test_one_hidden_layer_is_that_of_quadrature():
  rng = np.random.default_rng(2)
  x, labels = rng.normal(size=(5, 2, 2)), rng.integers(0, 2, size=(5, 2))
  probes = rng.normal(size=(3, 2))
  best = one_hidden_limit(
    sobol_net(2, 2, 2**14), x, labels, softmax, 0.8, jnp.tanh, probes=probes
  )
  ours = particle_limit(
    x, labels, softmax, 0.8, jnp.tanh, hidden_layers=1, d_out=2, probes=probes, groups=6
  )
  assert ours.outputs_error.max() < 3e-3
  far = np.abs(ours.probe_outputs - best.probe_outputs)
  assert (far < 5 * ours.probe_outputs_error + 3e-4).all()
  assert (np.abs(ours.outputs - best.outputs) < 5 * ours.outputs_error + 3e-4).all()


# Finite nets --------------------------------------------------------------------------


@functools.cache
def tanh_limit(decoupled, steps=4, depth=2, groups=5):
  y = SIGNS[:steps, None, None]
  net = {"hidden_layers": depth, "d_out": 1, "decoupled": decoupled, "groups": groups}
  return particle_limit(np.ones((steps, 1, 1)), y, square, 0.5, jnp.tanh, **net)


@functools.cache
def tanh_nets(width, seeds, decoupled, steps=4, depth=2):
  y = SIGNS[:steps, None, None]
  net = {"hidden_layers": depth, "d_out": 1, "decoupled": decoupled}
  x = np.ones((steps, 1, 1))
  return train_finite(width, range(seeds), x, y, square, 0.5, jnp.tanh, **net)[0]


@pytest.mark.parametrize("decoupled", [False, True])
def test_finite_tanh_nets_converge(decoupled):
  widths = [8, 16, 32, 64, 128, 256]
  limit = tanh_limit(decoupled)
  assert limit.outputs_error.max() < 1e-3
  nets = [tanh_nets(width, 50, decoupled) for width in widths]
  errors = [rms(f - limit.outputs) for f in nets]
  assert np.polyfit(np.log(widths), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.1)
  spread = np.hypot(nets[-1].std(0) / math.sqrt(50), limit.outputs_error)
  assert (np.abs(nets[-1].mean(0) - limit.outputs) < 4 * spread).all()


def test_zdot_matters():
  """Without it the limit is 0.1 away, of which neither error explains a tenth."""
  true, without = tanh_limit(False), tanh_limit(True)
  apart = np.abs(true.outputs - without.outputs)[1:3]
  assert (apart > 0.1).all()
  nets = tanh_nets(256, 50, False)
  assert (np.abs(nets.mean(0) - without.outputs)[1:3] > 0.9 * apart).all()
  assert (np.abs(nets.mean(0) - true.outputs)[1:3] < 0.1 * apart).all()


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "decoupled"), [(2, False), (2, True), (3, False)])
def test_finite_tanh_nets_converge_over_many_doublings(depth, decoupled):
  widths = [32, 64, 128, 256, 512, 1024]
  limit = tanh_limit(decoupled, 8, depth, 24)
  nets = [tanh_nets(width, 60, decoupled, 8, depth) for width in widths]
  errors = [rms(f - limit.outputs) for f in nets]
  assert np.polyfit(np.log(widths), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.1)
  spread = np.hypot(nets[-1].std(0) / math.sqrt(60), limit.outputs_error)
  assert (np.abs(nets[-1].mean(0) - limit.outputs) < 4 * spread).all()


@pytest.mark.parametrize("depth", [2, 3])
def test_batches_of_vectors_and_probes(depth):
  """A smooth activation that is not odd; the mean of nets, their bias being of 1/n."""
  rng = np.random.default_rng(3)
  x, labels = rng.normal(size=(3, 2, 3)), rng.integers(0, 2, size=(3, 2))
  net = {"hidden_layers": depth, "d_out": 2, "sigma_v": 0.5}
  net["probes"] = rng.normal(size=(2, 3))
  arguments = x, labels, softmax, 0.8, jax.nn.softplus
  limit = particle_limit(*arguments, groups=4, particles=2**13, **net)
  f, probed = train_finite(256, range(60), *arguments, **net)
  for nets, ours, error in (
    (f, limit.outputs, limit.outputs_error),
    (probed, limit.probe_outputs, limit.probe_outputs_error),
  ):
    spread = np.hypot(nets.std(0) / math.sqrt(60), error)
    assert (np.abs(nets.mean(0) - ours) < 4.5 * spread).all()
    assert rms(nets - ours) < 0.2


def test_finite_nets_are_those_of_autodiff():
  """Every matrix of a net of three hidden layers, by jax.grad of its plain form."""
  rng = np.random.default_rng(4)
  n, x, y = 20, rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 2))
  f, probed = train_finite(
    n, [5, 6], x, y, square, 0.3, jnp.tanh, hidden_layers=3, d_out=2, probes=x[0]
  )
  draw = np.random.default_rng([6, n])
  u, nv = draw.standard_normal((n, 2)), draw.standard_normal((2, n))
  ws = [draw.standard_normal((n, n)) * n**-0.5 for _ in range(2)]
  params = [u, *ws, nv / n]

  def outputs(params, x):
    h = x @ params[0].T
    for w in params[1:]:
      h = jnp.tanh(h) @ w.T
    return h

  with jax.enable_x64(True):
    params = [jnp.asarray(p) for p in params]
    for t in range(3):
      np.testing.assert_allclose(outputs(params, x[t]), f[1, t], atol=1e-12)
      np.testing.assert_allclose(outputs(params, x[0]), probed[1, t], atol=1e-12)
      gradient = jax.grad(lambda p, t=t: 0.5 * jnp.sum((outputs(p, x[t]) - y[t]) ** 2))
      rates = [0.3 * n, 0.3, 0.3, 0.3 / n]
      grads = gradient(params)
      params = [p - r * g for p, r, g in zip(params, rates, grads, strict=True)]


# Input --------------------------------------------------------------------------------


def test_seeds_and_probes():
  x, y = np.ones((2, 1, 1)), np.ones((2, 1, 1))
  net = {"hidden_layers": 2, "d_out": 1, "particles": 64, "groups": 2}
  run = functools.partial(particle_limit, x, y, square, 0.2, jnp.tanh, **net)
  alone, again, other = run(), run(probes=np.ones((3, 1))), run(seed=1)
  np.testing.assert_array_equal(alone.outputs, again.outputs)
  assert (alone.outputs != other.outputs)[1:].all()
  assert again.probe_outputs.shape == (3, 3, 1)
  # A probe that is the next batch sees what the batch will see.
  np.testing.assert_allclose(again.probe_outputs[:2, 0], alone.outputs[:, 0], atol=1e-12)


def call(**changes):
  arguments = {
    "inputs": np.ones((3, 1, 2)),
    "targets": np.ones((3, 1, 1)),
    "loss_derivative": square,
    "learning_rate": 0.1,
    "phi": jnp.tanh,
    "hidden_layers": 2,
    "d_out": 1,
    "particles": 128,
    "groups": 2,
  }
  return particle_limit(**arguments | changes)


BAD = {
  "inputs": ({"inputs": 1.0}, "inputs: found shape"),
  "targets": ({"targets": []}, "targets: found 0"),
  "loss": ({"loss_derivative": "square"}, "loss_derivative='square'"),
  "rate": ({"learning_rate": True}, "learning_rate=True"),
  "depth": ({"hidden_layers": -1}, "hidden_layers=-1"),
  "d_out": ({"d_out": None}, "d_out=None"),
  "sigma_w": ({"sigma_w": -0.1}, "sigma_w=-0.1"),
  "probes": ({"probes": np.ones((1, 1))}, "probes"),
  "decoupled": ({"decoupled": 1}, "decoupled=1"),
  "particles": ({"particles": 0}, "particles=0"),
  "few particles": ({"particles": 20}, "four times as many"),
  "groups": ({"groups": 1}, "groups=1: expected at least 2"),
  "half a group": ({"groups": 2.5}, "groups=2.5"),
  "seed": ({"seed": -3}, "seed=-3"),
  "relu": ({"phi": jax.nn.relu}, "phi=relu: the first derivative of phi jumps"),
  "hard tanh": ({"phi": jax.nn.hard_tanh}, "phi=hard_tanh: the first derivative"),
  "abs": ({"phi": jnp.abs}, "jumps"),
  "sign": ({"phi": jnp.sign}, "phi jumps"),
  "phi": ({"phi": None}, "phi=None"),
  "explosion": ({"learning_rate": 1e80, "phi": jnp.square}, "leave float64 at step"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  changes, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call(**changes)


@pytest.mark.parametrize("phi", [jax.nn.gelu, jax.nn.silu, jnp.sin, jax.nn.elu])
def test_smooth_phi(phi):
  found = call(phi=phi)
  assert np.isfinite(found.outputs).all()
  assert np.abs(found.outputs[1:]).min() > 1e-3  # it trains


@pytest.mark.parametrize(
  ("phi", "order", "words"),
  [
    (jnp.sign, 1, "phi jumps .* 1 of phi; jumps are .* that is continuous, such"),
    (jax.nn.relu, 2, "first .* 2 of phi; kinks are .* with its first derivative, such"),
    (jax.nn.elu, 3, "second .* 3 of phi; kinks are .* its first two derivatives, such"),
  ],
)
def test_kinks_are_not_supported(phi, order, words):
  with pytest.raises(DepthMupError, match=f"phi={phi.__name__}: .*{words}"):
    derivatives(phi, order)


def test_kinks_of_the_last_derivative_are_fine():
  phi, slope = derivatives(jax.nn.elu, 1)(np.array([-1.0, 2.0]))
  np.testing.assert_allclose([phi, slope], [[math.exp(-1) - 1, 2], [math.exp(-1), 1]])


def test_the_third_derivative():
  h = np.linspace(-2, 2, 7)
  t = np.tanh(h)
  wanted = t, 1 - t**2, -2 * t * (1 - t**2), (6 * t**2 - 2) * (1 - t**2)
  np.testing.assert_allclose(derivatives(jnp.tanh, 3)(h), wanted, atol=1e-14)
  assert len(derivatives(jax.nn.gelu, 3)(h)) == 4
