"""Exports against forward passes that know no parametrization."""

import functools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from flax_depthmup import parametrizations
from flax_depthmup.adapt import export
from flax_depthmup.adapt import granite as granite_room
from tests import naive_transformer as naive

GRANITE = {"gated": True, "head_dim": 4}

#: (preset, width rule, fields): every width rule, and every part of the architecture.
CASES = {
  "complete_p": (dmup.complete_p, None, {}),
  "tied, gated": (dmup.complete_p, dmup.TABLE_8, {"tied": True, **GRANITE}),
  "layer_norm": (
    dmup.depth_mup,
    dmup.TABLE_9,
    {"tied": True, "norm": "layer_norm", "use_bias": True},
  ),
  "no gains": (dmup.ode, dmup.TABLE_3, {"norm_gain": False, "activation": "relu"}),
  "biases": (
    functools.partial(dmup.depthwise, alpha="1/3", gamma="2/3"),
    dmup.TABLE_9,
    {"use_bias": True, "kv_heads": 4, "activation": "relu", **GRANITE},
  ),
  "standard": (dmup.standard, None, {"tied": True, "norm": "layer_norm"}),
  "u_mup": (parametrizations.u_mup, None, {"norm_gain": False, "kv_heads": 1, **GRANITE}),
}


@functools.cache
def case(name):
  """A net, its parameters and its logits."""
  preset, rule, fields = CASES[name]
  model = naive.transformer(preset, rule, **fields)
  params, _ = naive.drawn(model)
  logits = naive.quick_jit(model.apply)({"params": params}, naive.TOKENS)
  return model, params, np.asarray(logits)


def plainly(model, weights):
  """Logits of a standard net; of `model` the architecture alone is read."""
  fields = types.SimpleNamespace(
    depth=model.depth,
    norm=model.norm,
    activation=model.activation,
    rope_base=model.rope_base,
    attention_multiplier=math.sqrt(model.sizes["head_dim"]),
    tied=False,
  )
  return np.stack([naive.logits(fields, weights, text, 1, 1, 1) for text in naive.TOKENS])


# folding ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_plain_net_has_the_same_logits(name):
  model, params, expected = case(name)
  plain, weights = export.fold(model, params)
  assert np.abs(expected).max() > 0.1
  found = plainly(model, weights)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert plain.parametrization.name == "standard"
  assert plain.parametrization.branch_multiplier(plain.depth) == 1
  assert (plain.block_multiplier, plain.readout_multiplier, plain.tied) == (1, 1, False)


@pytest.mark.filterwarnings("ignore:megatron_depth_mup")
def test_every_preset_has_a_width_rule_of_these():
  names = [n for n in parametrizations.__all__ if n.islower() and n != "depthwise"]
  made = [getattr(parametrizations, n)(base_width=naive.BASE, base_depth=1) for n in names]
  tested = {"standard", "table 3", "table 8", "table 9", parametrizations.U_MUP.name}
  assert len(made) > 5
  assert {p.width_rule.name for p in made} <= tested


def test_our_own_standard_net_has_the_same_logits():
  model, params, expected = case("layer_norm")
  plain, weights = export.fold(model, params)
  _, scales = dmup.abstract_init(plain, jax.random.key(0), naive.TOKENS)
  assert {s.multiplier for s in jax.tree.leaves(scales)} == {1.0}
  found = naive.quick_jit(plain.apply)({"params": weights}, naive.TOKENS)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_plain_net_is_exported_as_it_is():
  model = naive.transformer(
    dmup.standard,
    attention_multiplier=math.sqrt(6),
    block_multiplier=1.0,
    readout_multiplier=1.0,
  )
  params, _ = naive.drawn(model)
  weights = export.fold(model, params)[1]
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), weights, params))


def test_boxes_are_taken_and_dtypes_stay():
  model = naive.transformer()
  boxed = jax.eval_shape(model.init, jax.random.key(0), naive.TOKENS)["params"]
  boxed = jax.tree.map(lambda x: np.ones(x.shape, jnp.bfloat16), boxed)
  weights = export.fold(model, boxed)[1]
  assert {str(w.dtype) for w in jax.tree.leaves(weights)} == {"bfloat16"}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda p: p | {"extra": np.ones(3)}, r"extra is there, of shape \(3,\), .* has none"),
    (lambda p: {k: v for k, v in p.items() if k != "norm"}, "norm/scale is missing"),
    (lambda p: p | {"norm": {"scale": np.ones(3)}}, r"norm/scale is there, of shape \(3,"),
    (
      lambda p: {"params": p},
      "layers/attention/key/kernel is missing|embed/embedding is m",
    ),
  ],
)
def test_parameters_of_another_net_are_named(change, message):
  model = naive.transformer()
  with pytest.raises(dmup.DepthMupError, match=message):
    export.fold(model, change(naive.drawn(model)[0]))


def test_what_is_no_transformer_is_refused():
  with pytest.raises(dmup.DepthMupError, match="is no Transformer"):
    export.fold("model", {})

  def traced(a):
    export.fold(naive.transformer(block_multiplier=a), {})

  with pytest.raises(dmup.DepthMupError, match=r"block_multiplier is traced"):
    jax.eval_shape(traced, jnp.ones(()))


# Granite ------------------------------------------------------------------------

