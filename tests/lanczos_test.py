"""Lanczos against dense eigenvalues of known and random spectra, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import lanczos

KEY = jax.random.key(0)


def rotated(spectrum, seed=0):
  """A symmetric matrix with these eigenvalues."""
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
  return jnp.asarray(q @ np.diag(spectrum) @ q.T, jnp.float32)


def found(matrix, steps, top):
  like = jax.ShapeDtypeStruct((len(matrix),), jnp.float32)
  return lanczos(lambda v: matrix @ v, like, KEY, steps=steps, top=top)


SPECTRA = {
  "spread": np.linspace(-1, 5, 60),
  "a cluster below an outlier": np.r_[np.full(40, 1.0) + 1e-3 * np.arange(40), 9.0],
  "negative beyond the positive": np.r_[-50.0, -20.0, np.linspace(0, 3, 38)],
  "degenerate": np.r_[np.full(3, 4.0), np.zeros(27)],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name):
  """As many steps as rows, or 40: exact up to rounding. The largest by value, repeated
  ones as often as they are there."""
  spectrum = np.sort(SPECTRA[name])[::-1]
  ritz = found(rotated(spectrum), steps=min(len(spectrum), 40), top=3)
  tolerance = 1e-4 * np.abs(spectrum).max()
  np.testing.assert_allclose(ritz.values[0], spectrum[0], atol=tolerance)
  if len(spectrum) <= 40:
    np.testing.assert_allclose(ritz.values, spectrum[:3], atol=tolerance)


def test_residuals_bound_the_error_and_vectors_are_eigenvectors():
  matrix = rotated(np.linspace(-2, 7, 80))
  ritz = found(matrix, steps=25, top=2)
  exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1]
  for value, residual, vector in zip(*ritz, strict=True):
    assert np.abs(exact - value).min() <= residual + 1e-4
    np.testing.assert_allclose(jnp.linalg.norm(vector), 1, rtol=1e-4)
    left = jnp.linalg.norm(matrix @ vector - value * vector)
    assert left <= residual + 1e-3
  assert np.all(np.asarray(ritz.values) <= exact[:2] + 1e-4)


def test_few_steps_know_less_and_say_so():
  matrix = rotated(np.linspace(0, 1, 100) ** 2)
  few, many = (found(matrix, steps=k, top=1) for k in (4, 60))
  assert few.residuals[0] > 1e-3 > many.residuals[0]


def test_trees_and_tracing():
  """A tree of several shapes is one vector; traced it is the same."""
  matrix = rotated(np.linspace(-1, 3, 10))
  like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}

  def product(v):
    flat = matrix @ jnp.concatenate([v["a"].ravel(), v["b"]])
    return {"a": flat[:6].reshape(2, 3), "b": flat[6:]}

  plain = lanczos(product, like, KEY, steps=10, top=2)
  traced = jax.jit(lambda k: lanczos(product, like, k, steps=10, top=2))(KEY)
  np.testing.assert_allclose(plain.values[0], 3, atol=1e-4)
  np.testing.assert_allclose(traced.values, plain.values, atol=1e-4)
  assert plain.vectors["a"].shape == (2, 2, 3)


def test_nothing_at_all_and_more_steps_than_rows():
  zero = lanczos(jnp.zeros_like, jnp.zeros(5), KEY, steps=5, top=2)
  np.testing.assert_array_equal(zero.values, np.zeros(2))
  ritz = found(rotated([1.0, 2.0, 3.0]), steps=50, top=3)
  np.testing.assert_allclose(ritz.values, [3, 2, 1], atol=1e-4)


@pytest.mark.parametrize(
  ("matvec", "like", "fields", "words"),
  [
    (lambda v: v, {}, {}, "empty tree"),
    (lambda v: v, jnp.zeros(3, int), {}, "expected real floating-point"),
    (lambda v: v, jnp.zeros(3), {"steps": 0}, "steps=0"),
    (lambda v: v, jnp.zeros(3), {"top": 0}, "top=0"),
    (lambda v: v, jnp.zeros(3), {"top": 4}, "top"),
    (lambda v: v[:2], jnp.zeros(3), {}, "matvec"),
    (None, jnp.zeros(3), {}, "matvec=None is no function"),
  ],
)
def test_wrong_input(matvec, like, fields, words):
  with pytest.raises(DepthMupError, match=words):
    lanczos(matvec, like, KEY, **{"steps": 3, "top": 1} | fields)
