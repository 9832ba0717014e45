"""The coordinate check on a plain linen model: green as placed, red with one forgotten."""

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
  parametrization_from_axes,
  placed_by_hand,
  rescale_init,
  scales_from_axes,
)
from flax_depthmup.diagnostics import Training, coordinate_check, coordinate_rows
from flax_depthmup.diagnostics.plain_net import PlainNet
from tests.foreign_transformer import GPT, tokens
from tests.helpers import inputs, residual_mlp

X, KEY = tokens(), jax.random.key(0)
BRANCHES = "encoderblocks/*"


def shapes(model, x=X):
  return jax.eval_shape(model.init, KEY, x)["params"]


@functools.cache
def base():
  """Two layers: at multiplier 1 the branches of the smallest net must not dominate."""
  return jax.jit(GPT(32, 2, scan=True).init)(KEY, X)["params"]


def axes_of(model):
  wider = shapes(GPT(64, 2, scan=True))
  return axes_from_shapes(base(), shapes(model), wider, branches=BRANCHES, stacked=BRANCHES)


def transformer(width, depth, forgotten=None):
  """With the readout's multiplier in the forward pass, so that it can be forgotten."""
  plain = GPT(width, depth, scan=True)
  axes = axes_of(plain)
  scales = scales_from_axes(axes, dmup.complete_p, folded=False)
  left = placed_by_hand(axes, dmup.complete_p, folded=False)
  fields = {
    "branch_multiplier": left.branch,
    "attention_multiplier": left.attention,
    "readout_multiplier": left.parameters["lm_head/kernel"],
  }
  fields = {name: value for name, value in fields.items() if name != forgotten}
  standard = jax.jit(lambda key: plain.init(key, X)["params"])
  laws = init_laws(standard(KEY), scales, base())
  return PlainNet(
    model=plain.clone(**fields),
    scales=scales,
    start=jax.jit(lambda key: rescale_init(standard(key), scales, init=laws)),
    branches=BRANCHES,
  )


def loss(logits):
  labels = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], X[:, 1:])
  return labels.mean()


def check(make_model, lr=2**-11, **sizes):
  how = Training(
    inputs=X,
    loss=loss,
    optimizer=lambda scales, lr: dmup.adam(lr, scales, eps=1e-12),
    lr=lr,
    steps=3,
    seeds=(0, 1, 2),
    times=(3,),
  )
  p = parametrization_from_axes(axes_of(GPT(32, 8, scan=True)), dmup.complete_p)
  return coordinate_check(make_model, how, parametrization=p, **sizes)


@pytest.mark.slow
def test_a_plain_transformer_passes_over_depth():
  found = check(transformer, widths=(32,), depths=(8, 32, 128))
  assert found.passed is True, found.reason


@pytest.mark.slow
def test_without_the_multiplier_of_branches_it_does_not():
  make = functools.partial(transformer, forgotten="branch_multiplier")
  found = check(make, widths=(32,), depths=(8, 32, 128))
  assert found.passed is False
  blocks = [s for s in found.failures if s.module == "encoderblocks"]
  assert blocks, found.reason


@pytest.mark.slow
def test_a_plain_transformer_passes_over_width():
  found = check(transformer, widths=(64, 128, 256), depths=(4,))
  assert found.passed is True, found.reason


@pytest.mark.slow
@pytest.mark.parametrize(
  ("forgotten", "symptom"),
  [
    ("readout_multiplier", ("value", "output")),
    ("attention_multiplier", ("branch", "encoderblocks/MultiHeadDotProductAttention")),
  ],
)
def test_without_a_multiplier_of_width_it_does_not(forgotten, symptom):
  make = functools.partial(transformer, forgotten=forgotten)
  found = check(make, widths=(64, 128, 256), depths=(4,))
  assert found.passed is False
  assert symptom in {(s.quantity, s.module) for s in found.failures}, found.reason


# One net of ours, told by patterns, must give the rows that its annotations give.

P = dmup.depth_mup(base_width=8, base_depth=2)
XS = inputs()


def how(**fields):
  defaults = {"inputs": XS, "loss": lambda out: jnp.mean(out**2), "lr": 2**-8}
  return Training(
    optimizer=lambda scales, lr: dmup.adam(lr, scales),
    **(defaults | {"steps": 1, "seeds": (0,), "times": (1,)} | fields),
  )


def told_by_patterns(**fields):
  model = residual_mlp(P, depth=4)
  scales = dmup.abstract_init(model, KEY, XS)[1]
  start = jax.jit(lambda key: dmup.init(model, key, XS)[0])
  fields = {"scales": scales, "start": start, "branches": "stack/block"} | fields
  return PlainNet(model=model, **fields)


