"""Cosines between neighbouring blocks: theory at initialization, and by hand.

Tensor Programs VI on the nonlinearity: with one matrix in a branch, h^l is nearly
independent of h^(l+1), so that cos(delta h^l, delta h^(l+1)) is E[phi']^2 / E[phi'^2]
times cos(delta x^l, delta x^(l+1)) = (1 + b^2 E[phi'^2])^(-1/2), b the multiplier.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import gradient_diversity
from tests.branch_nets import Blind, Function, P, S, Twice, X, block, drawn

WIDTH, DEPTH = 256, 24


@pytest.mark.parametrize(
  ("fields", "mean", "square"),
  [
    ({"activation": "relu"}, 1 / 2, 1 / 2),
    ({"activation": "relu", "mean_subtraction": False}, 1 / 2, 1 / 2),
    ({"activation": "abs"}, 0, 1),
    ({"activation": "identity", "mean_subtraction": False}, 1, 1),
    ({"activation": "identity"}, 1, 1),
    ({"activation": "relu", "pre_nonlinearity": True}, None, 1 / 2),
    ({"activation": "abs", "pre_nonlinearity": True}, None, 1),
  ],
  ids=str,
)
def test_theory_at_initialization(fields, mean, square):
  """Of width 256, 16 inputs and 23 pairs a cosine scatters by about 0.02."""
  p = dmup.depth_mup(base_width=WIDTH, base_depth=DEPTH)
  b = 0.2
  model = dmup.ResidualMLP(WIDTH, DEPTH, 1, p, block_multiplier=b, **fields)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(16, WIDTH)), jnp.float32)
  found = gradient_diversity(jnp.sum, model, drawn(model, x), x)
  assert list(found) == ["stack/block/dense_0"]
  found = found["stack/block/dense_0"]
  decorrelated = 1 if mean is None else mean**2 / square
  expected = decorrelated / np.sqrt(1 + b**2 * square)
  assert found.cosines.shape == (DEPTH - 1,)
  assert found.mean == pytest.approx(expected, abs=0.02)
  assert found.mean == pytest.approx(found.cosines.mean())
  scatter = found.cosines.std(ddof=1) / np.sqrt(DEPTH - 1)
  assert found.standard_error == pytest.approx(scatter)


def cosines(deltas):
  """[L, examples, features] -> [L - 1]."""
  a, b = deltas[:-1], deltas[1:]
  products = np.sum(a * b, -1)
  return (products / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean(-1)


@pytest.mark.parametrize("remat", [False, True])
def test_by_hand(remat):
  """Two matrices in a branch; the gradients by zeros added in a loop written out."""
  model = dmup.ResidualMLP(8, 4, 3, P, block_depth=2, activation="tanh", remat=remat)
  params = drawn(model, X)
  kernels = params["stack"]["block"]

  def loss_of(y):
    return jnp.sum(y**2)

  def out(zeros):
    x = X @ params["input"]["kernel"]
    for i in range(4):
      h = x
      for name in ("dense_0", "dense_1"):
        h = jnp.tanh(h @ kernels[name]["kernel"][i] + zeros[name][i])
        h = h - h.mean(-1, keepdims=True)
      x = x + 2**-0.5 * h
    return loss_of(x @ params["readout"]["kernel"])

  zeros = dict.fromkeys(("dense_0", "dense_1"), jnp.zeros((4, 3, 8)))
  expected = jax.jit(jax.grad(out))(zeros)
  found = gradient_diversity(loss_of, model, params, X)
  assert set(found) == {"stack/block/dense_0", "stack/block/dense_1"}
  for name, delta in expected.items():
    own = found[f"stack/block/{name}"].cosines
    np.testing.assert_allclose(own, cosines(np.asarray(delta)), rtol=1e-4, atol=1e-5)


class Loop(nn.Module):
  """A loop of Residuals, a layer of linen's own in every second branch."""

  @nn.compact
  def __call__(self, x):
    for _ in range(3):
      x = dmup.Residual(block(), 3, S)(x)
      x = dmup.Residual(nn.Dense(8, use_bias=False), 3, S)(x)
    return x


