"""The states of a net: against the same net computed by hand, and in the right order."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import residual_stream
from tests.branch_nets import KEY, Blind, Function, P, S, Twice, X, block, drawn, scanned


@pytest.mark.parametrize("remat", [False, True])
def test_residual_mlp(remat):
  model = dmup.ResidualMLP(8, 6, 3, P, block_multiplier=0.5, remat=remat)
  params = drawn(model, X)
  states = [X @ params["input"]["kernel"]]
  for w in params["stack"]["block"]["dense_0"]["kernel"]:
    phi = np.maximum(states[-1] @ w, 0)
    states.append(states[-1] + 0.5 * 3**-0.5 * (phi - phi.mean(-1, keepdims=True)))
  found = jax.jit(lambda params, x: residual_stream(model, params, x))(params, X)
  assert found.shape == (7, 3, 8)
  np.testing.assert_allclose(found, np.stack(states), rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(residual_stream(model, params, X, stack="stack"), found)


def test_a_bare_stack_with_further_arguments():
  class Shift(nn.Module):
    @nn.compact
    def __call__(self, x, shift, *, sign=1):
      return block()(x) + sign * shift

  model = dmup.ResidualStack(Shift, 4, S)
  params = drawn(model, X, X)
  states = [X]
  for w in params["block"]["Dense_0"]["kernel"]:
    states.append(states[-1] + states[-1] @ w - X)
  found = residual_stream(model, params, X, X, sign=-1)
  np.testing.assert_allclose(found, np.stack(states), rtol=1e-5, atol=1e-5)


def test_transformers_have_two_states_a_layer():
  """The attention of the second layer adds nothing, so that its place can be told."""
  sizes = dmup.axis_sizes(width=8, heads=2, mlp=16)
  p = dmup.standard(base_width=sizes, base_depth=2)
  tokens = jnp.asarray([[1, 2, 0, 4, 3]])
  model = dmup.Transformer(8, 3, 7, 2, p, mlp=16, remat=True)
  params = drawn(model, tokens)
  value = params["layers"]["attention"]["value"]
  value["kernel"] = value["kernel"].at[1].set(0.0)
  found = jax.jit(lambda params: residual_stream(model, params, tokens))(params)
  assert found.shape == (7, 1, 5, 8)
  np.testing.assert_array_equal(found[0], params["embed"]["embedding"][tokens])
  moves = np.abs(np.diff(found, axis=0)).max(axis=(1, 2, 3))
  np.testing.assert_array_equal(moves > 0, [True, True, False, True, True, True])
  # The logits are read from the last.
  last = np.asarray(found[-1])
  norm = last / np.sqrt(np.mean(last**2, -1, keepdims=True) + 1e-6)
  logits = (norm * np.asarray(params["norm"]["scale"])) @ params["readout"]["kernel"]
  whole = jax.jit(model.apply)({"params": params}, tokens)
  np.testing.assert_allclose(whole, logits, rtol=1e-4, atol=1e-5)


class Loop(nn.Module):
  """Residuals of a Python loop, a norm after the first."""

  @nn.compact
  def __call__(self, x):
    for i in range(3):
      x = dmup.Residual(block(), 3, S)(x)
      x = nn.LayerNorm(use_bias=False, use_scale=False)(x) if i == 0 else x
    return x.sum()


def test_a_loop():
  params = drawn(Loop(), X)
  w = [params[f"Dense_{i}"]["kernel"] for i in range(3)]
  first = X + X @ w[0]
  x = (first - first.mean(-1, keepdims=True)) / np.sqrt(first.var(-1, keepdims=True) + 1e-6)
  second = x + x @ w[1]
  expected = np.stack([X, first, second, second + second @ w[2]])
  np.testing.assert_allclose(
    residual_stream(Loop(), params, X), expected, rtol=1e-5, atol=1e-5
  )


class Part(nn.Module):
  """A part of a layer with one Residual."""

  @nn.compact
  def __call__(self, x):
    return dmup.Residual(block(), 3, S)(x)


class Layer(nn.Module):
  """Two parts; what is scanned."""

  @nn.compact
  def __call__(self, x):
    return nn.remat(Part)(name="b")(Part(name="a")(x)), None


class Pair(nn.Module):
  """Two scans of the same length, one after the other."""

  @nn.compact
  def __call__(self, x):
    x = scanned(Layer)(name="one")(x)[0]
    x = dmup.ResidualStack(block, 3, S, name="two")(x)
    return dmup.ResidualStack(block, 3, S, name="three")(x)


def test_scans_of_ones_own_in_the_order_of_the_net():
  params = drawn(Pair(), X)
  states = [X]

  def add(kernel):
    states.append(states[-1] + states[-1] @ kernel)

  for layer in range(3):
    for part in ("a", "b"):
      add(params["one"][part]["Dense_0"]["kernel"][layer])
  for name in ("two", "three"):
    for layer in range(3):
      add(params[name]["block"]["kernel"][layer])
  found = residual_stream(Pair(), params, X)
  np.testing.assert_allclose(found, np.stack(states), rtol=1e-4, atol=1e-4)
  middle = residual_stream(Pair(), params, X, stack="two")
  np.testing.assert_array_equal(middle, found[6:10])


class Inner(nn.Module):
  """A branch with a Residual in it."""

  @nn.compact
  def __call__(self, x):
    return dmup.Residual(block(), 3, S)(x)


def test_a_residual_in_a_branch_belongs_to_the_branch():
  model = dmup.ResidualStack(Inner, 3, S)
  w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8)), jnp.float32)
  params = {"block": {"Dense_0": {"kernel": w}}}  # `init` refuses such nets
  found = residual_stream(model, params, X)
  assert found.shape == (4, 3, 8)
  np.testing.assert_allclose(found[1], 2 * X + X @ w[0], rtol=1e-5, atol=1e-5)


def test_a_resnet_has_a_stream_in_each_stage():
  images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)
  model = dmup.ResNet(8, 5, 3, P, stages=2, patch=1)
  params = drawn(model, images)
  words = (
    "the states of ResNet differ in shape, so they are no one stream: stage_0 "
    "(2, 4, 4, 8), stage_1 (2, 2, 2, 8); take one part, as in stack='stage_0'"
  )
  with pytest.raises(DepthMupError, match=re.escape(words)):
    residual_stream(model, params, images)
  first = residual_stream(model, params, images, stack="stage_0")
  second = residual_stream(model, params, images, stack="stage_1")
  assert first.shape == (4, 2, 4, 4, 8)
  assert second.shape == (3, 2, 2, 2, 8)
  np.testing.assert_allclose(second[0], nn.avg_pool(first[-1], (2, 2), (2, 2)))
  with pytest.raises(DepthMupError, match="there are 'stage_0', 'stage_1'"):
    residual_stream(model, params, images, stack="stage")


class Nested(nn.Module):
  """A scan of scans."""

  @nn.compact
  def __call__(self, x):
    class Outer(nn.Module):
      @nn.compact
      def __call__(self, x):
        return dmup.ResidualStack(block, 2, S)(x), None

    return scanned(Outer)()(x)[0]


def test_one_residual_in_a_scanned_function():
  params = drawn(Function(1), X)
  states = [X]
  for w in params["d0"]["kernel"]:
    states.append(states[-1] + states[-1] @ w)
  found = residual_stream(Function(1), params, X)
  np.testing.assert_allclose(found, np.stack(states), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("model", "words"),
  [
    (nn.Dense(8), "Dense has no residual branch; build its blocks with dmup.Residual"),
    (Twice(), "Residual Residual_0 is called twice in one pass"),
    (Function(2), "the order of r0, r1 is unknown, because a function is scanned"),
    (Nested(), "is in 2 scans, one in the other"),
    (Blind(), 'add variable_axes={"residual_stream": 0}'),
  ],
)
def test_nets_whose_stream_cannot_be_seen(model, words):
  if isinstance(model, Twice):
    params = {"Dense_0": {"kernel": X.T @ X}}  # `init` refuses such nets
  else:
    shapes = jax.eval_shape(lambda: model.init(KEY, X))["params"]
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), nn.unbox(shapes))
  with pytest.raises(DepthMupError, match=re.escape(words)):
    residual_stream(model, params, X)


def test_no_module():
  with pytest.raises(DepthMupError, match="is no linen module"):
    residual_stream(Loop, {}, X)
