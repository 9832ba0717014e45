"""Training the transformer: one trajectory under three tables, remat, bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from tests.helpers import assert_trees_close
from tests.naive_transformer import TOKENS, drawn, quick_jit, transformer


@functools.cache
def trained(rule, tied):
  """Losses of five steps, [steps, (Adam, SGD)]; Adam's eps is of the gradients' size."""
  model = transformer(rule=rule, tied=tied, norm_gain=False)
  start, scales = drawn(model)
  txs = dmup.adam(2**-6, scales, eps=1e-3), dmup.sgd(2**-5, scales)

  def loss_of(params):
    logits = model.apply({"params": params}, TOKENS)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]).mean()

  def step(carry, _):
    both, states = carry
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    losses, grads = jax.vmap(jax.value_and_grad(loss_of))(stacked)
    new = []
    for i, tx in enumerate(txs):
      mine = jax.tree.map(lambda g, i=i: g[i], grads)
      updates, state = tx.update(mine, states[i], both[i])
      new.append((optax.apply_updates(both[i], updates), state))
    return tuple(zip(*new, strict=True)), losses

  @quick_jit
  def run(params):
    carry = (params, params), tuple(tx.init(params) for tx in txs)
    return jax.lax.scan(step, carry, length=5)[1]

  return np.asarray(run(start))


@pytest.mark.parametrize(
  ("rule", "tied"), [(dmup.TABLE_3, False), (dmup.TABLE_9, False), (dmup.TABLE_9, True)]
)
def test_the_width_tables_give_one_trajectory(rule, tied):
  """To rounding; the losses move by much more."""
  expected = trained(dmup.TABLE_8, tied)
  np.testing.assert_allclose(trained(rule, tied), expected, rtol=1e-4)
  assert (expected[0] - expected[-1] > 0.05).all()


@functools.cache
def gradient(**fields):
  """(gradients, logits) of one net, computed in one way or another."""
  model = transformer(**fields)

  def loss_of(params):
    logits = model.apply({"params": params}, TOKENS)
    return logits.var(), logits

  return quick_jit(jax.grad(loss_of, has_aux=True))(drawn(model)[0])


def test_remat_changes_nothing():
  assert_trees_close(gradient(), gradient(remat=True), rtol=1e-4, atol=1e-6)


def test_bfloat16_of_the_computation_alone():
  """Logits off by a few roundings of 2^-8; parameters and gradients are float32."""
  (full, logits), (grads, rough) = gradient(), gradient(dtype=jnp.bfloat16)
  shapes = dmup.abstract_init(transformer(dtype=jnp.bfloat16), jax.random.key(0), TOKENS)[0]
  for tree in (grads, shapes):
    assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
  assert rough.dtype == jnp.float32
  assert 0 < np.abs(rough - logits).max() < 0.05 * np.std(logits)
  for one, two in zip(jax.tree.leaves(full), jax.tree.leaves(grads), strict=True):
    assert 0 < np.linalg.norm(one - two) < 0.1 * np.linalg.norm(one)
