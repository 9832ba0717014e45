"""Sharpness against dense Hessians, and the preconditioners against what optimizers do.

Tolerance 1e-4 relative: measured, float32 leaves 1e-6.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import (
  adam_preconditioner,
  adam_threshold,
  descent_threshold,
  sgd_preconditioner,
  sharpness,
)

X = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
Y = np.arange(24) % 3
LR = 0.02


def net(**fields):
  """A scanned stack, width and depth not those of the base net."""
  p = dmup.depth_mup(base_width=4, base_depth=2)
  return dmup.ResidualMLP(8, 4, 3, p, activation="tanh", **fields)


def loss_of(model):
  def loss(params):
    logits = model.apply({"params": params}, X)
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

  return loss


def trained(model, optimizer=dmup.adam, steps=20):
  """(parameters, scales, optimizer state) after some steps."""
  params, scales = dmup.init(model, jax.random.key(0), X)
  tx = optimizer(LR, scales)

  @jax.jit
  def run(params):
    def step(carry, _):
      params, state = carry
      updates, state = tx.update(jax.grad(loss_of(model))(params), state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0]

  params, state = run(params)
  return params, scales, state


@functools.cache
def case(frozen):
  return trained(net(train_boundary=not frozen))


@functools.cache
def _hessian(frozen):
  loss, unravel = loss_of(net(train_boundary=not frozen)), ravel_pytree(case(frozen)[0])[1]
  return jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))


def dense_hessian(params, frozen=False):
  h = np.asarray(_hessian(frozen)(ravel_pytree(params)[0]), np.float64)
  return (h + h.T) / 2


def entries(d, params):
  """The factors of every entry, in the order of the dense Hessian."""
  return np.asarray(ravel_pytree(whole(d, params))[0], np.float64)


def whole(d, params):
  return jax.tree.map(lambda a, w: jnp.broadcast_to(jnp.float32(a), w.shape), d, params)


@functools.partial(jax.jit, static_argnames="frozen")
def measured(params, d=None, frozen=False):
  """The three largest."""
  loss, key = loss_of(net(train_boundary=not frozen)), jax.random.key(1)
  return sharpness(loss, params, key, preconditioner=d, steps=40, top=3)


@pytest.mark.parametrize(
  ("which", "frozen"),
  [
    ("plain", False),
    pytest.param("plain", True, marks=pytest.mark.slow),
    pytest.param("sgd", False, marks=pytest.mark.slow),
    ("adam", False),
  ],
)
def test_against_the_dense_hessian(which, frozen):
  params, scales, state = case(frozen)
  h, d = dense_hessian(params, frozen), None
  if which != "plain":
    sgd = which == "sgd"
    d = sgd_preconditioner(scales) if sgd else adam_preconditioner(scales, state)
    root, d = np.sqrt(entries(d, params)), whole(d, params)
    h = root[:, None] * h * root
  found = measured(params, d, frozen=frozen)
  expected = np.linalg.eigvalsh(h)[::-1]
  assert expected[0] > 0
  np.testing.assert_allclose(found.values, expected[:3], rtol=1e-4)
  assert (np.asarray(found.residuals) < 1e-3 * expected[0]).all()


def test_frozen_layers_do_not_count():
  """What is left is the part of the Hessian that belongs to the blocks."""
  params, scales, state = case(True)
  mask = {k: jax.tree.map(lambda w, k=k: k == "stack", v) for k, v in params.items()}
  blocks = entries(mask, params) > 0
  expected = np.linalg.eigvalsh(dense_hessian(params)[np.ix_(blocks, blocks)])[-1]
  found = measured(params, frozen=True)
  np.testing.assert_allclose(found.values[0], expected, rtol=1e-4)
  for d in (sgd_preconditioner(scales), adam_preconditioner(scales, state)):
    assert entries(d["readout"], params["readout"]).max() == 0
    assert entries(d["stack"], params["stack"]).min() > 0


# What the optimizers do ------------------------------------------------------------


@pytest.mark.parametrize("base_width", [4, 16])
def test_the_preconditioners_are_what_turns_a_gradient_into_an_update(base_width):
  """-eta D g is the update of SGD; of Adam too where b1 = 0."""
  p = dmup.depthwise(alpha="1/2", gamma=1, base_width=base_width, base_depth=2)
  model = dmup.ResidualMLP(8, 4, 3, p)
  params, scales = dmup.init(model, jax.random.key(0), X)
  rng = np.random.default_rng(0)
  g = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), params)
  sgd = dmup.sgd(LR, scales)
  moved, _ = sgd.update(g, sgd.init(params), params)
  agree(moved, jax.tree.map(lambda d, g: -LR * d * g, sgd_preconditioner(scales), g))
  b2, eps = 0.9, 0.3  # eps large enough to be seen
  adam = dmup.adam(LR, scales, b1=0.0, b2=b2, eps=eps)
  state = adam.init(params)
  for _ in range(3):
    moved, state = adam.update(g, state, params)
    g = jax.tree.map(lambda g: 0.7 * g, g)
  g = jax.tree.map(lambda g: g / 0.7, g)  # the last one
  d = adam_preconditioner(scales, state, b2=b2, eps=eps)
  agree(moved, jax.tree.map(lambda d, g: -LR * d * g, d, g))


def agree(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-9), a, b)


def test_a_state_inside_others_is_found():
  params, scales = dmup.init(net(), jax.random.key(0), X)
  inner = dmup.scale_by_parametrization(optax.scale_by_adam(), scales)
  tx = optax.chain(optax.clip_by_global_norm(1.0), inner, optax.trace(0.9))
  _, state = tx.update(params, tx.init(params), params)
  d = jax.jit(functools.partial(adam_preconditioner, scales))(state)
  assert jax.tree.structure(d) == jax.tree.structure(params)
  assert np.isfinite(entries(d, params)).all()


# Thresholds ------------------------------------------------------------------------


def final_size(step, curvature, length=400):
  """|w| after so many steps on curvature w^2 / 2, from 1."""
  w, m = 1.0, 0.0
  for _ in range(length):
    w, m = step(w, m, curvature * w)
  return abs(w)


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9])
def test_thresholds_are_where_a_quadratic_diverges(b):
  def heavy_ball(w, m, g):
    m = b * m + g
    return w - LR * m, m

  def adam(w, m, g):
    m = b * m + (1 - b) * g
    return w - LR * m, m

  for step, edge in (
    (heavy_ball, descent_threshold(LR, b)),
    (adam, adam_threshold(LR, b)),
  ):
    assert final_size(step, 0.98 * edge) < 0.1
    assert final_size(step, 1.02 * edge) > 10


def test_known_thresholds():
  assert descent_threshold(0.5) == 4
  assert adam_threshold(0.5) == pytest.approx(76)


def test_gradient_descent_under_a_parametrization_is_stable_below_two_over_eta():
  """On the quadratic model of a real net's loss, along its sharpest direction."""
  params, scales, _ = case(False)
  d, h = sgd_preconditioner(scales), dense_hessian(params)
  top = float(measured(params, whole(d, params)).values[0])
  factors = entries(d, params)
  start = np.random.default_rng(0).normal(size=len(h))
  eigenvalues, vectors = np.linalg.eig(factors[:, None] * h)
  mode = np.linalg.inv(vectors)[np.argmax(eigenvalues.real)]
  for factor, grows in ((0.97, False), (1.03, True)):
    eta = factor * 2 / top
    assert descent_threshold(eta) == pytest.approx(top / factor)
    w = start.copy()
    for _ in range(50):
      w = w - eta * factors * (h @ w)
    assert (abs(mode @ w) > abs(mode @ start)) == grows


