"""Sampling from a `Transformer`, with its cache. Layer: flax, mathematics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.models.transformer import Transformer


def generate(
  model: Transformer,
  params: Any,
  prompt: jax.Array,
  length: int,
  key: jax.Array | None = None,
  temperature: float = 1.0,
) -> jax.Array:
  """Continues prompts, each token drawn from softmax(logits / temperature).

  One compiled program for each model and shape: the prompt at once, then a token at
  a time against the cache. The model is the one that was trained, multipliers and
  all.

  Args:
    model: as trained; its `cache_length` is set here.
    params: as `init` gives them.
    prompt: integers in [0, vocab), [batch, prompt length], at least one a row.
    length: number of tokens to add.
    key: a jax random key; None only at temperature 0.
    temperature: 0 takes the likeliest token.

  Returns:
    The continuations without the prompts, [batch, length], int32.

  Raises:
    DepthMupError: an argument is none of these, or a logit is not finite.
  """
  if not isinstance(model, Transformer):
    raise DepthMupError(f"model={model!r} is no dmup.Transformer; give one")
  check_size(length, "length")
  check_nonnegative(temperature, "temperature")
  _check_prompt(prompt, model.vocab)
  greedy = temperature == 0
  if not greedy and not isinstance(key, jax.Array):
    raise DepthMupError(
      f"key={key!r} with temperature={temperature}: give jax.random.key(seed), or "
      "temperature=0"
    )
  key, temperature = (jax.random.key(0), 1.0) if greedy else (key, temperature)
  if isinstance(model.block_multiplier, jax.Array):  # no static argument of a jit
    model = model.clone(block_multiplier=float(model.block_multiplier))
  model = model.clone(cache_length=prompt.shape[1] + length - 1)  # the last is not read
  tokens, finite = _generate(
    model, int(length), greedy, params, jnp.asarray(prompt), key, temperature
  )
  if not isinstance(finite, jax.core.Tracer) and not finite:
    raise DepthMupError(
      "generate: logits are not finite, so no token can be drawn; the parameters are not "
      "finite or far too large"
    )
  return tokens


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
  model: Transformer,
  length: int,
  greedy: bool,
  params: Any,
  prompt: jax.Array,
  key: jax.Array,
  temperature: float,
) -> tuple[jax.Array, jax.Array]:
  """The continuations, and whether all logits were finite."""

  def forward(tokens: jax.Array, cache: Any, position: Any) -> tuple[jax.Array, Any]:
    variables = {"params": params, **cache}
    logits, cache = model.apply(variables, tokens, position, mutable=["cache"])
    return logits[:, -1], cache

  def draw(logits: jax.Array, i: Any) -> jax.Array:
    if greedy:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jax.random.categorical(jax.random.fold_in(key, i), logits / temperature)
    return drawn.astype(jnp.int32)

  def step(carry: Any, i: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    logits, cache = carry
    token = draw(logits, i)
    carry = forward(token[:, None], cache, prompt.shape[1] + i)
    return carry, (token, jnp.isfinite(logits).all())

  start = forward(prompt, {}, 0)
  (logits, _), (tokens, finite) = jax.lax.scan(step, start, jnp.arange(length - 1))
  tokens = jnp.concatenate([tokens, draw(logits, length - 1)[None]])
  return tokens.T, finite.all() & jnp.isfinite(logits).all()


def _check_prompt(prompt: Any, vocab: int) -> None:
  is_array = isinstance(prompt, jax.Array | np.ndarray)
  if not is_array or prompt.ndim != 2 or 0 in prompt.shape:
    found = getattr(prompt, "shape", type(prompt).__name__)
    raise DepthMupError(
      f"the prompt is {found}; expected an array [batch, length] of at least one token a "
      "row: start with an end-of-text token where there is no text"
    )
  if not jnp.issubdtype(prompt.dtype, jnp.integer):
    raise DepthMupError(
      f"the prompt has dtype {prompt.dtype}; expected integers in [0, {vocab})"
    )
  if isinstance(prompt, jax.core.Tracer):
    return
  low, high = int(prompt.min()), int(prompt.max())
  if low < 0 or high >= vocab:
    raise DepthMupError(
      f"the prompt has tokens from {low} to {high}; expected integers in [0, {vocab}), of "
      "the tokenizer that the model was trained with"
    )
