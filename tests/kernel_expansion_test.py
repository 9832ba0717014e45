"""Kernel expansions against dense numpy, closed forms and finite nets of the kernels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  accumulate,
  dual_covariance,
  empty_expansion,
  expansion_outputs,
  linear_kernel,
  pop,
  push,
  relu_nngp,
  relu_ntk,
  rkhs_norm,
)

D, D_OUT = 5, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, D)).astype(np.float32)
Q = RNG.normal(size=(9, D_OUT)).astype(np.float32)
outputs_of = jax.jit(expansion_outputs, static_argnums=0)


def dense_ntk(x, z, sigma_u, sigma_v, sigma_b):
  """(NNGP, NTK) in float64 from `dual_covariance` and the orthant probability."""
  both = np.concatenate([x, z]).astype(np.float64)
  k = sigma_u**2 * both @ both.T + sigma_b**2
  nngp = dual_covariance(k, "relu", mean_subtraction=False)
  norms = np.sqrt(np.diag(k))
  c = np.clip(k / np.outer(norms, norms), -1, 1)
  k0 = 0.25 + np.arcsin(c) / (2 * math.pi)  # P(u > 0, v > 0)
  ntk = nngp + sigma_v**2 * (both @ both.T) * k0
  return nngp[: len(x), len(x) :], ntk[: len(x), len(x) :]


@pytest.mark.parametrize("sigmas", [(1.0, 1.0, 0.0), (0.5, 2.0, 1.5), (1.0, 0.0, 1.0)])
def test_kernels_against_other_closed_forms(sigmas):
  sigma_u, _, sigma_b = sigmas
  nngp, ntk = dense_ntk(X[:5], X[5:], *sigmas)
  np.testing.assert_allclose(relu_nngp(sigma_u, sigma_b)(X[:5], X[5:]), nngp, atol=1e-5)
  np.testing.assert_allclose(relu_ntk(*sigmas)(X[:5], X[5:]), ntk, atol=1e-5)
  np.testing.assert_allclose(linear_kernel(X[:5], X[5:]), X[:5] @ X[5:].T, atol=1e-5)


def test_equal_opposite_and_zero_inputs():
  x = np.stack([X[0], 2 * X[0], -X[0], np.zeros(D)]).astype(np.float32)
  square = float(X[0] @ X[0])
  kernel = jax.jit(relu_ntk(1.0, 1.0, 0.0))
  found = kernel(x, x)
  # NNGP and the rest are |x|^2/2 each at equal directions, both 0 at opposite ones.
  expected = square * np.array([[1, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
  np.testing.assert_allclose(found, expected, atol=2e-3 * square)

  gradient = jax.jit(jax.grad(lambda x: jnp.sum(kernel(x, x))))
  assert np.isfinite(gradient(jnp.asarray(x))).all()


def test_pairs_come_and_go():
  kernel = relu_ntk(1.0, 0.5, 1.0)
  one = push(empty_expansion(12, D, D_OUT), X[:4], Q[:4])
  np.testing.assert_array_equal(
    outputs_of(kernel, empty_expansion(12, D, D_OUT), X), np.zeros((9, D_OUT))
  )
  two = push(one, X[4:], Q[4:])
  gram = dense_ntk(X, X, 1.0, 0.5, 1.0)[1]
  for expansion, count in ((one, 4), (two, 9), (pop(two, 5), 4), (pop(two, 9), 0)):
    assert int(expansion.count) == count
    outputs = outputs_of(kernel, expansion, X)
    np.testing.assert_allclose(outputs, gram[:, :count] @ Q[:count], atol=2e-3)
  again = push(pop(two, 7), X[4:6], Q[4:6])
  np.testing.assert_allclose(
    outputs_of(kernel, again, X),
    gram[:, [0, 1, 4, 5]] @ Q[[0, 1, 4, 5]],
    atol=2e-3,
  )


def test_accumulating_is_pushing_the_same_inputs_again():
  kernel, rows = relu_nngp(1.0, 1.0), np.array([3, 0, 3])
  once = push(empty_expansion(12, D, D_OUT), X, Q)
  wanted = outputs_of(kernel, push(once, X[rows], Q[:3]), X)
  found = outputs_of(kernel, accumulate(once, rows, Q[:3]), X)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_norm_is_the_double_sum():
  gram = dense_ntk(X, X, 1.0, 0.5, 1.0)[1]
  square = sum(Q[i] @ Q[j] * gram[i, j] for i in range(9) for j in range(9))
  assert rkhs_norm(relu_ntk(1.0, 0.5, 1.0), X, Q) == pytest.approx(square**0.5, rel=1e-4)
  assert float(rkhs_norm(linear_kernel, X[[0, 0]], Q[[0]] * np.array([[1], [-1]]))) == 0


def test_within_a_scan():
  kernel = linear_kernel

  def step(expansion, pair):
    return push(expansion, pair[0][None], pair[1][None]), None

  def scanned(capacity):
    start = empty_expansion(capacity, D, D_OUT)
    return jax.lax.scan(step, start, (jnp.asarray(X), jnp.asarray(Q)))[0]

  whole = scanned(9)
  np.testing.assert_allclose(
    outputs_of(kernel, whole, X), X @ X.T @ Q, rtol=1e-4, atol=1e-4
  )
  # Where nothing can be raised, nothing that looks like a number comes back.
  assert np.isnan(outputs_of(kernel, scanned(8), X)).all()
  for broken in (lambda e: pop(e, 10), lambda e: accumulate(e, jnp.array([9]), Q[:1])):
    assert np.isnan(outputs_of(kernel, jax.jit(broken)(whole), X)).all()


WIDTHS, SEEDS, STEPS, LR = [64 * 2**i for i in range(6)], 50, 4, 0.6
TARGETS = RNG.normal(size=(STEPS, 3, D_OUT))
BATCHES = RNG.normal(size=(STEPS, 3, D)) / D**0.5


def trained_net(width, rng, sigmas, readout_only):
  """f - f at initialization of a finite net in the NTK parametrization, at X."""
  sigma_u, sigma_v, sigma_b = sigmas
  w = sigma_u * rng.normal(size=(SEEDS, width, D))
  b = sigma_b * rng.normal(size=(SEEDS, width, 1))
  v = sigma_v * rng.normal(size=(SEEDS, D_OUT, width))
  start = v.copy()

  def hidden(w, x):
    return w @ x.T + b

  def outputs(w, v, x):
    return v @ np.maximum(hidden(w, x), 0) / width**0.5

  probes = X / D**0.5
  base = outputs(w, v, probes)
  first = w.copy()
  for x, y in zip(BATCHES, TARGETS, strict=True):
    h = hidden(w, x)
    f = outputs(w, v, x) - outputs(first, start, x)
    chi = (f - y.T) / len(x)  # [seeds, d_out, batch]
    back = (np.swapaxes(v, 1, 2) @ chi) * (h > 0) / width**0.5
    v = v - LR * chi @ np.swapaxes(np.maximum(h, 0), 1, 2) / width**0.5
    if not readout_only:
      w = w - LR * back @ x
  return outputs(w, v, probes) - base


@pytest.mark.parametrize("readout_only", [True, False], ids=["nngp", "ntk"])
def test_finite_nets_tend_to_the_kernels(readout_only):
  """Five doublings, 50 seeds: the slope has an error of about 0.02."""
  sigmas = (1.0, 1.0, 0.5)
  kernel = relu_nngp(1.0, 0.5) if readout_only else relu_ntk(*sigmas)
  expansion = empty_expansion(3 * STEPS, D, D_OUT)
  for x, y in zip(BATCHES, TARGETS, strict=True):
    chi = (outputs_of(kernel, expansion, x) - y) / len(x)
    expansion = push(expansion, x, -LR * chi)
  limit = np.asarray(outputs_of(kernel, expansion, X / D**0.5), np.float64).T
  rng = np.random.default_rng(1)
  errors = []
  for width in WIDTHS:
    apart = trained_net(width, rng, sigmas, readout_only) - limit
    errors.append(np.sqrt(np.mean(apart**2)))
  slope = np.polyfit(np.log2(WIDTHS), np.log2(errors), 1)[0]
  assert slope == pytest.approx(-0.5, abs=0.1)
  assert np.abs(limit).max() > 0.1


FULL = push(empty_expansion(4, D, D_OUT), X[:3], Q[:3])
BAD = {
  "a negative sigma": (lambda: relu_nngp(-1.0, 0.0), "sigma_u=-1.0"),
  "no sigma": (lambda: relu_ntk(1.0, math.nan, 0.0), "sigma_v=nan"),
  "an infinite sigma": (lambda: relu_ntk(1.0, 1.0, math.inf), "sigma_b=inf"),
  "no capacity": (lambda: empty_expansion(0, D, D_OUT), "capacity=0"),
  "no outputs": (lambda: empty_expansion(4, D, 0), "d_out=0"),
  "too many": (lambda: push(FULL, X[:2], Q[:2]), "has room for 4 pairs, too few for 2"),
  "more than ever fit": (lambda: push(FULL, X, Q), "has room for 4 pairs"),
  "other inputs": (lambda: push(FULL, X[:1, :3], Q[:1]), r"x of shape \(1, 3\)"),
  "other outputs": (lambda: push(FULL, X[:1], X[:1]), r"q of shape \(1, 5\)"),
  "unequal rows": (lambda: push(FULL, X[:1], Q[:2]), "x has 1 rows but q has 2"),
  "too few to pop": (lambda: pop(FULL, 4), "has 3 pairs, so 4 cannot be taken away"),
  "nothing to pop": (lambda: pop(FULL, 0), "number=0"),
  "an absent row": (lambda: accumulate(FULL, [3], Q[:1]), r"rows=\[3\].*3 pairs"),
  "real rows": (lambda: accumulate(FULL, [1.0], Q[:1]), "expected 1 integers"),
  "one row too many": (lambda: accumulate(FULL, [1, 2], Q[:1]), "expected 1 integers"),
  "a vector": (lambda: expansion_outputs(linear_kernel, FULL, X[0]), r"x of shape \(5,\)"),
  "norm of nothing": (lambda: rkhs_norm(linear_kernel, X, Q[:2]), r"\(9, 5\) and q"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input(name):
  call, words = BAD[name]
  with pytest.raises(DepthMupError, match=words):
    call()
