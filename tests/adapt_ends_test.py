"""What goes into a net and reads it out: numbers that grow and are no widths, ties."""

import functools

import jax
import jax.numpy as jnp
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import (
  axes_from_shapes,
  parametrization_from_axes,
  placed_by_hand,
  scales_from_axes,
)
from tests.foreign_transformer import GPT, tokens

TABLE_9_MUP = functools.partial(dmup.mup, width_rule=dmup.TABLE_9)


def s(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes(model, x):
  return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


def texts(axes):
  return {p.name: str(p.axes) for p in axes.parameters}


# Numbers that grow and are no widths -------------------------------------------------


def lm(n, vocab=50, length=32, table="wte", head="lm_head", positions="wpe"):
  """A language model of one block."""
  block = {"h_0": {"qkv": {"w": s(n, 3 * n)}, "o": {"w": s(n, n)}}}
  ends = {table: {"w": s(vocab, n)}, positions: s(length, n), head: {"w": s(n, vocab)}}
  return ends | block


NAMES = {"table": "inputs", "head": "top", "positions": "places"}
#: What grows -> (arguments of the base, of the target, of both, what is said).
GROWING = {
  "a padded vocabulary": ({"vocab": 50257}, {"vocab": 50304}, {}, "by its name a readout"),
  "of other names": (
    {"vocab": 50257},
    {"vocab": 50304},
    NAMES,
    "inputs/w grows.*different ratios, 1.001 and 4",
  ),
  "a vocabulary as fast as the width, and a tied table": (
    {"vocab": 50},
    {"vocab": 200},
    NAMES | {"head": "other"},
    "no readout was found: places may serve.*give them alike",
  ),
  "a longer context": ({"length": 32}, {"length": 128}, {}, "wpe with axes.*positions"),
  "one of another name": (
    {"length": 32},
    {"length": 128},
    NAMES,
    "places grows .*no parameter gives the 32 -> 128 that it reads",
  ),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_growing_number_of_entries_is_no_width(name):
  old, new, both, words = GROWING[name]
  with pytest.raises(DepthMupError, match=words):
    axes_from_shapes(lm(16, **both, **old), lm(64, **both, **new), branches="h_*")
  axes_from_shapes(lm(16, **both, **old), lm(64, **both, **old), branches="h_*", tied=())


def classifier(n, classes):
  kernels = {"in": s(8, n), "hidden": s(n, n), "top": s(n, classes)}
  return {name: {"kernel": shape} for name, shape in kernels.items()}


@pytest.mark.parametrize("tied", [None, ()])
@pytest.mark.parametrize(
  ("classes", "words"), [(100, "ratios, 4 and 10"), (40, "no parameter reads the 10 -> 40")]
)
def test_a_growing_number_of_classes_is_no_width(classes, words, tied):
  with pytest.raises(DepthMupError, match=f"top/kernel grows.*{words}.*embed -> mlp"):
    axes_from_shapes(classifier(16, 10), classifier(64, classes), tied=tied)
  told = {"top/kernel": "embed -> features"}
  axes = axes_from_shapes(
    classifier(16, 10), classifier(64, classes), tied=(), overrides=told
  )
  assert axes.base_sizes["features"] == 10


def test_a_net_without_table_and_readout_is_asked_about():
  trees = [{"conv_in": {"kernel": s(3, 3, 3, n)}, "w": s(n, n)} for n in (8, 16)]
  with pytest.raises(DepthMupError, match="no readout was found: give tied=.. if.*classes"):
    axes_from_shapes(*trees)
  assert texts(axes_from_shapes(*trees, tied=()))["w"] == "w8 -> w8"


def test_flattened_pixels_and_joined_heads_are_widths():
  def tree(n):
    kernels = {"conv": s(3, 3, 3, n), "flat": s(49 * n, n), "top": s(n, 5)}
    heads = {"qkv": {"kernel": s(n, n // 4, 4)}, "o": {"kernel": s(n, n)}}
    return {name: {"kernel": shape} for name, shape in kernels.items()} | heads

  told = {"qkv/kernel": "embed -> heads (head_dim)"}
  found = texts(axes_from_shapes(tree(8), tree(16), overrides=told))
  assert found["flat/kernel"] == "w392 -> w8"
  assert found["o/kernel"] == "w8 -> w8"


# Gains and biases --------------------------------------------------------------------


@pytest.mark.parametrize(
  "name", ["gamma", "r_w_bias", "ln_scale", "beta", "g", "b", "shift", "head_gain"]
)
@pytest.mark.parametrize("dims", [(4, 16), (2, 32)])
def test_gains_and_biases_of_rank_2_are_vectors_whatever_their_name(name, dims):
  def tree(n, gain):
    ends = {"in": {"kernel": s(5, n)}, "head": {"kernel": s(n, 2)}}
    return ends | {"block_0": {name: gain, "w": s(n, n)}}

  trees = tree(16, s(2, 8)), tree(64, s(*dims))
  scales = scales_from_axes(axes_from_shapes(*trees, branches="block_*"), dmup.complete_p)
  assert scales["block_0"][name].kind is dmup.Kind.VECTOR


# Ties --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wte", "tok_embed", "embed/embedding", "emb/weight"])
def test_a_table_beside_another_readout_is_asked_about(name):
  """A language model with tied embeddings and a value head."""
  trees = [{name: s(50, n), "h": {"w": s(n, n)}, "v": {"w": s(n, 1)}} for n in (8, 16)]
  with pytest.raises(DepthMupError, match=f'{name} is an.*50 rows.*v/w has 1.*"{name}"'):
    axes_from_shapes(*trees)
  assert axes_from_shapes(*trees, tied=name).tied == (name,)
  assert axes_from_shapes(*trees, tied=()).tied == ()
  with_head = [x | {"head": {"w": s(n, 50)}} for x, n in zip(trees, (8, 16), strict=True)]
  assert axes_from_shapes(*with_head).tied == ()


def test_tied_embeddings_are_asked_for():
  trees = [shapes(GPT(n, 2, tied=True), tokens()) for n in (16, 32)]
  fields = {"branches": "*/encoderblock_*/*"}
  with pytest.raises(DepthMupError, match='no readout was found.*tied="embed/embedding"'):
    axes_from_shapes(*trees, **fields)
  axes = axes_from_shapes(*trees, tied="embed/embedding", **fields)
  assert placed_by_hand(axes, dmup.complete_p).tied == {"embed/embedding": 0.5}
  table_9 = placed_by_hand(axes, TABLE_9_MUP)
  assert table_9.tied["embed/embedding"] == pytest.approx(0.5)
  with pytest.raises(DepthMupError, match="is tied, but under table 3"):
    scales_from_axes(axes, dmup.depth_mup)
  assert axes_from_shapes(*trees, tied=(), **fields).tied == ()
  with pytest.raises(DepthMupError, match="is no embedding"):
    axes_from_shapes(*trees, tied="*/Dense_0/kernel", **fields)


def test_what_is_placed_by_hand():
  trees = [shapes(GPT(n, d), tokens()) for n, d in ((16, 2), (64, 8))]
  axes = axes_from_shapes(*trees, branches="*/encoderblock_*/*")
  left = placed_by_hand(axes, dmup.complete_p, folded=False)
  assert (left.branch, left.attention) == (0.25, 0.5)
  assert left.parameters == {"lm_head/kernel": 0.25}
  assert "lm_head/kernel: multiply its output by 0.25" in str(left)
  left = placed_by_hand(axes, dmup.depth_mup)
  assert (left.branch, left.parameters) == (0.5, {})
  assert "readout: no multiplier" in str(left)
  p = parametrization_from_axes(axes, dmup.complete_p)
  assert (p.base_depth, p.base_sizes["w16"]) == (2, 16)
