"""Largest eigenvalues of a symmetric operator on trees, by the Lanczos method.

Layer: jax.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name


class Ritz(NamedTuple):
  """Approximate eigenvalues of a symmetric operator A, the largest first.

  Attributes:
    values: [top] theta, descending. Each is at most the true one of its rank, up to
      rounding.
    residuals: [top] |A x - theta x| of the unit Ritz vectors x: an eigenvalue lies
      within it of theta, up to a rounding of a few eps times the norm of A.
    vectors: the x, a tree like that of A with a leading axis [top].
  """

  values: jax.Array
  residuals: jax.Array
  vectors: Any


def lanczos(
  matvec: Callable[[Any], Any], like: Any, key: jax.Array, *, steps: int, top: int = 1
) -> Ritz:
  """The `top` largest eigenvalues (by value, not by modulus) of a symmetric operator.

  Lanczos from a random start, each new vector orthogonalized against all earlier ones
  twice (Parlett, The Symmetric Eigenvalue Problem, sections 6.9 and 13), which keeps
  float32 accurate and makes no false copies of eigenvalues. Where the Krylov space
  ends early it goes on from a new random vector orthogonal to it, so that repeated
  eigenvalues are found as often as there are steps for them. The smallest eigenvalues
  are those of the negated operator, with their signs turned.

  Costs `steps` products with the operator and the memory of `steps` trees. May be
  traced: compiled once for all products, whatever their number.

  Args:
    matvec: A, linear and symmetric, from a tree like `like` to another.
    like: a tree of real floating-point arrays, or of their `jax.ShapeDtypeStruct`;
      only shapes and dtypes matter. The basis is kept in float32 at least.
    key: of the start.
    steps: of Lanczos, at most; never more than the entries of `like`.
    top: how many eigenvalues.

  Raises:
    DepthMupError: `like` is empty or not of real floating-point numbers, `steps` or
      `top` is no whole number of at least 1, top exceeds steps or the entries of
      `like`, or `matvec` gives another tree.
  """
  steps = _check(matvec, like, steps, top)
  dtype = functools.reduce(
    jnp.promote_types, [x.dtype for x in jax.tree.leaves(like)], jnp.float32
  )

  def product(v: Any) -> Any:
    given = jax.tree.map(lambda x, a: x.astype(a.dtype), v, like)
    return jax.tree.map(lambda x: x.astype(dtype), matvec(given))

  basis, alpha, beta = _tridiagonalize(product, like, key, steps, dtype)
  below = beta[:-1]
  values, y = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(below, 1) + jnp.diag(below, -1))
  largest = slice(steps - top, steps)
  values, y = values[largest][::-1], y[:, largest][:, ::-1]
  vectors = jax.tree.map(lambda q: jnp.tensordot(y.T, q[:steps], 1), basis)
  return Ritz(values, beta[-1] * jnp.abs(y[-1]), vectors)


def _tridiagonalize(
  product: Callable[[Any], Any], like: Any, key: jax.Array, steps: int, dtype: Any
) -> tuple[Any, jax.Array, jax.Array]:
  """Basis Q of [steps + 1, ...] a leaf and T = Q^T A Q: diagonal, one off it [steps].

  Rows of Q that are still to come are zero, so that all rows can always be used.
  """

  def step(j: jax.Array, carry: Any) -> Any:
    basis, alpha, beta, scale = carry
    w = product(_row(basis, j))
    scale = jnp.maximum(scale, _norm(w))
    w, overlap = _orthogonalize(w, basis)
    length = _norm(w)
    # Nothing but rounding is left: the Krylov space is invariant.
    ended = length <= jnp.finfo(dtype).eps * scale
    w = jax.lax.cond(ended, lambda: fresh(basis, j + 1), lambda: _scaled(w, length))
    alpha = alpha.at[j].set(overlap[j])
    beta = beta.at[j].set(jnp.where(ended, 0, length))
    return _with_row(basis, j + 1, w), alpha, beta, scale

  def fresh(basis: Any, j: jax.Array) -> Any:
    w, _ = _orthogonalize(_draw(like, jax.random.fold_in(key, j), dtype), basis)
    return _scaled(w, _norm(w))

  empty = jax.tree.map(lambda x: jnp.zeros((steps + 1, *x.shape), dtype), like)
  zero = jnp.zeros(steps, dtype)
  first = _draw(like, key, dtype)
  start = _with_row(empty, 0, _scaled(first, _norm(first)))
  carry = start, zero, zero, jnp.zeros((), dtype)
  return jax.lax.fori_loop(0, steps, step, carry)[:3]


def _draw(like: Any, key: jax.Array, dtype: Any) -> Any:
  leaves, treedef = jax.tree.flatten(like)
  keys = jax.random.split(key, len(leaves))
  draws = [jax.random.normal(k, x.shape, dtype) for k, x in zip(keys, leaves, strict=True)]
  return jax.tree.unflatten(treedef, draws)


def _orthogonalize(w: Any, basis: Any) -> tuple[Any, jax.Array]:
  """W without its components along the rows of the basis, and these, [rows].

  Twice: what rounding leaves of them the first time is as large as rounding of w.
  """

  def once(_: Any, carry: Any) -> Any:
    w, found = carry
    parts = jax.tree.map(lambda q, x: jnp.tensordot(q, x, x.ndim), basis, w)
    overlap = sum(jax.tree.leaves(parts))
    w = jax.tree.map(lambda q, x: x - jnp.tensordot(overlap, q, 1), basis, w)
    return w, found + overlap

  leaf = jax.tree.leaves(basis)[0]
  return jax.lax.fori_loop(0, 2, once, (w, jnp.zeros(leaf.shape[0], leaf.dtype)))


def _norm(w: Any) -> jax.Array:
  """Euclidean; relative to the largest entry, whose square could leave float32."""
  leaves = [x for x in jax.tree.leaves(w) if x.size]
  largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x)) for x in leaves])
  unit = jnp.where(largest == 0, 1, largest)
  return largest * jnp.sqrt(sum(jnp.sum(jnp.square(x / unit)) for x in leaves))


def _scaled(w: Any, length: jax.Array) -> Any:
  """W / length; zero stays zero."""
  safe = jnp.where(length == 0, 1, length)
  return jax.tree.map(lambda x: x / safe, w)


def _row(basis: Any, j: jax.Array) -> Any:
  return jax.tree.map(lambda q: q[j], basis)


def _with_row(basis: Any, j: Any, w: Any) -> Any:
  return jax.tree.map(lambda q, x: q.at[j].set(x), basis, w)


def _check(matvec: Callable[[Any], Any], like: Any, steps: Any, top: Any) -> int:
  """The number of steps that can be taken; raises for wrong input."""
  if not callable(matvec):
    raise DepthMupError(f"matvec={matvec!r} is no function; give one from tree to tree")
  check_size(steps, "steps")
  check_size(top, "top")
  for path, x in jax.tree_util.tree_leaves_with_path(like):
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
      raise DepthMupError(
        f"like: {path_name(path)} is {dtype or type(x).__name__}; expected real "
        "floating-point arrays"
      )
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
  entries = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  if not entries:
    raise DepthMupError("like is an empty tree; give the arrays that the operator acts on")
  if top > min(steps, entries):
    raise DepthMupError(
      f"top={top} with steps={steps} on {entries} entries: expected at most as many "
      "eigenvalues as steps, and as entries"
    )
  given = jax.eval_shape(matvec, shapes)
  found, expected = (jax.tree.map(lambda x: x.shape, t) for t in (given, shapes))
  if found != expected:
    raise DepthMupError(
      f"matvec gives a tree of shapes {found} for {expected}; a symmetric operator keeps "
      "them"
    )
  return min(steps, entries)
