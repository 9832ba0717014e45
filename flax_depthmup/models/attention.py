"""Causal self-attention with rotary positions, and its cache. Layer: flax, mathematics."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.errors import DepthMupError
from flax_depthmup.layers import Dense
from flax_depthmup.parametrizations.base import Parametrization

#: cuDNN's flash attention takes these types, and heads of a multiple of 8 up to 128.
_CUDNN_TYPES = (jnp.bfloat16, jnp.float16)


class Attention(nn.Module):
  """Causal multi-head or grouped-query attention, behind a norm of its input.

  Logits are multiplier / head_dim q.k: with 1/head_dim instead of its root they
  neither grow nor shrink as heads widen and q and k align (Tensor Programs V,
  Definition 4.1). The keys and values of a prefix can be kept in the collection
  "cache"; see `Transformer`.

  Attributes:
    heads: number of query heads.
    kv_heads: number of key and value heads; divides `heads`.
    head_dim: size of each head, even.
    parametrization: the rule and base sizes.
    norm: a module for the input; None: the input as it is.
    multiplier: of the logits, beside 1/head_dim.
    rope_base: base of the rotary wavelengths.
    use_bias: of the four projections.
    cache_length: positions that the cache holds; None: no cache.
    dtype: of the computation.
  """

  heads: int
  kv_heads: int
  head_dim: int
  parametrization: Parametrization
  norm: nn.Module | None = None
  multiplier: float = 1.0
  rope_base: float = 10_000.0
  use_bias: bool = False
  cache_length: int | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Maps x [batch, length, width] at positions [length] to the same shape."""
    width = x.shape[-1]
    x = x if self.norm is None else self.norm(x)

    def project(name: str, heads: int) -> jax.Array:
      axis = "heads" if name == "query" else "kv_heads"
      dense = Dense(
        (heads, self.head_dim),
        f"embed -> {axis} head_dim",
        self.parametrization,
        use_bias=self.use_bias,
        dtype=self.dtype,
        name=name,
      )
      return nn.with_logical_constraint(dense(x), ("batch", "length", axis, "head_dim"))

    query = rotate(project("query", self.heads), positions, self.rope_base)
    key = rotate(project("key", self.kv_heads), positions, self.rope_base)
    value = project("value", self.kv_heads)
    mask = None
    if self.cache_length is not None:
      key, value, mask = self._remember(key, value, positions, self.cache_length)
    y = jax.nn.dot_product_attention(
      query,
      key,
      value,
      mask=mask,
      scale=self.multiplier / self.head_dim,
      is_causal=mask is None,
      implementation=self._implementation(query, mask),
    )
    out = Dense(
      width,
      "heads head_dim -> embed",
      self.parametrization,
      use_bias=self.use_bias,
      dtype=self.dtype,
      name="out",
    )
    return out(y)

  def _remember(
    self, key: jax.Array, value: jax.Array, positions: jax.Array, length: int
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All keys and values so far, and which of them each query may see.

    Beyond the ends of the cache everything becomes nan: XLA would overwrite other
    entries without a word.

    Raises:
      DepthMupError: see `Transformer.__call__`.
    """
    shape = (key.shape[0], length, *key.shape[2:])
    if key.shape[1] > length:
      raise DepthMupError(
        f"Attention: {key.shape[1]} tokens are more than cache_length={length}; "
        "set it to the length of the whole text"
      )
    if not self.is_mutable_collection("cache"):
      raise DepthMupError(
        f'Attention: cache_length={length} but the collection "cache" is not '
        'mutable; call apply(..., mutable=["cache"]), or set cache_length=None'
      )
    keys = self.variable("cache", "keys", jnp.zeros, shape, key.dtype)
    values = self.variable("cache", "values", jnp.zeros, shape, value.dtype)
    if keys.value.shape != shape:
      raise DepthMupError(
        f"Attention: the cache has shape {keys.value.shape}, expected {shape}, [batch, "
        "cache_length, kv_heads, head_dim]; start with an empty one"
      )
    start = positions[0]
    fits = (start >= 0) & (start + key.shape[1] <= length)
    for store, new in ((keys, key), (values, value)):
      new = jnp.where(fits, new, jnp.nan)
      store.value = jax.lax.dynamic_update_slice(store.value, new, (0, start, 0, 0))
    seen = jnp.arange(length)[None, :] <= positions[:, None]
    return keys.value, values.value, seen[None, None]

  def _implementation(
    self, query: jax.Array, mask: jax.Array | None
  ) -> Literal["cudnn", "xla"]:
    """cuDNN's flash attention where it can, XLA elsewhere."""
    fits = self.head_dim % 8 == 0 and self.head_dim <= 128
    on_gpu = jax.default_backend() == "gpu" and query.dtype in _CUDNN_TYPES
    return "cudnn" if on_gpu and fits and mask is None else "xla"


def rotate(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
  """Rotary position embedding (Su et al., arXiv 2104.09864), halves as pairs.

  Args:
    x: [batch, length, heads, head_dim].
    positions: [length] integers.
    base: coordinate i turns by base^(-2i/head_dim) radians a position.

  Returns:
    x with coordinates (i, i + head_dim/2) turned; computed in float32.
  """
  half = x.shape[-1] // 2
  frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions.astype(jnp.float32)[:, None] * frequencies[None, :]
  cos, sin = (f(angles)[None, :, None, :] for f in (jnp.cos, jnp.sin))
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)
