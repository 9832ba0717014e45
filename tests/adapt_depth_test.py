"""Which layers count, under which names, and what is no layer though it is numbered."""

import jax
import jax.numpy as jnp
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import axes_from_shapes, placed_by_hand, scales_from_axes


def s(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def ends(n, **more):
  return {"in": {"kernel": s(5, n)}, "head": {"kernel": s(n, 3)}} | more


def depths(trees, branches, **more):
  axes = axes_from_shapes(*trees, branches=branches, **more)
  return axes.base_depth, axes.depth


# Numbered names ----------------------------------------------------------------------


def flat(n, layers, inputs=16):
  """A residual MLP whose input layer has the first number."""
  blocks = {f"Dense_{i + 1}": {"kernel": s(n, n)} for i in range(layers)}
  return {"Dense_0": {"kernel": s(inputs, n)}, "top": {"kernel": s(n, 3)}} | blocks


def test_what_is_excluded_is_no_layer():
  trees = flat(16, 2), flat(64, 8)
  axes = axes_from_shapes(*trees, branches=("Dense_*", "!Dense_0/*"))
  assert (axes.base_depth, axes.depth) == (2, 8)
  assert str(axes.tree["Dense_0"]["kernel"].axes) == "(f16) -> w16"
  assert placed_by_hand(axes, dmup.complete_p).branch == 0.25


def test_layers_that_differ_in_the_target_are_refused():
  with pytest.raises(DepthMupError, match="the layers Dense of the target differ: Dense_0"):
    axes_from_shapes(flat(16, 2), flat(64, 8), branches="Dense_*")
  with pytest.raises(DepthMupError, match="the layers Dense of base differ"):
    axes_from_shapes(flat(16, 2, 8), flat(64, 8, 8), branches=("Dense_*", "!Dense_0/*"))


def test_patterns_that_fit_no_layer_of_the_base():
  trees = [ends(n, **{f"h_{i}": {"w": s(n, n)} for i in range(d)}) for n, d in BOTH]
  with pytest.raises(DepthMupError, match="but none of the base net, such as h_0/w"):
    axes_from_shapes(*trees, branches=("h_3/*", "!h_[012]/*"))


BOTH = ((8, 2), (16, 4))


def haiku(n, layers):
  """As Haiku numbers: block, block_1, block_2."""
  names = ["net/~/block" + (f"_{i}" if i else "") for i in range(layers)]
  return ends(n, **{f"{name}/linear": {"w": s(n, n)} for name in names})


@pytest.mark.parametrize("layers", [(1, 4), (2, 4), (3, 12)])
def test_a_name_without_a_number_is_the_first(layers):
  trees = haiku(8, layers[0]), haiku(16, layers[1])
  assert depths(trees, "*/block*") == layers
  if layers[0] > 1:
    with pytest.raises(DepthMupError, match="block/linear/w is in a layer, but no pattern"):
      axes_from_shapes(*trees, branches="*/block_*")


def test_a_name_without_a_number_beside_number_0_is_another():
  trees = [
    ends(n, block={"w": s(n, n)}, **{f"block_{i}": {"v": s(n, n)} for i in range(d)})
    for n, d in BOTH
  ]
  assert depths(trees, "block_*") == (2, 4)


# Numbers inside of numbers -----------------------------------------------------------


def inner(n, count, name, layers=2, block="block_{}"):
  parts = {name.format(i): {"kernel": s(n, n)} for i in range(count)}
  return ends(n, **{block.format(i): parts for i in range(layers)})


@pytest.mark.parametrize(
  ("name", "block", "layers"),
  [
    ("expert_{}", "block_{}", (2, 2)),
    ("expert_{}", "block_{}", (2, 4)),
    ("expert_{}", "moe", (1, 1)),
    ("head_{}", "block", (1, 1)),
    ("part_{}", "block_{}", (2, 2)),
    ("{}", "experts", (1, 1)),
  ],
)
def test_experts_and_heads_are_no_layers(name, block, layers):
  trees = inner(8, 2, name, layers[0], block), inner(16, 8, name, layers[1], block)
  branches = f"{block.format('*')}/*"
  with pytest.raises(DepthMupError, match="inside of others.*experts and heads are none"):
    axes_from_shapes(*trees, branches=branches)
  assert depths(trees, branches, depth=layers) == layers


def test_layers_in_one_numbered_module_are_layers():
  """Transformer_0 is how Flax names the only one of its kind."""
  trees = [
    ends(n, Transformer_0={f"h_{i}": {"kernel": s(n, n)} for i in range(d)})
    for n, d in BOTH
  ]
  assert depths(trees, "*/h_*") == (2, 4)


# Stacked axes ------------------------------------------------------------------------


def pipeline(n, stages, layers):
  kernels = {"w1": s(stages, layers, n, 4 * n), "w2": s(stages, layers, 4 * n, n)}
  return ends(n, layers=kernels)


@pytest.mark.parametrize("target", [(2, 6), (4, 6)])
def test_a_second_stacked_axis_that_grows_is_asked_about(target):
  trees = pipeline(8, 2, 3), pipeline(16, *target)
  told = {"*/w1": "stage layer | embed -> mlp", "*/w2": "stage layer | mlp -> embed"}
  more = {"branches": "layers/*", "overrides": told}
  with pytest.raises(
    DepthMupError, match='axis "layer" of layers/w1 grows, 3 -> 6.*stages'
  ):
    axes_from_shapes(*trees, **more)
  depth = (6, target[0] * target[1])
  axes = axes_from_shapes(*trees, depth=depth, **more)
  assert (axes.base_depth, axes.depth) == depth


def test_an_override_that_stacks_what_was_not_seen_to_be_stacked():
  """As many layers as the inner width: no stack is found."""
  trees = [ends(n, layers={"w": s(d, n, d), "v": s(d, d, n)}) for n, d in BOTH]
  told = {"*/w": "layer | embed -> mlp", "*/v": "layer | mlp -> embed"}
  with pytest.raises(DepthMupError, match='the stacked axis "layer" of layers/v grows'):
    axes_from_shapes(*trees, branches="layers/*", overrides=told)
  more = {"overrides": told, "stacked": "layers/*"}
  assert depths(trees, "layers/*", **more) == (2, 4)


def test_gains_alone_do_not_tell_layers_from_heads():
  trees = [ends(n, block={"gain": s(d, n // d)}) for n, d in ((16, 2), (32, 4))]
  with pytest.raises(
    DepthMupError, match="axis of block/gain grows, 2 -> 4.*stacked=.. if"
  ):
    axes_from_shapes(*trees, branches="block/*")
  assert depths(trees, "block/*", stacked="block/*") == (2, 4)
  assert depths(trees, "block/*", stacked=()) == (1, 1)


def scanned(n, layers):
  parts = {"attn": {"w": s(layers, n, n)}, "mlp": {"w": s(layers, n, n)}}
  return ends(n, layers=parts)


def test_half_a_block_forgotten_of_stacked_layers():
  trees = scanned(8, 2), scanned(16, 4)
  with pytest.raises(DepthMupError, match="layers/mlp/w is in a layer, but no pattern"):
    axes_from_shapes(*trees, branches="layers/attn/*", stacked="layers/*")
  branches = ("layers/attn/*", "!layers/mlp/*")
  assert depths(trees, branches, stacked="layers/*") == (2, 4)
  same = scanned(8, 2), scanned(16, 2)
  with pytest.raises(DepthMupError, match="layers/mlp/w is in a layer, but no pattern"):
    axes_from_shapes(*same, branches="layers/attn/*", stacked="layers/*", depth=(2, 4))


def test_half_a_block_forgotten_of_equally_many_layers():
  def tree(n):
    parts = {"attn": {"w": s(n, n)}, "mlp": {"w": s(n, n)}}
    return ends(n, **{f"h_{i}": parts for i in range(4)})

  with pytest.raises(DepthMupError, match="h_0/mlp/w is in a layer, but no pattern"):
    axes_from_shapes(tree(8), tree(16), branches="*/attn/*", depth=(2, 4))
  assert depths((tree(8), tree(16)), "h_*", depth=(2, 4)) == (2, 4)


# One depth for all -------------------------------------------------------------------


def towers(n, encoder, decoder):
  sizes = {"enc": encoder, "dec": decoder}
  return ends(n) | {
    k: {f"h_{i}": {"kernel": s(n, n)} for i in range(d)} for k, d in sizes.items()
  }


def tails(n, layers):
  one = {f"tail_{i}": {"w": s(n, n)} for i in range(2)}
  return ends(n, scan={"w": s(layers, n, n), "b": s(layers, n)}, **one)


def test_a_second_stack_of_fixed_depth_by_depth():
  for trees, branches, more in [
    ((towers(8, 2, 2), towers(16, 4, 2)), "*/h_*", {}),
    ((towers(8, 2, 1), towers(16, 4, 1)), "*/h_*", {}),
    ((tails(8, 2), tails(16, 6)), ("scan/*", "tail_*"), {"stacked": "scan/*"}),
  ]:
    with pytest.raises(DepthMupError, match="in none of the layers that grow.*give depth="):
      axes_from_shapes(*trees, branches=branches, **more)
    axes = axes_from_shapes(*trees, branches=branches, depth=(4, 8), **more)
    assert (axes.base_depth, axes.depth) == (4, 8)
    factors = {
      x.depth_update_factor
      for p, x in zip(
        axes.parameters,
        jax.tree.leaves(scales_from_axes(axes, dmup.depth_mup)),
        strict=True,
      )
      if p.branch
    }
    assert factors == {0.5**0.5}
    assert "one depth is used for all" in str(placed_by_hand(axes, dmup.complete_p))


@pytest.mark.parametrize("branches", ["*", ("*", "!head/*", "!in/*")])
def test_with_depth_the_stream_is_still_no_branch(branches):
  trees = [ends(n, embed={"embedding": s(7, n)}, scan={"w": s(d, n, n)}) for n, d in BOTH]
  with pytest.raises(DepthMupError, match="embed/embedding is in a resid.*but in no layer"):
    axes_from_shapes(*trees, branches=branches, stacked="scan/*", depth=(2, 4), tied=())
