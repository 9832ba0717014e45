"""The limit of one hidden layer against fine grids, closed forms and finite nets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib.finite_mlp import train_finite
from flax_depthmup import DepthMupError
from flax_depthmup.limits.deep_linear import deep_linear_limit
from flax_depthmup.limits.one_hidden import (
  one_hidden_kernel,
  one_hidden_limit,
  one_hidden_outputs,
  one_hidden_step,
)
from flax_depthmup.limits.one_hidden_nets import (
  OneHiddenNet,
  quadrature_net,
  random_net,
  sobol_net,
)

#: s_t = xi_t y_t of figure 4 of Tensor Programs IV, and its losses at depth 1, from the
#: vector data of the paper: eta = 0.1, sigma_u = 1, sigma_v = 0.1, phi = identity.
SIGNS = np.array([1 if c == "+" else -1 for c in "++-+--+--++--+++-+-+"], float)
_LOSSES = (
  ".5 .4041 .7122 .4332 .6748 .5462 .5562 .5461 .4488 .6512 .5342 .5616 .4654 .6286 .5210 "
  ".4348 .6601 .4536 .6365 .4687"
)
LOSSES = np.array(_LOSSES.split(), float)
STEPS = len(SIGNS)
INPUTS, TARGETS = np.ones((STEPS, 1, 1)), SIGNS[:, None, None]


def square(f, y):
  return f - y


def softmax(f, labels):
  """Of the mean over the batch of the cross entropy of integer labels."""
  p = np.exp(f - f.max(1, keepdims=True))
  return (p / p.sum(1, keepdims=True) - np.eye(f.shape[1])[labels]) / len(f)


def identity(h):
  return h


def grid_net(nodes, end):
  """Products of the trapezoidal rule on [-end, end]."""
  x = np.linspace(-end, end, nodes)
  w = np.exp(-(x**2) / 2)
  u, v = np.meshgrid(x, x, indexing="ij")
  weights = np.outer(w, w).ravel() / w.sum() ** 2
  return OneHiddenNet(u.reshape(-1, 1), v.reshape(-1, 1), weights)


def slope(widths, errors):
  return np.polyfit(np.log(widths), np.log(errors), 1)[0]


def rms(x):
  return math.sqrt(np.mean(np.square(x)))


# Ground truth -------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [2, 5, 40])
def test_figure_4_linear_depth_1(nodes):
  """phi = identity: f is a quadratic form of the initial values, and 2 nodes exact."""
  net = quadrature_net(1, 1, nodes, 1.0, 0.1)
  f = one_hidden_limit(net, INPUTS, TARGETS, square, 0.1, identity).outputs
  losses = (f[:, 0, 0] - SIGNS) ** 2 / 2
  np.testing.assert_allclose(losses, LOSSES, atol=5e-5)  # half of the last digit


def test_polynomials_are_exact_up_to_their_degree():
  """phi = x^2: f_0 = 0, f_1 from moments of Gaussians by hand; 2 nodes are too few."""
  eta, su, sv, y = 0.3, 0.9, 0.7, 1.5

  def outputs(nodes):
    net = quadrature_net(1, 1, nodes, su, sv)
    x = np.ones((2, 1, 1))
    return one_hidden_limit(net, x, np.full((2, 1, 1), y), square, eta, jnp.square).outputs

  # chi = -y; v' = v + a u^2, u' = u (1 + 2 a v), a = eta y; f_1 = E v' u'^2
  a, u2, u4, v2 = eta * y, su**2, 3 * su**4, sv**2
  exact = u2 * 4 * a * v2 + a * u4 * (1 + 4 * a**2 * v2)
  assert outputs(3)[:, 0, 0] == pytest.approx([0.0, exact], abs=1e-12)
  assert abs(outputs(2)[1, 0, 0] - exact) > 0.1


def test_quadrature_sobol_and_grid_agree():
  """tanh, 20 steps: the errors that the docstring states, against a fine grid."""

  def outputs(net, eta=0.3):
    return one_hidden_limit(net, INPUTS, TARGETS, square, eta, jnp.tanh).outputs

  best = outputs(grid_net(251, 7.0))
  assert np.abs(best - outputs(grid_net(201, 6.8))).max() < 3e-7
  errors = [np.abs(outputs(quadrature_net(1, 1, n)) - best).max() for n in (16, 32, 64)]
  assert errors == pytest.approx([3.1e-3, 1.0e-3, 1.6e-4], rel=0.1)
  assert np.abs(outputs(sobol_net(1, 1, 2**14)) - best).max() < 3e-4
  # Steep functions of the initial values: quadrature is worse by far, Sobol is not.
  best = outputs(grid_net(251, 7.0), 1.0)
  assert np.abs(outputs(quadrature_net(1, 1, 64), 1.0) - best).max() > 3e-3
  assert np.abs(outputs(sobol_net(1, 1, 2**14), 1.0) - best).max() < 3e-4


def test_linear_batches_of_vectors_are_the_deep_linear_limit_of_depth_1():
  rng = np.random.default_rng(0)
  x, labels = rng.normal(size=(6, 3, 2)), rng.integers(0, 2, size=(6, 3))
  probes, rates = rng.normal(size=(4, 2)), rng.uniform(0.2, 0.9, size=6)
  ours = one_hidden_limit(
    quadrature_net(2, 2, 2, 0.8, 0.6), x, labels, softmax, rates, identity, probes=probes
  )
  exact = deep_linear_limit(
    x,
    labels,
    softmax,
    rates,
    hidden_layers=1,
    d_out=2,
    sigma_u=0.8,
    sigma_v=0.6,
    probes=probes,
  )
  np.testing.assert_allclose(ours.outputs, exact.outputs, atol=1e-12)
  np.testing.assert_allclose(ours.probe_outputs, exact.probe_outputs, atol=1e-12)


# Finite nets --------------------------------------------------------------------------


def test_one_step_function_for_every_width():
  """A net of finite width by our step is the net that jax differentiates."""
  net = random_net(3, 2, 50, 0.9, 0.8, seed=4)
  rng = np.random.default_rng(1)
  x, labels, eta = rng.normal(size=(4, 3)), np.array([0, 1, 1, 0]), 0.7
  after, f = one_hidden_step(net, x, labels, softmax, eta, jnp.tanh)
  with jax.enable_x64(True):

    def loss(u, nv):
      f = jnp.tanh(x @ u.T) @ nv / 50
      return -jnp.mean(jax.nn.log_softmax(f)[jnp.arange(4), labels])

    du, dv = map(np.asarray, jax.grad(loss, (0, 1))(net.u, net.v))
  # Gradients by n V and by U are 1/n of the sizes of these; muP's rates are eta n.
  np.testing.assert_allclose(after.u, net.u - eta * 50 * du, atol=1e-12)
  np.testing.assert_allclose(after.v, net.v - eta * 50 * dv, atol=1e-12)
  np.testing.assert_allclose(f, np.tanh(x @ net.u.T) @ net.v / 50, atol=1e-12)


def converge(widths, seeds, steps):
  """RMS errors of nets of these widths, and of features where they began."""
  rng = np.random.default_rng(5)
  x, probes = rng.normal(size=(steps, 2, 2)), rng.normal(size=(3, 2))
  y = rng.normal(size=(steps, 2, 2))
  limit = one_hidden_limit(
    sobol_net(2, 2, 2**15), x, y, square, 0.3, jnp.tanh, probes=probes
  )
  errors = []
  for width in widths:
    f, probed = train_finite(
      width,
      range(seeds),
      x,
      y,
      square,
      0.3,
      jnp.tanh,
      hidden_layers=1,
      d_out=2,
      probes=probes,
    )
    errors.append((rms(f - limit.outputs), rms(probed - limit.probe_outputs)))
  return np.array(errors)


def test_finite_nets_converge():
  widths = [32, 64, 128, 256, 512, 1024]
  for errors in converge(widths, 50, 6).T:
    assert slope(widths, errors) == pytest.approx(-0.5, abs=0.1)


@pytest.mark.slow
def test_finite_nets_converge_over_many_doublings():
  widths = [2**k for k in range(5, 15)]
  for errors in converge(widths, 200, 10).T:
    assert slope(widths, errors) == pytest.approx(-0.5, abs=0.05)


def test_kernel_and_outputs():
  """Before training E tanh tanh is symmetric; erf has the arcsine of Williams."""
  net, x = sobol_net(3, 1, 2**14), np.random.default_rng(2).normal(size=(4, 3))
  k = one_hidden_kernel(net, x, jax.lax.erf)
  k0, norms = 2 * x @ x.T, np.sqrt(1 + 2 * np.sum(x**2, 1))
  exact = 2 / math.pi * np.arcsin(k0 / np.outer(norms, norms))
  np.testing.assert_allclose(k, exact, atol=2e-3)
  np.testing.assert_allclose(one_hidden_outputs(net, x, jnp.tanh), 0.0, atol=2e-3)


def test_relu_is_fine_here():
  """Its kink has no weight: f_1 by the arc-cosine kernel, after a step on one input."""
  x, y, eta = np.array([[1.0, 0.0]]), np.array([[1.0]]), 0.5
  net, _ = one_hidden_step(sobol_net(2, 1, 2**16, 1.0, 0.0), x, y, square, eta, jax.nn.relu)
  f = one_hidden_outputs(net, [[1.0, 0.0], [0.6, 0.8]], jax.nn.relu)[:, 0]
  c = np.array([1.0, 0.6])
  kernel = (np.sqrt(1 - c**2) + c * (math.pi - np.arccos(c))) / (2 * math.pi)
  np.testing.assert_allclose(f, eta * kernel, atol=1e-4)


# Input --------------------------------------------------------------------------------

ONE = OneHiddenNet([[1.0, 2.0]], [[1.0]], [1.0])


def test_nets_and_rates_of_lists_and_scalars():
  x = [[0.5, 0.25]]
  assert one_hidden_outputs(ONE, x, identity) == pytest.approx(1.0)
  assert one_hidden_kernel(ONE, x, identity) == pytest.approx(1.0)
  for rate in (jnp.asarray(0.5), np.array(0.5), np.float32(0.5)):
    after, _ = one_hidden_step(ONE, x, 0.0, square, rate, identity)
    assert after.v == pytest.approx(0.5)
    ours = one_hidden_limit(ONE, [x, x], np.zeros((2, 1, 1)), square, rate, identity)
    assert one_hidden_outputs(after, x, identity) == pytest.approx(ours.outputs[1])


def call(net=None, **changes):
  arguments = {
    "inputs": INPUTS,
    "targets": TARGETS,
    "loss_derivative": square,
    "learning_rate": 0.1,
    "phi": jnp.tanh,
  }
  one_hidden_limit(quadrature_net(1, 1, 4) if net is None else net, **arguments | changes)


BAD = {
  "flat inputs": ({"inputs": np.ones(3)}, r"inputs: found shape \(3,\).*\[T, B, d\]"),
  "no inputs": ({"inputs": np.ones((0, 1, 1))}, "inputs: found shape"),
  "words": ({"inputs": "x"}, "inputs: found str"),
  "complex": ({"inputs": np.ones((2, 1, 1), complex)}, "inputs: found ndarray"),
  "nan": ({"inputs": np.full((20, 1, 1), math.nan)}, "inputs: not finite"),
  "another d": ({"inputs": np.ones((20, 1, 2))}, "d = 2 for a net of d = 1"),
  "few targets": ({"targets": TARGETS[:3]}, "targets: found 3, expected 20"),
  "no net": ({"net": 3}, "net: found int, expected OneHiddenNet"),
  "unfit net": (
    {"net": OneHiddenNet(np.ones((3, 1)), np.ones((2, 1)), np.ones(3) / 3)},
    r"shapes \(3, 1\), \(2, 1\), \(3,\)",
  ),
  "nan net": ({"net": ONE._replace(v=[[math.nan]])}, "net: v is not finite everywhere"),
  "weights of 10": ({"net": ONE._replace(weights=[10.0])}, "weights sum to 10, expected 1"),
  "a net of words": ({"net": OneHiddenNet("u", "v", "w")}, "net of u, v, weights"),
  "an array of no axis": ({"targets": np.array(1.0)}, "targets: found array"),
  "a target": ({"targets": 1.0}, "targets: found 1.0"),
  "targets of another shape": ({"targets": np.ones((20, 3, 1))}, "loss_derivative returns"),
  "loss derivative": ({"loss_derivative": lambda f, y: "chi"}, "returns no array"),
  "no loss": ({"loss_derivative": 3}, "loss_derivative=3"),
  "negative rate": ({"learning_rate": -0.1}, "learning_rate=-0.1"),
  "nan in rates": ({"learning_rate": [math.nan] * 20}, "learning_rate=nan"),
  "few rates": ({"learning_rate": [0.1] * 3}, "expected a number, or 20"),
  "named rate": ({"learning_rate": "fast"}, "learning_rate='fast'"),
  "flat probes": ({"probes": np.ones(1)}, "probes: found shape"),
  "probes of another d": ({"probes": np.ones((2, 3))}, r"probes: .*\[P, 1\]"),
  "explosion": (
    {"learning_rate": 1e60, "phi": jnp.square, "targets": TARGETS},
    "leave float64 at step",
  ),
  "named phi": ({"phi": "tanh"}, "phi='tanh'"),
  "numpy": ({"phi": math.tanh}, "phi=tanh fails on an array of jax"),
  "a list": ({"phi": [jnp.tanh]}, "expected an elementwise function"),
  "a sort": ({"phi": jnp.sort}, "give an elementwise function"),
  "a softmax": ({"phi": jax.nn.softmax}, "jumps or is not finite"),
  "a sum": ({"phi": jnp.sum}, "phi=sum"),
  "integers": ({"phi": jnp.sign}, "jumps"),
  "a step": ({"phi": lambda h: jnp.where(h > 1.5, h, 0.0)}, "phi jumps"),
  "no finite phi": ({"phi": jnp.log}, "not finite"),
  "complex phi": ({"phi": lambda h: h * 1j}, "complex128"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
  changes, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call(**changes)


BAD_NETS = {
  "d": (lambda: quadrature_net(0, 1, 4), "d=0"),
  "d_out": (lambda: sobol_net(1, 1.5, 4), "d_out=1.5"),
  "sigma_u": (lambda: random_net(1, 1, 4, -1.0), "sigma_u=-1.0"),
  "sigma_v": (lambda: random_net(1, 1, 4, 1.0, math.inf), "sigma_v=inf"),
  "nodes": (lambda: quadrature_net(1, 1, 0), "nodes=0"),
  "many nodes": (lambda: quadrature_net(1, 1, 300), "at most 160 nodes"),
  "many products": (lambda: quadrature_net(4, 4, 64), "use sobol_net"),
  "no power": (lambda: sobol_net(1, 1, 1000), "power of two"),
  "neurons": (lambda: sobol_net(1, 1, True), "neurons=True"),
  "many axes": (lambda: sobol_net(30000, 1, 4), "use random_net"),
  "seed": (lambda: sobol_net(1, 1, 4, seed=-1), "seed=-1"),
  "named seed": (lambda: random_net(1, 1, 4, seed="a"), "seed='a'"),
  "width": (lambda: random_net(1, 1, 0), "width=0"),
  "step inputs": (
    lambda: one_hidden_step(random_net(2, 1, 4), [[1.0]], 0, square, 0.1, jnp.tanh),
    r"\[B, 2\]",
  ),
  "step rate": (
    lambda: one_hidden_step(random_net(1, 1, 4), [[1.0]], 0, square, None, jnp.tanh),
    "learning_rate=None",
  ),
  "outputs": (lambda: one_hidden_outputs(random_net(2, 1, 4), [1.0], jnp.tanh), "inputs"),
  "kernel": (lambda: one_hidden_kernel(random_net(2, 1, 4), [[1]], jnp.tanh), "inputs"),
}


@pytest.mark.parametrize("name", BAD_NETS)
def test_bad_nets(name):
  make, words = BAD_NETS[name]
  with pytest.raises(DepthMupError, match=words):
    make()
