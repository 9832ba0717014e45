"""The net against windows written out, and its scales against numbers by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.convolution import Conv
from flax_depthmup.models.resnet import ConvBlock, ResNet
from tests.helpers import assert_trees_close, assert_trees_equal

KEY = jax.random.key(0)
P = dmup.depth_mup(base_width=8, base_depth=2)
X = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)), jnp.float32)


def resnet(p=P, width=8, depth=4, **fields):
  """A small net on 8x8 images: 2x2 patches, so 4x4 positions in the first stage."""
  fields = {"patch": 2} | fields
  return ResNet(width=width, depth=depth, outputs=3, parametrization=p, **fields)


def drawn(model, x=X, seed=0):
  """Parameters of the right std and their scales, drawn by numpy: compiles nothing."""
  shapes, scales = dmup.abstract_init(model, KEY, x)
  rng = np.random.default_rng(seed)

  def draw(shape, s):
    return rng.normal(0, s.init_std, shape.shape).astype(np.float32)

  return jax.tree.map(draw, shapes, scales), scales


def named(tree):
  """Path -> leaf, as "stage_0/block/conv_0/kernel"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves}


class Loop(nn.Module):
  """`ResNet` as a Python loop of `Residual`, its stages of the sizes given."""

  blocks: tuple[int, ...]
  fields: dict[str, Any]  # of the blocks

  @nn.compact
  def __call__(self, x):
    stem = Conv(8, "(kh) (kw) (channels) -> embed", P, 2, 2, name="stem")
    x, depth = stem(x), sum(self.blocks)
    for stage, size in enumerate(self.blocks):
      if stage:
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
      for i in range(size):
        block = ConvBlock(P, **self.fields, name=f"block_{stage}_{i}")
        x = dmup.Residual(block, depth, P, 0.7)(x)
    return dmup.Readout(3, P, name="readout")(x.mean((1, 2)))


FIELDS = {
  "block_depth": 2,
  "kernel_size": 2,
  "activation": "abs",
  "pre_nonlinearity": True,
  "mean_subtraction": False,
  "norm": "rms_norm",
}


@pytest.mark.parametrize(
  ("stages", "blocks", "fields"), [(1, (3,), FIELDS), (3, (2, 2, 1), {})]
)
def test_scan_equals_loop(stages, blocks, fields):
  net = resnet(depth=sum(blocks), stages=stages, block_multiplier=0.7, **fields)
  loop = Loop(blocks, fields)
  params, scales = drawn(net)
  alone = {name: params[name] for name in ("stem", "readout")}
  for s, size in enumerate(blocks):
    block = params[f"stage_{s}"]["block"]
    assert len(block["conv_0"]["kernel"]) == size
    for i in range(size):
      alone[f"block_{s}_{i}"] = jax.tree.map(lambda w, i=i: w[i], block)
  expected = jax.jit(loop.apply)({"params": alone}, X)
  out = jax.jit(net.apply)({"params": params}, X)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  of_loop = dmup.abstract_init(loop, KEY, X)[1]["block_0_0"]["conv_0"]["kernel"]
  own = scales[f"stage_{stages - 1}"]["block"]["conv_0"]["kernel"]
  for name in ("init_std", "update_factor", "gradient_factor"):
    assert getattr(own, name) == getattr(of_loop, name)


def test_total_depth_reaches_every_stage():
  """(8/2)^(-1/2) = 1/2 at 8 blocks in two stages of 4, not (4/2)^(-1/2)."""
  params, scales = drawn(resnet(depth=8, stages=2))
  for stage in ("stage_0", "stage_1"):
    kernel = scales[stage]["block"]["conv_0"]["kernel"]
    assert (kernel.depth_update_factor, kernel.gradient_factor) == (0.5, 2.0)
    # The first block alone: all others zero.
    block = params[stage]["block"]
    alone = np.array([1.0, 0.0, 0.0, 0.0], np.float32).reshape(4, 1, 1, 1, 1)
    first = jax.tree.map(lambda w, alone=alone: w * alone, block)
    stack = dmup.ResidualStack(ConvBlock(P), 4, P, total_depth=8)
    x = X[..., :1] * jnp.arange(8.0)[None, None, None]
    y = stack.apply({"params": {"block": first}}, x)
    branch = ConvBlock(P).apply({"params": jax.tree.map(lambda w: w[0], block)}, x)
    np.testing.assert_allclose(y, x + 0.5 * branch, rtol=1e-5, atol=1e-6)


