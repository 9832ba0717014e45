"""Families of optimizers: their exponents, and matrices as matrices wherever they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError, scale_by_parametrization
from tests.conformance_nets import OPTIMIZERS
from tests.helpers import assert_trees_close, inputs, residual_mlp
from tests.matrix_optimizers import (
  SHAPES,
  one_step,
  svd_orthogonal,
)

KEY = jax.random.key(0)
M, L = 4, 9  # width and depth over those of the base net
HIDDEN, BIAS = ("embed -> embed", (64, 64)), ("-> embed", (64,))
INPUT, OUTPUT = ("(vocab) -> embed", (7, 64)), ("embed -> (vocab)", (64, 7))


def factors(preset, family, parameter, inside):
  """(gradient, update) that a gradient of ones goes through, by what comes out."""
  p = preset(base_width=16, base_depth=2)
  axes, shape = parameter
  s = {"w": dmup.resolve(axes, shape, p, depth=2 * L if inside else None)}
  seen = {}

  def update(g, state, params=None):
    seen["gradient"] = float(jnp.ravel(g["w"])[0] if isinstance(g, dict) else g.ravel()[0])
    return jax.tree.map(jnp.ones_like, g), state

  inner = optax.GradientTransformation(optax.init_empty_state, update)
  tx = scale_by_parametrization(inner, s, family=family)
  ones = {"w": jnp.ones(shape)}
  out, _ = tx.update(ones, optax.EmptyState(), ones)
  return seen["gradient"], float(out["w"].ravel()[0])


# The rows of arXiv 2603.00541, Tables 3 to 7, for the readout of Table 8: the rate of
# input, hidden and output matrices as powers of the width ratio, and of the depth ratio
# in a block for k = 1 (Depth-muP) and k >= 2 (CompleteP).
RATES = {
  "muon": (dmup.MUON, (0.5, 0, 0.5)),
  "shampoo, soap": (dmup.SHAMPOO, (0.5, 0, 0.5)),
  "muon-kimi": (dmup.MUON_MOONSHOT, (0, -0.5, 0)),
  "adam": (dmup.ENTRYWISE, (0, -1, 0)),
  "muon, spectral factor": (dmup.MUON_SPECTRAL, (0, 0, 1)),
  "adafactor, lamb": (dmup.RELATIVE, (0, -0.5, 0)),
  "adafactor, absolute": (dmup.FACTORED, (0, -1, 0)),
  "fixed norm": (dmup.FROBENIUS, (0.5, 0, 0.5)),
}


def one_matrix(**sizes):
  return dmup.depth_mup(width_rule=dmup.TABLE_8, **sizes)


@pytest.mark.parametrize("name", RATES)
def test_rates_are_those_of_the_papers(name):
  family, powers = RATES[name]
  for preset, depth_power in ((dmup.complete_p, 0), (one_matrix, -0.5)):
    found = [
      factors(preset, family, parameter, inside)[1]
      for parameter, inside in ((INPUT, False), (HIDDEN, True), (OUTPUT, False))
    ]
    expected = [M**power for power in powers]
    expected[1] *= L**depth_power
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_damping_is_that_of_the_papers():
  """eps over its gradient factor, of degree 1 for Muon and 2 for Shampoo's L and R."""
  gradient = factors(dmup.complete_p, dmup.SHAMPOO, HIDDEN, True)[0]
  assert 1 / gradient**2 == pytest.approx(L**-2)
  for parameter in (INPUT, OUTPUT):
    gradient = factors(dmup.complete_p, dmup.SHAMPOO, parameter, False)[0]
    assert 1 / gradient**2 == pytest.approx(1 / M)
  gradient = factors(dmup.complete_p, dmup.MUON, HIDDEN, True)[0]
  assert 1 / gradient == pytest.approx(1 / L)
  gradient = factors(dmup.complete_p, dmup.ENTRYWISE, HIDDEN, True)[0]
  assert 1 / gradient == pytest.approx(1 / (L * M))


def test_wide_and_narrow_matrices():
  """[fan_in, fan_out] = [4 m, 16 m']: the rate of Muon is sqrt(m'/m), of Jordan's 1."""
  p = dmup.complete_p(base_width={"embed": 4, "mlp": 16}, base_depth=1)
  rates = {}
  for family in (dmup.MUON, dmup.MUON_JORDAN):
    s = dmup.resolve("embed -> mlp", (8, 128), p)
    rates[family.name] = family.factors(s)[1]
  assert rates["MUON"] == pytest.approx((8 / 2) ** 0.5)
  assert rates["MUON_JORDAN"] == pytest.approx(1)


