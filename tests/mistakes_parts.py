"""Parts and optimizers of a user's script, mistaken ones and their sound versions."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib import coordinate_faults
from flax_depthmup.axes import Axes
from tests.mistakes_nets import EPS, Branch, adamw, first, readout

# Parts ---------------------------------------------------------------------------


class OwnReadout(nn.Module):
  """x W by hand, under a parametrization that wants a multiplier.

  Attributes:
    times: how often the multiplier is applied.
  """

  parametrization: dmup.Parametrization
  times: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    axes, shape, p = "embed -> (classes)", (x.shape[-1], 4), self.parametrization
    draw = dmup.normal(axes, p, folded=False, base_std=2**-5)
    kernel = self.param("kernel", draw, shape)
    multiplier = dmup.resolve(axes, shape, p).multiplier
    return x @ kernel * multiplier**self.times


def own_readout(times):
  return lambda p: OwnReadout(p, times, name="readout")


class OutFirst(nn.Module):
  """x W^T with W of shape [out, in], as PyTorch's nn.Linear has it."""

  width: int
  axes: str | Axes
  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = self.width, x.shape[-1]
    return x @ self.param("kernel", dmup.normal(self.axes, self.parametrization), shape).T


def out_first(axes):
  return lambda width, p: OutFirst(width, axes, p, name="first")


class Heads(nn.Module):
  """A branch through heads whose number grows with width: [embed, heads, head_dim]."""

  width: int
  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p, heads = self.parametrization, (self.width // 16, 16)
    x = jnp.tanh(dmup.Dense(heads, "embed -> heads head_dim", p, name="query")(x))
    return dmup.Dense(self.width, "heads head_dim -> embed", p, name="out")(x)


class Tied(nn.Module):
  """Tokens in, logits of tokens out, by one table."""

  width: int
  depth: int
  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    p = self.parametrization
    embed = dmup.Embed(6, self.width, p, name="embed")
    x = embed(tokens)
    block = dmup.Dense(self.width, "embed -> embed", p, name="dense")
    return embed.attend(dmup.Residual(block, self.depth, p)(x))


class HalfPlain(nn.Module):
  """Every block adds a branch of ours, and another that may be without its factor."""

  width: int
  depth: int
  parametrization: dmup.Parametrization
  sound: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p, n = self.parametrization, self.width
    x = first(n, p)(x)
    draw = dmup.normal("layers | embed -> embed", p)
    w = None if self.sound else self.param("w", draw, (self.depth, n, n))
    for i in range(self.depth):
      x = dmup.Residual(Branch(n, p), self.depth, p)(x)
      if self.sound:
        x = dmup.Residual(Branch(n, p), self.depth, p)(x)
      else:
        x = x + jnp.tanh(x @ w[i])
    return readout(p)(x)


# Optimizers ----------------------------------------------------------------------


def decays(factor):
  """AdamW whose decay is lambda times `factor` of the width ratio."""

  def make(scales, lr):
    m = scales["first"]["kernel"].shape[-1] / 64
    return dmup.adamw(lr, scales, eps=EPS, weight_decay=0.1 * factor(m))

  return make


def l2_before_adam(scales, lr):
  inner = optax.chain(optax.add_decayed_weights(0.1), optax.scale_by_adam(eps=EPS))
  tx = dmup.scale_by_parametrization(inner, scales)
  return optax.chain(tx, optax.scale_by_learning_rate(lr))


def readout_rate_of_table_3(scales, lr):
  own = scales["readout"]["kernel"]
  factor = own.width_update_factor * 64 / own.shape[0]
  changed = dataclasses.replace(own, width_update_factor=factor)
  return adamw(scales | {"readout": {"kernel": changed}}, lr)


def scaled_twice(scales, lr):
  once = dmup.scale_by_parametrization(optax.scale_by_adam(eps=EPS), scales)
  twice = dmup.scale_by_parametrization(once, scales)
  return optax.chain(twice, optax.scale_by_learning_rate(lr))


def plain_adam(scales, lr):
  del scales
  return optax.adam(lr, eps=EPS)


def sgd(scales, lr):
  return dmup.sgd(lr, scales)


def sgd_with_adams_factors(scales, lr):
  return coordinate_faults.plain_eps(sgd)(scales, lr)


def muon(scales, lr):
  return dmup.muon(lr, scales, adam_learning_rate=lr, eps=EPS)


def muon_with_adams_factors(scales, lr):
  """The rates of Adam's groups on top of Muon's own."""

  def override(updates, params):
    del params
    factors = jax.tree.map(lambda s: s.width_update_factor, scales)
    return jax.tree.map(jnp.multiply, updates, factors)

  return optax.chain(muon(scales, lr), optax.stateless(override))
