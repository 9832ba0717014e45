"""How far blocks and nets are from linear: closed forms, and slopes over depth.

The slopes: after one update by the sign of the gradient at rates eta/n L^(alpha - 1),
the ratio of a block of depth k = 2 falls as L^(alpha - 1): what it loses is the product
of two updates, over one of them (TP-VI on layerwise linearization; CompleteP).
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import layerwise_linearization, linearization_distance
from tests.branch_nets import KEY, Blind, Function, P, S, Twice, X, block, drawn


def moved(params, size=0.1, seed=5):
  """An update of entries of that size."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda w: jnp.asarray(rng.normal(0, size, w.shape), w.dtype), params)


@pytest.mark.parametrize("remat", [False, True])
def test_the_product_of_two_updates(remat):
  """F(W) = x W1 W2: what is left is x dW1 dW2, at the inputs of the unmoved net."""
  fields = {"block_depth": 2, "activation": "identity", "mean_subtraction": False}
  model = dmup.ResidualMLP(8, 4, 3, P, remat=remat, **fields)
  params = drawn(model, X)
  update = moved(params)
  found = layerwise_linearization(model, params, update, X)
  assert list(found) == ["stack/block"]
  x = np.asarray(X @ params["input"]["kernel"], np.float64)
  (w, dw) = (t["stack"]["block"] for t in (params, update))
  for i in range(4):
    w1, w2, d1, d2 = (t[f"dense_{j}"]["kernel"][i] for t in (w, dw) for j in (0, 1))
    linear = x @ w1 @ d2 + x @ d1 @ w2
    ratio = np.linalg.norm(x @ d1 @ d2) / np.linalg.norm(linear)
    assert found["stack/block"].ratio[i] == pytest.approx(ratio, rel=1e-4)
    assert found["stack/block"].rounding[i] == pytest.approx(
      2**-23 * np.linalg.norm(x @ w1 @ w2) / np.linalg.norm(linear), rel=1e-4
    )
    x = x + 2**-0.5 * x @ w1 @ w2


def test_a_linear_branch():
  """Rounding alone: about as large as it is said to be, and gone in float64."""
  fields = {"activation": "identity", "mean_subtraction": False}
  model = dmup.ResidualMLP(64, 4, 3, P, **fields)
  params = drawn(model, X)
  update = moved(params, 1e-3)
  found = layerwise_linearization(model, params, update, X)["stack/block"]
  assert (found.ratio > 0).all()
  assert (found.ratio < 3 * found.rounding).all()
  assert found.rounding.max() < 1e-4
  with jax.enable_x64(True):
    wide = [jax.tree.map(lambda w: w.astype(jnp.float64), t) for t in (params, update)]
    exact = layerwise_linearization(model, *wide, X.astype(jnp.float64))["stack/block"]
  assert (exact.ratio < 1e-10).all()
  np.testing.assert_allclose(exact.rounding, 2.0**-29 * found.rounding, rtol=1e-3)


DEPTHS = (4, 64)


def ratios(alpha, gamma, k):
  """log2 of the mean ratio of a block, by depth: tanh behind RMS-norm, width 64."""
  found = []
  for depth in DEPTHS:
    p = dmup.depthwise(alpha=alpha, gamma=gamma, base_width=64, base_depth=4)
    model = dmup.ResidualMLP(
      64,
      depth,
      1,
      p,
      block_depth=k,
      activation="tanh",
      norm="rms_norm",
      train_boundary=False,
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 64)), jnp.float32)
    params, scales = drawn(model, x), dmup.abstract_init(model, KEY, x)[1]
    inner = dmup.scale_by_parametrization(optax.scale_by_sign(), scales)
    tx = optax.chain(inner, optax.scale_by_learning_rate(0.5 / 64))

    def loss_of(params, model=model, x=x):
      return jnp.mean((model.apply({"params": params}, x) - 1) ** 2)

    grads = jax.jit(jax.grad(loss_of))(params)
    update, _ = tx.update(grads, tx.init(params), params)
    ratio = layerwise_linearization(model, params, update, x)["stack/block"]
    assert (ratio.ratio > 100 * ratio.rounding).all()
    found.append(np.log2(ratio.ratio.mean()))
  return found


@pytest.mark.parametrize(
  ("alpha", "gamma", "k", "slope"),
  [
    ("1/2", "1/2", 2, -0.5),
    (1, 0, 2, 0),
    # Without the update factor every alpha is flat.
    pytest.param("1/2", 0, 2, 0, marks=pytest.mark.slow),
    # By phi's curvature alone.
    pytest.param("1/2", "1/2", 1, -0.5, marks=pytest.mark.slow),
  ],
)
def test_slopes_over_depth(alpha, gamma, k, slope):
  found = np.polyfit(np.log2(DEPTHS), ratios(alpha, gamma, k), 1)[0]
  assert found == pytest.approx(slope, abs=0.1)


class Loop(nn.Module):
  """A loop of branches, one of them without parameters."""

  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = dmup.Residual(Product(), 3, S)(x)
      x = dmup.Residual(Square(), 3, S)(x)
    return x


class Product(nn.Module):
  """x W1 W2."""

  @nn.compact
  def __call__(self, x):
    x = block()(x)
    return block()(x)


class Square(nn.Module):
  """Without parameters."""

  def __call__(self, x):
    return 0.1 * x**2


