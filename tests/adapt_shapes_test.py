"""Axes found by comparing sizes: against our own annotations, and what is refused."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.core import FrozenDict

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import (
  axes_from_shapes,
  placed_by_hand,
  scales_from_axes,
)
from flax_depthmup.transforms import named_leaves
from tests.foreign_transformer import GPT, tokens
from tests.helpers import inputs

KEY = jax.random.key(0)


def s(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def shapes(model, x):
  return jax.eval_shape(model.init, KEY, x)["params"]


def texts(axes):
  return {p.name: str(p.axes) for p in axes.parameters}


def numbers(scales, fields):
  return {name: [getattr(x, f) for f in fields] for name, x in named_leaves(scales)}


FACTORS = (
  "kind",
  "shape",
  "roles",
  "std_factor",
  "multiplier",
  "gradient_factor",
  "width_update_factor",
  "depth_update_factor",
)
TABLE_9_MUP = functools.partial(dmup.mup, width_rule=dmup.TABLE_9)
PRESETS = [dmup.depth_mup, dmup.complete_p, TABLE_9_MUP, dmup.standard]


# Against annotations ---------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_residual_mlp_gets_the_scales_of_its_annotations(preset):
  p, x = preset(base_width=16, base_depth=2), inputs()
  small, large = (dmup.ResidualMLP(w, d, 3, p) for w, d in ((16, 2), (48, 6)))
  trees = [nn.meta.unbox(shapes(model, x)) for model in (small, large)]
  found = scales_from_axes(
    axes_from_shapes(*trees, branches="stack/*"), preset, folded=False
  )
  fields = (*FACTORS, "init_std", "base_shape")
  assert numbers(found, fields) == numbers(dmup.abstract_init(large, KEY, x)[1], fields)


@pytest.mark.parametrize("preset", [dmup.complete_p, TABLE_9_MUP])
def test_a_transformer_gets_the_scales_of_its_annotations(preset):
  """Three infinite axes by Flax's names, grouped queries with fixed kv_heads; folded."""
  x, more = jnp.zeros((1, 4), int), {"gated": True, "use_bias": True, "kv_heads": 1}
  p = preset(base_width=dmup.axis_sizes(width=16, heads=2, kv_heads=1), base_depth=2)
  small = dmup.Transformer(16, 2, 11, 2, p, **more)
  large = dmup.Transformer(64, 6, 11, 4, p, **more)
  trees = [nn.meta.unbox(shapes(model, x)) for model in (small, large)]
  found = scales_from_axes(axes_from_shapes(*trees, branches="layers/*"), preset)
  ours = dict(named_leaves(dmup.abstract_init(large, KEY, x)[1]))
  for name, got in named_leaves(found):
    want = ours.pop(name)
    assert (got.kind, got.roles, got.multiplier) == (want.kind, want.roles, 1.0)
    assert got.depth_update_factor == want.depth_update_factor
    for field in ("std_factor", "gradient_factor", "width_update_factor"):
      folded = getattr(want, field) * want.multiplier
      assert getattr(got, field) == pytest.approx(folded, rel=1e-12), (name, field)
  assert not ours


def test_scanned_and_numbered_layers_get_the_same_scales():
  scanned, looped = (
    scales_from_axes(
      axes_from_shapes(
        *(shapes(GPT(w, d, scan=scan), tokens()) for w, d in ((16, 2), (32, 6))),
        branches=branches,
      ),
      dmup.complete_p,
    )
    for scan, branches in ((True, "encoderblocks/*"), (False, "*/encoderblock_*/*"))
  )
  fields = [f for f in FACTORS if f not in ("shape", "roles")]
  stack = numbers(scanned, fields)
  for name, row in numbers(looped, fields).items():
    block, _, rest = name.partition("/")
    other = f"encoderblocks/{rest}" if block.startswith("encoderblock_") else name
    assert row == stack[other]


