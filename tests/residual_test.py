"""Scan equals loop; marking; the branch multiplier against the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from tests.helpers import assert_trees_close

KEY = jax.random.key(0)
P = dmup.depthwise(alpha="1/2", gamma="1/3", base_width=8, base_depth=2)
X = jax.random.normal(jax.random.key(1), (3, 16))
L = 6


class Block(nn.Module):
  """A user's block: a norm with a gain, then a wide layer with a bias."""

  p: dmup.Parametrization = P
  tokens: bool = False

  @nn.compact
  def __call__(self, x, shift=0.0):
    gain = dmup.with_axes(nn.initializers.ones, "-> embed", self.p)
    x = nn.LayerNorm(use_bias=False, scale_init=gain)(x)
    x = dmup.Dense(x.shape[-1], "embed -> embed", self.p, use_bias=True, name="dense")(x)
    return jnp.tanh(x + shift)


class Loop(nn.Module):
  """The stack as a Python loop."""

  @nn.compact
  def __call__(self, x, shift=0.0):
    for i in range(L):
      x = dmup.Residual(Block(name=f"block_{i}"), L, P, 0.7)(x, shift)
    return x


def unstacked(params):
  return {
    f"block_{i}": jax.tree.map(lambda w, i=i: w[i], params["block"]) for i in range(L)
  }


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("block", [Block(), Block, functools.partial(Block, P)])
def test_scan_equals_loop(block, remat):
  stack, loop = dmup.ResidualStack(block, L, P, 0.7, remat), Loop()
  params, scales = dmup.init(stack, KEY, X)

  def stacked_loss(params):
    return stack.apply({"params": params}, X, 0.1).var()

  def loop_loss(params):
    return loop.apply({"params": unstacked(params)}, X, 0.1).var()

  one = jax.value_and_grad(stacked_loss)(params)
  two = jax.value_and_grad(loop_loss)(params)
  assert_trees_close(one, two, rtol=2e-4, atol=1e-7)

  loop_scales = dmup.init(loop, KEY, X)[1]["block_3"]
  for name in ("gradient_factor", "update_factor", "init_std", "kind"):
    values = [[getattr(s, name) for s in jax.tree.leaves(t)] for t in (scales, loop_scales)]
    assert values[0] == values[1]
  assert loop_scales["dense"]["kernel"].update_factor == pytest.approx(3 ** (-1 / 3) / 2)
  assert loop_scales["dense"]["bias"].update_factor == pytest.approx(3 ** (-1 / 3))
  assert scales["block"]["dense"]["bias"].axes == "layers | -> embed"


def test_the_branch_multiplier():
  residual = dmup.Residual(Block(), 8, P, multiplier=3.0)
  params = dmup.init(residual, KEY, X)[0]
  branch = Block().apply({"params": params["block"]}, X)
  out = residual.apply({"params": params}, X)
  np.testing.assert_allclose(out, X + 3 * 0.5 * branch, rtol=1e-5)


def test_a_traced_multiplier():
  def out(a):
    stack = dmup.ResidualStack(Block(), L, P, multiplier=a)
    return stack.apply({"params": params}, X)

  params = dmup.init(dmup.ResidualStack(Block(), L, P), KEY, X)[0]
  swept = jax.jit(jax.vmap(out))(jnp.array([0.5, 2.0]))
  np.testing.assert_allclose(swept[0], out(0.5), rtol=1e-5)
  np.testing.assert_allclose(swept[1], out(2.0), rtol=1e-5)


def test_every_layer_draws_its_own_weights():
  params = dmup.init(dmup.ResidualStack(Block(), L, P), KEY, X)[0]
  kernels = params["block"]["dense"]["kernel"].reshape(L, -1)
  correlation = np.corrcoef(kernels) - np.eye(L)
  assert np.abs(correlation).max() < 6 / 16  # 256 entries: std 1/16, fixed key


def test_further_collections_pass_through_the_scan():
  class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = dmup.Dense(16, "embed -> embed", P)(x)
      self.sow("intermediates", "rms", jnp.sqrt(jnp.mean(x**2)))
      return x

  stack = dmup.ResidualStack(Sowing(), L, P)
  params = dmup.init(stack, KEY, X)[0]
  _, state = stack.apply({"params": params}, X, mutable=["intermediates"])
  assert jax.tree.leaves(state)[0].shape == (L,)


class Dropping(nn.Module):
  """A block with a Python flag, by position or by name."""

  @nn.compact
  def __call__(self, x, train, scale=1.0):
    x = dmup.Dense(x.shape[-1], "embed -> embed", P)(x)
    return scale * nn.Dropout(0.5, deterministic=not train)(x)


@pytest.mark.parametrize("remat", [False, True])
def test_python_flags_and_dropout(remat):
  stack = dmup.ResidualStack(Dropping(), L, P, remat=remat)
  rngs = {"params": KEY, "dropout": KEY}
  params = dmup.init(stack, rngs, X, True)[0]

  def out(*args, **kwargs):
    return stack.apply({"params": params}, X, *args, **kwargs, rngs={"dropout": KEY})

  np.testing.assert_array_equal(out(False), out(train=False))
  assert np.abs(out(True) - out(False)).max() > 0.01
  np.testing.assert_array_equal(out(False, scale=0.0), X)
  np.testing.assert_allclose(out(False, jnp.float32(0.5)), out(False, 0.5), rtol=1e-6)


class Nested(nn.Module):
  @nn.compact
  def __call__(self, x):
    return dmup.Residual(Block(), 3, P)(x)


class Halving(nn.Module):
  @nn.compact
  def __call__(self, x):
    return dmup.Dense(8, "embed -> embed", P)(x)


class Pair(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x, None


@pytest.mark.parametrize(
  ("stack", "words"),
  [
    (lambda: dmup.ResidualStack(Nested(), L, P), "inside two residual branches.*3 and 6"),
    (
      lambda: dmup.ResidualStack(Block(dmup.ode(base_width=8, base_depth=2)), L, P),
      "was made with parametrization",
    ),
    (lambda: dmup.ResidualStack(Halving(), L, P), r"Halving maps \(3, 16\) to \(3, 8\)"),
    (lambda: dmup.ResidualStack(Pair(), L, P), "Pair gave tuple"),
    (lambda: dmup.ResidualStack(Block(), 0, P), "depth=0"),
    (lambda: dmup.ResidualStack(Block(), L, P, -1.0), "multiplier a=-1.0"),
    (lambda: dmup.ResidualStack(Block(), L, P, float("nan")), "multiplier a=nan"),
    (lambda: dmup.ResidualStack(len, L, P), "is no linen module"),
  ],
)
def test_errors(stack, words):
  with pytest.raises(DepthMupError, match=words):
    dmup.init(stack(), KEY, X)