def test_patterns_and_annotations_give_the_same_rows():
  scales = {"training": 1.0, "decay": 0.0}
  ours = coordinate_rows(residual_mlp(P, depth=4), how(), 16, 4, scales)
  found = coordinate_rows(told_by_patterns(), how(), 16, 4, scales)
  key = ("quantity", "module", "t", "probe", "zone")
  rows = {tuple(r[k] for k in key): r["l2"] for r in ours}
  assert {tuple(r[k] for k in key) for r in found} == set(rows)
  for r in found:
    np.testing.assert_allclose(r["l2"], rows[tuple(r[k] for k in key)], rtol=1e-6)
  assert {r["quantity"] for r in found} == {"value", "change", "branch", "parameter"}


class Loop(nn.Module):
  """Blocks by number, each with two numbered branches."""

  depth: int

  @nn.compact
  def __call__(self, x):
    for i in range(self.depth):
      x = Two(name=f"block_{i}")(x)
    return nn.Dense(3, name="head")(x)


class Two(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = x + nn.Dense(7, name="part_0")(x)
    return x + nn.Dense(7, name="part_1")(x)


def loop(depth=2, **fields):
  model, p = Loop(depth), dmup.complete_p(base_width=7, base_depth=2)
  scales = jax.tree.map(
    lambda s: dmup.resolve(
      "embed -> embed" if len(s.shape) == 2 else "-> embed", s.shape, p
    ),
    shapes(model, XS),
  )
  start = jax.jit(lambda key: model.init(key, XS)["params"])
  fields = {"scales": scales, "start": start, "branches": "*/block_*/*"} | fields
  return PlainNet(model=model, **fields)


def test_the_blocks_of_a_loop_are_one_row_and_their_branches_two():
  found = coordinate_rows(loop(), how(), 7, 2, {"training": 1.0, "decay": 0.0})
  zones = {r["module"]: r["zone"] for r in found if r["quantity"] == "value"}
  assert zones == {
    "block": "inside",
    "block/part_0": "inside",
    "block/part_1": "inside",
    "head": "after",
    "output": "after",
  }
  moved = {r["module"] for r in found if r["quantity"] == "parameter"}
  assert moved == {
    f"{m}/{w}" for m in ("block/part_0", "block/part_1", "head") for w in ("kernel", "bias")
  }
  branches = {r["module"] for r in found if r["quantity"] == "branch"}
  assert branches == {"block/part_0", "block/part_1"}


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"model": 3}, "is no linen module"),
    ({"start": None}, "start=None is no function"),
    ({"branches": ()}, "wants residual branches"),
    ({"branches": 3}, "branches=3: expected patterns"),
    ({"scales": {"a": 1.0}}, "is no tree of Scales"),
    ({"scales": {}}, "is no tree of Scales"),
  ],
)
def test_a_wrong_plain_net(fields, words):
  good = {"model": Loop(1), "scales": loop(1).scales, "start": abs, "branches": "*"}
  with pytest.raises(DepthMupError, match=words):
    PlainNet(**(good | fields))


@pytest.mark.parametrize(
  ("net", "words"),
  [
    (lambda: loop(branches="layer_*"), "has no residual branch.*patterns of a PlainNet"),
    (lambda: loop(start=loop(1).start), "start gives other parameters than the scales"),
  ],
)
def test_what_a_probe_refuses(net, words):
  with pytest.raises(DepthMupError, match=words):
    coordinate_rows(net(), how(), 7, 2, {"training": 1.0})


class Closed(nn.Module):
  """A scan that keeps collections out."""

  @nn.compact
  def __call__(self, x):
    stack = nn.scan(
      Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
    )
    return stack(name="blocks")(x, None)[0]


class Step(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return x + nn.Dense(7, name="part")(x), None


def test_a_scan_that_keeps_collections_out_is_refused():
  model, p = Closed(), dmup.complete_p(base_width=7, base_depth=2)
  params = shapes(model, XS)
  names = {3: "layers | embed -> embed", 2: "layers | -> embed"}
  scales = jax.tree.map(lambda s: dmup.resolve(names[len(s.shape)], s.shape, p), params)
  start = jax.jit(lambda key: model.init(key, XS)["params"])
  net = PlainNet(model=model, scales=scales, start=start, branches="blocks/*")
  with pytest.raises(DepthMupError, match="part cannot be seen.*variable_axes"):
    coordinate_rows(net, how(), 7, 2, {"training": 1.0})
