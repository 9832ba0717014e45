"""The linear net of one hidden layer: its limit against numpy, finite nets and a figure."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  LinearNet,
  finite_linear_net,
  infinite_linear_net,
  linear_features,
  linear_gradient,
  linear_outputs,
  linear_step,
  linear_update,
  sample_linear_net,
)

D, D_OUT, BATCH, STEPS = 6, 3, 4, 10
HYPER = {"lr": 0.2, "clip": 0.5, "weight_decay": 0.02, "bias_multiplier": 0.7}


def squared(f, y):
  return f - y


def softmax(f, y):
  return (jax.nn.softmax(f) - y) / f.shape[0]


def batches(seed=0):
  """Inputs [STEPS, BATCH, D] and one-hot labels."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(STEPS, BATCH, D))
  return x, np.eye(D_OUT)[rng.integers(D_OUT, size=(STEPS, BATCH))]


def trained(net, x, y):
  def step(net, batch):
    return linear_step(net, *batch, loss_derivative=softmax, **HYPER), None

  return jax.lax.scan(step, net, (jnp.asarray(x), jnp.asarray(y)))[0]


# Goldens: Tensor Programs IV, Figure 4, depth 1, phi = x: loss of the limit by step.
SIGNS = "++-+--+--++--+++-+-+"
LOSSES = [
  *(0.5, 0.4041, 0.7122, 0.4332, 0.6748, 0.5462, 0.5562, 0.5461, 0.4488, 0.6512),
  *(0.5342, 0.5616, 0.4654, 0.6286, 0.5210, 0.4348, 0.6601, 0.4536, 0.6365, 0.4687),
]


def test_the_losses_of_the_papers_figure():
  net, found = infinite_linear_net(1, 1, 1.0, 0.1), []
  x = jnp.ones((1, 1))
  for sign in SIGNS:
    y = jnp.full((1, 1), 1.0 if sign == "+" else -1.0)
    found.append(float(jnp.sum((linear_outputs(net, x) - y) ** 2) / 2))
    net = linear_step(net, x, y, lr=0.1, loss_derivative=squared)
  # The figure's values have four digits; float32 adds 1e-6.
  np.testing.assert_allclose(found, LOSSES, atol=5.5e-5)


def by_blocks(x, y, sigma_u, sigma_v, *, lr, clip, weight_decay, bias_multiplier):
  """Outputs after each step by the recursion of the four blocks, in float64.

  f = (A C + B D) x + alpha (B p + A q), with (A, B), (C, D), (q, p) updated from the
  blocks' own gradients.
  """
  a, b = sigma_v * np.eye(D_OUT), np.zeros((D_OUT, D))
  c, d = np.zeros((D_OUT, D)), sigma_u * np.eye(D)
  q, p = np.zeros(D_OUT), np.zeros(D)
  outputs = []
  for x_t, y_t in zip(x, y, strict=True):
    upper = x_t @ d.T + bias_multiplier * p
    lower = x_t @ c.T + bias_multiplier * q
    f = upper @ b.T + lower @ a.T
    outputs.append(f)
    e = np.exp(f - f.max(axis=1, keepdims=True))
    chi = (e / e.sum(axis=1, keepdims=True) - y_t) / len(x_t)
    grads = [chi.T @ lower, chi.T @ upper, (chi @ a).T @ x_t, (chi @ b).T @ x_t]
    grads += [bias_multiplier * (chi @ w).sum(axis=0) for w in (a, b)]
    rho = min(1.0, clip / math.sqrt(sum((g**2).sum() for g in grads)))
    a, b, c, d, q, p = (
      w - lr * (rho * g + weight_decay * w)
      for w, g in zip((a, b, c, d, q, p), grads, strict=True)
    )
  return np.array(outputs), LinearNet(np.vstack([d, c]), np.hstack([b, a]), np.append(p, q))


def test_the_limit_is_the_recursion_of_the_blocks():
  x, y = batches()
  expected, end = by_blocks(x, y, 1.3, 0.5, **HYPER)
  with jax.enable_x64(True):
    net, found = infinite_linear_net(D, D_OUT, 1.3, 0.5), []
    for x_t, y_t in zip(x, y, strict=True):
      found.append(linear_outputs(net, x_t, HYPER["bias_multiplier"]))
      net = linear_step(net, x_t, y_t, loss_derivative=softmax, **HYPER)
    np.testing.assert_allclose(np.array(found), expected, atol=1e-12)
    for leaf, oracle in zip(net, end, strict=True):
      np.testing.assert_allclose(leaf, oracle, atol=1e-12)


