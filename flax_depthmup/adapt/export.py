"""A transformer's weights with every multiplier folded in, for code that knows none.

Layer: flax, mathematics; no optax.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from flax_depthmup.errors import DepthMupError
from flax_depthmup.metadata import abstract_init
from flax_depthmup.models.transformer import Transformer
from flax_depthmup.parametrizations.presets import standard
from flax_depthmup.scales import Scales, forward_multiplier
from flax_depthmup.transforms import named_leaves

#: The last linear maps of the two branches; the branch multiplier goes into them.
_BRANCH_ENDS = ("layers/attention/out/", "layers/mlp/down/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multipliers:
  """The forward multipliers of a transformer, as numbers.

  Attributes:
    embedding: of the rows that the embedding looks up.
    branch: of what each branch adds to the stream, a (L/L0)^(-alpha).
    attention: of q.k, attention_multiplier / head_dim.
    logits: of the readout's product; tied or not.
  """

  embedding: float
  branch: float
  attention: float
  logits: float


def multipliers_of(model: Transformer) -> Multipliers:
  """The four numbers that an export must place somewhere.

  Raises:
    DepthMupError: `model` is no `Transformer`, or its block multiplier is traced.
  """
  if not isinstance(model, Transformer):
    raise DepthMupError(
      f"model={model!r} is no Transformer; only dmup.Transformer can be exported"
    )
  if isinstance(model.block_multiplier, jax.core.Tracer):
    raise DepthMupError(
      "block_multiplier is traced, so its value is not known; export outside of jax.jit"
    )
  p, table = model.parametrization, (model.vocab, model.width)
  readout = forward_multiplier("embed -> (vocab)", table[::-1], p)
  return Multipliers(
    embedding=forward_multiplier("(vocab) -> embed", table, p),
    branch=float(model.block_multiplier) * p.branch_multiplier(model.depth),
    attention=float(model.attention_multiplier) / model.sizes["head_dim"],
    logits=float(model.readout_multiplier) * readout,
  )


def fold(model: Transformer, params: Any) -> tuple[Transformer, Any]:
  """The same net without a multiplier: in standard parametrization, of block multiplier 1.

  Into which weights they go:

  | multiplier                     | goes into                               |
  |--------------------------------|-----------------------------------------|
  | branch                         | attention/out and mlp/down, with biases |
  | attention over 1/sqrt(head_dim)| attention/query, with bias              |
  | width rule's, of any parameter | that parameter                          |
  | readout, and the width rule's  | readout/kernel                          |

  A tied net comes out untied: embedding and readout receive different multipliers.

  Args:
    model: the transformer.
    params: its parameters, plain arrays or as `model.init` boxes them.

  Returns:
    (plain, weights): `plain` has attention logits q.k / sqrt(head_dim); no number of it
    multiplies anything else. `weights` are numpy arrays of the dtypes of `params`, for
    `plain.apply({"params": weights}, tokens)`.

  Raises:
    DepthMupError: see `multipliers_of`; or the parameters are not those of the model.
  """
  m = multipliers_of(model)
  flat, scales = checked(model, params)
  head_dim = model.sizes["head_dim"]
  query = m.attention * math.sqrt(head_dim)

  def factor(name: str, s: Scales) -> float:
    if name.startswith(_BRANCH_ENDS):
      return s.multiplier * m.branch
    if name.startswith("layers/attention/query/"):
      return s.multiplier * query
    return m.logits if name == "readout/kernel" else s.multiplier

  weights = {name: times(w, factor(name, scales[name])) for name, w in flat.items()}
  if model.tied:
    weights["readout/kernel"] = times(flat["embed/embedding"].T, m.logits)
  plain = model.clone(
    parametrization=standard(base_width=model.sizes, base_depth=model.depth),
    attention_multiplier=math.sqrt(head_dim),
    block_multiplier=1.0,
    readout_multiplier=1.0,
    tied=False,
  )
  return plain, unflatten_dict(weights, sep="/")


def checked(
  model: Transformer, params: Any
) -> tuple[dict[str, np.ndarray], dict[str, Scales]]:
  """Parameters and scales by name, as "layers/mlp/down/kernel".

  Raises:
    DepthMupError: the parameters are not those of the model, naming the first.
  """
  bare = model.clone(cache_length=None)
  tokens = jnp.zeros((1, 1), jnp.int32)
  scales = dict(named_leaves(abstract_init(bare, jax.random.key(0), tokens)[1]))
  flat = {name: np.asarray(x) for name, x in named_leaves(nn.meta.unbox(params))}
  for name in [*scales, *flat]:
    has, needs = flat.get(name), scales.get(name)
    if has is None or needs is None or has.shape != needs.shape:
      found = "missing" if has is None else f"there, of shape {has.shape}"
      there = "has none" if needs is None else f"has one of shape {needs.shape}"
      raise DepthMupError(
        f"parameter {name} is {found}, but the model {there}; give the parameters of "
        'this very model, variables["params"]'
      )
  return flat, scales


def times(w: np.ndarray, factor: float) -> np.ndarray:
  """w * factor in the dtype of w, rounded once."""
  return (w.astype(np.float64) * factor).astype(w.dtype)