def test_in_the_base_net_every_factor_is_one():
  base, wider = (shapes(GPT(w, 2), tokens()) for w in (16, 32))
  axes = axes_from_shapes(base, base, wider, branches="*/encoderblock_*/*")
  for x in jax.tree.leaves(scales_from_axes(axes, dmup.complete_p)):
    assert x.std_factor == x.multiplier == x.gradient_factor == x.update_factor == 1
  assert placed_by_hand(axes, dmup.complete_p).attention == 1
  kinds = {x.kind for x in jax.tree.leaves(scales_from_axes(axes, dmup.complete_p))}
  assert kinds >= {dmup.Kind.HIDDEN, dmup.Kind.INPUT, dmup.Kind.OUTPUT, dmup.Kind.VECTOR}


# Trees of other frameworks ---------------------------------------------------------


def net(n, layers, name):
  """A plain dictionary: an input, layers with numbers in their names, a readout."""
  blocks = {
    name.format(i): {"kernel": s(n, 4 * n), "out": {"kernel": s(4 * n, n)}}
    for i in range(layers)
  }
  ends = {"embed": {"kernel": s(5, n)}, "head": {"kernel": s(n, 3)}}
  return ends | blocks


@pytest.mark.parametrize(
  ("name", "branches"),
  [
    ("block_{}", "*/block_*/*"),
    ("layers_{}", ("layers_*",)),
    ("h.{}", "h.*"),
    ("layers[{}]", "layers*"),
    ("transformer/~/layer{}/linear_1", "*/layer*"),
  ],
)
def test_layers_by_number(name, branches):
  axes = axes_from_shapes(net(8, 3, name), net(16, 12, name), branches=branches)
  assert (axes.base_depth, axes.depth) == (3, 12)
  assert axes.base_sizes == {"w8": 8, "w32": 32}
  inside = [p for p in axes.parameters if p.branch]
  assert len(inside) == 24
  assert {str(p.axes) for p in inside} == {"w8 -> w32", "w32 -> w8"}
  assert "11 more like it" in str(axes)


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=[]
)
@dataclasses.dataclass
class Linear:
  """As Equinox has it: [out, in]."""

  weight: Any
  bias: Any


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["first", "layers", "last"], meta_fields=[]
)
@dataclasses.dataclass
class Net:
  first: Linear
  layers: list[Linear]
  last: Linear


def equinox(n, layers):
  def linear(out, ins):
    return Linear(s(out, ins), s(out))

  return Net(linear(n, 5), [linear(n, n) for _ in range(layers)], linear(3, n))


def test_a_tree_of_dataclasses_and_lists_in_the_other_layout():
  axes = axes_from_shapes(
    equinox(8, 2),
    equinox(32, 4),
    branches="layers/*",
    layout="out_in",
    overrides={"last/weight": "embed -> (classes)"},
  )
  assert isinstance(axes.tree, Net)
  found = texts(axes)
  assert found["first/weight"] == "(f5) -> w8"
  assert found["layers/3/weight"] == "w8 -> w8"
  assert (axes.base_depth, axes.depth) == (2, 4)
  scales = scales_from_axes(axes, dmup.mup)
  assert scales.last.weight.roles == ("out", "in")
  assert scales.last.weight.fans((3, 32)) == (32, 3)
  assert scales.first.weight.gradient_factor == 4


def test_an_embedding_in_the_other_layout():
  trees = [{"wte": s(11, n), "head": s(11, n)} for n in (8, 16)]
  told = {"wte": "(vocab) -> embed", "head": "embed -> (vocab)"}
  axes = axes_from_shapes(*trees, layout="out_in", overrides=told)
  scales = scales_from_axes(axes, dmup.mup)
  assert [scales["wte"].roles, scales["head"].roles] == [("in", "out"), ("out", "in")]
  with pytest.raises(DepthMupError, match="a readout and an embedding have one shape"):
    axes_from_shapes(*trees, layout="out_in")


def test_boxes_and_frozen_trees():
  def tree(n):
    boxed = nn.Partitioned(s(5, n), names=(None, "embed"))
    return FrozenDict({"in": {"kernel": boxed}, "head": {"kernel": s(n, 2)}})

  axes = axes_from_shapes(tree(4), tree(8))
  assert texts(axes) == {"in/kernel": "(f5) -> w4", "head/kernel": "w4 -> (f2)"}
  assert isinstance(axes.tree, FrozenDict)


