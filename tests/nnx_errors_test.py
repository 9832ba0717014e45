"""Wrong input to the annotation of nnx modules, and to its residual branches."""

import jax.numpy as jnp
import pytest
from flax import nnx

import flax_depthmup as dmup
from flax_depthmup.adapt import nnx_axes
from flax_depthmup.adapt.nnx_residual import Residual
from tests.nnx_test import Block, preset, with_lecun


def test_a_parameter_without_axes_is_named():
  p = preset()
  linear = nnx.Linear(8, 8, kernel_init=with_lecun("embed -> embed", p), rngs=nnx.Rngs(0))
  with pytest.raises(dmup.DepthMupError, match=r"parameter bias carries no axes \(1 of 2"):
    nnx_axes.scales_of(linear)
  with pytest.raises(dmup.DepthMupError, match="parameter dense_1/kernel carries no axes"):
    Residual(Block(8, p, nnx.Rngs(0), nnx.initializers.ones), 2, p)


def test_a_silent_vmap_is_refused():
  p = preset()
  make = nnx.vmap(lambda rngs: Block(8, p, rngs))
  with pytest.raises(
    dmup.DepthMupError, match=r"dense_0/kernel has shape \(3, 8, 8\).*stac"
  ):
    nnx_axes.scales_of(nnx.eval_shape(lambda: make(nnx.Rngs(0).split(3))))


def test_a_stack_along_a_negative_axis_is_refused():
  """nnx inserts the name before the last axis then, the array's axis is the last."""
  p = preset()
  metadata = nnx_axes.stacked("layers")
  make = nnx.vmap(lambda rngs: Block(8, p, rngs), out_axes=-1, transform_metadata=metadata)
  with pytest.raises(dmup.DepthMupError, match=r"axes are embed=8, layers=any, embed=8"):
    nnx_axes.scales_of(nnx.eval_shape(lambda: make(nnx.Rngs(0).split(3))))


def test_a_parameter_of_another_shape_is_refused():
  block = Block(8, preset(), nnx.Rngs(0))
  block.dense_0.kernel = block.dense_0.kernel.replace(jnp.ones((4, 4)))
  with pytest.raises(dmup.DepthMupError, match=r"dense_0/kernel has shape \(4, 4\)"):
    nnx_axes.scales_of(block)


def test_a_block_is_in_one_branch_of_its_own_parametrization():
  p = preset()
  block = Block(8, p, nnx.Rngs(0))
  with pytest.raises(dmup.DepthMupError, match="dense_0/kernel was made with param"):
    nnx_axes.mark_branch(block, 2, preset(dmup.ode))
  nnx_axes.mark_branch(block, 2, p)
  with pytest.raises(dmup.DepthMupError, match="dense_0/kernel is inside two"):
    Residual(block, 2, p)


def stack(n, depth, p, name="layers"):
  @nnx.vmap(transform_metadata=nnx_axes.stacked(name))
  def make(rngs):
    return Residual(Block(8, p, rngs), depth, p)

  return nnx.eval_shape(lambda: make(nnx.Rngs(0).split(n)))


def test_a_stack_longer_than_its_depth_is_refused():
  """Its factors of depth would be those of a shallower net."""
  p = preset()
  words = "block/dense_0/kernel is in a stack of 8 blocks but marked as in a branch of"
  with pytest.raises(dmup.DepthMupError, match=f"{words} depth 2; .* depth=8 or more"):
    nnx_axes.scales_of(stack(8, 2, p))
  make = nnx.vmap(lambda r: Block(8, p, r), transform_metadata=nnx_axes.stacked("layers"))
  blocks = nnx.eval_shape(lambda: make(nnx.Rngs(0).split(3)))
  with pytest.raises(dmup.DepthMupError, match="in a stack of 3 blocks but .* depth 2"):
    nnx_axes.mark_branch(blocks, 2, p)
  nnx_axes.mark_branch(blocks, 3, p)
  stage = nnx_axes.scales_of(stack(2, 8, p))["block"]["dense_0"]["kernel"]
  assert (stage.shape, stage.gradient_factor) == ((2, 8, 8), 8.0)  # (8/4) (8/2)
  nnx_axes.scales_of(stack(8, 2, p, "seeds"))


def test_a_branch_keeps_the_shape():
  p = preset()
  linear = nnx.Linear(
    8, 4, use_bias=False, rngs=nnx.Rngs(0), kernel_init=nnx_axes.normal("embed -> embed", p)
  )
  with pytest.raises(dmup.DepthMupError, match=r"maps \(2, 8\) to \(2, 4\)"):
    Residual(linear, 2, p)(jnp.ones((2, 8)))


def small(p):
  """A layer with a variable besides its parameter."""
  init = nnx_axes.normal("embed -> embed", p)
  layer = nnx.Linear(8, 8, use_bias=False, kernel_init=init, rngs=nnx.Rngs(0))
  layer.extra = nnx.BatchStat(jnp.ones(3))
  return layer


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda p: nnx_axes.scales_of({"a": 1}), "is no nnx.Module"),
    (lambda p: nnx_axes.scales_of(nnx.Dropout(0.1)), "Dropout has no nnx.Param"),
    (lambda p: nnx_axes.scales_of(small(p), 3), "wrt=3 is no filter of nnx; give one"),
    (lambda p: nnx_axes.scales_of(small(p), [nnx.Param]), r"wrt=\[.* is no filter of nnx"),
    (lambda p: nnx_axes.scales_of(small(p), "tag"), "wrt='tag' selects no parameter"),
    (
      lambda p: nnx_axes.scales_of(nnx.Sequential(small(p), nnx.Dropout(0.1)), ...),
      "selects layers/0/extra, which is no nnx.Param",
    ),
    (lambda p: nnx_axes.normal("embed embed", p), "cannot be read"),
    (lambda p: nnx_axes.with_axes(3, "-> embed", p), "init=3 is no initializer"),
    (lambda p: nnx_axes.with_axes(nnx.initializers.ones, "-> embed", 3), "no Parametr"),
    (lambda p: nnx_axes.stacked(3), "name=3: expected the name of an axis"),
    (lambda p: nnx_axes.mark_branch(Block(8, p, nnx.Rngs(0)), 0, p), "depth=0"),
    (lambda p: nnx_axes.mark_branch(Block(8, p, nnx.Rngs(0)), 2, None), "no Parametr"),
    (lambda p: Residual(Block(8, p, nnx.Rngs(0)), 2, p, -1.0), "multiplier a=-1"),
    (
      lambda p: Block(8, p, nnx.Rngs(0), nnx_axes.normal("embed -> embed embed", p)),
      "name 3 axes but the parameter has shape",
    ),
    (
      lambda p: Block(
        64,
        p,
        nnx.Rngs(0),
        nnx_axes.with_axes(nnx.initializers.normal(), "embed -> embed", p),
      ),
      "changes its std by",
    ),
  ],
)
def test_wrong_input(call, message):
  with pytest.raises(dmup.DepthMupError, match=message):
    call(preset())


def test_a_base_size_of_no_axis_is_named():
  p = preset(base_width={"embed": 4, "mpl": 8})
  with pytest.raises(dmup.DepthMupError, match='names the axis "mpl"'):
    nnx_axes.scales_of(Block(8, p, nnx.Rngs(0)))