def test_width_factors_are_a_change_of_variables():
  """W = sqrt(D) v: the Hessian in v is that in W between roots of D."""
  params, scales, _ = case(False)
  root = jax.tree.map(np.sqrt, sgd_preconditioner(scales))
  v = jax.tree.map(lambda w, r: w / r, params, root)

  def loss(v):
    return loss_of(net())(jax.tree.map(lambda v, r: r * v, v, root))

  d = sgd_preconditioner(scales)
  assert len(set(jax.tree.leaves(d))) > 1
  found = jax.jit(lambda v: sharpness(loss, v, jax.random.key(0)).values)(v)
  expected = measured(params, whole(d, params)).values[:1]
  np.testing.assert_allclose(found, expected, rtol=1e-4)


# Wrong input -----------------------------------------------------------------------

W = {"w": jnp.ones((2, 3))}


def square(params):
  return jnp.sum(params["w"] ** 2)


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"loss": lambda p: p["w"]}, "loss gives ShapeDtypeStruct.*expected one real number"),
    ({"loss": lambda p: (square(p), 1.0)}, "expected one real number"),
    ({"loss": lambda p: 1}, "expected one real number"),
    ({"params": {"w": jnp.ones(3, int)}, "loss": lambda p: 1.0}, "like: w is int32"),
    ({"steps": 0}, "steps=0"),
    ({"top": 7}, "top=7 with steps=32 on 6 entries"),
    ({"preconditioner": {"v": 1.0}}, "preconditioner: w is in the parameters alone"),
    ({"preconditioner": {"w": 1.0, "v": 1.0}}, "v is in the preconditioner alone"),
    ({"preconditioner": {"w": jnp.ones(2)}}, r"w has shape \(2,\) but .* \(2, 3\)"),
    ({"preconditioner": {"w": jnp.ones((1, 2, 3))}}, r"w has shape \(1, 2, 3\) but"),
    ({"preconditioner": {"w": -1.0}}, "w has negative factors"),
  ],
)
def test_wrong_input(values, words):
  given = {"loss": square, "params": W} | values
  with pytest.raises(DepthMupError, match=words):
    sharpness(given.pop("loss"), given.pop("params"), jax.random.key(0), **given)