# Kinds of parameters that people ask about -------------------------------------------


def found(base, target, **more):
  """Axes of one parameter beside an embedding and a readout."""
  ends = [{"in": {"kernel": s(5, n)}, "head": {"kernel": s(n, 2)}} for n in (8, 16)]
  axes = axes_from_shapes(ends[0] | base, ends[1] | target, **more)
  return {k: v for k, v in texts(axes).items() if k not in ("in/kernel", "head/kernel")}


def test_kinds():
  assert found({"pos": s(7, 8)}, {"pos": s(7, 16)}) == {"pos": "(f7) -> w8"}
  assert found({"cls": s(1, 1, 8)}, {"cls": s(1, 1, 16)}) == {"cls": "(f1) (f1) -> w8"}
  assert found({"t": s()}, {"t": s()}) == {"t": "->"}
  assert found({"a": {"bias": s(2, 8)}}, {"a": {"bias": s(2, 16)}}) == {
    "a/bias": "-> (f2) w8"
  }
  conv = [
    {"conv_1": {"kernel": s(3, 3, n, 2 * n)}, "conv_2": {"kernel": s(3, 3, 2 * n, n)}}
    for n in (8, 16)
  ]
  assert found(*conv)["conv_1/kernel"] == "(f3) (f3) w8 -> w16"
  gated = [
    {k: {"kernel": s(n, 3 * n)} for k in ("gate", "up")} | {"down": {"kernel": s(3 * n, n)}}
    for n in (8, 16)
  ]
  assert set(found(*gated).values()) == {"w8 -> w24", "w24 -> w8"}


def test_experts_are_stacked_by_override():
  trees = [{"moe": {"wi": s(4, n, 2 * n), "router": {"kernel": s(n, 4)}}} for n in (8, 16)]
  with pytest.raises(DepthMupError, match="moe/wi.*2 of its 3 axes grow.*experts | embed"):
    found(*trees)
  told = {"moe/wi": "experts | embed -> mlp"}
  assert found(*trees, overrides=told) == {
    "moe/wi": "experts | embed -> mlp",
    "moe/router/kernel": "w8 -> (f4)",
  }


def test_experts_in_stacked_layers():
  trees = [{"layers": {"wi": s(d, 4, n, 2 * n)}} for n, d in ((8, 3), (16, 6))]
  told = {"*/wi": "experts | embed -> mlp"}
  texts = found(*trees, branches="layers/*", overrides=told)
  assert texts == {"layers/wi": "layers experts | embed -> mlp"}


def test_an_override_may_name_the_layers_itself():
  trees = [{"layers": {"w": s(d, n, 2 * n)}} for n, d in ((8, 3), (16, 6))]
  for text in ("layers | embed -> mlp", "embed -> mlp"):
    texts = found(*trees, branches="layers/*", overrides={"*/w": text})
    assert texts == {"layers/w": "layers | embed -> mlp"}


def attention(n, heads, kv, dim):
  return {
    "query": {"kernel": s(n, heads, dim), "bias": s(heads, dim)},
    "key": {"kernel": s(n, kv, dim)},
    "value": {"kernel": s(n, kv, dim)},
    "out": {"kernel": s(heads, dim, n)},
  }


def test_grouped_queries_are_hidden_though_their_heads_are_fixed():
  trees = [{"b": {"att": attention(8, h, 1, 4)}} for h in (2, 4)]
  trees[1]["b"]["att"] = attention(16, 4, 1, 4)
  axes = axes_from_shapes(
    trees[0] | {"in": {"kernel": s(5, 8)}, "head": {"kernel": s(8, 2)}},
    trees[1] | {"in": {"kernel": s(5, 16)}, "head": {"kernel": s(16, 2)}},
  )
  assert texts(axes)["b/att/key/kernel"] == "w8 -> heads1 head_dim4"
  key = scales_from_axes(axes, dmup.mup)["b"]["att"]["key"]["kernel"]
  assert (key.kind, key.std_factor, key.update_factor) == (dmup.Kind.HIDDEN, 0.5**0.5, 0.5)
  assert placed_by_hand(axes, dmup.mup).attention == 1
