"""Checks of a transformer's fields and inputs, and the sizes of its axes.

Layer: jax, mathematics.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.axes import Kind
from flax_depthmup.checks import check_nonnegative, check_size, is_number
from flax_depthmup.errors import DepthMupError
from flax_depthmup.models.residual_mlp import ACTIVATIONS, NORMS
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.parametrizations.width_rules import STANDARD
from flax_depthmup.residual import check_multiplier


def axis_sizes(
  *,
  width: int,
  heads: int,
  kv_heads: int | None = None,
  head_dim: int | None = None,
  mlp: int | None = None,
) -> dict[str, int]:
  """The sizes of a transformer's width axes, as `base_width` takes them.

      p = dmup.complete_p(base_width=dmup.axis_sizes(width=256, heads=4), base_depth=4)

  Args:
    width: size of the residual stream, the axis "embed".
    heads: number of query heads.
    kv_heads: number of key and value heads; None: `heads`.
    head_dim: size of a head; None: width / heads.
    mlp: size of the MLP's hidden layer; None: 4 width.

  Raises:
    DepthMupError: a size is not positive, heads do not divide the width, or
      kv_heads not the heads, or a head has an odd size.
  """
  check_size(width, "width")
  check_size(heads, "heads")
  if head_dim is None and width % heads:
    raise DepthMupError(
      f"heads={heads} do not divide width={width}; give head_dim, or heads that do"
    )
  head_dim = width // heads if head_dim is None else head_dim
  kv_heads = heads if kv_heads is None else kv_heads
  mlp = 4 * width if mlp is None else mlp
  check_size(kv_heads, "kv_heads")
  check_size(head_dim, "head_dim")
  check_size(mlp, "mlp")
  if heads % kv_heads:
    raise DepthMupError(
      f"kv_heads={kv_heads} do not divide heads={heads}: every key head serves as many "
      "query heads; give a divisor"
    )
  if head_dim % 2:
    raise DepthMupError(
      f"head_dim={head_dim} is odd, but rotary positions turn pairs; give an even one"
    )
  return {
    "embed": width,
    "mlp": mlp,
    "heads": heads,
    "kv_heads": kv_heads,
    "head_dim": head_dim,
  }


def check_fields(model: Any) -> None:
  """Raises `DepthMupError` for a field of a `Transformer` that is none."""
  check_parametrization(model.parametrization)
  check_size(model.depth, "depth")
  check_size(model.vocab, "vocab")
  check_multiplier(model.block_multiplier)
  if model.cache_length is not None:
    check_size(model.cache_length, "cache_length")
  for name in ("attention_multiplier", "readout_multiplier", "rope_base"):
    value = getattr(model, name)
    if not is_number(value) or value <= 0:
      raise DepthMupError(f"{name}={value!r}: expected a positive number")
  for name in ("embed_std", "readout_std"):
    if getattr(model, name) is not None:
      check_nonnegative(getattr(model, name), name)
  if model.norm not in tuple(NORMS):
    raise DepthMupError(f"norm={model.norm!r}: expected one of {', '.join(NORMS)}")
  if model.activation not in tuple(ACTIVATIONS):
    raise DepthMupError(
      f"activation={model.activation!r}: expected one of {', '.join(ACTIVATIONS)}"
    )
  if model.dtype is not None and not _is_float(model.dtype):
    raise DepthMupError(
      f"dtype={model.dtype!r}: expected None for float32, or a type of floats such as "
      "jnp.bfloat16"
    )
  _check_axes(model.parametrization, model.sizes)
  if model.tied:
    _check_tied(model.parametrization, model.readout_std)


def check_tokens(tokens: Any) -> None:
  """Raises `DepthMupError` unless these are integers of shape [batch, length]."""
  if not isinstance(tokens, jax.Array | np.ndarray) or tokens.ndim != 2:
    found = getattr(tokens, "shape", type(tokens).__name__)
    raise DepthMupError(
      f"Transformer: the tokens are {found}; expected an array [batch, length], a batch "
      "of one text too"
    )
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise DepthMupError(
      f"Transformer: the tokens have dtype {tokens.dtype}; expected integers in [0, vocab)"
    )


def check_position(position: Any, cache_length: int | None) -> None:
  """Raises `DepthMupError` unless this is a position; the value of a traced one is free."""
  if isinstance(position, jax.Array | np.ndarray):
    whole = position.ndim == 0 and jnp.issubdtype(position.dtype, jnp.integer)
  else:
    whole = isinstance(position, Integral)
  if not whole:
    raise DepthMupError(
      f"Transformer: position={position!r}; expected one integer, that of the first token"
    )
  value = None if isinstance(position, jax.core.Tracer) else int(position)
  if cache_length is None and value != 0:
    raise DepthMupError(
      f"Transformer: position={position!r} without a cache; set cache_length"
    )
  if value is not None and value < 0:
    raise DepthMupError(f"Transformer: position={value}: expected at least 0")


def _is_float(dtype: Any) -> bool:
  try:
    return bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
  except TypeError:
    return False


def _check_axes(p: Parametrization, sizes: Mapping[str, int]) -> None:
  missing = [name for name in sizes if name not in p.base_sizes]
  if missing:
    raise DepthMupError(
      f"base_width={p.base_sizes} of {p.name} has no size for the axis "
      f'"{missing[0]}" of a Transformer; give base_width=dmup.axis_sizes(width=..., '
      "heads=...) of the base net, with the size here for an axis that does not grow"
    )


def _check_tied(p: Parametrization, readout_std: float | None) -> None:
  """One tensor is embedding and readout only where both have the same factors."""
  if readout_std is not None:
    raise DepthMupError(
      f"readout_std={readout_std} with tied=True: the readout is the embedding; give "
      "embed_std"
    )
  ins, outs = p.width_rule[Kind.INPUT], p.width_rule[Kind.OUTPUT]
  same = all(
    getattr(ins, name) == getattr(outs, name)[::-1]
    for name in ("std", "update", "gradient")
  )
  if not same and p.width_rule != STANDARD:
    raise DepthMupError(
      f"tied=True with {p.width_rule.name} of {p.name}: there an embedding starts with "
      "another std than a readout, so one tensor cannot be both; give "
      "width_rule=dmup.TABLE_8, or tied=False"
    )
