"""Rescaled initializations, and training that equals that of an annotated net."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import (
  axes_from_shapes,
  init_laws,
  placed_by_hand,
  rescale_init,
  scales_from_axes,
)
from flax_depthmup.transforms import named_leaves
from tests.helpers import assert_trees_equal, inputs

X = inputs()


class Plain(nn.Module):
  """The residual MLP of Tensor Programs VI in plain linen."""

  width: int
  depth: int
  branch_multiplier: float = 1.0
  readout_multiplier: float = 1.0

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(self.width, use_bias=False, name="input")(x)
    for i in range(self.depth):
      y = jax.nn.relu(nn.Dense(self.width, use_bias=False, name=f"block_{i}")(x))
      x = x + self.branch_multiplier * (y - y.mean(-1, keepdims=True))
    return self.readout_multiplier * nn.Dense(3, use_bias=False, name="readout")(x)


@functools.cache
def started(width, depth):
  return Plain(width, depth).init(jax.random.key(width), X)["params"]


def axes():
  """From width 16 and two blocks to width 64 and four."""
  return axes_from_shapes(started(16, 2), started(64, 4), branches="block_*")


# Training ---------------------------------------------------------------------------


def trained(model, params, tx, steps=4):
  def loss(params):
    return jnp.mean((model.apply({"params": params}, X) - 1) ** 2)

  @jax.jit
  def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  state, values = tx.init(params), []
  for _ in range(steps):
    params, state, value = step(params, state)
    values.append(float(value))
  return values


@pytest.mark.parametrize(
  ("preset", "folded", "optimizer"),
  [
    (dmup.complete_p, True, dmup.adam),
    pytest.param(dmup.complete_p, False, dmup.adam, marks=pytest.mark.slow),
    pytest.param(dmup.complete_p, True, dmup.sgd, marks=pytest.mark.slow),
    pytest.param(dmup.depth_mup, True, dmup.adam, marks=pytest.mark.slow),
  ],
)
def test_training_equals_that_of_our_own_net(preset, folded, optimizer):
  """With the same weights, up to what was folded into the readout."""
  scales = scales_from_axes(axes(), preset, folded=folded)
  left = placed_by_hand(axes(), preset, folded=folded)
  params = rescale_init(started(64, 4), scales, started(16, 2))
  readout = left.parameters.get("readout/kernel", 1.0)
  plain = Plain(64, 4, branch_multiplier=left.branch, readout_multiplier=readout)
  ours = dmup.ResidualMLP(64, 4, 3, preset(base_width=16, base_depth=2))
  own_scales = dmup.abstract_init(ours, jax.random.key(0), X)[1]
  blocks = jnp.stack([params[f"block_{i}"]["kernel"] for i in range(4)])
  fold = own_scales["readout"]["kernel"].multiplier if folded else 1.0
  same = {
    "input": params["input"],
    "stack": {"block": {"dense_0": {"kernel": blocks}}},
    "readout": {"kernel": params["readout"]["kernel"] / fold},
  }
  found = trained(plain, params, optimizer(2**-6, scales))
  own = trained(ours, same, optimizer(2**-6, own_scales))
  np.testing.assert_allclose(found, own, rtol=2e-5)
  assert found[-1] < found[0]


# The start --------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [dmup.complete_p, dmup.depth_mup, dmup.standard])
def test_the_base_net_stays_as_it_is_bit_by_bit(preset):
  base = started(16, 2)
  same = axes_from_shapes(base, base, started(64, 4), branches="block_*")
  assert_trees_equal(rescale_init(base, scales_from_axes(same, preset), base), base)


def test_stds_are_those_of_the_table():
  """Of the base net, times std_factor: TP-V, Table 8 folded, at a width ratio of 4."""
  base, params = started(16, 2), started(64, 4)
  found = rescale_init(params, scales_from_axes(axes(), dmup.complete_p), base)
  expected = {"input": 1, "block_3": 1, "readout": 1 / 2}
  for name, factor in expected.items():
    np.testing.assert_allclose(
      found[name]["kernel"], params[name]["kernel"] * factor, rtol=1e-6
    )


def normal(*shape, std):
  draws = np.random.default_rng(shape[-1]).normal(size=shape)
  return jnp.asarray(std * draws, jnp.float32)


#: Law -> (std of a table from a finite axis of 100, by what it is multiplied).
TABLES = {
  "fan_in": (lambda n: 0.1, 1.0),
  "fixed": (lambda n: 0.02, 1.0),
  "fan_out": (lambda n: n**-0.5, 2.0),
}


@pytest.mark.parametrize("name", TABLES)
def test_laws_are_measured(name):
  """At a width ratio of 4 an embedding must keep its std, a hidden matrix halve it."""
  std, factor = TABLES[name]

  def tree(n):
    ends = {"table": normal(100, n, std=std(n)), "hidden": normal(n, n, std=n**-0.5)}
    return ends | {"gain": jnp.ones(n), "out": jnp.zeros((n, 2))}

  base, params = tree(32), tree(128)
  told = {"out": "embed -> (classes)"}
  scales = scales_from_axes(axes_from_shapes(base, params, overrides=told), dmup.complete_p)
  laws = init_laws(params, scales, base)
  assert laws["table"] == ("fan_in" if name == "fixed" else name)  # there they agree
  assert laws["gain"] == laws["out"] == "fixed"
  found = rescale_init(params, scales, base)
  np.testing.assert_allclose(
    found["table"].std() / params["table"].std(), factor, rtol=1e-5
  )
  np.testing.assert_allclose(found["hidden"].std() / base["hidden"].std(), 0.5, rtol=0.05)
  assert_trees_equal(rescale_init(params, scales, init=laws), found)


def test_a_common_gain_tells_laws_apart():
  """A readout of 17: 1/sqrt(fan_in) and 1/sqrt(fan_in + fan_out) both fit the ratio."""
  for gain, words in ((1.0, None), (0.7, "fan_in or fan_avg; state init=")):
    base, params = (
      {"in": jnp.zeros((3, n)), "head": {"kernel": normal(n, 17, std=gain * n**-0.5)}}
      for n in (32, 128)
    )
    scales = scales_from_axes(axes_from_shapes(base, params), dmup.mup)
    if words is None:
      assert init_laws(params, scales, base)["head/kernel"] == "fan_in"
    else:
      with pytest.raises(DepthMupError, match=words):
        init_laws(params, scales, base)


def test_what_is_not_finite_is_refused():
  base, params = ({"in": normal(3, n, std=1).at[0, 0].set(jnp.nan)} for n in (8, 16))
  scales = scales_from_axes(axes_from_shapes(base, params, tied=()), dmup.mup)
  with pytest.raises(DepthMupError, match="in: its std is nan"):
    rescale_init(params, scales, base)


def test_a_second_rescaling_is_refused():
  scales = scales_from_axes(axes(), dmup.complete_p)
  once = rescale_init(started(64, 4), scales, started(16, 2))
  with pytest.raises(DepthMupError, match="readout/kernel: its std is.*rescaled already"):
    rescale_init(once, scales, started(16, 2))


def test_a_start_with_a_factor_of_depth_is_refused():
  params, scales = started(64, 4), scales_from_axes(axes(), dmup.complete_p)
  shrunk = params | {"block_1": jax.tree.map(lambda x: x / 2**0.5, params["block_1"])}
  with pytest.raises(DepthMupError, match="block_1/kernel: its std is.*a factor of depth"):
    rescale_init(shrunk, scales, started(16, 2))


def test_boxes_dtypes_and_traces():
  scales = scales_from_axes(axes(), dmup.complete_p)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), started(64, 4))
  boxed = jax.tree.map(lambda x: nn.Partitioned(x, names=(None, "embed")), half)
  found = jax.jit(lambda p: rescale_init(p, scales, init="fan_in"))(boxed)
  assert jax.tree.structure(found) == jax.tree.structure(boxed)
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
  with pytest.raises(
    DepthMupError, match='no values .*; give init=.*"./embedding": "fan_out"'
  ):
    jax.jit(lambda p: rescale_init(p, scales, started(16, 2)))(started(64, 4))


def test_stacked_layers():
  base, params = (
    {"w": normal(d, n, n, std=n**-0.5), "in": jnp.zeros((3, n))}
    for n, d in ((16, 2), (64, 5))
  )
  fields = {"branches": "w", "tied": ()}
  scales = scales_from_axes(axes_from_shapes(base, params, **fields), dmup.complete_p)
  assert init_laws(params, scales, base)["w"] == "fan_in"
  assert_trees_equal(rescale_init(params, scales, base), params)


def test_wrong_arguments():
  params, base = started(64, 4), started(16, 2)
  scales = scales_from_axes(axes(), dmup.complete_p)
  wide = axes_from_shapes(base, params, branches="block_*")
  for arguments, words in [
    ((params, scales), "either base=.*or init="),
    ((params, scales, base, "fan_in"), "either base=.*or init=.*exceptions by patterns"),
    ((params, scales), 'init=, such as {"./embedding": "fan_out", ".": "fan_in"}'),
    ((params, scales, base, {"x": "fixed"}), "'x' fits none"),
    ((base, scales, base), "has shape .16, 16. in params, but .64, 64. in the scales"),
    ((params, params, base), "expected Scales"),
    ((params, scales, params), "has shape .64, 64. in base, but .16, 16."),
    ((params, wide.tree, base), "is a ParameterAxes, expected Scales"),
    ((params, scales, None, "he"), "'he' is none of fan_in"),
    ((params, scales, None, {"x": "fixed"}), "'x' fits none"),
    ((params, scales, None, {"input/*": "fixed"}), 'no pattern for.*end with "."'),
    ((params, scales, None, 3), "init=3: expected a law"),
  ]:
    *three, init = (*arguments, None, None)[:4] if len(arguments) < 4 else arguments
    with pytest.raises(DepthMupError, match=words):
      rescale_init(*three, init=init)


@pytest.mark.parametrize(
  ("old", "new", "words"),
  [
    (jnp.ones, lambda shape: 2 * jnp.ones(shape), "starts at the constant 2, and at 1"),
    (jnp.zeros, lambda shape: jnp.arange(16.0), "constant at one size and random at"),
  ],
)
def test_constants_that_change(old, new, words):
  def tree(n, gain):
    return {"in": jnp.zeros((3, n)), "gain": gain((n,))}

  base, params = tree(8, old), tree(16, new)
  scales = scales_from_axes(axes_from_shapes(base, params, tied=()), dmup.mup)
  with pytest.raises(DepthMupError, match=words):
    rescale_init(params, scales, base)


def test_too_small_to_tell():
  base, params = ({"in": jnp.zeros((3, n)), "w": normal(n, n, std=1)} for n in (2, 4))
  scales = scales_from_axes(axes_from_shapes(base, params, tied=()), dmup.mup)
  with pytest.raises(DepthMupError, match="w is too small.*state init="):
    rescale_init(params, scales, base)
  assert {s.kind for _, s in named_leaves(scales)} == {dmup.Kind.INPUT, dmup.Kind.HIDDEN}
