"""Sharpness against dense Hessians of a real net, plain and preconditioned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from experiments._lib.data import load
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import (
  adam_preconditioner,
  adam_threshold,
  descent_threshold,
  sgd_preconditioner,
  sharpness,
)

KEY = jax.random.key(0)
_DIGITS = load("digits", None)
X, Y = jnp.asarray(_DIGITS.x[:32, ::8]), jnp.asarray(_DIGITS.y[:32])
P = dmup.depth_mup(base_width=4, base_depth=1)
MODEL = dmup.ResidualMLP(6, 3, 10, P, activation="tanh", train_boundary=False)
PARAMS, SCALES = dmup.init(MODEL, KEY, X)


def loss(params):
  logits = MODEL.apply({"params": params}, X)
  return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def trained(steps=5):
  tx = dmup.adam(0.01, SCALES)
  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(steps):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def dense(params, factors=None):
  """Eigenvalues of D^(1/2) H D^(1/2), the largest first, by numpy."""
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  h = np.asarray(jax.hessian(lambda w: loss(unravel(w)))(flat), np.float64)
  if factors is not None:
    full = jax.tree.map(lambda d, w: jnp.broadcast_to(d, w.shape), factors, params)
    root = np.sqrt(np.asarray(jax.flatten_util.ravel_pytree(full)[0], np.float64))
    h = root[:, None] * h * root
  return np.linalg.eigvalsh((h + h.T) / 2)[::-1]


def test_the_hessian_of_a_residual_net():
  """108 trained parameters of a scanned stack; the frozen ones add zeros."""
  params, _ = trained()
  ritz = sharpness(loss, params, KEY, steps=60, top=3)
  np.testing.assert_allclose(ritz.values, dense(params)[:3], rtol=1e-4)


def test_preconditioned_as_adam_does():
  params, state = trained()
  factors = adam_preconditioner(SCALES, state)
  ritz = sharpness(loss, params, KEY, preconditioner=factors, steps=80, top=2)
  np.testing.assert_allclose(ritz.values, dense(params, factors)[:2], rtol=1e-4)


def test_the_factors_are_those_of_the_update():
  """One step of the optimizer is -eta D g: for SGD, and for Adam without momentum."""
  grads = jax.grad(loss)(PARAMS)
  updates = dmup.sgd(0.1, SCALES).update(grads, dmup.sgd(0.1, SCALES).init(PARAMS))[0]
  sgd = jax.tree.map(lambda d, g: -0.1 * d * g, sgd_preconditioner(SCALES), grads)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, sgd)
  tx = dmup.adam(0.1, SCALES, b1=0.0, eps=1e-3)
  updates, state = tx.update(grads, tx.init(PARAMS), PARAMS)
  factors = adam_preconditioner(SCALES, state, eps=1e-3)
  adam = jax.tree.map(lambda d, g: -0.1 * d * g, factors, grads)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates, adam)
  assert float(jnp.abs(adam["stack"]["block"]["dense_0"]["kernel"]).max()) > 0


def test_what_is_above_the_threshold_diverges():
  """Gradient descent on a quadratic loss, a tenth below and above 2/eta."""

  def size_after(lr, steps=200):
    w = jnp.ones(2)
    for _ in range(steps):
      w = w - lr * jax.grad(quadratic)(w)
    return float(jnp.linalg.norm(w))

  def quadratic(w):
    return 0.5 * (4 * w[0] ** 2 + w[1] ** 2)

  top = float(sharpness(quadratic, jnp.ones(2), KEY, steps=2).values[0])
  assert top == pytest.approx(4, rel=1e-5)
  assert descent_threshold(0.5) == pytest.approx(4)
  assert size_after(0.9 * 2 / top) < 1e-3
  assert size_after(1.1 * 2 / top) > 1e3


def test_thresholds():
  assert descent_threshold(0.1, momentum=0.9) == pytest.approx(38)
  assert adam_threshold(0.1) == pytest.approx(380)
  assert adam_threshold(0.1, b1=0.0) == pytest.approx(descent_threshold(0.1))


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda: sharpness(lambda w: w, jnp.ones(2), KEY), "expected one real number"),
    (lambda: sharpness(None, jnp.ones(2), KEY), "loss=None is no function"),
    (lambda: sharpness(jnp.sum, jnp.ones(2), KEY, top=0), "top=0"),
    (
      lambda: sharpness(
        lambda w: w["a"].sum(), {"a": jnp.ones(2)}, KEY, preconditioner={"b": 1.0}
      ),
      "preconditioner",
    ),
    (
      lambda: sharpness(jnp.sum, jnp.ones(2), KEY, preconditioner=jnp.array(-1.0)),
      "negative|at least 0",
    ),
    (lambda: sgd_preconditioner({"a": 1.0}), "expected Scales"),
    (lambda: adam_preconditioner(SCALES, ()), "holds 0 states"),
    (
      lambda: adam_preconditioner(SCALES, dmup.adam(0.1, SCALES).init(PARAMS)),
      "has taken no step",
    ),
    (lambda: adam_preconditioner(SCALES, trained(1)[1], b2=1.0), "b2=1.0"),
    (lambda: descent_threshold(0.0), "learning_rate=0.0"),
    (lambda: descent_threshold(0.1, momentum=1.0), "momentum=1.0"),
    (lambda: adam_threshold(0.1, b1=-1), "b1=-1"),
  ],
)
def test_wrong_input(call, words):
  with pytest.raises(DepthMupError, match=words):
    call()
