"""Definition 6.1 against its formula, and inside and around optax's wrappers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding

import flax_depthmup as dmup
from flax_depthmup import DepthMupError, scale_by_parametrization
from tests.helpers import (
  INNER,
  assert_trees_close,
  assert_trees_equal,
  compilations,
  inputs,
  residual_mlp,
)

KEY = jax.random.key(0)
P = dmup.depthwise(alpha="1/2", gamma="1/4", base_width=4, base_depth=2)
PARAMS, SCALES = dmup.init(residual_mlp(P), KEY, inputs())


def gradients(count=3):
  """A few trees of gradients, of very different sizes."""

  def draw(key):
    keys = jax.random.split(key, len(jax.tree.leaves(PARAMS)))
    keys = jax.tree.unflatten(jax.tree.structure(PARAMS), list(keys))
    return jax.tree.map(lambda k, x: 1e-3 * jax.random.normal(k, x.shape), keys, PARAMS)

  return [draw(key) for key in jax.random.split(jax.random.key(5), count)]


def run(tx, grads=None, params=PARAMS, state=None):
  """The updates of consecutive steps."""
  state = tx.init(params) if state is None else state
  out = []
  for g in gradients() if grads is None else grads:
    updates, state = tx.update(g, state, params)
    out.append(updates)
  return out


@pytest.mark.parametrize("name", INNER)
def test_definition_6_1(name):
  """n^-c L^-gamma Q(n^d L^delta g_0, ..., n^d L^delta g_t), by hand."""
  q = INNER[name]()
  up = [jax.tree.map(lambda x, s: x * s.gradient_factor, g, SCALES) for g in gradients()]
  expected = [jax.tree.map(lambda x, s: x * s.update_factor, u, SCALES) for u in run(q, up)]
  found = run(scale_by_parametrization(q, SCALES))
  assert_trees_close(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", INNER)
def test_at_the_base_size_nothing_changes(name):
  p = dmup.depth_mup(base_width=16, base_depth=8)
  scales = dmup.init(residual_mlp(p), KEY, inputs())[1]
  q = INNER[name]()
  assert_trees_equal(run(scale_by_parametrization(q, scales)), run(q))


def test_eps_is_divided_by_the_gradient_factor():
  kernel = SCALES["stack"]["block"]["dense_0"]["kernel"]
  eps = 1e-4
  with_scales = run(scale_by_parametrization(optax.scale_by_adam(eps=eps), SCALES))
  by_hand = run(optax.scale_by_adam(eps=eps / kernel.gradient_factor))

  def pick(steps):
    return [u["stack"]["block"]["dense_0"]["kernel"] for u in steps]

  expected = [u * kernel.update_factor for u in pick(by_hand)]
  assert_trees_close(pick(with_scales), expected, rtol=1e-4)
  unscaled = run(optax.scale_by_adam(eps=eps))
  assert not np.allclose(pick(unscaled)[0] * kernel.update_factor, expected[0], rtol=1e-2)


def base():
  return scale_by_parametrization(optax.scale_by_adam(), SCALES)


def half_labels():
  return {"input": "a", "readout": "a", "stack": "b"}


def half_mask():
  return {"input": False, "readout": False, "stack": True}


WRAPPED = {
  "chain around": lambda: optax.chain(base(), optax.scale(1.0)),
  "chain inside": lambda: scale_by_parametrization(
    optax.chain(optax.scale_by_adam(), optax.scale(1.0)), SCALES
  ),
  "partition around": lambda: optax.partition({"a": base(), "b": base()}, half_labels()),
  "partition inside": lambda: scale_by_parametrization(
    optax.partition(
      {"a": optax.scale_by_adam(), "b": optax.scale_by_adam()}, half_labels()
    ),
    SCALES,
  ),
  "masked around, twice": lambda: optax.chain(
    optax.masked(base(), half_mask()),
    optax.masked(base(), jax.tree.map(lambda m: not m, half_mask())),
  ),
  "masked inside, twice": lambda: scale_by_parametrization(
    optax.chain(
      optax.masked(optax.scale_by_adam(), half_mask()),
      optax.masked(optax.scale_by_adam(), jax.tree.map(lambda m: not m, half_mask())),
    ),
    SCALES,
  ),
  "inject_hyperparams around": lambda: optax.inject_hyperparams(
    lambda b1: scale_by_parametrization(optax.scale_by_adam(b1=b1), SCALES)
  )(b1=0.9),
  "inject_hyperparams inside": lambda: scale_by_parametrization(
    optax.inject_hyperparams(optax.scale_by_adam)(b1=0.9), SCALES
  ),
  "apply_if_finite around": lambda: optax.apply_if_finite(base(), 3),
  "apply_if_finite inside": lambda: scale_by_parametrization(
    optax.apply_if_finite(optax.scale_by_adam(), 3), SCALES
  ),
  "MultiSteps of one around": lambda: optax.MultiSteps(base(), 1).gradient_transformation(),
  "MultiSteps of one inside": lambda: scale_by_parametrization(
    optax.MultiSteps(optax.scale_by_adam(), 1).gradient_transformation(), SCALES
  ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_inside_and_around_optax(name):
  assert_trees_close(run(WRAPPED[name]()), run(base()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", WRAPPED)
def test_the_second_step_does_not_compile(name):
  tx = WRAPPED[name]()

  @jax.jit
  def step(grads, state):
    return tx.update(grads, state, PARAMS)

  state = tx.init(PARAMS)
  with compilations() as first:
    _, state = step(gradients()[0], state)
  with compilations() as second:
    step(gradients()[0], state)
  assert any("step" in name for name in first)
  assert second == []


def test_accumulation_sees_the_mean_gradient():
  g = gradients(2)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *g)
  tx = optax.MultiSteps(base(), 2).gradient_transformation()
  assert_trees_close(run(tx, g)[1], run(base(), [mean])[0], rtol=1e-5)


def test_extra_arguments_pass_through():
  seen = {}

  def update(updates, state, params=None, **extra):
    seen.update(extra)
    return updates, state

  inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
  tx = scale_by_parametrization(inner, SCALES)
  tx.update(gradients()[0], tx.init(PARAMS), PARAMS, value=3)
  assert seen == {"value": 3}


def test_map_params_reaches_the_state():
  tx = base()
  state = optax.tree.map_params(tx, lambda x: x + 1, tx.init(PARAMS))
  assert_trees_equal(state.mu, jax.tree.map(jnp.ones_like, PARAMS))


def test_dtypes_are_kept():
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (PARAMS, gradients()[0]))
  tx = scale_by_parametrization(optax.trace(0.9), SCALES)
  updates, state = tx.update(half[1], tx.init(half[0]))
  for tree in (updates, state):
    assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype("bfloat16")}


def test_shardings_are_kept():
  mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,))
  last = NamedSharding(mesh, jax.P(None, None, "model"))
  tree = {"w": jax.device_put(jnp.ones((8, 16, 16)), last)}
  scales = {"w": SCALES["stack"]["block"]["dense_0"]["kernel"]}
  tx = scale_by_parametrization(optax.scale_by_adam(), scales)
  state = jax.jit(tx.init)(tree)
  updates, state = jax.jit(tx.update)(tree, state)
  for array in (updates["w"], state.mu["w"], state.nu["w"]):
    assert array.sharding.is_equivalent_to(last, 3)


def without(tree, *path):
  copy = jax.tree.map(lambda x: x, tree)
  functools.reduce(dict.__getitem__, path[:-1], copy).pop(path[-1])
  return copy


@pytest.mark.parametrize(
  ("params", "words"),
  [
    (without(PARAMS, "readout"), "readout/kernel is in the scales but not"),
    (PARAMS | {"extra": jnp.ones(3)}, "parameter extra has no scales"),
    ({"params": PARAMS}, "params/input/kernel has no scales"),
    (PARAMS | {"input": {"kernel": jnp.ones((7, 8))}}, r"input/kernel has shape \(7, 8\)"),
  ],
)
def test_a_tree_that_does_not_match_names_the_first_difference(params, words):
  with pytest.raises(DepthMupError, match=words):
    base().init(params)


def test_mismatched_updates_are_named_too():
  tx = base()
  with pytest.raises(DepthMupError, match="readout/kernel"):
    tx.update(without(PARAMS, "readout"), tx.init(PARAMS))


@pytest.mark.parametrize(
  ("inner", "scales", "words"),
  [
    (optax.scale_by_adam, SCALES, "no optax.GradientTransformation"),
    (optax.scale_by_adam(), PARAMS, "input/kernel is a ArrayImpl, expected Scales"),
    (optax.scale_by_adam(), {}, "scales is empty"),
  ],
)
def test_wrong_arguments(inner, scales, words):
  with pytest.raises(DepthMupError, match=words):
    scale_by_parametrization(inner, scales)
