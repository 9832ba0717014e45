"""A few assertions that many tests share."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

import flax_depthmup as dmup

#: Every entrywise Q, without its learning rate.
INNER = {
  "sgd": optax.identity,
  "momentum": lambda: optax.trace(0.9),
  "nesterov": lambda: optax.trace(0.9, nesterov=True),
  "adam": optax.scale_by_adam,
  "nadam": lambda: optax.scale_by_adam(nesterov=True),
  "adagrad": optax.scale_by_rss,
  "lion": optax.scale_by_lion,
  "rmsprop": optax.scale_by_rms,
  "sign": optax.scale_by_sign,
}


def assert_trees_equal(a: Any, b: Any) -> None:
  """Same structure, bitwise the same leaves."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_trees_close(a: Any, b: Any, rtol: float, atol: float = 0.0) -> None:
  """Same structure, leaves within tolerance."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
  """The names of the functions that jax compiles inside."""
  seen: list[str] = []

  class Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
      message = record.getMessage()
      if message.startswith("Compiling"):
        seen.append(message.split()[1])

  handler, logger = Handler(), logging.getLogger("jax._src.interpreters.pxla")
  propagate, logger.propagate = logger.propagate, False
  logger.addHandler(handler)
  try:
    with jax.log_compiles():
      yield seen
  finally:
    logger.removeHandler(handler)
    logger.propagate = propagate


def residual_mlp(p: dmup.Parametrization, width=16, depth=8, **fields) -> dmup.ResidualMLP:
  """A small net."""
  return dmup.ResidualMLP(width=width, depth=depth, outputs=3, parametrization=p, **fields)


def inputs(batch=5, features=7, seed=1) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), (batch, features))
