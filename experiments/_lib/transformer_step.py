"""A transformer's training step, as the library makes it and written plainly."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib.plain_transformer import PlainTransformer

_LR = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """What a net is given and how large it is; heads grow in number, not in size.

  Attributes:
    width, depth: of the net.
    base_width, base_depth: of the net that its multipliers are relative to.
    head_dim: size of a head.
    vocab: number of tokens.
    batch, length: sequences of a step, and tokens of each.
    dtype: of the computation.
  """

  width: int = 128
  depth: int = 8
  base_width: int = 64
  base_depth: int = 2
  head_dim: int = 32
  vocab: int = 256
  batch: int = 8
  length: int = 128
  dtype: str = "float32"


def library_model(shape: Shape, remat: bool = False) -> dmup.Transformer:
  """Under CompleteP; in the base net attention is the standard one."""
  s = shape
  heads = s.base_width // s.head_dim
  base = dmup.axis_sizes(width=s.base_width, heads=heads, head_dim=s.head_dim)
  return dmup.Transformer(
    s.width,
    s.depth,
    s.vocab,
    s.width // s.head_dim,
    dmup.complete_p(base_width=base, base_depth=s.base_depth),
    attention_multiplier=s.head_dim**0.5,
    remat=remat,
    dtype=jnp.dtype(s.dtype),
  )


def plain_model(shape: Shape) -> PlainTransformer:
  """The same net without the library."""
  s = shape
  heads = s.width // s.head_dim
  return PlainTransformer(s.width, s.depth, s.vocab, heads, jnp.dtype(s.dtype))


class TrainingStep:
  """Forward, backward and Adam's update of one model, compiled with donation.

  Attributes:
    bytes_held: of the state and the batch, which lie in memory between steps.
    bytes_temporary: what a step needs beyond them, as the compiler plans it.
  """

  def __init__(self, shape: Shape, *, plain: bool = False, remat: bool = False):
    """Compiles; runs nothing. Only the library's model takes `remat`."""
    model = library_model(shape, remat)
    self._shape, self._draw = shape, _draw_of(shape)
    tokens = jax.ShapeDtypeStruct((shape.batch, shape.length), jnp.int32)
    params, scales = dmup.abstract_init(model, jax.random.key(0), tokens)
    tx = optax.adam(_LR) if plain else dmup.adam(_LR, scales)
    self._init = jax.jit(tx.init)
    state = params, jax.eval_shape(tx.init, params)
    step = _step_of(plain_model(shape) if plain else model, tx)
    self._compiled = jax.jit(step, donate_argnums=0).lower(state, tokens).compile()
    plan = self._compiled.memory_analysis()
    new = plan.output_size_in_bytes - plan.alias_size_in_bytes
    self.bytes_held = int(plan.argument_size_in_bytes)
    self.bytes_temporary = int(plan.temp_size_in_bytes + new)

  @property
  def bytes_needed(self) -> int:
    """Of memory, in all."""
    return self.bytes_held + self.bytes_temporary

  def runner(self) -> Callable[[], jax.Array]:
    """A function that takes the next step, always on one batch, and gives its loss."""
    shape = self._shape
    params = self._draw(jax.random.key(0))
    state = params, self._init(params)
    size = (shape.batch, shape.length)
    tokens = jax.random.randint(jax.random.key(1), size, 0, shape.vocab, jnp.int32)

    def run() -> jax.Array:
      nonlocal state
      state, loss = self._compiled(state, tokens)
      return loss

    return run


@functools.cache
def _draw_of(shape: Shape) -> Callable[[jax.Array], Any]:
  """From a key to the parameters that both models of a shape start from."""
  model, tokens = library_model(shape), jnp.zeros((1, shape.length), jnp.int32)
  return jax.jit(lambda key: dmup.init(model, key, tokens)[0])


def _step_of(model: nn.Module, tx: optax.GradientTransformation) -> Callable[..., Any]:
  def loss_of(params: Any, tokens: jax.Array) -> jax.Array:
    logits, labels = model.apply({"params": params}, tokens)[:, :-1], tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  def step(state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
    params, opt_state = state
    loss, grads = jax.value_and_grad(loss_of)(params, tokens)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  return step
