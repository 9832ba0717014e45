"""What the meta-learners of Omniglot share: settings of the tasks, loss, accuracy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

#: Tasks that are evaluated side by side.
BLOCK = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Of the tasks and of first-order MAML.

  Attributes:
    ways: classes of a task.
    shots: support images of a class.
    queries: query images of a class.
    inner_steps: steps of adaptation in training and validation.
    inner_lr: their learning rate.
    meta_clip: bound on the norm of the meta-gradient, a sum over tasks.
  """

  ways: int
  shots: int
  queries: int
  inner_steps: int
  inner_lr: float
  meta_clip: float


def split(tasks: Any, shots: int) -> tuple[Any, Any]:
  """Support and query rows, [..., ways * shots] and [..., ways * queries]."""
  parts = tasks[..., :shots], tasks[..., shots:]
  return tuple(p.reshape(*p.shape[:-2], -1) for p in parts)


def loss_derivative(outputs: Any, ways: int) -> Any:
  """Of the mean cross-entropy in the outputs [B, ways]; rows are ordered by class."""
  labels = jax.nn.one_hot(_labels(outputs, ways), ways)
  return (jax.nn.softmax(outputs) - labels) / outputs.shape[0]


def accuracy(outputs: Any, ways: int) -> Any:
  """Of outputs [B, ways], a fraction; ties go to the lowest class, nan is wrong."""
  right = jnp.argmax(outputs, axis=1) == _labels(outputs, ways)
  return jnp.mean(right & jnp.isfinite(outputs).all(axis=1))


def _labels(outputs: Any, ways: int) -> Any:
  return jnp.repeat(jnp.arange(ways), outputs.shape[0] // ways)
