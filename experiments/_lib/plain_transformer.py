"""The library's transformer written plainly in linen: what it is measured against.

The same shapes, names of parameters and operations as `dmup.Transformer` in standard
parametrization, and nothing else: no multipliers, annotations or checks. Rotary tables
are made once and handed to every layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class PlainTransformer(nn.Module):
  """Tokens -> logits: an embedding, layers of attention and MLP, a norm, a readout.

  Attributes:
    width: size of the residual stream.
    depth: number of layers.
    vocab: number of tokens.
    heads: number of heads, of size width / heads.
    dtype: of the computation; None: float32, as the parameters.
  """

  width: int
  depth: int
  vocab: int
  heads: int
  dtype: Any = None

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps tokens [batch, length] to float32 logits [batch, length, vocab]."""
    normal = nn.initializers.normal(1.0)
    embed = nn.Embed(
      self.vocab, self.width, embedding_init=normal, dtype=self.dtype, name="embed"
    )
    x = embed(tokens)
    stack = nn.scan(
      _Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.depth,
    )
    tables = _rotary_tables(tokens.shape[1], self.width // self.heads)
    x, _ = stack(self.heads, self.dtype, name="layers")(x, tables)
    x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
    logits = nn.Dense(self.vocab, use_bias=False, dtype=self.dtype, name="readout")(x)
    return logits.astype(jnp.float32)


class _Layer(nn.Module):
  heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, tables: jax.Array) -> tuple[jax.Array, None]:
    x = x + _Attention(self.heads, self.dtype, name="attention")(x, tables)
    return x + _MLP(self.dtype, name="mlp")(x), None


class _Attention(nn.Module):
  heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, tables: jax.Array) -> jax.Array:
    width = x.shape[-1]
    x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
    shape = (self.heads, width // self.heads)

    def project(name: str) -> jax.Array:
      dense = nn.DenseGeneral(shape, use_bias=False, dtype=self.dtype, name=name)
      return dense(x)

    query, key = _rotate(project("query"), tables), _rotate(project("key"), tables)
    fused = jax.default_backend() == "gpu" and x.dtype == jnp.bfloat16
    y = jax.nn.dot_product_attention(
      query,
      key,
      project("value"),
      is_causal=True,
      implementation="cudnn" if fused else "xla",
    )
    return nn.DenseGeneral(
      width, axis=(-2, -1), use_bias=False, dtype=self.dtype, name="out"
    )(y)


class _MLP(nn.Module):
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
    h = nn.Dense(4 * width, use_bias=False, dtype=self.dtype, name="up")(x)
    return nn.Dense(width, use_bias=False, dtype=self.dtype, name="down")(jax.nn.gelu(h))


def _rotary_tables(length: int, head_dim: int) -> jax.Array:
  """Cosines and sines [2, length, 1, head_dim / 2] of the angles of each position."""
  half = head_dim // 2
  frequencies = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = jnp.outer(jnp.arange(length, dtype=jnp.float32), frequencies)
  return jnp.stack([jnp.cos(angles), jnp.sin(angles)])[:, :, None, :]


def _rotate(x: jax.Array, tables: jax.Array) -> jax.Array:
  """Rotary positions of x [batch, length, heads, head_dim], halves as pairs."""
  cos, sin = tables[0][None], tables[1][None]
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
