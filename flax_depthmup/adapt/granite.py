"""A transformer as Granite's weights and config: multipliers under fields others read.

Granite (IBM) is Llama with four multipliers in its config, which are those of a
parametrization: `embedding_multiplier`, `residual_multiplier`, `attention_multiplier`
and `logits_scaling`, a divisor. Engines that run it apply them. Layer: flax, mathematics;
no optax.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from flax_depthmup.adapt.export import checked, multipliers_of, times
from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.models.transformer import Transformer
from flax_depthmup.sweep_store import replace

#: Our names of activations -> theirs.
_ACTIVATIONS = {
  "gelu": "gelu_pytorch_tanh",
  "relu": "relu",
  "tanh": "tanh",
  "identity": "linear",
}
_NORM_EPS = 1e-6  # linen's

#: Our linear maps of a layer -> theirs.
_LINEAR = {
  "attention/query": "self_attn.q_proj",
  "attention/key": "self_attn.k_proj",
  "attention/value": "self_attn.v_proj",
  "attention/out": "self_attn.o_proj",
  "mlp/gate": "mlp.gate_proj",
  "mlp/up": "mlp.up_proj",
  "mlp/down": "mlp.down_proj",
}
_NORMS = {
  "layers/attention/norm": "model.layers.{}.input_layernorm",
  "layers/mlp/norm": "model.layers.{}.post_attention_layernorm",
  "norm": "model.norm",
}


def granite(
  model: Transformer, params: Any, max_position_embeddings: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Weights under the names of Hugging Face's Granite, and the fields of its config.json.

  The four multipliers go into the config; the trained weights stay as they are, in
  torch's order [out, in]. What the config has no field for (the multipliers that Table 9
  has for biases) is folded into the weights.

  Args:
    model: with rms_norm, a gated MLP, and heads * head_dim = width.
    params: its parameters, plain arrays or as `model.init` boxes them.
    max_position_embeddings: longest text the model is meant for.

  Returns:
    (weights, config): name -> array, and what JSON can hold.

  Raises:
    DepthMupError: the architecture is not Granite's; see also `fold`, which exports any
      `Transformer`.
  """
  m = multipliers_of(model)
  _check_architecture(model)
  check_size(max_position_embeddings, "max_position_embeddings")
  flat, scales = checked(model, params)
  in_config = ("embed/embedding", "readout/kernel")
  folded = {
    name: w if name in in_config else times(w, scales[name].multiplier)
    for name, w in flat.items()
  }
  config = {
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "vocab_size": model.vocab,
    "hidden_size": model.width,
    "intermediate_size": model.sizes["mlp"],
    "num_hidden_layers": model.depth,
    "num_attention_heads": model.sizes["heads"],
    "num_key_value_heads": model.sizes["kv_heads"],
    "hidden_act": _ACTIVATIONS[model.activation],
    "attention_bias": model.use_bias,
    "mlp_bias": model.use_bias,
    "rms_norm_eps": _NORM_EPS,
    "rope_theta": float(model.rope_base),
    "rope_scaling": None,
    "max_position_embeddings": int(max_position_embeddings),
    "tie_word_embeddings": model.tied,
    "embedding_multiplier": m.embedding,
    "residual_multiplier": m.branch,
    "attention_multiplier": m.attention,
    "logits_scaling": 1 / m.logits,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "torch_dtype": str(flat["embed/embedding"].dtype),
  }
  return _weights(model, folded), config


def save_granite(
  folder: str | os.PathLike, model: Transformer, params: Any, max_position_embeddings: int
) -> None:
  """Writes `granite`'s weights and config as model.safetensors and config.json.

  Args:
    folder: made if it is missing; files of these names in it are replaced.
    model: see `granite`.
    params: see `granite`.
    max_position_embeddings: see `granite`.

  Raises:
    DepthMupError: see `granite`; or the package safetensors is not installed.
  """
  weights, config = granite(model, params, max_position_embeddings)
  try:
    from safetensors.numpy import save
  except ImportError:
    raise DepthMupError(
      "save_granite writes with the package safetensors, which is not installed; "
      "pip install safetensors"
    ) from None
  data = save(weights, metadata={"format": "pt"})
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  replace(path / "model.safetensors", lambda file: file.write(data))
  text = json.dumps(config, indent=2) + "\n"
  replace(path / "config.json", lambda file: file.write(text.encode()))


def _check_architecture(model: Transformer) -> None:
  sizes = model.sizes
  faults = [
    (model.norm != "rms_norm", f"norm={model.norm!r}: it has rms_norm"),
    (not model.gated, "gated=False: its MLP is gated"),
    (
      model.activation not in _ACTIVATIONS,
      f"activation={model.activation!r}: it has {', '.join(_ACTIVATIONS)}",
    ),
    (
      sizes["heads"] * sizes["head_dim"] != model.width,
      f"heads * head_dim = {sizes['heads'] * sizes['head_dim']} with width={model.width}: "
      "its heads share out the width",
    ),
  ]
  found = [text for wrong, text in faults if wrong]
  if found:
    raise DepthMupError(
      f"this Transformer is no Granite, {found[0]}; adapt.export.fold exports any"
    )


def _weights(model: Transformer, flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  weights = {"model.embed_tokens.weight": flat["embed/embedding"]}
  for ours, theirs in _NORMS.items():
    shape = (model.depth, model.width) if "layers" in ours else (1, model.width)
    gains = flat.get(f"{ours}/scale", np.ones(shape, np.float32)).reshape(shape)
    for i, gain in enumerate(gains):
      weights[f"{theirs.format(i)}.weight"] = gain
  for ours, theirs in _LINEAR.items():
    ins = 2 if ours == "attention/out" else 1
    for i, kernel in enumerate(flat[f"layers/{ours}/kernel"]):
      n_in = int(np.prod(kernel.shape[:ins]))
      weights[f"model.layers.{i}.{theirs}.weight"] = kernel.reshape(n_in, -1).T
    for i, bias in enumerate(flat.get(f"layers/{ours}/bias", ())):
      weights[f"model.layers.{i}.{theirs}.bias"] = bias.reshape(-1)
  if not model.tied:
    weights["lm_head.weight"] = flat["readout/kernel"].T
  return {name: np.ascontiguousarray(w) for name, w in weights.items()}