_ACT = {"relu": lambda x: np.maximum(x, 0), "gelu_pytorch_tanh": naive._PHI["gelu"]}


def granite_logits(weights, config, text):
  """Granite's forward pass of one text, of its weights and its config alone."""
  width, heads = config["hidden_size"], config["num_attention_heads"]
  dim, kv_heads = width // heads, config["num_key_value_heads"]
  length = len(text)

  def linear(name, x):
    y = x @ np.float64(weights[f"{name}.weight"]).T
    return y + weights.get(f"{name}.bias", 0)

  def norm(name, x):
    root = np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"])
    return weights[f"{name}.weight"] * (x / root)

  frequencies = 1 / config["rope_theta"] ** (np.arange(0, dim, 2) / dim)
  angles = np.outer(np.arange(length), frequencies)
  cos, sin = (np.tile(f(angles), (1, 2))[:, None] for f in (np.cos, np.sin))

  def rotary(x):
    half = dim // 2
    rotated = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cos + rotated * sin

  def attention(name, x):
    q = rotary(linear(f"{name}.q_proj", x).reshape(length, heads, dim))
    k = rotary(linear(f"{name}.k_proj", x).reshape(length, kv_heads, dim))
    v = linear(f"{name}.v_proj", x).reshape(length, kv_heads, dim)
    k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) * config["attention_multiplier"]
    scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    return linear(
      f"{name}.o_proj", np.einsum("hij,jhd->ihd", scores, v).reshape(length, -1)
    )

  def mlp(name, x):
    gate = _ACT[config["hidden_act"]](linear(f"{name}.gate_proj", x))
    return linear(f"{name}.down_proj", gate * linear(f"{name}.up_proj", x))

  x = weights["model.embed_tokens.weight"][text] * config["embedding_multiplier"]
  for i in range(config["num_hidden_layers"]):
    name = f"model.layers.{i}"
    h = attention(f"{name}.self_attn", norm(f"{name}.input_layernorm", x))
    x = x + h * config["residual_multiplier"]
    h = mlp(f"{name}.mlp", norm(f"{name}.post_attention_layernorm", x))
    x = x + h * config["residual_multiplier"]
  x = norm("model.norm", x)
  tied = config["tie_word_embeddings"]
  readout = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
  return x @ readout.T / config["logits_scaling"]


def granite_like(preset=dmup.complete_p, **fields):
  return naive.transformer(preset, **(GRANITE | fields))


@pytest.mark.parametrize("name", ["tied, gated", "biases", "u_mup"])
def test_granite_has_the_same_logits(name):
  model, params, expected = case(name)
  weights, config = granite_room.granite(model, params, 128)
  config = json.loads(json.dumps(config))
  assert ("lm_head.weight" in weights) != model.tied

  assert (weights["model.embed_tokens.weight"] == params["embed"]["embedding"]).all()
  found = np.stack([granite_logits(weights, config, text) for text in naive.TOKENS])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_four_fields_of_granite():
  """Width four times, depth twice the base: golden numbers of CompleteP, tuned by hand."""
  p = dmup.complete_p(
    base_width=dmup.axis_sizes(width=4, heads=1, head_dim=4, mlp=8), base_depth=1
  )
  model = granite_like(parametrization=p)
  config = granite_room.granite(model, naive.drawn(model)[0], 128)[1]
  assert config["embedding_multiplier"] == 1
  assert config["residual_multiplier"] == 1.5 / 2
  assert config["attention_multiplier"] == 5.0 / 4
  assert config["logits_scaling"] == pytest.approx(4 / 3)
  sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
  assert [config[name] for name in sizes] == [naive.VOCAB, 16, 24, 2]
  assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"norm": "layer_norm"}, "norm='layer_norm': it has rms_norm"),
    ({"gated": False}, "gated=False: its MLP is gated"),
    ({"activation": "abs"}, "activation='abs'"),
    ({"head_dim": 6}, r"heads \* head_dim = 24 with width=16"),
  ],
)
def test_what_is_no_granite_is_refused(fields, message):
  with pytest.raises(dmup.DepthMupError, match=f"no Granite, {message}"):
    granite_room.granite(granite_like(**fields), {}, 128)


def test_a_length_of_zero_is_refused():
  with pytest.raises(dmup.DepthMupError, match="max_position_embeddings=0"):
    granite_room.granite(granite_like(), {}, 0)


def test_granite_files(tmp_path):
  safetensors = pytest.importorskip("safetensors.numpy")
  model = granite_like()
  params, _ = naive.drawn(model)
  for _ in range(2):  # a second time over the first
    granite_room.save_granite(tmp_path / "new", model, params, 128)
  weights, config = granite_room.granite(model, params, 128)
  found = safetensors.load_file(tmp_path / "new" / "model.safetensors")
  assert found.keys() == weights.keys()
  assert all((found[name] == w).all() for name, w in weights.items())
  assert json.loads((tmp_path / "new" / "config.json").read_text()) == config


def test_without_safetensors_the_remedy_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
  model = granite_like()
  with pytest.raises(dmup.DepthMupError, match="pip install safetensors"):
    granite_room.save_granite(tmp_path / "new", model, naive.drawn(model)[0], 128)
  assert not (tmp_path / "new").exists()
