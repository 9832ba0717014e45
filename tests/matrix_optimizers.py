"""Small optimizers that optax does not have, and what numpy says of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

#: Axes -> (shape, positions of stacked axes, positions of axes in).
SHAPES = {
  "embed -> embed": ((8, 8), (), (0,)),
  "layers | embed -> embed": ((3, 8, 8), (0,), (1,)),
  "embed -> heads head_dim": ((8, 4, 2), (), (0,)),
  "heads head_dim -> embed": ((4, 2, 8), (), (0, 1)),
  "layers | heads head_dim -> embed": ((3, 4, 2, 8), (0,), (1, 2)),
  "layers experts | embed -> mlp": ((2, 3, 8, 4), (0, 1), (2,)),
}


def scale_by_shampoo(eps: float = 1e-6) -> optax.GradientTransformation:
  """L^(-1/4) G R^(-1/4) for matrices, with L and R summed; others over their norm."""

  def init_fn(params):
    def factors(x):
      return [jnp.zeros((n, n)) for n in x.shape] if x.ndim == 2 else []

    return jax.tree.map(factors, params)

  def root(a):
    values, vectors = jnp.linalg.eigh(a + eps * jnp.eye(len(a)))
    return (vectors * jnp.maximum(values, eps)[None, :] ** -0.25) @ vectors.T

  def update_fn(updates, state, params=None):
    del params
    if updates.ndim != 2:
      return updates / (jnp.sqrt(jnp.sum(updates**2)) + eps), state
    left, right = state
    left, right = left + updates @ updates.T, right + updates.T @ updates
    return root(left) @ updates @ root(right), [left, right]

  return optax.GradientTransformation(init_fn, update_fn)


def scale_by_adam_atan2(b1: float = 0.9, b2: float = 0.99) -> optax.GradientTransformation:
  """arctan2(m, sqrt(v)) of Adam's moments (Everett et al., arXiv 2407.05872): no eps."""

  def init_fn(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jnp.zeros((), jnp.int32), zeros, zeros

  def update_fn(updates, state, params=None):
    del params
    count, m, v = state
    count = count + 1
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, updates)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, v, updates)

    def ratio(m, v):
      return jnp.arctan2(m / (1 - b1**count), jnp.sqrt(v / (1 - b2**count)))

    return jax.tree.map(ratio, m, v), (count, m, v)

  return optax.GradientTransformation(init_fn, update_fn)


def scale_to_norm_one(eps: float = 1e-12) -> optax.GradientTransformation:
  """G / |G|; `optax.contrib.normalize` has no eps and makes nan of no gradient."""

  def norm_one(u, params):
    del params
    return u / (jnp.sqrt(jnp.sum(u**2)) + eps)

  return optax.stateless(norm_one)


def svd_orthogonal(g: jax.Array) -> np.ndarray:
  """U V^T of G = U S V^T."""
  u, _, vt = np.linalg.svd(np.asarray(g, np.float64), full_matrices=False)
  return u @ vt


def one_step(tx: optax.GradientTransformation, g: Any, params: Any) -> Any:
  """The updates of a first step, compiled."""
  return jax.jit(lambda g, params: tx.update(g, tx.init(params), params)[0])(g, params)