def test_a_readout_of_zero_needs_no_coefficients_of_its_own():
  x, y = batches()
  short = trained(infinite_linear_net(D, D_OUT, 1.0, 0.0), x, y)
  assert short.u.shape == (D, D)
  whole = LinearNet(
    jnp.eye(D + D_OUT, D), jnp.zeros((D_OUT, D + D_OUT)), jnp.zeros(D + D_OUT)
  )
  whole = trained(whole, x, y)
  for half in (whole.u[D:], whole.v[:, D:], whole.bias[D:]):
    np.testing.assert_array_equal(half, 0.0)
  for a, b in zip(short, (whole.u[:D], whole.v[:, :D], whole.bias[:D]), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert float(jnp.abs(short.bias).max()) > 1e-3


PROBES = np.random.default_rng(5).normal(size=(7, D)).astype(np.float32)


def measured(net):
  """Outputs and inner products of features."""
  alpha = HYPER["bias_multiplier"]
  features = linear_features(net, PROBES, alpha)
  return linear_outputs(net, PROBES, alpha), features @ features.T


def test_finite_nets_tend_to_the_limit():
  """Slope -1/2 over five doublings; that of 64 seeds has an error of about 0.02."""
  x, y = batches()
  limit = measured(trained(infinite_linear_net(D, D_OUT, 1.0, 0.5), x, y))
  widths, rng, seeds = [32 * 2**i for i in range(6)], np.random.default_rng(1), 64

  def start(width):
    """Neurons without weights stay so: of one size, one program trains all widths."""
    u, v = np.zeros((seeds, widths[-1], D)), np.zeros((seeds, D_OUT, widths[-1]))
    u[:, :width] = rng.normal(size=(seeds, width, D)) / width**0.5
    v[:, :, :width] = 0.5 * rng.normal(size=(seeds, D_OUT, width)) / width**0.5
    return LinearNet(*map(jnp.asarray, (u, v, np.zeros((seeds, widths[-1])))))

  @jax.jit
  def errors(nets):
    found = jax.vmap(lambda net: measured(trained(net, x, y)))(nets)
    pairs = zip(found, limit, strict=True)
    return [jnp.sqrt(jnp.mean((a - b[None]) ** 2)) for a, b in pairs]

  for found in np.transpose([errors(start(width)) for width in widths]):
    slope = np.polyfit(np.log2(widths), np.log2(found), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_samples_of_the_limit_have_the_law_of_finite_nets():
  width, count = 3, 20_000
  net = infinite_linear_net(2, 2, 1.5, 0.5)

  def flat(net):
    return jnp.concatenate([net.u.ravel(), net.v.ravel(), net.bias])

  keys = jax.random.split(jax.random.key(0), count)

  @jax.jit
  @jax.vmap
  def both(key):
    drawn = finite_linear_net(key, width, 2, 2, 1.5, 0.5)
    return flat(sample_linear_net(key, net, width)), flat(drawn)

  variances = np.array([1.5**2 / width] * 6 + [0.5**2 / width] * 6 + [0.0] * width)
  for values in map(np.asarray, both(keys)):
    # Entries of the covariance have errors of at most sqrt(2/20000) = 0.01 of a variance.
    bound = 0.06 * np.sqrt(variances[:, None] * variances) + 1e-9
    assert (np.abs(np.cov(values.T) - np.diag(variances)) < bound).all()
    assert (np.abs(values.mean(axis=0)) < 0.05 * np.sqrt(variances) + 1e-9).all()
    fourth = (values[:, :12] ** 4).mean(axis=0) / variances[:12] ** 2
    np.testing.assert_allclose(fourth, 3.0, atol=0.4)  # Gaussian, error 0.07


def test_samples_of_a_trained_limit_compute_what_it_does():
  x, y = batches()
  net = trained(infinite_linear_net(D, D_OUT, 1.0, 0.5), x, y)
  wanted = linear_outputs(net, PROBES, 0.7)
  sample = sample_linear_net(jax.random.key(3), net, 40_000)
  assert sample.u.shape == (40_000, D)
  # Each output has an error of about |h| |v| / sqrt(40000) = 0.01.
  np.testing.assert_allclose(linear_outputs(sample, PROBES, 0.7), wanted, atol=0.05)
  assert float(jnp.abs(wanted).max()) > 0.3


def test_the_gradient_is_that_of_the_loss():
  x, y = (a[0] for a in batches())
  rng = np.random.default_rng(2)
  net = LinearNet(*(jnp.asarray(rng.normal(size=s)) for s in ((17, D), (D_OUT, 17), 17)))

  def loss(net):
    f = linear_outputs(net, x, 0.7)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(f) * y, axis=1))

  chi = softmax(linear_outputs(net, x, 0.7), y)
  for found, wanted in zip(
    linear_gradient(net, x, chi, 0.7), jax.jit(jax.grad(loss))(net), strict=True
  ):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_clipping_bounds_all_of_the_gradient_together():
  net = LinearNet(*(jnp.zeros(s) for s in ((2, 2), (1, 2), (2,))))
  gradient = LinearNet(jnp.full((2, 2), 1.0), jnp.full((1, 2), 2.0), jnp.full(2, -0.5))
  norm = math.sqrt(4 + 8 + 0.5)
  for clip, rho in ((None, 1.0), (1.0, 1.0 / norm), (100.0, 1.0)):
    moved = linear_update(net, gradient, lr=2.0, clip=clip)
    for w, g in zip(moved, gradient, strict=True):
      np.testing.assert_allclose(w, -2.0 * rho * g, rtol=1e-6)
  still = linear_update(net, net, lr=1.0, clip=0.5)  # a gradient of zero
  assert all(np.isfinite(w).all() for w in still)


