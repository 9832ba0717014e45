"""A decoder-only transformer under any parametrization. Layer: flax, mathematics."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.forward_multipliers import scaled
from flax_depthmup.initializers import with_axes
from flax_depthmup.layers import Embed, Readout
from flax_depthmup.models.attention import Attention
from flax_depthmup.models.feed_forward import FeedForward
from flax_depthmup.models.transformer_checks import (
  axis_sizes,
  check_fields,
  check_position,
  check_tokens,
)
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.residual import Residual


class Transformer(nn.Module):
  """Tokens -> logits: an embedding, `depth` layers of two branches, a norm, a readout.

      x <- x + a (L/L0)^(-alpha) Attention(norm(x))
      x <- x + a (L/L0)^(-alpha) MLP(norm(x))

  Each layer has a block depth of at least 2 in the sense of Tensor Programs VI,
  section 9, for which `complete_p` was made (Dey et al., arXiv 2505.01618).
  Parameters are float32 and carry the axes embed, mlp, heads, kv_heads,
  head_dim, vocab and layers; from them follow their scales and, by
  `param_shardings`, their shardings. `base_width` of the parametrization is a
  mapping with a size for each of the first five: `axis_sizes` makes it. An axis
  that does not grow has the same size there as here.

  Attributes:
    width: size of the residual stream.
    depth: L, the number of layers; each has two branches.
    vocab: number of tokens.
    heads: number of query heads.
    parametrization: the rule and base sizes.
    kv_heads, head_dim, mlp: see `axis_sizes`.
    norm: rms_norm or layer_norm, before each branch and before the readout.
    norm_gain: the norms have trainable gains.
    activation: of the MLP; see `ResidualMLP`.
    gated: MLP(x) = W (phi(W_g x) * W_u x) instead of W phi(W_u x).
    use_bias: of all linear maps but the readout, and of layer_norm.
    attention_multiplier: c in the logits c/head_dim q.k. The root of the base
      net's head_dim makes them standard there.
    block_multiplier: a, the branch multiplier at base depth.
    embed_std: of the table in the base net; None: 1, or 1/sqrt(width) there if
      tied.
    readout_std: of the readout in the base net; None: 1/sqrt(width) there. 0
      starts at zero.
    readout_multiplier: of the logits of the vocabulary.
    tied: the readout is the embedding. Only with width rules in which one
      tensor can be both: Table 8, Table 9, and standard.
    rope_base: see `Attention`.
    remat: recompute layers in the backward pass.
    dtype: of the computation, such as jnp.bfloat16; None: float32.
    cache_length: see `__call__`.
  """

  width: int
  depth: int
  vocab: int
  heads: int
  parametrization: Parametrization
  kv_heads: int | None = None
  head_dim: int | None = None
  mlp: int | None = None
  norm: str = "rms_norm"
  norm_gain: bool = True
  activation: str = "gelu"
  gated: bool = False
  use_bias: bool = False
  attention_multiplier: float = 1.0
  block_multiplier: float | jax.Array = 1.0
  embed_std: float | None = None
  readout_std: float | None = None
  readout_multiplier: float = 1.0
  tied: bool = False
  rope_base: float = 10_000.0
  remat: bool = False
  dtype: Any = None
  cache_length: int | None = None

  def __post_init__(self):
    super().__post_init__()
    check_fields(self)

  @property
  def sizes(self) -> dict[str, int]:
    """The sizes of the width axes of this net; see `axis_sizes`."""
    return axis_sizes(
      width=self.width,
      heads=self.heads,
      kv_heads=self.kv_heads,
      head_dim=self.head_dim,
      mlp=self.mlp,
    )

  @nn.compact
  def __call__(self, tokens: jax.Array, position: jax.Array | int = 0) -> jax.Array:
    """Maps tokens [batch, length] to logits [batch, length, vocab], float32.

    With `cache_length` set, the keys and values of the tokens are kept in the
    collection "cache", and the tokens attend to those kept at earlier positions:

        logits, cache = model.clone(cache_length=n).apply(
          {"params": params, **cache}, tokens, position, mutable=["cache"])

    Start with an empty `cache`, and `position` 0; `generate` does. What does not fit
    becomes nan.

    Args:
      tokens: integers in [0, vocab).
      position: of the first token, an integer, also a traced one; only with a cache
        other than 0.

    Raises:
      DepthMupError: the tokens are no integers of two axes, a position is given
        without a cache or is no place in it, the tokens are more than the cache
        holds, or "cache" is not mutable or of another batch size.
    """
    check_tokens(tokens)
    check_position(position, self.cache_length)
    table = self._embed()
    x = nn.with_logical_constraint(table(tokens), ("batch", "length", None))
    positions = position + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    x = self._layers(x, positions)
    x = self._norm(name="norm")(x)
    return nn.with_logical_constraint(self._readout(table, x), ("batch", "length", "vocab"))

  def _embed(self) -> Embed:
    base = self.parametrization.base_sizes["embed"]
    default = base**-0.5 if self.tied else 1.0
    return Embed(
      self.vocab,
      self.width,
      self.parametrization,
      base_std=default if self.embed_std is None else self.embed_std,
      dtype=self.dtype,
      name="embed",
    )

  def _layers(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    layer = nn.remat(_Layer, prevent_cse=False) if self.remat else _Layer
    stack = nn.scan(
      layer,
      variable_axes={True: 0},
      split_rngs={True: True},
      in_axes=nn.broadcast,
      length=self.depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    layers = stack(
      self._attention(),
      self._feed_forward(),
      self.depth,
      self.parametrization,
      self.block_multiplier,
      name="layers",
    )
    return layers(x, positions)[0]

  def _attention(self) -> Attention:
    sizes = self.sizes
    return Attention(
      sizes["heads"],
      sizes["kv_heads"],
      sizes["head_dim"],
      self.parametrization,
      self._norm(),
      self.attention_multiplier,
      self.rope_base,
      self.use_bias,
      self.cache_length,
      self.dtype,
      parent=None,
    )

  def _feed_forward(self) -> FeedForward:
    return FeedForward(
      self.sizes["mlp"],
      self.parametrization,
      self._norm(),
      self.activation,
      self.gated,
      self.use_bias,
      self.dtype,
      parent=None,
    )

  def _norm(self, **where: Any) -> nn.Module:
    """A norm with its gains annotated; `where` names it, or it is an attribute."""
    ones = with_axes(nn.initializers.ones, "-> embed", self.parametrization)
    where = where or {"parent": None}
    if self.norm == "rms_norm":
      return nn.RMSNorm(
        use_scale=self.norm_gain, scale_init=ones, dtype=self.dtype, **where
      )
    zeros = with_axes(nn.initializers.zeros, "-> embed", self.parametrization)
    return nn.LayerNorm(
      use_scale=self.norm_gain,
      use_bias=self.use_bias,
      scale_init=ones,
      bias_init=zeros,
      dtype=self.dtype,
      **where,
    )

  def _readout(self, table: Embed, x: jax.Array) -> jax.Array:
    if self.tied:
      logits = table.attend(x)
    else:
      readout = Readout(
        self.vocab,
        self.parametrization,
        axes="embed -> (vocab)",
        base_std=self.readout_std,
        dtype=self.dtype,
        name="readout",
      )
      logits = readout(x)
    return scaled(logits.astype(jnp.float32), float(self.readout_multiplier))


class _Layer(nn.Module):
  """Both branches of a layer, for a scan: carry x, give nothing out."""

  attention: Attention
  mlp: FeedForward
  depth: int
  parametrization: Parametrization
  multiplier: float | jax.Array

  @nn.compact
  def __call__(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, None]:
    fields = self.depth, self.parametrization, self.multiplier
    x = Residual(self.attention, *fields)(x, positions)
    x = Residual(self.mlp, *fields)(x)
    return nn.with_logical_constraint(x, ("batch", "length", None)), None
