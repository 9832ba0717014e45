"""Mistakes of users about which kind a layer is: hidden, input, output.

Each test makes the mistake in a small script, and the sound version of the same script.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import axes_from_shapes, scales_from_axes
from tests.mistakes_nets import KEY, P8, shape, tree

#: Mistake -> (base, target, what is said, how to say what it is).
KINDS = {
  "positions that grow with width": (
    {"pos": {"embedding": shape(4, 8)}},
    {"pos": {"embedding": shape(8, 16)}},
    "an embedding whose number of entries grows",
    {"overrides": {"pos/embedding": "positions -> embed"}},
  ),
  "three axes that grow": (
    {"qkv": {"kernel": shape(8, 2, 4)}},
    {"qkv": {"kernel": shape(16, 4, 8)}},
    "3 of its 3 axes grow, and their roles do not follow",
    {"overrides": {"qkv/kernel": "embed -> heads head_dim"}},
  ),
  "experts": (
    {"experts": {"kernel": shape(2, 8, 8)}},
    {"experts": {"kernel": shape(2, 16, 16)}},
    "2 of its 3 axes grow, and their roles do not follow",
    {"overrides": {"experts/kernel": "experts | embed -> mlp"}},
  ),
  "a router in a branch": (
    {"block_0": {"router": {"kernel": shape(8, 2)}}},
    {"block_0": {"router": {"kernel": shape(16, 2)}}},
    "either a readout, such as a router",
    {"branches": "block_*", "overrides": {"block_0/router/kernel": "embed -> (experts)"}},
  ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_layer_of_several_readings(name):
  base, target, words, remedy = KINDS[name]
  branches = {key: remedy[key] for key in remedy if key == "branches"}
  with pytest.raises(DepthMupError, match=words):
    axes_from_shapes(tree(8, **base), tree(16, **target), **branches)
  axes_from_shapes(tree(8, **base), tree(16, **target), **remedy)


def test_keys_declared_to_be_of_a_fixed_size():
  trees = [tree(n, key={"kernel": shape(n, n // 4, 4)}) for n in (8, 16)]
  with pytest.raises(DepthMupError, match='the axis ".heads." stays finite, but it grows'):
    axes_from_shapes(*trees, overrides={"key/kernel": "embed -> (heads) (head_dim)"})
  axes = axes_from_shapes(*trees, overrides={"key/kernel": "embed -> heads head_dim"})
  scales = scales_from_axes(axes, dmup.complete_p)
  assert scales["key"]["kernel"].kind is dmup.Kind.HIDDEN


def test_a_gated_block_with_an_axis_nobody_gave_a_base_size():
  layer = dmup.Dense(
    (2, 64), "embed -> (gates) mlp", dataclasses.replace(P8, base_width=64)
  )
  with pytest.raises(DepthMupError, match='axis "mlp" of .* has no base size'):
    dmup.abstract_init(layer, KEY, jnp.ones((1, 128)))
  p = dmup.complete_p(base_width={"embed": 64, "mlp": 32}, base_depth=1)
  _, scales = dmup.abstract_init(layer.clone(parametrization=p), KEY, jnp.ones((1, 128)))
  assert scales["kernel"].kind is dmup.Kind.HIDDEN


#: Mistake -> (axes of a matrix of the base net, its shape there, what the table says).
OFF_BASE = {
  "gate and up in one matrix": ("embed -> mlp", (64, 512), "embed -> mlp x2"),
  "roles exchanged": ("mlp -> embed", (64, 256), "mlp x0.25 -> embed x4"),
}


@pytest.mark.parametrize("name", OFF_BASE)
def test_a_factor_that_is_not_1_in_the_base_net(name):
  """The same at every size, so that no slope shows it: the table of the base net does."""
  p = dmup.complete_p(base_width={"embed": 64, "mlp": 256}, base_depth=1)

  def why(axes, sizes):
    (row,) = dmup.describe(
      {"w": shape(*sizes)}, {"w": dmup.resolve(axes, sizes, p)}
    ).parameters
    return row.why

  axes, sizes, words = OFF_BASE[name]
  assert words in why(axes, sizes)
  assert "as in the base net" not in why(axes, sizes)
  for axes, sizes in (("embed -> (gates) mlp", (64, 2, 256)), ("embed -> mlp", (64, 256))):
    assert why(axes, sizes).endswith("as in the base net")


def test_positions_whose_std_falls_with_width():
  """As that of `nn.Embed` does; a table of positions is an input layer."""

  def drawing(std):
    def init(key, sizes, dtype=jnp.float32):
      del key
      return jnp.asarray(np.random.default_rng(0).normal(0, std(sizes), sizes), dtype)

    return dmup.with_axes(init, "(positions) -> embed", P8)

  with pytest.raises(DepthMupError, match="changes its std by 0.5.* standard is 1"):
    drawing(lambda sizes: sizes[-1] ** -0.5)(KEY, (4, 128))
  sound = drawing(lambda sizes: 0.02)(KEY, (4, 128))
  assert sound.scales().kind is dmup.Kind.INPUT


def test_positions_declared_hidden_though_they_stay():
  """No mistake: what does not grow changes no factor."""
  p = dmup.complete_p(base_width={"embed": 64, "positions": 16}, base_depth=1)
  hidden = dmup.resolve("positions -> embed", (16, 256), p)
  ours = dmup.resolve("(positions) -> embed", (16, 256), p)
  same = {"kind": ours.kind, "axes": ours.axes}
  assert hidden.kind is dmup.Kind.HIDDEN
  assert dataclasses.replace(hidden, **same) == ours


def test_a_transformer_without_a_base_number_of_heads():
  sizes = dmup.axis_sizes(width=8, heads=2, mlp=16)
  without = {axis: size for axis, size in sizes.items() if axis != "heads"}

  def made(base):
    p = dmup.complete_p(base_width=base, base_depth=1)
    dmup.abstract_init(dmup.Transformer(16, 4, 7, 4, p, mlp=32), KEY, jnp.ones((1, 3), int))

  made(sizes)
  with pytest.raises(DepthMupError, match='no size for the axis "heads"'):
    made(without)