def wrong(d=2, d_out=1, sigma_u=1.0, sigma_v=1.0, width=3, clip=None, x=None, chi=None):
  infinite_linear_net(d, d_out, sigma_u, sigma_v)
  net = finite_linear_net(jax.random.key(0), width, d, d_out, sigma_u, sigma_v)
  x = jnp.ones((4, 2)) if x is None else x
  linear_outputs(net, x)
  gradient = linear_gradient(net, x, jnp.ones((4, 1)) if chi is None else chi)
  linear_update(net, gradient, lr=0.1, clip=clip)


BAD = [
  ({"d": 0}, "d=0"),
  ({"d_out": 1.5}, "d_out=1.5"),
  ({"sigma_u": -1.0}, "sigma_u=-1.0"),
  ({"sigma_v": math.nan}, "sigma_v=nan"),
  ({"width": 0}, "width=0"),
  ({"clip": 0.0}, "clip=0"),
  ({"clip": -1.0}, "clip=-1.0"),
  ({"x": np.ones((4, 3))}, r"x of shape \(4, 3\): expected \[B, 2\]"),
  ({"x": np.ones(2)}, r"x of shape \(2,\)"),
  ({"chi": np.ones((4, 2))}, r"shape \(4, 2\): expected \(4, 1\)"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=lambda v: str(v)[:30])
def test_wrong_input(values, words):
  with pytest.raises(DepthMupError, match=words):
    wrong(**values)


def test_samples_need_a_width():
  with pytest.raises(DepthMupError, match="width=0"):
    sample_linear_net(jax.random.key(0), infinite_linear_net(1, 1, 1.0, 1.0), 0)


def test_lists_are_arrays():
  net, x, chi = infinite_linear_net(2, 1, 1.0, 1.0), [[1.0, 2.0]], [[1.0]]
  found = linear_gradient(net, x, chi, 0.7)
  for a, b in zip(found, linear_gradient(net, *map(jnp.array, (x, chi)), 0.7), strict=True):
    np.testing.assert_array_equal(a, b)
  moved = linear_step(net, x, jnp.ones((1, 1)), lr=0.5, loss_derivative=squared)
  # f = 0 and chi = -1, so that v moves by eta h(x) = eta (1, 2, 0), u by eta v^T x^T.
  np.testing.assert_allclose(moved.v, [[0.5, 1.0, 1.0]], atol=1e-6)
  np.testing.assert_allclose(moved.u, [[1, 0], [0, 1], [0.5, 1.0]], atol=1e-6)
  half = {"lr": np.array(0.5), "weight_decay": jnp.asarray(0.0)}
  again = linear_step(net, x, jnp.ones((1, 1)), loss_derivative=squared, **half)
  np.testing.assert_array_equal(again.v, moved.v)
  narrow = linear_outputs(net, jnp.ones((1, 2), jnp.bfloat16))
  assert narrow.shape == (1, 1)


BAD_STEPS = [
  ({"loss_derivative": 3}, "loss_derivative=3: expected a function"),
  ({"loss_derivative": lambda f, y: None}, "the derivative of the loss: found NoneType"),
  ({"loss_derivative": lambda f, y: f * 1j}, "the derivative of the loss: found complex64"),
  ({"lr": "a"}, "lr='a'"),
  ({"lr": math.nan}, "lr=nan"),
  ({"lr": -0.1}, "lr=-0.1"),
  ({"lr": np.ones(2)}, "lr=array"),
  ({"weight_decay": None}, "weight_decay=None"),
  ({"weight_decay": math.inf}, "weight_decay=inf"),
  ({"x": "words"}, "x: found str"),
  ({"x": [[1.0], [1.0, 2.0]]}, "x: found list"),
]


@pytest.mark.parametrize(("values", "words"), BAD_STEPS, ids=lambda v: str(v)[:30])
def test_wrong_steps(values, words):
  arguments = {"x": jnp.ones((1, 2)), "y": 1.0, "lr": 0.1, "loss_derivative": squared}
  with pytest.raises(DepthMupError, match=words):
    linear_step(infinite_linear_net(2, 1, 1.0, 1.0), **arguments | values)