def test_a_loop_of_residuals():
  model = Loop()
  params = drawn(model, X)
  update = moved(params)
  found = layerwise_linearization(model, params, update, X)
  assert list(found) == ["Product"]
  x = X
  for i in range(2):
    (w1, w2), (d1, d2) = (
      [t[f"Product_{i}"][f"Dense_{j}"]["kernel"] for j in (0, 1)] for t in (params, update)
    )
    ratio = jnp.linalg.norm(x @ d1 @ d2) / jnp.linalg.norm(x @ w1 @ d2 + x @ d1 @ w2)
    assert found["Product"].ratio[i] == pytest.approx(float(ratio), rel=1e-3)
    x = x + x @ w1 @ w2
    x = x + 0.1 * x**2


def test_transformers():
  sizes = dmup.axis_sizes(width=8, heads=2, mlp=16)
  p = dmup.complete_p(base_width=sizes, base_depth=2)
  tokens = jnp.asarray([[1, 2, 0, 4, 3]])
  model = dmup.Transformer(8, 3, 7, 2, p, mlp=16, norm="layer_norm", remat=True)
  params = drawn(model, tokens)
  found = layerwise_linearization(model, params, moved(params), tokens)
  shapes = {name: one.ratio.shape for name, one in found.items()}
  assert shapes == {"layers/attention": (3,), "layers/mlp": (3,)}
  assert all((one.ratio > 1000 * one.rounding).all() for one in found.values())


def test_lower_precision_and_tracing():
  model = dmup.ResidualMLP(8, 2, 3, P, block_depth=2, dtype=jnp.bfloat16)
  params = drawn(model, X)
  update = moved(params)
  measure = jax.jit(lambda u, x: layerwise_linearization(model, params, u, x))
  found = measure(update, X)["stack/block"]
  fine = layerwise_linearization(model.clone(dtype=None), params, update, X)["stack/block"]
  np.testing.assert_allclose(found.rounding, 2.0**16 * fine.rounding, rtol=0.05)
  still = measure(jax.tree.map(jnp.zeros_like, params), X)["stack/block"]
  assert not jnp.isfinite(still.ratio).any()


def test_functions_of_any_tree():
  """f(a, b) = (a b, a): what is left is da db, over (a db + b da, da)."""
  theta = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, -1.0])}
  update = {"a": jnp.array([0.1, 0.0]), "b": jnp.array([0.2, 0.5])}

  def apply(params, scale):
    return scale * params["a"] * params["b"], params["a"], jnp.arange(2)

  found = linearization_distance(apply, theta, update, 2.0)
  moves = np.array([2 * 0.5, 2 * 1.0, 0.1, 0.0])
  assert found.ratio == pytest.approx(2 * 0.02 / np.linalg.norm(moves), rel=1e-4)
  still = np.linalg.norm([6.0, -4.0, 1.0, 2.0])
  assert found.rounding == pytest.approx(2**-23 * still / np.linalg.norm(moves))
  tiny = jax.tree.map(lambda x: 1e-30 * x, (theta, update))  # squares underflow
  scaled = linearization_distance(lambda p: p["a"] * 1e-5, *tiny)
  assert scaled.ratio < 1e-5


def test_a_whole_net_is_not_linear_though_its_blocks_are():
  """Linear blocks of one matrix, all moved at once."""
  model = dmup.ResidualMLP(8, 6, 3, P, activation="identity", mean_subtraction=False)
  params = drawn(model, X)
  update = moved(params)

  def apply(params, x):
    return model.apply({"params": params}, x)

  blocks = layerwise_linearization(model, params, update, X)["stack/block"]
  assert blocks.ratio.max() < 1e-5
  assert linearization_distance(apply, params, update, X).ratio > 0.01


@pytest.mark.parametrize(
  ("model", "change", "words"),
  [
    (block(), {}, "Dense has no residual branch with parameters"),
    (Blind(), {}, 'add variable_axes={"linearization": 0}'),
    (Function(1), {"d0": {}}, "the update of d0/kernel has shape None, the parameter"),
    (Function(1), {"d0": {"kernel": jnp.zeros((3, 8))}}, "has shape (3, 8), the param"),
    (Function(1), {"e": jnp.zeros(3)}, "the update of e has shape (3,), the parameter N"),
    (Function(1), {"d0": {"kernel": jnp.zeros((3, 8, 8))}}, "does not move a block of d0"),
  ],
  ids=range(6),
)
def test_nets_and_updates_that_cannot_be_measured(model, change, words):
  params = drawn(model, X)
  with pytest.raises(DepthMupError, match=re.escape(words)):
    layerwise_linearization(model, params, moved(params) | change, X)


def test_other_wrong_inputs():
  params = {"Dense_0": {"kernel": X.T @ X}}
  with pytest.raises(DepthMupError, match="Dense Dense_0 is called twice in one pass"):
    layerwise_linearization(Twice(), params, params, X)
  with pytest.raises(DepthMupError, match="is no linen module"):
    layerwise_linearization(Twice, params, params, X)
  with pytest.raises(DepthMupError, match="apply=3 is no function"):
    linearization_distance(3, params, params)
  with pytest.raises(DepthMupError, match="apply gives no arrays of floats"):
    linearization_distance(lambda p: jnp.arange(3), params, params)
  with pytest.raises(DepthMupError, match="does not move the outputs"):
    linearization_distance(lambda p: jnp.ones(3), params, params)
  with pytest.raises(DepthMupError, match="the update of Dense_0/kernel has shape None"):
    linearization_distance(lambda p: jnp.ones(3), params, {})