def test_a_loop_of_residuals():
  """Linear nets: delta h^l is the gradient itself, delta x^l = delta x^(l+1) (1 + W)."""
  model = Loop()
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=(6, 8, 8)) / 3, jnp.float32)
  params = {}
  for i in range(3):
    params[f"Dense_{2 * i}"] = {"kernel": w[2 * i]}
    params[f"Dense_{2 * i + 1}"] = {"kernel": w[2 * i + 1]}
  found = gradient_diversity(lambda y: jnp.sum(y**2), model, params, X)
  assert list(found) == ["Dense"]
  x = X
  for i in range(6):
    x = x + x @ w[i]
  deltas = [2 * x]
  for i in range(5, 0, -1):
    deltas.insert(0, deltas[0] + deltas[0] @ w[i].T)
  expected = cosines(np.asarray(jnp.stack(deltas)))
  np.testing.assert_allclose(found["Dense"].cosines, expected, rtol=1e-4)


def test_transformers_and_resnets():
  sizes = dmup.axis_sizes(width=8, heads=2, mlp=16)
  p = dmup.complete_p(base_width=sizes, base_depth=2)
  tokens = jnp.asarray([[1, 2, 0, 4, 3]])
  model = dmup.Transformer(8, 3, 7, 2, p, mlp=16, remat=True)

  def second_token(logits):  # no gradient at later ones
    return jnp.sum(logits[:, 1, 0])

  found = gradient_diversity(second_token, model, drawn(model, tokens), tokens)
  layers = ("attention/query", "attention/key", "attention/value", "attention/out")
  assert set(found) == {f"layers/{n}" for n in (*layers, "mlp/up", "mlp/down")}
  for one in found.values():
    assert one.cosines.shape == (2,)
    assert np.abs(one.cosines).max() <= 1 + 1e-6
  images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)
  model = dmup.ResNet(8, 5, 3, P, stages=2, patch=1, block_depth=2)
  found = gradient_diversity(jnp.sum, model, drawn(model, images), images)
  assert {n: len(f.cosines) for n, f in found.items()} == {
    "stage_0/block/conv_0": 2,
    "stage_0/block/conv_1": 2,
    "stage_1/block/conv_0": 1,
    "stage_1/block/conv_1": 1,
  }
  assert found["stage_1/block/conv_0"].standard_error is None


STACK = dmup.ResidualStack(block, 3, S)


@pytest.mark.parametrize(
  ("model", "loss", "words"),
  [
    (Loop, jnp.sum, "is no linen module"),
    (block(), jnp.sum, "Dense has no linear layer in a residual branch"),
    (Blind(), jnp.sum, 'add variable_axes={"output_probe": 0}'),
    (Function(1), jnp.sum, None),
    (dmup.ResidualStack(block, 1, S), jnp.sum, "no linear layer in two neighbouring"),
    (STACK, lambda y: y.sum(-1), "the loss has shape (3,); expected a scalar"),
    (STACK, lambda y: 0 * jnp.sum(y), "the gradients of block are zero in all"),
    (STACK, lambda y: jnp.nan * jnp.sum(y), "the gradients of block are not finite"),
  ],
  ids=range(8),
)
def test_nets_and_losses_that_cannot_be_measured(model, loss, words):
  params = drawn(model, X) if isinstance(model, nn.Module) else {}
  if words is None:
    assert list(gradient_diversity(loss, model, params, X)) == ["d0"]
    return
  with pytest.raises(DepthMupError, match=re.escape(words)):
    gradient_diversity(loss, model, params, X)


def test_examples_without_a_gradient_do_not_count():
  params = drawn(STACK, X)
  found = gradient_diversity(lambda y: y[0].sum(), STACK, params, X)["block"]
  alone = gradient_diversity(jnp.sum, STACK, params, X[:1])["block"]
  np.testing.assert_allclose(found.cosines, alone.cosines, rtol=1e-5)


def test_a_layer_that_is_called_twice():
  params = {"Dense_0": {"kernel": X.T @ X}}
  with pytest.raises(DepthMupError, match="Dense Dense_0 is called twice in one pass"):
    gradient_diversity(jnp.sum, Twice(), params, X)
