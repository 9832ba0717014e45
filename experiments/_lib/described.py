"""--describe: what the parametrization does to the nets of an entry point, and no more."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from absl import flags
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib import tokens
from experiments._lib.shard_index import read_index

DESCRIBE = flags.DEFINE_boolean(
  "describe", False, "Print what is done to every parameter and why, and stop."
)

#: (channels, height, width) of the images that the official files hold.
_IMAGES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}

T = TypeVar("T")


class Described(NamedTuple):
  """A net to describe, and the shape of its inputs."""

  label: str
  model: nn.Module
  example: jax.ShapeDtypeStruct


def stops(entry: str, nets: Callable[[], Iterable[Described]], which: str) -> bool:
  """Whether --describe was given: then the nets are described, and the caller ends.

  Reads no data but the index of token shards, and writes nothing.

  Args:
    entry: name of the entry point.
    nets: made only if they are asked for.
    which: says which nets these are of all that would be made.
  """
  if not DESCRIBE.value:
    return False
  for net in nets():
    params, scales = dmup.abstract_init(net.model, jax.random.key(0), net.example)
    _say(f"{net.label}\n\n{dmup.describe(params, scales, net.model, net.example)}\n")
  _say(f"{entry}: {which}. Nothing was computed or written.")
  return True


def stops_without(entry: str, instead: str) -> bool:
  """Likewise of an entry point without a net that has scales; says what it has instead."""
  if DESCRIBE.value:
    _say(f"{entry} has no net with scales to describe: {instead}.")
  return bool(DESCRIBE.value)


def ends(values: Sequence[T]) -> list[T]:
  """The first and the last, or the one."""
  return [values[0], values[-1]] if len(values) > 1 else [values[0]]


def image(dataset: str, flat: bool = True) -> jax.ShapeDtypeStruct:
  """One image: a row of features, or [1, height, width, channels]."""
  channels, height, width = _IMAGES[dataset]
  shape = (channels * height * width,) if flat else (height, width, channels)
  return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def text(length: int) -> jax.ShapeDtypeStruct:
  """One window of tokens."""
  return jax.ShapeDtypeStruct((1, length), jnp.int32)


def vocabulary(data_dir: str | None) -> int:
  """Of prepared token shards, and of bytes where there are none (yet)."""
  index = None if data_dir is None else read_index(pathlib.Path(data_dir))
  return tokens.load().vocab_size if index is None else index.tokenizer["vocab_size"]


def of_config(config: Any, label: str, model: nn.Module) -> Described:
  """A net of `sweeps_config.Config`, with its inputs and, if it has one, multiplier."""
  if config.model == "transformer":
    example = text(config.sequence_length)
  else:
    example = image(config.dataset, flat=config.model == "mlp")
  if config.block_multiplier is not None:
    model = model.clone(block_multiplier=config.block_multiplier)
  return Described(label, model, example)


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text)
