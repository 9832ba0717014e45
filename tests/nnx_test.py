"""The annotation on nnx.Param: scales, stacks, branches, and the net that trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_depthmup as dmup
from flax_depthmup.adapt import nnx_axes
from flax_depthmup.adapt.nnx_residual import Residual

DEPTH, WIDTH, INPUTS, OUTPUTS = 4, 16, 3, 2
BLOCK_MULTIPLIER = 1.5


class Block(nnx.Module):
  """W2 G relu(W1 x), without the sum."""

  def __init__(self, width, p, rngs, spoilt=None):
    init = nnx_axes.normal("embed -> embed", p)

    def make(init):
      return nnx.Linear(width, width, use_bias=False, kernel_init=init, rngs=rngs)

    self.dense_0 = make(init)
    self.dense_1 = make(init if spoilt is None else spoilt)

  def __call__(self, x):
    for dense in (self.dense_0, self.dense_1):
      x = dmup.mean_subtraction(nnx.relu(dense(x)))
    return x


class MLP(nnx.Module):
  """dmup.ResidualMLP of block depth 2, in nnx."""

  def __init__(self, p, rngs, width=WIDTH, depth=DEPTH):
    @nnx.vmap(transform_metadata=nnx_axes.stacked("layers"))
    def make(rngs):
      return Residual(Block(width, p, rngs), depth, p, BLOCK_MULTIPLIER)

    def dense(n, m, axes, base_std=None):
      init = nnx_axes.normal(axes, p, base_std=base_std)
      return nnx.Linear(n, m, use_bias=False, kernel_init=init, rngs=rngs)

    self.input = dense(INPUTS, width, "(inputs) -> embed")
    self.stack = make(rngs.split(depth))
    self.readout = dense(width, OUTPUTS, "embed -> (outputs)")

  def __call__(self, x):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, block):
      return block(x)

    return self.readout(run(self.input(x), self.stack))


def preset(make=dmup.complete_p, base_width=4, base_depth=2):
  return make(base_width=base_width, base_depth=base_depth)


def linen(p):
  return dmup.ResidualMLP(
    width=WIDTH,
    depth=DEPTH,
    outputs=OUTPUTS,
    parametrization=p,
    block_depth=2,
    block_multiplier=BLOCK_MULTIPLIER,
  )


def as_nnx_names(tree):
  """linen's tree of parameters or scales with the names of the nnx net."""
  block = tree["stack"]["block"]
  return {"input": tree["input"], "readout": tree["readout"], "stack": {"block": block}}


# scales -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [dmup.depth_mup, dmup.complete_p])
def test_scales_are_those_of_the_linen_net(make):
  p = preset(make)
  model = nnx.eval_shape(lambda: MLP(p, nnx.Rngs(0)))
  found = nnx.to_pure_dict(nnx_axes.scales_of(model))
  shapes, scales = dmup.abstract_init(linen(p), jax.random.key(0), jnp.ones((1, INPUTS)))
  del shapes
  expected = as_nnx_names(scales)
  readout = expected["readout"]["kernel"]
  shape = (WIDTH, OUTPUTS)  # an nnx layer applies no multiplier
  folded = dmup.resolve("embed -> (outputs)", shape, p, folded=True)
  assert (folded == readout) == (make is dmup.depth_mup)
  expected["readout"] = {"kernel": folded}
  assert found == expected


@pytest.fixture(scope="module")
def made():
  return MLP(preset(), nnx.Rngs(0))


def test_scales_have_the_tree_of_the_parameters_and_values_stay_plain(made):
  model = made
  params = nnx.as_pure(nnx.state(model, nnx.Param))
  assert all(type(x) is type(jnp.ones(1)) for x in jax.tree.leaves(params))
  assert jax.tree.structure(nnx_axes.scales_of(model)) == jax.tree.structure(params)


