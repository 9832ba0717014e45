"""The aliases: each against optax's own at rates and decays written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from tests.helpers import assert_trees_close, inputs, residual_mlp

KEY = jax.random.key(0)
P = dmup.depthwise(alpha="1/2", gamma="1/4", base_width=4, base_depth=2)
PARAMS, SCALES = dmup.init(residual_mlp(P), KEY, inputs())
GRADS = jax.tree.map(lambda x: 0.1 * x + 0.01, PARAMS)
ETA, LAMBDA = 0.1, 0.3


def updates(tx, grads=GRADS, params=PARAMS):
  return tx.update(grads, tx.init(params), params)[0]


def test_sgd():
  expected = jax.tree.map(
    lambda g, s: -ETA * s.update_factor * s.gradient_factor * g, GRADS, SCALES
  )
  assert_trees_close(updates(dmup.sgd(ETA, SCALES)), expected, rtol=1e-5)
  hidden = SCALES["stack"]["block"]["dense_0"]["kernel"]
  rate = hidden.update_factor * hidden.gradient_factor
  assert rate == pytest.approx(4 ** (1 / 2 - 1 / 4))  # (L/L0)^(alpha-gamma)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
  own = dmup.sgd(ETA, SCALES, momentum=0.9, nesterov=nesterov)
  expected = jax.tree.map(
    lambda u, s: u * s.update_factor * s.gradient_factor,
    updates(optax.sgd(ETA, 0.9, nesterov)),
    SCALES,
  )
  assert_trees_close(updates(own), expected, rtol=1e-5)


def test_adam_with_a_schedule():
  schedule = optax.linear_schedule(ETA, 0.0, 10)
  expected = jax.tree.map(
    lambda u, s: u * s.update_factor, updates(optax.adam(ETA)), SCALES
  )
  assert_trees_close(updates(dmup.adam(schedule, SCALES)), expected, rtol=1e-3)


DECAYS = {
  "size_independent": (lambda s: ETA * LAMBDA, {}),
  "width_compensated": (lambda s: ETA * LAMBDA * s.depth_update_factor, {}),
  "coupled": (lambda s: ETA * LAMBDA * s.update_factor, {}),
  "independent_peak": (lambda s: ETA / 0.4 * LAMBDA, {"peak_learning_rate": 0.4}),
  "independent": (lambda s: LAMBDA, {}),
}


@pytest.mark.parametrize("decay", DECAYS)
def test_decay_is_as_in_the_table(decay):
  """With zero gradients nothing moves but the decay."""
  shrink, extra = DECAYS[decay]
  tx = dmup.adamw(ETA, SCALES, weight_decay=LAMBDA, decay=decay, **extra)
  zero = jax.tree.map(jnp.zeros_like, GRADS)
  expected = jax.tree.map(lambda p, s: -shrink(s) * p, PARAMS, SCALES)
  assert_trees_close(updates(tx, zero), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("decay", DECAYS)
def test_at_the_base_size_adamw_is_adamw(decay):
  p = dmup.depth_mup(base_width=16, base_depth=8)
  params, scales = dmup.init(residual_mlp(p), KEY, inputs())
  lam, extra = LAMBDA, {}
  if decay == "independent":
    lam = LAMBDA * ETA
  if decay == "independent_peak":
    extra = {"peak_learning_rate": ETA}
    lam = LAMBDA * ETA
  own = dmup.adamw(ETA, scales, weight_decay=lam, decay=decay, **extra)
  found = updates(own, params=params)
  expected = updates(optax.adamw(ETA, weight_decay=LAMBDA), params=params)
  assert_trees_close(found, expected, rtol=1e-5)


def test_complete_p_decay():
  """Golden: rate 2.5e-4 with decay .4 shrinks by 1e-4 a step, like rate 1e-3 with .1."""
  p = dmup.complete_p(base_width=4, base_depth=1)
  params, scales = dmup.init(residual_mlp(p), KEY, inputs())
  zero = jax.tree.map(jnp.zeros_like, params)
  tx = dmup.adamw(1e-3, scales, weight_decay=0.1, decay="width_compensated")
  u = updates(tx, zero, params)["stack"]["block"]["dense_0"]["kernel"]
  ratio = u / params["stack"]["block"]["dense_0"]["kernel"]
  np.testing.assert_allclose(ratio, -2.5e-4 * 0.4, rtol=1e-5)


def test_a_mask_and_frozen_parameters_do_not_decay():
  params, scales = dmup.init(residual_mlp(P, train_boundary=False), KEY, inputs())
  zero = jax.tree.map(jnp.zeros_like, params)
  u = updates(dmup.adamw(ETA, scales, weight_decay=LAMBDA), zero, params)
  assert (u["input"]["kernel"] == 0).all()
  assert (u["stack"]["block"]["dense_0"]["kernel"] != 0).all()
  mask = jax.tree.map(lambda s: s.kind is dmup.Kind.OUTPUT, SCALES)
  for form in (mask, lambda params: mask):
    u = updates(dmup.adamw(ETA, SCALES, weight_decay=LAMBDA, mask=form), zero)
    assert (u["readout"]["kernel"] != 0).any()
    assert (u["stack"]["block"]["dense_0"]["kernel"] == 0).all()


def test_adamw_inside_partition_and_inject_hyperparams():
  labels = {"input": "a", "readout": "a", "stack": "b"}
  own = dmup.adamw(ETA, SCALES, weight_decay=LAMBDA)
  split = optax.partition({"a": own, "b": own}, labels)
  assert_trees_close(updates(split), updates(own), rtol=1e-6)
  injected = optax.inject_hyperparams(dmup.adamw)(
    learning_rate=ETA, scales=SCALES, weight_decay=LAMBDA, decay="coupled"
  )
  coupled = dmup.adamw(ETA, SCALES, weight_decay=LAMBDA, decay="coupled")
  state = injected.init(PARAMS)
  assert state.hyperparams["learning_rate"] == pytest.approx(ETA)
  assert_trees_close(updates(injected), updates(coupled), rtol=1e-5)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"decay": "l2"}, "decay='l2': expected one of size_independent"),
    ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ({"weight_decay": float("nan")}, "weight_decay=nan"),
    ({"decay": "independent_peak"}, "peak_learning_rate=None"),
    ({"peak_learning_rate": 0.1}, "peak_learning_rate=0.1"),
  ],
)
def test_errors(fields, words):
  with pytest.raises(DepthMupError, match=words):
    dmup.adamw(ETA, SCALES, **fields)


def test_decay_needs_the_parameters():
  tx = dmup.adamw(ETA, SCALES)
  with pytest.raises(DepthMupError, match="update\\(grads, state, params\\)"):
    tx.update(GRADS, tx.init(PARAMS))
