"""Small nets whose branches and norms stand in every order."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import flax_depthmup as dmup

P = dmup.depth_mup(base_width=8, base_depth=2)
X = jax.ShapeDtypeStruct((2, 8), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((1, 4), jnp.int32)
BASE = dmup.axis_sizes(width=16, heads=2)


def dense(**fields):
  return dmup.Dense(8, "embed -> embed", P, **fields)


class Branch(nn.Module):
  """Modules one after another: "w" a matrix, "n" a norm."""

  order: str

  @nn.compact
  def __call__(self, x):
    for what in self.order:
      x = dense()(x) if what == "w" else nn.RMSNorm(use_scale=False)(x)
    return x


class Loop(nn.Module):
  """Blocks in a Python loop; `after`: a norm on the stream behind each."""

  orders: tuple[str, ...]
  after: bool = False

  @nn.compact
  def __call__(self, x):
    for i, order in enumerate(self.orders):
      depth = len(self.orders)
      x = dmup.Residual(Branch(order, name=f"b{i}"), depth, P, name=f"r{i}")(x)
      if self.after:
        x = nn.LayerNorm(use_scale=False, use_bias=False)(x)
    return nn.LayerNorm(use_scale=False, use_bias=False, name="last")(x)


class Layer(nn.Module):
  """A scanned layer; `after`: post-norm."""

  after: bool

  @nn.compact
  def __call__(self, x, _):
    x = dmup.Residual(dense(), 3, P)(x)
    return (nn.RMSNorm(use_scale=False)(x) if self.after else x), None


class Scanned(nn.Module):
  """Layers in a scan, a norm behind all of them."""

  after: bool

  @nn.compact
  def __call__(self, x):
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    meta = {"metadata_params": {nn.PARTITION_NAME: "layers"}}
    x = nn.scan(Layer, length=3, **axes, **meta)(self.after)(x, None)[0]
    return nn.RMSNorm(use_scale=False)(x)


class Own(nn.Module):
  """A branch with matrices of its own."""

  normed: bool = True

  @nn.compact
  def __call__(self, x):
    draw = dmup.normal("embed -> embed", P)
    w = self.param("w", draw, (8, 8), jnp.float32)
    x = nn.RMSNorm(use_scale=False)(x) if self.normed else x
    return x @ w


def transformer(p=dmup.complete_p, **fields):
  made = p(base_width=BASE, base_depth=2, width_rule=dmup.TABLE_8)
  return dmup.Transformer(32, 4, 50, 4, made, **fields)