def test_total_depth_of_a_stack():
  x = jnp.ones((2, 4, 4, 8))

  def scales(**fields):
    stack = dmup.ResidualStack(ConvBlock(P), 4, P, **fields)
    return dmup.abstract_init(stack, KEY, x)[1]["block"]["conv_0"]["kernel"]

  assert scales() == scales(total_depth=4)
  assert scales(total_depth=32).update_factor == 1 / 4
  with pytest.raises(DepthMupError, match="total_depth=3 is less than depth=4"):
    scales(total_depth=3)
  with pytest.raises(DepthMupError, match=r"total_depth=4\.5"):
    scales(total_depth=4.5)


# Width and depth four times those of the base net. Of stem, convolutions, readout:
# (std over that of the base net, multiplier, gradient factor, update factor).
GOLDEN = {
  dmup.depth_mup: ((1, 1, 4, 1), (1 / 2, 1, 8, 1 / 8), (1 / 4, 1, 1, 1 / 4), 1 / 2),
  dmup.mup: ((1, 1, 4, 1), (1 / 2, 1, 4, 1 / 4), (1, 1 / 4, 4, 1), 1),
  dmup.complete_p: ((1, 1, 4, 1), (1 / 2, 1, 16, 1 / 4), (1, 1 / 4, 4, 1), 1 / 4),
}


@pytest.mark.parametrize("block_depth", [1, 2])
@pytest.mark.parametrize("preset", GOLDEN)
def test_golden_scales(preset, block_depth):
  stem, hidden, readout, branch = GOLDEN[preset]
  p = preset(base_width=8, base_depth=2)
  assert p.branch_multiplier(8) == branch
  net = resnet(p, width=32, depth=8, stages=2, block_depth=block_depth)
  scales = named(dmup.abstract_init(net, KEY, X)[1])
  expected = {"stem/kernel": (12**-0.5, *stem), "readout/kernel": (8**-0.5, *readout)}
  for stage in range(2):
    for i in range(block_depth):
      expected[f"stage_{stage}/block/conv_{i}/kernel"] = (72**-0.5, *hidden)
  assert set(scales) == set(expected)
  for name, (base_std, ratio, multiplier, gradient, update) in expected.items():
    s = scales[name]
    assert s.init_std == pytest.approx(base_std * ratio), name
    found = s.multiplier, s.gradient_factor, s.update_factor
    assert found == pytest.approx((multiplier, gradient, update)), name


@pytest.mark.parametrize("width", [8, 32])
def test_every_kernel_is_drawn_with_its_std(width):
  """Closed forms; five standard errors of a std from as many values."""
  params = dmup.init(resnet(width=width, depth=6), KEY, X)[0]
  std = {
    "stem/kernel": 12**-0.5,
    "stage_0/block/conv_0/kernel": (9 * width) ** -0.5,
    "readout/kernel": 8**0.5 / width,
  }
  assert set(named(params)) == set(std)
  for name, value in named(params).items():
    rel = 5 / (2 * value.size) ** 0.5
    assert float((value**2).mean() ** 0.5) == pytest.approx(std[name], rel=rel), name


@functools.cache
def at_base_size(preset):
  """Parameters, outputs and numbers at the base size."""
  net = resnet(preset(base_width=8, base_depth=6), depth=6)
  params, scales = dmup.init(net, KEY, X)
  table = jax.tree.leaves(scales)
  numbers = [(s.init_std, s.multiplier, s.gradient_factor, s.update_factor) for s in table]
  return params, net.apply({"params": params}, X), numbers


@pytest.mark.parametrize(
  "preset", [dmup.mup, dmup.depth_mup, dmup.ode, dmup.complete_p], ids=lambda p: p.__name__
)
def test_at_the_base_size_every_preset_is_standard(preset):
  own = at_base_size(preset)
  assert_trees_equal(own, at_base_size(dmup.standard))
  assert all(numbers[1:] == (1, 1, 1) for numbers in own[2])


def mean_square(p, depth):
  """Of x_L, one stage of 64 channels; images of variance 1, seed 0."""
  x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4, 4, 64)), jnp.float32)
  stack = dmup.ResidualStack(ConvBlock(p), depth, p)
  params = drawn(stack, x)[0]
  return float(jax.jit(lambda: jnp.mean(stack.apply({"params": params}, x) ** 2))())


def test_activations_are_flat_in_depth_at_alpha_one_half():
  """(1 + v/L)^L is within 1 % of its limit from L = 8 on; seeds scatter by 3 %."""
  sizes = {"base_width": 64, "base_depth": 1}
  flat = [mean_square(dmup.depth_mup(**sizes), depth) for depth in (8, 32, 128)]
  assert flat[0] > 1.1  # the branches do add something
  np.testing.assert_allclose(flat[1:], flat[0], rtol=0.1)
  standard = [mean_square(dmup.standard(**sizes), depth) for depth in (8, 32)]
  assert standard[1] > 100 * standard[0]


