"""Wrong fields and inputs of the transformer: one sentence, naming them."""

import jax.numpy as jnp
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from tests.naive_transformer import BASE, TOKENS, transformer


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"width": 0}, "width=0: expected a whole number"),
    ({"depth": 0}, "depth=0: expected a whole number"),
    ({"depth": 2.0}, r"depth=2\.0"),
    ({"vocab": -3}, "vocab=-3"),
    ({"heads": 5, "head_dim": None, "kv_heads": None}, "heads=5 do not divide width=16"),
    ({"heads": 0}, "heads=0"),
    ({"head_dim": 3}, "head_dim=3 is odd"),
    ({"head_dim": 0}, "head_dim=0"),
    ({"kv_heads": 3}, "kv_heads=3 do not divide heads=4.*give a divisor"),
    ({"kv_heads": 0}, "kv_heads=0"),
    ({"mlp": 2.5}, r"mlp=2\.5"),
    ({"parametrization": None}, "parametrization=None is no Parametrization"),
    ({"norm": "batch_norm"}, "norm='batch_norm': expected one of layer_norm, rms_norm"),
    ({"norm": None}, "norm=None"),
    ({"norm": ["rms_norm"]}, "norm="),
    ({"activation": "swish"}, "activation='swish': expected one of relu"),
    ({"attention_multiplier": 0.0}, r"attention_multiplier=0\.0: expected a positive"),
    ({"readout_multiplier": float("nan")}, "readout_multiplier=nan"),
    ({"rope_base": "1e4"}, "rope_base='1e4'"),
    ({"block_multiplier": -1.0}, r"multiplier a=-1\.0"),
    ({"embed_std": -1.0}, r"embed_std=-1\.0"),
    ({"readout_std": "0"}, "readout_std='0'"),
    ({"cache_length": 0}, "cache_length=0"),
    ({"dtype": jnp.int8}, "dtype=.*int8.*: expected None for float32"),
    ({"dtype": "half precision"}, "dtype='half precision'"),
    (
      {"parametrization": dmup.mup(base_width=8, base_depth=1)},
      r"base_width=\{'embed': 8\} of mup has no size .*\"mlp\".*dmup\.axis_sizes\(",
    ),
    (
      {"parametrization": dmup.mup(base_width={"embed": 8, "mlp": 8}, base_depth=1)},
      'has no size for the axis "heads"',
    ),
    (
      {"tied": True, "parametrization": dmup.depth_mup(base_width=BASE, base_depth=1)},
      "tied=True with table 3 of depth_mup.*width_rule=dmup.TABLE_8, or tied=False",
    ),
    ({"tied": True, "readout_std": 0.0}, r"readout_std=0\.0 with tied=True.*embed_std"),
  ],
)
def test_errors_of_fields(fields, words):
  with pytest.raises(DepthMupError, match=words):
    transformer(**fields)


@pytest.mark.parametrize(
  ("tokens", "position", "words"),
  [
    (TOKENS[0], 0, r"the tokens are \(6,\); expected an array \[batch, length\]"),
    ([[1, 2]], 0, "the tokens are list"),
    (TOKENS * 1.0, 0, r"the tokens have dtype float32; expected integers in \[0, vocab\)"),
    (TOKENS > 3, 0, "the tokens have dtype bool"),
    (TOKENS, 3, "position=3 without a cache; set cache_length"),
    (TOKENS, jnp.arange(6), "expected one integer, that of the first token"),
    (TOKENS, "end", "position='end'"),
  ],
)
def test_errors_of_inputs(tokens, position, words):
  with pytest.raises(DepthMupError, match=words):
    transformer().apply({"params": {}}, tokens, position)


def test_axis_sizes():
  assert dmup.axis_sizes(width=12, heads=3) == {
    "embed": 12,
    "mlp": 48,
    "heads": 3,
    "kv_heads": 3,
    "head_dim": 4,
  }
  with pytest.raises(DepthMupError, match="heads=5 do not divide width=12"):
    dmup.axis_sizes(width=12, heads=5)