def test_axes_survive_split_merge_jit_and_a_scan_with_metadata(made):
  model = nnx.clone(made)
  before = nnx_axes.scales_of(model)

  @nnx.jit
  def run(model, x):
    @nnx.scan(
      in_axes=(nnx.Carry, 0),
      out_axes=nnx.Carry,
      transform_metadata=nnx_axes.stacked("layers"),
    )
    def body(x, block):
      assert nnx_axes.scales_of(block)["block"]["dense_0"]["kernel"].shape == (16, 16)
      return block(x)

    return body(x, model.stack)

  run(model, jnp.ones((2, WIDTH)))
  assert nnx_axes.scales_of(model) == before
  assert nnx_axes.scales_of(nnx.merge(*nnx.split(model))) == before
  kernel = before["stack"]["block"]["dense_0"]["kernel"]
  assert kernel.axes == "layers | embed -> embed"
  assert kernel.axis_names == ("layers", "embed", "embed")


def with_lecun(axes, p):
  return nnx_axes.with_axes(nnx.initializers.lecun_normal(), axes, p)


def test_metadata_of_the_initializer_stay():
  init = nnx.with_metadata(nnx.initializers.ones, note="kept")
  init = nnx_axes.with_axes(init, "-> embed", preset())
  norm = nnx.RMSNorm(8, scale_init=init, rngs=nnx.Rngs(0))
  assert norm.scale.get_metadata("note") == "kept"
  assert nnx_axes.scales_of(norm)["scale"].kind is dmup.Kind.VECTOR


def test_a_layer_that_asks_for_a_flat_matrix():
  """nnx's attention; the standard deviation is that of the flat matrix."""
  p = dmup.mup(base_width={"embed": 8, "heads": 2, "head_dim": 4}, base_depth=1)
  width, heads, dim = 32, 8, 16
  lecun = nnx.initializers.lecun_normal()
  ins, outs = (
    ("embed -> heads head_dim", (width, heads, dim)),
    ("heads head_dim -> embed", (heads, dim, width)),
  )
  kernel_init = nnx_axes.with_axes(lecun, ins[0], p, shape=ins[1])
  zeros = nnx.initializers.zeros

  @nnx.eval_shape
  def attention():
    return nnx.MultiHeadAttention(
      heads,
      width,
      qkv_features=heads * dim,
      kernel_init=kernel_init,
      out_kernel_init=nnx_axes.normal(outs[0], p, shape=outs[1]),
      bias_init=nnx_axes.with_axes(zeros, "-> heads head_dim", p, shape=(heads, dim)),
      out_bias_init=nnx_axes.with_axes(zeros, "-> embed", p),
      rngs=nnx.Rngs(0),
    )

  scales = nnx_axes.scales_of(attention)
  assert scales["query"]["kernel"] == dmup.resolve(*ins, p, folded=True)
  assert scales["out"]["kernel"] == dmup.resolve(*outs, p, folded=True)
  drawn = kernel_init(jax.random.key(0), (width, heads * dim)).raw_value
  assert drawn.shape == (width, heads * dim)
  assert np.std(drawn) == pytest.approx(scales["query"]["kernel"].init_std, rel=0.05)
  init = nnx_axes.normal("-> embed", p, shape=(3,))
  with pytest.raises(dmup.DepthMupError, match=r"shape=\(3,\) is no reshape of \(32,\)"):
    init(jax.random.key(0), (32,))