@pytest.mark.parametrize(
  ("pre", "k", "norm", "phi"),
  [(True, 2, "rms_norm", "gelu"), (False, 3, None, "abs"), (True, 1, "layer_norm", "tanh")],
)
def test_a_branch_against_its_formula(pre, k, norm, phi):
  block = ConvBlock(P, k, 3, phi, pre, True, norm)
  x = jnp.asarray(np.random.default_rng(1).normal(0.3, 1, (2, 4, 4, 8)), jnp.float32)
  params = drawn(block, x)[0]
  h = x
  if norm == "layer_norm":
    h = h - h.mean(-1, keepdims=True)
  if norm:
    h = h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)

  def g_phi(h):
    h = {"gelu": jax.nn.gelu, "abs": jnp.abs, "tanh": jnp.tanh}[phi](h)
    return h - h.mean(-1, keepdims=True)

  for i in range(k):
    conv = nn.Conv(8, (3, 3), use_bias=False)
    h = g_phi(h) if pre else h
    h = conv.apply({"params": params[f"conv_{i}"]}, h)
    h = h if pre else g_phi(h)
  np.testing.assert_allclose(block.apply({"params": params}, x), h, rtol=1e-4, atol=1e-5)


def test_the_stem_of_small_image_nets():
  net = resnet(patch=1, stem_kernel_size=3, stages=3)
  params = dmup.abstract_init(net, KEY, X)[0]
  assert params["stem"]["kernel"].shape == (3, 3, 3, 8)
  assert dmup.abstract_init(resnet(), KEY, X)[0]["stem"]["kernel"].shape == (2, 2, 3, 8)


def test_remat_changes_nothing():
  def gradient(remat):
    net = resnet(remat=remat, stages=2, block_depth=2)
    return jax.jit(jax.grad(lambda p: net.apply({"params": p}, X).var()))(drawn(net)[0])

  assert_trees_close(gradient(False), gradient(True), rtol=1e-4, atol=1e-7)


def test_bfloat16():
  net = resnet(dtype=jnp.bfloat16, norm="layer_norm", stages=2)
  params = drawn(net)[0]
  out, state = net.apply({"params": params}, X, capture_intermediates=True)
  assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
  full = resnet(norm="layer_norm", stages=2).apply({"params": params}, X)
  made = jax.tree.leaves(dmup.abstract_init(net, KEY, X)[0])
  assert {x.dtype for x in made} == {jnp.dtype("float32")}
  np.testing.assert_allclose(out.astype(jnp.float32), full, rtol=0.1, atol=0.05)


def test_a_frozen_boundary():
  net = resnet(train_boundary=False)
  params, scales = drawn(net)
  grads = jax.grad(lambda p: net.apply({"params": p}, X).var())(params)
  for name in ("stem", "readout"):
    assert scales[name]["kernel"].update_factor == 0
    assert (grads[name]["kernel"] == 0).all()
  assert scales["stage_0"]["block"]["conv_0"]["kernel"].trainable


def test_training_lowers_the_loss():
  """Random images, fixed labels; 12 steps of Adam at the base net's 2^-6."""
  net = resnet(width=16, depth=8, stages=2)
  params, scales = drawn(net)
  tx = dmup.adam(2**-6, scales)

  def loss_of(params):
    logits = net.apply({"params": params}, X)
    labels = jnp.arange(4) % 3
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @jax.jit
  def step(params, state):
    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  state, losses = tx.init(params), []
  for _ in range(12):
    params, state, loss = step(params, state)
    losses.append(float(loss))
  assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("activation", "swish", "activation='swish': expected one of relu"),
    ("norm", "batch_norm", "norm='batch_norm': expected None or one of"),
    ("depth", 0, "depth=0"),
    ("patch", 2.5, r"patch=2\.5"),
    ("kernel_size", (3, 3), r"kernel_size=\(3, 3\): expected a whole number"),
    ("stages", 5, "stages=5 of depth=4 blocks"),
    ("stem_kernel_size", 1, "stem_kernel_size=1 is below patch=2"),
    ("p", None, "parametrization=None"),
  ],
)
def test_field_errors(field, value, words):
  with pytest.raises(DepthMupError, match=words):
    resnet(**{field: value})


@pytest.mark.parametrize(
  ("images", "words"),
  [
    (X[0], r"the images are \(8, 8, 3\); expected an array \[batch"),
    ([[1.0]], "the images are list"),
    (X.astype(jnp.uint8), "dtype uint8; expected floats"),
    (X[:, :7], r"shape \(4, 7, 8, 3\), but patch=2 and stages=3 .* that 8 divides"),
    (X[:, :4, :4], "take a smaller patch or fewer stages"),
    (X[:, :0], r"shape \(4, 0, 8, 3\)"),
  ],
)
def test_image_errors(images, words):
  with pytest.raises(DepthMupError, match=words):
    dmup.init(resnet(stages=3), KEY, images)