def test_wrong_optimizer_states():
  params, scales = dmup.init(net(), jax.random.key(0), X)
  adam = optax.scale_by_adam()
  fresh = adam.init(params)
  _, used = adam.update(params, fresh)
  for state, words in (
    (fresh, "the optimizer has taken no step"),
    (optax.identity().init(params), "holds 0 states of optax.scale_by_adam"),
    ((used, used), "holds 2 states of optax.scale_by_adam"),
    (used._replace(nu={"other": jnp.ones(3)}), "in the state of Adam; pass those of one"),
    (used._replace(nu=params["stack"]), "parameter input/kernel has shape"),
  ):
    with pytest.raises(DepthMupError, match=words):
      adam_preconditioner(scales, state)
  for values, words in (({"b2": 1.0}, "b2=1.0"), ({"eps": -1.0}, "eps=-1.0")):
    with pytest.raises(DepthMupError, match=words):
      adam_preconditioner(scales, used, **values)
  for function in (sgd_preconditioner, lambda scales: adam_preconditioner(scales, used)):
    with pytest.raises(DepthMupError, match="expected Scales"):
      function(params)


@pytest.mark.parametrize(
  ("function", "values", "words"),
  [
    (descent_threshold, (0.0,), "learning_rate=0.0: expected a positive number"),
    (adam_threshold, (float("nan"),), "learning_rate=nan"),
    (descent_threshold, (0.1, 1.0), "momentum=1.0: expected a number in"),
    (adam_threshold, (0.1, -0.1), "b1=-0.1: expected a number in"),
  ],
)
def test_wrong_rates(function, values, words):
  with pytest.raises(DepthMupError, match=words):
    function(*values)