@pytest.mark.parametrize(
  ("family", "embedding", "readout"),
  [
    (dmup.MUON, 1, 2),
    (dmup.MUON_MOONSHOT, 1, 2),
    (dmup.SHAMPOO, 1, 2),
    (dmup.FROBENIUS, 2, 2),
    (dmup.ENTRYWISE, 1, 1),
  ],
)
def test_a_vocabulary_longer_than_the_net_is_wide(family, embedding, readout):
  """Rows of an orthogonal [1000, n] matrix have entries of 1/sqrt(1000) at any n < 1000."""
  table, head = ("(vocab) -> embed", (1000, 64)), ("embed -> (vocab)", (64, 1000))
  assert factors(dmup.complete_p, family, table, False)[1] == pytest.approx(embedding)
  assert factors(dmup.complete_p, family, head, False)[1] == pytest.approx(readout)


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [8, 600])
@pytest.mark.parametrize("family", [dmup.MUON, dmup.MUON_MOONSHOT])
def test_embeddings_move_alike_at_every_width(family, vocab):
  """Over widths 32 to 256, three steps on tokens that reach every row; tolerance 0.15."""

  def muon(u, params):
    del params
    return u * (max(u.shape) ** 0.5 if family is dmup.MUON_MOONSHOT else 1.0)

  q = optax.chain(optax.contrib.scale_by_muon(), optax.stateless(muon))

  def moved(n):
    p = dmup.mup(base_width=32, base_depth=1)
    s = {"e": dmup.resolve("(v) -> embed", (vocab, n), p)}
    tx = scale_by_parametrization(q, s, family=family)
    rng = np.random.default_rng(0)
    start = {"e": jnp.asarray(rng.normal(size=(vocab, n)), jnp.float32)}
    head = jnp.asarray(rng.normal(size=(n, vocab)) / n, jnp.float32)

    @jax.jit
    def step(params, state, tokens, targets):
      def loss(params):
        z = jax.nn.relu(params["e"][tokens]) @ head
        return optax.softmax_cross_entropy_with_integer_labels(z, targets).mean()

      u, state = tx.update(jax.grad(loss)(params), state, params)
      return jax.tree.map(lambda x, u: x - 0.05 * u, params, u), state

    params, state = start, tx.init(start)
    for _ in range(3):
      tokens, targets = rng.integers(0, vocab, size=(2, 4 * vocab))
      params, state = step(params, state, tokens, targets)
    return float(jnp.sqrt(jnp.mean((params["e"] - start["e"]) ** 2)))

  widths = np.array([32, 64, 128, 256])
  slope = np.polyfit(np.log(widths), np.log([moved(n) for n in widths]), 1)[0]
  assert abs(slope) < 0.15


@pytest.mark.parametrize("family", [dmup.MUON, dmup.SHAMPOO, dmup.RELATIVE, dmup.FACTORED])
def test_multipliers_may_be_traded(family):
  """Table 3 and Table 8 differ by theta = m in the readout: std, update, multiplier."""
  forms = []
  for rule in (dmup.TABLE_3, dmup.TABLE_8, dmup.TABLE_9):
    p = dmup.mup(base_width=16, base_depth=2, width_rule=rule)
    s = dmup.resolve(*OUTPUT, p)
    _, update = factors(
      lambda rule=rule, **z: dmup.mup(width_rule=rule, **z), family, OUTPUT, False
    )
    # A relative update is of the size of the parameter, which the table sets too.
    forms.append(s.multiplier * update * (s.std_factor if family.relative else 1))
  np.testing.assert_allclose(forms[1:], forms[0])


# Matrices as matrices -------------------------------------------------------------


@pytest.mark.parametrize("axes", SHAPES)
def test_a_parameter_is_seen_as_a_matrix_of_its_own(axes):
  """Several axes in or out are one; stacked ones, wherever they are, are apart."""
  shape, stacked, fan_in = SHAPES[axes]
  p = dmup.complete_p(
    base_width={"embed": 4, "heads": 2, "head_dim": 2, "mlp": 4}, base_depth=2
  )
  s = {"w": dmup.resolve(axes, shape, p)}
  seen = []

  def update(g, state, params=None):
    seen.append(g.shape)
    return jnp.broadcast_to(g.sum(0, keepdims=True), g.shape), state

  inner = optax.GradientTransformation(optax.init_empty_state, update)
  tx = scale_by_parametrization(inner, s, family=dmup.FACTORED)
  g = jax.random.normal(KEY, shape)
  out = tx.update({"w": g}, optax.EmptyState(), {"w": g})[0]["w"]
  by_hand = np.broadcast_to(np.sum(g, axis=fan_in, keepdims=True), shape)
  factor = s["w"].gradient_factor * s["w"].update_factor
  np.testing.assert_allclose(out, factor * by_hand, rtol=1e-4, atol=1e-5)
  expected = [n for i, n in enumerate(shape) if i not in stacked]
  assert np.prod(seen[0]) == np.prod(expected)
  assert len(seen[0]) <= 2


