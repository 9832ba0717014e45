"""Small nets of residual branches that the instruments look into."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flax_depthmup as dmup

KEY = jax.random.key(0)
P = dmup.depth_mup(base_width={"embed": 8}, base_depth=2)
S = dmup.standard(base_width={"embed": 8}, base_depth=2)  # every branch multiplier is 1
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8)), jnp.float32)


def drawn(model, *inputs):
  """Parameters drawn by numpy: compiles nothing."""
  shapes, scales = dmup.abstract_init(model, KEY, *inputs)
  rng = np.random.default_rng(0)

  def draw(x, s):
    return jnp.asarray(rng.normal(0, s.init_std or 0.1, x.shape), jnp.float32)

  return jax.tree.map(draw, shapes, scales)


#: W x, to be scanned or looped over.
block = functools.partial(dmup.Dense, 8, "embed -> embed", S)


def scanned(layer, length=3, **fields):
  """Layers of one's own, scanned."""
  axes = {"variable_axes": {True: 0}, "split_rngs": {True: True}, "length": length}
  return nn.scan(layer, **(axes | fields))


class Twice(nn.Module):
  """The same blocks twice."""

  @nn.compact
  def __call__(self, x):
    once = dmup.Residual(block(), 2, S)
    return once(once(x))


class Function(nn.Module):
  """A function that is scanned, with a number of Residuals in it."""

  count: int

  @nn.compact
  def __call__(self, x):
    def body(self, x):
      for i in range(self.count):
        x = dmup.Residual(block(name=f"d{i}"), 3, S, name=f"r{i}")(x)
      return x, None

    return scanned(body)(self, x)[0]


class Blind(nn.Module):
  """A scan that lets parameters through alone."""

  @nn.compact
  def __call__(self, x):
    class Layer(nn.Module):
      @nn.compact
      def __call__(self, x):
        return dmup.Residual(block(), 3, S)(x), None

    alone = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    return scanned(Layer, **alone)()(x)[0]
