"""A GPT-style transformer as one writes it in plain linen; knows nothing of us.

Three multipliers are fields, 1 by default: they are all that such a model needs.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn


class GPT(nn.Module):
  """Tokens [batch, length] -> logits [batch, length, vocab]."""

  width: int
  depth: int
  heads: int = 2
  vocab: int = 17
  length: int = 8
  scan: bool = False
  tied: bool = False
  branch_multiplier: float = 1.0
  readout_multiplier: float = 1.0
  attention_multiplier: float = 1.0

  @nn.compact
  def __call__(self, tokens):
    draw = nn.initializers.normal(1.0)
    table = nn.Embed(self.vocab, self.width, embedding_init=draw, name="embed")
    positions = self.param(
      "pos_embedding", nn.initializers.normal(0.02), (self.length, self.width)
    )
    x = table(tokens) + positions[None, : tokens.shape[1]]
    fields = self.heads, self.branch_multiplier, self.attention_multiplier
    if self.scan:
      stack = nn.scan(
        Block, variable_axes={True: 0}, split_rngs={True: True}, length=self.depth
      )
      x, _ = stack(*fields, name="encoderblocks")(x, None)
    else:
      for i in range(self.depth):
        x, _ = Block(*fields, name=f"encoderblock_{i}")(x)
    x = nn.LayerNorm(name="encoder_norm")(x)
    readout = table.attend if self.tied else nn.Dense(self.vocab, name="lm_head")
    return readout(x) * self.readout_multiplier


class Block(nn.Module):
  """Both branches, before the norms: x + attention(norm(x)), x + mlp(norm(x))."""

  heads: int
  branch_multiplier: float
  attention_multiplier: float

  @nn.compact
  def __call__(self, x, _=None):
    mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
    attend = functools.partial(scaled_attention, self.attention_multiplier)
    y = nn.LayerNorm()(x)
    y = nn.MultiHeadDotProductAttention(self.heads, attention_fn=attend)(y, mask=mask)
    x = x + self.branch_multiplier * y
    y = nn.LayerNorm()(x)
    y = nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(y)))
    return x + self.branch_multiplier * y, None


def scaled_attention(multiplier, query, *args, **kwargs):
  """Attention with logits times a multiplier, beside 1/sqrt(head_dim)."""
  return nn.dot_product_attention(multiplier * query, *args, **kwargs)


def tokens(batch=4, length=8, vocab=17):
  return jax.random.randint(jax.random.key(7), (batch, length), 0, vocab)