def test_a_frozen_parameter_does_not_move():
  p = preset()
  init = nnx_axes.normal("embed -> embed", p, trainable=False)
  linear = nnx.Linear(8, 8, use_bias=False, kernel_init=init, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(
    linear, dmup.sgd(1.0, nnx_axes.scales_of(linear)), wrt=nnx.Param
  )
  before = linear.kernel[...]
  optimizer.update(linear, nnx.grad(lambda m: m(jnp.ones((1, 8))).sum())(linear))
  assert (linear.kernel[...] == before).all()


def part_of(model, names):
  """Some of the first names of the tree of all scales."""
  whole = nnx.to_pure_dict(nnx_axes.scales_of(model))
  return {name: whole[name] for name in names}


def test_scales_of_the_parameters_that_a_filter_selects():
  """With depth known from the rest, as an eps rule outside of branches wants it."""
  p = preset(dmup.complete_d_p)
  model = nnx.eval_shape(lambda: MLP(p, nnx.Rngs(0)))
  wrt = nnx.All(nnx.Param, nnx.PathContains("readout"))
  found = nnx_axes.scales_of(model, wrt)
  assert nnx.to_pure_dict(found) == part_of(model, ["readout"])
  structure = jax.tree.structure(nnx.as_pure(nnx.state(model, wrt)))
  assert jax.tree.structure(found) == structure
  rest = nnx_axes.scales_of(model, wrt=nnx.Not(nnx.PathContains("readout")))
  assert nnx.to_pure_dict(rest) == part_of(model, ["input", "stack"])
  assert nnx_axes.scales_of(model, (nnx.Param,)) == nnx_axes.scales_of(model)


def test_a_part_of_the_net_trains_as_in_the_whole(made):
  """Adam of the readout alone: its first step is that of the whole net's Adam."""
  x = jnp.ones((4, INPUTS))
  steps = []
  for wrt in (nnx.Param, nnx.All(nnx.Param, nnx.PathContains("readout"))):
    model = nnx.clone(made)
    tx = dmup.adam(0.1, nnx_axes.scales_of(model, wrt))
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)
    loss = lambda model: model(x).sum()  # noqa: E731
    optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, wrt))(model))
    steps.append(model)
  whole, part = steps
  assert not (part.readout.kernel[...] == made.readout.kernel[...]).any()
  np.testing.assert_allclose(part.readout.kernel[...], whole.readout.kernel[...], atol=1e-6)
  for name in ("input", "stack"):
    ours, theirs = nnx.state(getattr(part, name)), nnx.state(getattr(made, name))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), ours, theirs))


# training -----------------------------------------------------------------------


def test_the_net_trains_as_the_linen_net(made):
  """The same weights, twenty steps of Adam, whose eps matters."""
  p = preset()
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(8, INPUTS)), jnp.float32)
  y = jnp.asarray(rng.normal(size=(8, OUTPUTS)), jnp.float32)
  net = linen(p)
  params, scales = dmup.init(net, jax.random.key(1), x)
  model = nnx.clone(made)
  nnx.update(model, as_nnx_names(params))
  multiplier = scales["readout"]["kernel"].multiplier
  assert multiplier == 0.25
  model.readout.kernel[...] *= multiplier

  def tx(scales):
    return optax.chain(
      dmup.scale_by_parametrization(optax.scale_by_adam(eps=1e-3), scales),
      optax.scale_by_learning_rate(0.02),
    )

  optimizer = nnx.Optimizer(model, tx(nnx_axes.scales_of(model)), wrt=nnx.Param)

  @nnx.jit
  def nnx_step(model, optimizer):
    loss, grads = nnx.value_and_grad(lambda m: ((m(x) - y) ** 2).mean())(model)
    optimizer.update(model, grads)
    return loss

  @jax.jit
  def linen_step(params, state):
    def loss_of(params):
      return ((net.apply({"params": params}, x) - y) ** 2).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx(scales).update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  state, losses = tx(scales).init(params), []
  for _ in range(20):
    params, state, loss = linen_step(params, state)
    losses.append((float(nnx_step(model, optimizer)), float(loss)))
  ours, theirs = np.array(losses).T
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  assert ours[-1] < 0.7 * ours[0]
  kernel = params["stack"]["block"]["dense_1"]["kernel"]
  np.testing.assert_allclose(model.stack.block.dense_1.kernel[...], kernel, atol=1e-4)
