"""Decoding against a cache is the training forward; sampling follows its softmax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.decoding import generate
from tests.helpers import compilations
from tests.naive_transformer import TOKENS, VOCAB, drawn, quick_jit, transformer

KEY = jax.random.key(0)
FIELDS = {
  "multipliers": {},  # width, depth and fields: none of them is 1
  "gated": {"gated": True, "preset": dmup.depth_mup, "remat": True},
  "own keys": {"kv_heads": 4, "tied": True},
  "layer_norm": {"norm": "layer_norm", "use_bias": True, "rule": dmup.TABLE_9},
  "bfloat16": {"dtype": jnp.bfloat16},
}
CHUNKS = {
  "multipliers": (1,) * 6,
  "gated": (2, 2, 2),
  "own keys": (4, 1, 1),
  "layer_norm": (3, 1, 1, 1),
  "bfloat16": (3, 3),
}


@functools.cache
def net(name):
  model = transformer(**FIELDS[name])
  return model, drawn(model)[0], quick_jit(model.apply)


@functools.cache
def stepper(name, cache_length):
  """(params, tokens, position, cache) -> logits, cache."""
  model = net(name)[0].clone(cache_length=cache_length)

  @quick_jit
  def forward(params, tokens, position, cache):
    variables = {"params": params, **cache}
    return model.apply(variables, tokens, position, mutable=["cache"])

  return forward


def decode(name, chunks, cache_length=6):
  """Logits of TOKENS, given a chunk at a time."""
  forward, params = stepper(name, cache_length), net(name)[1]
  position, cache, logits = 0, {}, []
  for size in chunks:
    tokens = TOKENS[:, position : position + size]
    out, cache = forward(params, tokens, position, cache)
    logits.append(out)
    position += size
  return jnp.concatenate(logits, axis=1)


@pytest.mark.parametrize("name", FIELDS)
def test_decoding_is_the_training_forward(name):
  _, params, apply = net(name)
  expected = apply({"params": params}, TOKENS)
  found = decode(name, CHUNKS[name], cache_length=6 + (name == "gated"))
  assert found.dtype == expected.dtype == jnp.float32
  rtol = 0.05 if name == "bfloat16" else 1e-4
  np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_what_does_not_fit_the_cache_is_nan():
  _, params, apply = net("multipliers")
  expected = apply({"params": params}, TOKENS)
  found = decode("multipliers", (1,) * 6, cache_length=4)
  np.testing.assert_allclose(found[:, :4], expected[:, :4], rtol=1e-4, atol=1e-4)
  assert np.isnan(found[:, 4:]).all()
  before = stepper("multipliers", 4)(params, TOKENS[:, :1], -1, {})[0]
  assert np.isnan(before).all()


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (
      lambda m, v: m.apply(v, TOKENS, mutable=["cache"]),
      "6 tokens are more than",
    ),
    (lambda m, v: m.apply(v, TOKENS[:, :2]), '"cache" is not mutable'),
    (lambda m, v: m.apply(v, TOKENS[:, :2], -1, mutable=["cache"]), "position=-1"),
    (lambda m, v: m.apply(v, TOKENS[:, :2], 0.5, mutable=["cache"]), r"position=0\.5"),
    (
      lambda m, v: m.apply(
        v | jax.eval_shape(lambda: m.apply(v, TOKENS[:, :2], mutable=["cache"])[1]),
        TOKENS[:1, :2],
        mutable=["cache"],
      ),
      r"the cache has shape \(2, 4, 2, 6\), expected \(1, 4, 2, 6\)",
    ),
  ],
)
def test_errors_of_the_cache(call, words):
  model, params, _ = net("multipliers")
  with pytest.raises(DepthMupError, match=words):
    jax.eval_shape(lambda p: call(model.clone(cache_length=4), {"params": p}), params)


def test_greedy_takes_the_argmax_of_the_whole_forward():
  """Each step anew, on texts padded behind to one length: the future is not seen."""
  model, params, forward = net("multipliers")
  text = np.random.default_rng(7).integers(0, VOCAB, (16, 8))
  found = generate(model, params, text[:, :2], 6, temperature=0)
  assert found.shape == (16, 6)
  assert found.dtype == jnp.int32
  for i in range(2, 8):
    text[:, i] = forward({"params": params}, text)[:, i - 1].argmax(-1)
  np.testing.assert_array_equal(found, text[:, 2:])
  assert len(set(map(tuple, text[:, 2:]))) > 8


def test_samples_follow_the_softmax():
  """4,000 draws of a first and a second token; five standard errors of a frequency."""
  model, params, forward = net("multipliers")
  prompt = np.tile(np.asarray(TOKENS[:1, :3]), (4000, 1))
  drawn_at = functools.partial(generate, model, params, prompt, 2)
  found = np.asarray(drawn_at(KEY, 0.7))

  def check(text, tokens):
    padded = np.pad(np.tile(text, (2, 1)), ((0, 0), (0, 6 - text.shape[1])))
    logits = forward({"params": params}, padded)[0, text.shape[1] - 1]
    p = np.asarray(jax.nn.softmax(logits / 0.7))
    counted = np.bincount(tokens, minlength=VOCAB) / len(tokens)
    assert (np.abs(counted - p) < 5 * np.sqrt(p * (1 - p) / len(tokens)) + 1e-3).all()

  check(prompt[:1], found[:, 0])
  likely = np.bincount(found[:, 0]).argmax()
  check(np.append(prompt[0], likely)[None], found[found[:, 0] == likely, 1])

  with compilations() as seen:
    assert (np.asarray(drawn_at(KEY, 0.7)) == found).all()
    assert (np.asarray(drawn_at(jax.random.key(1), 0.7)) != found).any()
    cold = np.asarray(drawn_at(KEY, 1e-4))
  assert seen == []  # neither a key nor a temperature is another program
  assert (cold == cold[0]).all()


def generated(model=None, params=None, prompt=TOKENS, length=2, key=KEY, temperature=1.0):
  default = net("multipliers")
  model, params = model or default[0], params or default[1]
  return generate(model, params, prompt, length, key, temperature)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"model": dmup.Readout(3, None)}, "is no dmup.Transformer"),
    ({"length": 0}, "length=0"),
    ({"length": 2.5}, r"length=2\.5"),
    ({"temperature": -1.0}, r"temperature=-1\.0"),
    ({"key": None}, r"key=None with temperature=1\.0"),
    ({"key": 3}, "key=3 with temperature"),
    ({"prompt": TOKENS[0]}, r"the prompt is \(6,\); expected an array \[batch, length\]"),
    ({"prompt": TOKENS[:, :0]}, r"the prompt is \(2, 0\)"),
    ({"prompt": [[1]]}, "the prompt is list"),
    ({"prompt": TOKENS * 1.0}, "the prompt has dtype float32"),
    ({"prompt": TOKENS - 20}, r"tokens from -20 to -1\d; expected integers in \[0, 11\)"),
    ({"prompt": TOKENS + 5}, r"tokens from 5 to 1\d; expected"),
  ],
)
def test_errors_of_generate(arguments, words):
  with pytest.raises(DepthMupError, match=words):
    generated(**arguments)


def test_logits_that_are_not_finite():
  params = drawn(net("multipliers")[0])[0]
  params["readout"]["kernel"] = params["readout"]["kernel"] * np.nan
  with pytest.raises(DepthMupError, match="logits are not finite"):
    generated(params=params, prompt=np.zeros((16, 2), int), length=6, temperature=0)
