"""Trees, patterns and presets that are refused, each with its path and remedy."""

import jax
import jax.numpy as jnp
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import axes_from_shapes, placed_by_hand, scales_from_axes


def s(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def net(n, count=0, **more):
  blocks = {f"block_{i}": {"kernel": s(n, n)} for i in range(count)}
  return {"in": {"kernel": s(5, n)}, "head": {"kernel": s(n, 3)}} | blocks | more


def pair(old, new):
  """The net at two widths with something more."""
  return net(8, **old), net(16, **new)


INT = jnp.int32
TREES = {
  "an extra name": (pair({}, {"x": s(8)}), "x is in target and has no counterpart in base"),
  "a missing name": (
    pair({"x": s(8)}, {}),
    "x is in base and has no counterpart in target",
  ),
  "a module for a parameter": (
    pair({"x": s(8)}, {"x": {"y": s(8)}}),
    "one parameter in one",
  ),
  "other ranks": (pair({"x": s(8)}, {"x": s(8, 1)}), "x has shape .8,. and dtype float32"),
  "another dtype": (pair({"x": s(8)}, {"x": s(16, dtype=jnp.bfloat16)}), "and bfloat16 in"),
  "integers": (pair({"x": s(8, dtype=INT)}, {"x": s(8, dtype=INT)}), "x has dtype int32"),
  "no array": (pair({"x": "relu"}, {"x": "relu"}), "x is a str, expected an array"),
  "what shrinks": (pair({"x": s(9)}, {"x": s(8)}), "x shrinks from .9,."),
  "nothing that grows": ((net(8), net(8)), "no axis of a parameter grows.*give delta="),
  "no parameters": (({}, {}), "holds no parameters"),
  "collections": (({"params": net(8), "batch_stats": {}}, net(16)), "give the parameters"),
  "the other layout": (
    pair(
      {"x": {"kernel": s(5, 8), "bias": s(5)}}, {"x": {"kernel": s(5, 16), "bias": s(5)}}
    ),
    'x/kernel has shape .5, 16. and a bias of size 5 .*give layout="out_in"',
  ),
  "a convolution of another name": (
    pair({"down": {"kernel": s(3, 3, 8, 8)}}, {"down": {"kernel": s(3, 3, 16, 16)}}),
    'down/kernel with axes.*"[(]kh[)] [(]kw[)] embed -> embed" of a convolution',
  ),
  "heads by head_dim": (
    pair({"qkv": {"kernel": s(8, 2, 4)}}, {"qkv": {"kernel": s(16, 4, 8)}}),
    'qkv/kernel with axes .8 .grows., 2 .grows., 4 .grows.. .*overrides={"qkv/kernel"',
  ),
  "a growing vocabulary": (
    pair({"embed": {"embedding": s(7, 8)}}, {"embed": {"embedding": s(9, 16)}}),
    "an embedding whose number of entries grows",
  ),
  "a table that is no kernel": (
    pair({"rel": s(8, 3)}, {"rel": s(16, 3)}),
    "rel with axes.*its first axis alone grows, and it is not named as a matrix",
  ),
  "layers without patterns": (
    (net(8, 2), net(16, 4)),
    "there are layers, block: 2 in the base net and 4 in the target",
  ),
  "stacked layers without patterns": (
    pair(
      {"layers": {"a": {"kernel": s(3, 8, 8)}, "b": {"bias": s(3, 8)}}},
      {"layers": {"a": {"kernel": s(6, 16, 16)}, "b": {"bias": s(6, 16)}}},
    ),
    "there are layers, layers: 3 in the base net and 6",
  ),
}


@pytest.mark.parametrize("name", TREES)
def test_trees(name):
  (base, target), words = TREES[name]
  with pytest.raises(DepthMupError, match=words):
    axes_from_shapes(base, target)


LAYERS = net(8, 2), net(16, 4)
GIVEN = {
  "a branch that is none": ({"branches": "layer_*"}, "'layer_.' fits none"),
  "all excluded": ({"branches": ("!*/block_*/*",)}, "select no parameter"),
  "more than the layers": ({"branches": "*"}, "head/kernel is in a residual.*none of the"),
  "a number": ({"branches": 3}, "branches=3: expected patterns"),
  "a depth that is none": ({"branches": "block_*", "depth": (2, 0)}, "a depth of depth"),
  "one depth": ({"branches": "block_*", "depth": 4}, "expected .base depth, depth"),
  "an override that fits nothing": (
    {"branches": "block_*", "overrides": {"x": "-> embed"}},
    "overrides: the pattern 'x' fits none",
  ),
  "two overrides": (
    {"branches": "block_*", "overrides": {"in/*": "(a) -> b", "*/in/kernel": "(a) -> b"}},
    "both fit in/kernel",
  ),
  "an override of another rank": (
    {"branches": "block_*", "overrides": {"in/kernel": "-> b"}},
    'axes "-> b" name 1 axes',
  ),
  "an override that stays": (
    {"branches": "block_*", "overrides": {"in/kernel": "a -> (b)"}},
    'the axis ".b." stays finite, but it grows',
  ),
  "a router of more experts": (
    {"branches": "block_*", "overrides": {"block_*/kernel": "embed -> (experts)"}},
    'axis ".experts." stays.*equally many classes, tokens or experts .*router.*parentheses',
  ),
  "one name for two sizes": (
    {"branches": "block_*", "overrides": {"in/kernel": "b -> b"}},
    'the axis "b" has size 5 in in/kernel.*and 8',
  ),
  "overrides that are none": (
    {"branches": "block_*", "overrides": "in"},
    "expected a mapping",
  ),
  "an override of a number": (
    {"branches": "block_*", "overrides": {3: "a -> b"}},
    "expected a mapping",
  ),
  "an override that is none": (
    {"branches": "block_*", "overrides": {"in/kernel": 3}},
    "axes 3 cannot be read",
  ),
  "a layout": ({"branches": "block_*", "layout": "torch"}, "layout='torch'"),
  "a stack of nothing": ({"branches": "block_*", "stacked": "x"}, "stacked: the pattern"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_arguments(name):
  arguments, words = GIVEN[name]
  with pytest.raises(DepthMupError, match=words):
    axes_from_shapes(*LAYERS, **arguments)


def test_a_part_of_the_layers_left_out_in_silence():
  def tree(n, layers):
    parts = {"att": {"kernel": s(n, n)}, "mlp": {"kernel": s(n, n)}}
    return net(n) | {f"h_{i}": parts for i in range(layers)}

  trees = tree(8, 1), tree(16, 2)
  with pytest.raises(DepthMupError, match="h_0/mlp/kernel is in a layer, but no pattern"):
    axes_from_shapes(*trees, branches="h_*/att/*")
  axes = axes_from_shapes(*trees, branches=("h_*/att/*", "!h_*/mlp/*"))
  assert sum(p.branch for p in axes.parameters) == 2


def test_a_fixed_inner_width_is_no_readout():
  trees = [net(n) | {"block_0": {"k": {"kernel": s(n, 4)}}} for n in (8, 16)]
  with pytest.raises(DepthMupError, match="block_0/k/kernel.*a router.*inner width"):
    axes_from_shapes(*trees, branches="block_*")


def test_layers_of_the_base_that_differ():
  trees = net(8, 2), net(16, 3)
  trees[0]["block_1"] = {"kernel": s(8, 9)}
  with pytest.raises(DepthMupError, match="the layers block of base differ"):
    axes_from_shapes(*trees, branches="block_*")


def test_depths_that_do_not_follow():
  def tree(n, encoder, decoder):
    towers = (("enc", encoder), ("dec", decoder))
    return net(n) | {
      k: {f"h_{i}": {"kernel": s(n, n)} for i in range(d)} for k, d in towers
    }

  trees = tree(8, 2, 2), tree(16, 4, 8)
  with pytest.raises(DepthMupError, match="grow in several places.*.2 -> 4, 2 -> 8."):
    axes_from_shapes(*trees, branches="*/h_*/*")
  axes = axes_from_shapes(*trees, branches="*/h_*/*", depth=(4, 12))
  assert (axes.base_depth, axes.depth) == (4, 12)


def test_a_stack_as_long_as_something_else_is_refused_not_guessed():
  """Two layers to four, and two heads to four."""

  def tree(d, n):
    return net(n) | {"layers": {"kernel": s(d, n, n), "x": {"kernel": s(n, d)}}}

  trees = tree(2, 8), tree(4, 16)
  with pytest.raises(
    DepthMupError, match="layers/kernel.*stacked= if the first one counts"
  ):
    axes_from_shapes(*trees, branches="layers/kernel")
  told = {"stacked": "layers/kernel", "overrides": {"layers/x/kernel": "embed -> d"}}
  axes = axes_from_shapes(*trees, branches="layers/kernel", **told)
  assert str(axes.tree["layers"]["kernel"].axes) == "layers | w8 -> w8"


def test_presets():
  axes = axes_from_shapes(net(8), net(16))
  for wrong, words in [
    (dmup.complete_p(base_width=8, base_depth=1), "expected a function of base_width="),
    (dmup.depthwise, "bind its other arguments by functools.partial"),
    (lambda base_width, base_depth: 3, "is no Parametrization"),
  ]:
    for ask in (scales_from_axes, placed_by_hand):
      with pytest.raises(DepthMupError, match=words):
        ask(axes, wrong)
  with pytest.raises(DepthMupError, match="expected those of dmup.axes_from_shapes"):
    scales_from_axes(net(8), dmup.complete_p)
