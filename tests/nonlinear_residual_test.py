"""The nonlinear Depth-muP limit against nets, against the linear one, and its ODE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib import finite_residual
from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  infinite_depth,
  linear_residual,
  nonlinear_residual,
  residual_ode,
)
from flax_depthmup.limits.gaussian_duals import gaussian_duals
from flax_depthmup.limits.nonlinear_residual import NonlinearLaw
from flax_depthmup.limits.residual_training import Layer


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def shifted_sine(z):
  """Smooth, and neither odd nor even."""
  return jnp.sin(z + 0.7)


#: Name -> what the limit takes, what a net takes.
PHI = {
  "tanh": (jnp.tanh, jnp.tanh),
  "shifted sine": (shifted_sine, shifted_sine),
  "relu": ("relu", jax.nn.relu),
  "abs": ("abs", jnp.abs),
}


def data(steps=5, batch=1, d_in=1, seed=3):
  rng = np.random.default_rng(seed)
  signs = np.sign(rng.normal(size=(steps, batch, d_in))) / d_in**0.5
  return signs, rng.normal(size=(steps, batch, 1))


def square(f, y):
  return (f - y) / len(f)


def limit(phi, x, y, depth=64, **fields):
  def at(layers):
    return nonlinear_residual(x, y, phi, depth=layers, loss_derivative=square, **fields)

  return infinite_depth(at, depth=depth, positions=(0, 0.5, 1))


def nets(phi, x, y, depth, width, seeds, eta=1.0):
  """[seeds, values] of float32 nets: outputs, and the last row of the last kernel."""
  single = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  fields = {"width": width, "depth": depth, "phi": phi, "loss_derivative": square}

  def run(seed):
    key, scale = jax.random.key(seed), depth**-0.5
    net = finite_residual.train(key, *single, scale, eta * scale, layers=(depth,), **fields)
    return jnp.concatenate([net.outputs.ravel(), net.kernel[0, -1]])

  return np.stack([np.asarray(run(seed), float) for seed in range(seeds)])


def values(found):
  return np.concatenate([found.outputs.value.ravel(), found.forward_kernel.value[-1, -1]])


def test_the_identity_is_the_linear_limit():
  x, y = data(4, 2, 3)
  fields = {"depth": 8, "loss_derivative": square, "learning_rate": 0.7}
  ours = nonlinear_residual(x, y, "identity", branch_multiplier=1.2, **fields)
  linear = linear_residual(x, y, branch_multiplier=1.2, **fields)
  for name in ("outputs", "forward_kernel", "backward_kernel"):
    np.testing.assert_allclose(getattr(ours, name), getattr(linear, name), atol=1e-9)


def test_a_smooth_identity_is_the_linear_limit():
  """Hermite coefficients instead of closed forms."""
  x, y = data(4, 2, 3)
  fields = {"depth": 8, "loss_derivative": square}
  ours = nonlinear_residual(x, y, lambda z: 1.0 * z, **fields)
  linear = linear_residual(x, y, **fields)
  np.testing.assert_allclose(ours.forward_kernel, linear.forward_kernel, atol=1e-9)


def test_nets_follow_it_and_not_the_form_without_curvature():
  """tanh, L = 64, n = 256, 16 seeds: standard errors are below 0.02 at the fourth step,

  and the O(1/L) of this depth below 0.02; the form without curvature is 0.087 away.
  """
  x, y = data()
  mean = nets(jnp.tanh, x, y, 64, 256, 16).mean(0)[:5]
  fields = {"depth": 64, "loss_derivative": square}
  ours, flat = (
    nonlinear_residual(x, y, jnp.tanh, curvature=c, **fields).outputs.ravel()
    for c in (True, False)
  )
  assert abs(flat[3] - ours[3]) > 0.08
  assert abs(mean[3] - ours[3]) < 0.035
  assert abs(mean[4] - ours[4]) < 0.035
  assert np.abs(mean - ours).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "steps", "seed", "eta", "flat"),
  [
    ("tanh", 5, 3, 1.0, 6),
    ("shifted sine", 4, 1, 2.0, 5),
    ("abs", 5, 3, 1.0, 4),
    ("relu", 5, 3, 1.0, 0),
  ],
)
def test_nets_of_every_kind_follow_it(name, steps, seed, eta, flat):
  """n = 512, 24 seeds, L = 64 and 128 extrapolated to infinite depth.

  Outputs and kernel are within 4 standard errors (1.3 were measured, so that it does not
  flake), and somewhere more than `flat` from the form without curvature, whose
  distances were 14.9, 9.4, 6.3; relu cannot tell (2.7).
  """
  phi, net = PHI[name]
  x, y = data(steps, seed=seed)
  half, whole = (nets(net, x, y, depth, 512, 24, eta) for depth in (64, 128))
  mean = 2 * whole.mean(0) - half.mean(0)
  error = np.hypot(2 * whole.std(0), half.std(0)) / 24**0.5
  ours, without = (
    values(limit(phi, x, y, learning_rate=eta, curvature=c)) for c in (True, False)
  )
  assert (np.abs(mean - ours) < 4 * error).all()
  assert (np.abs(mean - without) / error).max() > flat


@pytest.mark.parametrize(
  "name", ["abs", *(pytest.param(n, marks=pytest.mark.slow) for n in PHI if n != "abs")]
)
def test_depth_is_reached_as_one_over_l(name):
  x, y = data(4, 1)
  found = limit(PHI[name][0], x, y, 32)
  gaps = np.abs(np.diff(found.outputs.by_depth, axis=0)).max(axis=(1, 2, 3))
  assert np.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.15)
  assert found.outputs.error < 1e-3


@pytest.mark.parametrize(
  "phi",
  [pytest.param("abs", marks=pytest.mark.slow), lambda z: jnp.tanh(z)],
  ids=["abs", "tanh"],
)
def test_it_is_jittable_and_differentiable(phi):
  """The activation is a function that no call before has seen: its check is traced too."""
  x, y = data(3)
  fields = {"depth": 8, "loss_derivative": square}

  @jax.jit
  def last(eta):
    return nonlinear_residual(x, y, phi, learning_rate=eta, **fields).outputs[-1, 0, 0]

  step = 1e-5
  slope = (last(0.7 + step) - last(0.7 - step)) / (2 * step)
  assert float(jax.grad(last)(0.7)) == pytest.approx(float(slope), rel=1e-6)


def test_kinks_and_inputs_that_come_again_in_float32():
  """1 - c^2 of one input at two steps is rounding, and phi'' diverges there."""
  rng = np.random.default_rng(0)
  x, y = (
    np.tile(rng.normal(size=(1, 3, 4)), (8, 1, 1)),
    np.tile(rng.normal(size=(1, 3, 1)), (8, 1, 1)),
  )
  fields = {"depth": 16, "loss_derivative": square, "learning_rate": 0.5}
  goal = nonlinear_residual(x, y, "abs", **fields)
  with jax.enable_x64(False):
    found = nonlinear_residual(x, y, "abs", **fields)
  assert found.outputs.dtype == np.float32
  np.testing.assert_allclose(found.outputs, goal.outputs, atol=1e-6)
  np.testing.assert_allclose(found.backward_kernel, goal.backward_kernel, atol=1e-5)


@pytest.mark.slow
def test_nets_with_batches_and_several_outputs_follow_it():
  """sin(z + 0.7), B = 3, d_out = 2, n = 384, 24 seeds, L = 64 and 128 extrapolated."""
  rng = np.random.default_rng(5)
  x, y = rng.normal(size=(3, 3, 2)) / 2**0.5, rng.normal(size=(3, 3, 2))
  single = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  fields = {"width": 384, "phi": shifted_sine, "loss_derivative": square, "d_out": 2}

  def outputs(depth):
    scale = depth**-0.5
    runs = [
      finite_residual.train(
        jax.random.key(s), *single, scale, 3 * scale, depth=depth, **fields
      ).outputs
      for s in range(24)
    ]
    return np.asarray(runs, float)

  half, whole = outputs(64), outputs(128)
  mean = 2 * whole.mean(0) - half.mean(0)
  error = np.hypot(2 * whole.std(0), half.std(0)) / 24**0.5
  ours = limit(shifted_sine, x, y, learning_rate=3.0, d_out=2).outputs.value
  assert (np.abs(mean - ours) < 4 * error).all()


def test_the_order_of_a_batch_does_not_matter():
  x, y = data(3, 3, 2)
  fields = {"depth": 6, "loss_derivative": square}
  found = nonlinear_residual(x, y, "relu", **fields).outputs
  turned = nonlinear_residual(x[:, ::-1], y[:, ::-1], "relu", **fields).outputs
  np.testing.assert_allclose(found[:, ::-1], turned, atol=1e-9)


@pytest.mark.slow
def test_a_batch_of_two_copies_is_one_sample():
  x, y = data(4, 1, 2)
  fields = {"depth": 6, "loss_derivative": square}
  one = nonlinear_residual(x, y, jnp.tanh, **fields).outputs
  two = nonlinear_residual(np.repeat(x, 2, 1), np.repeat(y, 2, 1), jnp.tanh, **fields)
  np.testing.assert_allclose(two.outputs[:, 1:], one, atol=1e-8)


@pytest.mark.slow
def test_the_ode_of_a_smooth_net_is_reached_by_its_law():
  """alpha = 3/4: v L = a^2 L^(-1/2) is the noise; the law at this v tends to v = 0."""
  x, y = data(4, 1)
  fields = {"alpha": 0.75, "loss_derivative": square}

  def ode(depth):
    return residual_ode(x, y, jnp.tanh, depth=depth, **fields)

  found = infinite_depth(ode, depth=32)
  gaps = np.abs(np.diff(found.outputs.by_depth, axis=0)).max(axis=(1, 2, 3))
  assert np.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.15)
  # No randomness of the hidden layers: x stays in the span of U and V.
  run = ode(64)
  spanned = run.forward_start[-1] @ run.forward_start[-1].T
  np.testing.assert_allclose(run.forward_kernel[-1], spanned, atol=1e-9)


X, Y = data(3, 2)
WRONG = {
  "activation": ({"activation": "swish"}, "activation='swish' is unknown: expected one of"),
  "kink": ({"activation": jax.nn.relu}, "'relu' and 'abs' have closed forms"),
  "kinked slope": ({"activation": jax.nn.elu}, "activation: .*elu"),
  "wide": ({"inputs": 5 * X}, "not smooth enough on the scale of a feature's variance"),
  "number": ({"activation": 3}, "activation=3 is unknown"),
  "zero": ({"inputs": X * [[[1], [0]]]}, "input 1 of step 0 is zero"),
  "depth": ({"depth": 1.5}, "depth=1.5"),
  "diverges": ({"learning_rate": 1e200}, "not finite from step"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(name):
  given, words = WRONG[name]
  given = {"inputs": X, "activation": jnp.tanh, "depth": 4, **given}
  x, phi = given.pop("inputs"), given.pop("activation")
  with pytest.raises(DepthMupError, match=words):
    nonlinear_residual(x, Y, phi, loss_derivative=square, **given)


@pytest.mark.parametrize(
  ("alpha", "phi", "words"),
  [
    (0.5, "identity", "alpha=0.5 has no ODE for its limit: expected 1/2 < alpha <= 1"),
    ("5/4", "identity", "has no ODE"),
    (1, jnp.tanh, "alpha=1 with a nonlinear activation"),
  ],
)
def test_points_without_an_ode(alpha, phi, words):
  with pytest.raises(DepthMupError, match=words):
    residual_ode(X, Y, phi, alpha=alpha, depth=4, loss_derivative=square)


def test_the_backward_law_obeys_steins_identity():
  """E C_0 = E[z_s d dh_t/d eps], where y_t = e_t + eps S G phi and h_t = z_t + eps b dh.

  The law is that derivative: what W^T shares with W to first order in S and b. 2 10^6
  draws; standard errors are below 3e-3, and every term of the law is above 0.05.
  """
  rng, draws, n = np.random.default_rng(0), 2 * 10**6, 3
  root0 = np.tril(rng.normal(size=(n, n)) * 0.5) + np.eye(n)
  root1 = np.tril(rng.normal(size=(n, n)) * 0.5) + np.eye(n)
  c0, c1 = root0 @ root0.T, root1 @ root1.T
  shared, moved = np.tril(rng.normal(size=(n, n))), np.tril(rng.normal(size=(n, n)), -1)
  earlier, not_later = np.tril(np.ones((n, n)), -1), np.tril(np.ones((n, n)))
  layer = Layer(jnp.asarray(c1), jnp.asarray(shared), 1.0, 0.0, earlier, not_later)
  pairs = gaussian_duals(shifted_sine)(jnp.asarray(c0))
  e, noise = NonlinearLaw(shifted_sine, True).backward(layer, (pairs, moved))
  z, own = root0 @ rng.normal(size=(n, draws)), root1 @ rng.normal(size=(n, draws))
  phi, slope, bend = np.sin(z + 0.7), np.cos(z + 0.7), -np.sin(z + 0.7)
  phi -= phi.mean(1, keepdims=True)
  change = slope * (shared @ phi) + bend * own * (moved @ (slope * own))
  np.testing.assert_allclose(e @ c0, change @ z.T / draws, atol=0.02)
  np.testing.assert_allclose(noise, (slope * own) @ (slope * own).T / draws, atol=0.02)
