"""Lanczos against known spectra and dense eigenvalues.

Tolerances are in units of the norm of the operator: float32 rounds to 1.2e-7 of it, and
64 products and orthogonalizations were measured to stay below 1e-6.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import lanczos

ROUNDING = 2e-6


def tree(n, leaves=3):
  """Zeros of n entries in leaves of several ranks."""
  first = n // leaves
  return {
    "a": jnp.zeros((first,)),
    "b": [jnp.zeros((n - first - 1, 1)), jnp.zeros(())],
  }


def dense(matrix):
  """The operator of a dense matrix on such a tree."""
  matrix = jnp.asarray(matrix, jnp.float32)

  def matvec(v):
    leaves, treedef = jax.tree.flatten(v)
    flat = matrix @ jnp.concatenate([x.ravel() for x in leaves])
    cuts = np.cumsum([x.size for x in leaves])[:-1]
    parts = jnp.split(flat, cuts)
    return jax.tree.unflatten(
      treedef, [p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True)]
    )

  return matvec


def rotated(spectrum, seed=0):
  """A symmetric matrix of these eigenvalues, in float64."""
  n = len(spectrum)
  q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
  return (q * np.asarray(spectrum)) @ q.T


@functools.partial(jax.jit, static_argnames=("steps", "top"))
def _run(matrix, key, steps, top):
  return lanczos(dense(matrix), tree(len(matrix)), key, steps=steps, top=top)


def run(matrix, *, seed=0, steps, top):
  """Compiled, once for all matrices of a size."""
  return _run(jnp.asarray(matrix, jnp.float32), jax.random.key(seed), steps, top)


def flat(vectors, top):
  return np.concatenate(
    [np.asarray(x, np.float64).reshape(top, -1) for x in jax.tree.leaves(vectors)], axis=1
  )


def padded(*values, bulk=0.0):
  """100 eigenvalues: these, the others spread over [-bulk, bulk]."""
  return np.r_[values, np.linspace(-bulk, bulk, 100 - len(values))]


SPECTRA = {
  "clustered": (padded(1, 1 - 1e-3, 1 - 2e-3, 1 - 3e-3, bulk=0.5), 64, 4),
  "negative larger in modulus": (padded(-100, -99, 3, 2.5, 2, 1.5, bulk=0.5), 64, 4),
  "all negative": (padded(-1, -1.1, -1.2, -1.3) - 9 * (np.arange(100) > 3), 64, 4),
  "degenerate": (padded(3, 3, 3, 2, 2), 64, 4),
  "zero": (padded(0), 64, 4),
  "identity": (np.ones(100), 64, 4),
  "rank one": (padded(7), 64, 4),
  "tiny": (1e-20 * padded(5, 2, 1, 0.5), 64, 4),
  "huge": (1e30 * padded(5, 2, 1, 0.5), 64, 4),
  "every eigenvalue": (np.linspace(-1, 2, 12), 12, 12),
  "more steps than entries": (np.linspace(-1, 2, 12), 50, 4),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name):
  spectrum, steps, top = SPECTRA[name]
  matrix = rotated(spectrum)
  found = run(matrix, steps=steps, top=top)
  norm = np.abs(spectrum).max()
  expected = np.sort(spectrum)[::-1][:top]
  np.testing.assert_allclose(found.values, expected, atol=ROUNDING * norm, rtol=0)
  assert np.isfinite(found.residuals).all()
  x = flat(found.vectors, top)
  np.testing.assert_allclose(x @ x.T, np.eye(top), atol=1e-5)
  true = np.linalg.norm(x @ matrix - x * np.asarray(found.values)[:, None], axis=1)
  np.testing.assert_allclose(found.residuals, true, atol=5 * ROUNDING * norm, rtol=0.02)


def test_residuals_bound_the_error_before_convergence():
  spectrum = np.sort(np.random.default_rng(1).normal(size=100))[::-1]
  matrix = rotated(spectrum)
  for seed in range(10):
    found = run(matrix, seed=seed, steps=8, top=2)
    values, residuals = (np.asarray(v) for v in (found.values, found.residuals))
    assert (values <= spectrum[:2] + 1e-5).all()
    nearest = np.abs(values[:, None] - spectrum).min(axis=1)
    assert (nearest <= residuals + 1e-5).all()
    assert residuals[1] > 1e-3  # not yet there


def test_no_false_copies_after_convergence():
  """Without orthogonalization the largest eigenvalue comes again and again."""
  spectrum = padded(1e3, 10, 9, 8, bulk=1)
  found = run(rotated(spectrum), steps=64, top=4)
  np.testing.assert_allclose(found.values, spectrum[:4], atol=1e3 * ROUNDING)


def test_traced_and_mapped_over_keys():
  matrix = dense(rotated(padded(4, 2, bulk=0.5)))

  @jax.jit
  @jax.vmap
  def mapped(key):
    return lanczos(matrix, tree(100), key, steps=30, top=2)

  found = mapped(jax.random.split(jax.random.key(0), 3))
  np.testing.assert_allclose(found.values, [[4, 2]] * 3, atol=1e-5)


def test_low_precision_operators_keep_a_float32_basis():
  like = {"w": jax.ShapeDtypeStruct((40,), jnp.bfloat16)}
  diagonal = jnp.asarray(np.r_[8, 4, np.zeros(38)], jnp.bfloat16)
  given = []

  def matvec(v):
    given.append(v["w"].dtype)
    return {"w": v["w"] * diagonal}

  found = lanczos(matvec, like, jax.random.key(0), steps=10, top=2)
  assert set(given) == {jnp.dtype(jnp.bfloat16)}
  assert found.values.dtype == found.vectors["w"].dtype == jnp.float32
  np.testing.assert_allclose(found.values, [8, 4], rtol=0.01)


def test_an_operator_that_is_not_finite_gives_nan():
  found = lanczos(
    lambda v: jnp.full_like(v, jnp.nan), jnp.zeros(5), jax.random.key(0), steps=3
  )
  assert np.isnan(found.values).all()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"like": {}}, "like is an empty tree"),
    ({"like": jnp.zeros((0, 3))}, "like is an empty tree"),
    ({"like": {"w": jnp.zeros(3, int)}}, "like: w is int32; expected real floating-point"),
    ({"like": {"w": jnp.zeros(3, complex)}}, "like: w is complex64"),
    ({"like": {"w": 1.0}}, "like: w is float; expected real floating-point arrays"),
    ({"steps": 0}, "steps=0"),
    ({"steps": 2.5}, "steps=2.5"),
    ({"top": 0}, "top=0"),
    ({"top": 5, "steps": 4}, "top=5 with steps=4 on 6 entries"),
    ({"top": 7, "steps": 9}, "top=7 with steps=9 on 6 entries"),
    ({"matvec": lambda v: {"other": v}}, "matvec gives a tree of shapes"),
    ({"matvec": lambda v: v[:2]}, "matvec gives a tree of shapes"),
  ],
)
def test_wrong_input(values, words):
  given = {"matvec": lambda v: v, "like": jnp.zeros(6), "steps": 4, "top": 1} | values
  with pytest.raises(DepthMupError, match=words):
    lanczos(given.pop("matvec"), given.pop("like"), jax.random.key(0), **given)