@pytest.mark.parametrize("name", ["muon", "shampoo", "adafactor", "normalized"])
def test_stacked_layers_train_as_single_ones(name):
  make, family = OPTIMIZERS[name]
  p = dmup.depth_mup(base_width=4, base_depth=1)
  one = dmup.resolve("embed -> embed", (8, 8), p, depth=3)
  boxed = dmup.resolve("layers | embed -> embed", (3, 8, 8), p, depth=3)
  values = jax.random.normal(KEY, (3, 8, 8))
  grads = jax.random.normal(jax.random.key(1), (2, 3, 8, 8))

  def run(scales, params, grads):
    tx = scale_by_parametrization(make(), scales, family=family)

    @jax.jit
    def steps(params):
      state = tx.init(params)
      for g in grads:
        updates, state = tx.update(g, state, params)
      return updates

    return steps(params)

  stacked = run({"w": boxed}, {"w": values}, [{"w": g} for g in grads])["w"]
  single = run([one] * 3, list(values), [list(g) for g in grads])
  assert_trees_close(list(stacked), single, rtol=1e-5, atol=1e-6)


def test_muon_orthogonalizes_every_layer():
  """Against numpy's singular vectors, through the iteration that optax stops early."""
  p = dmup.complete_p(base_width=16, base_depth=2)
  params, s = dmup.init(residual_mlp(p, width=16, depth=3), KEY, inputs())
  hidden = {"stack": params["stack"]}
  s = {"stack": s["stack"]}
  g = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), hidden)
  q = optax.contrib.scale_by_muon(beta=0.0, ns_steps=8, ns_coeffs=(2.0, -1.5, 0.5))
  tx = scale_by_parametrization(q, s, family=dmup.MUON)
  found = one_step(tx, g, hidden)["stack"]["block"]["dense_0"]["kernel"]
  for layer, gradient in zip(found, g["stack"]["block"]["dense_0"]["kernel"], strict=True):
    np.testing.assert_allclose(layer, svd_orthogonal(gradient), atol=0.2)


def test_muon_leaves_all_but_hidden_matrices_to_adam():
  p = dmup.complete_p(base_width=4, base_depth=2)
  params, s = dmup.init(residual_mlp(p), KEY, inputs())
  tx = dmup.muon(0.02, s, adam_learning_rate=0.001, weight_decay=0.1)
  adamw = dmup.adamw(0.001, s, weight_decay=0.1)
  g = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), params)
  found, other = one_step(tx, g, params), one_step(adamw, g, params)
  for name in ("input", "readout"):
    assert_trees_close(found[name], other[name], rtol=1e-6)
  hidden = found["stack"]["block"]["dense_0"]["kernel"]
  kept = params["stack"]["block"]["dense_0"]["kernel"]
  sizes = np.linalg.norm(hidden + 0.02 * 0.1 * kept, ord=2, axis=(1, 2)) / 0.02
  assert np.all((sizes > 0.6) & (sizes < 1.4))  # the iteration ends within 0.7 to 1.2


def test_muon_alone_refuses_a_vector():
  p = dmup.complete_p(base_width=4, base_depth=2)
  s = {"bias": dmup.resolve("-> embed", (8,), p)}
  tx = scale_by_parametrization(optax.contrib.scale_by_muon(), s, family=dmup.MUON)
  with pytest.raises(DepthMupError, match="acts on matrices, and parameter bias is none"):
    tx.init({"bias": jnp.ones(8)})


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda s: dmup.muon(0.1, s, adam_learning_rate=0.1, weight_decay=-1.0), "=-1.0: exp"),
    (lambda s: dmup.muon(0.1, s, adam_learning_rate=0.1, beta=2), r"beta=2: .*\[0, 1\)"),
    (lambda s: dmup.muon("a", s, adam_learning_rate=0.1), "learning_rate='a': expected"),
    (lambda s: dmup.add_decayed_weights(0.1, s, "independent"), "the others are a matter"),
    (lambda s: dmup.add_decayed_weights(0.1, {"w": 1}), "scales: w is a int, expected"),
  ],
)
def test_wrong_hyperparameters(call, words):
  p = dmup.complete_p(base_width=4, base_depth=2)
  with pytest.raises(DepthMupError, match=words):
    call({"w": dmup.resolve("embed -> embed", (8, 8), p)})
