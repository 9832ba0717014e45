import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup.metadata import Annotated, scales_of
from tests.helpers import inputs, residual_mlp

P = dmup.depth_mup(base_width=8, base_depth=2)


def box(axes="embed -> embed", shape=(4, 4)):
  return Annotated(jnp.zeros(shape), dmup.Axes.parse(axes), P)


def test_the_law_of_axis_metadata():
  one = box()
  for index in range(3):
    params = {nn.PARTITION_NAME: "layers"}
    assert one.add_axis(index, params).remove_axis(index, params).axes == one.axes
  assert str(one.add_axis(0, params).axes) == "layers | embed -> embed"


def test_a_sharding_box_inside_sees_the_same_axes():
  inner = nn.Partitioned(jnp.zeros((4, 4)), names=("embed", "mlp"))
  one = Annotated(inner, dmup.Axes.parse("embed -> embed"), P)
  params = {nn.PARTITION_NAME: "layers"}
  assert one.add_axis(0, params).value.names == ("layers", "embed", "mlp")
  assert one.add_axis(0, params).remove_axis(0, params).value.names == ("embed", "mlp")


def test_init_gives_arrays_and_the_same_tree_of_scales():
  params, scales = dmup.init(residual_mlp(P), jax.random.key(0), inputs())
  assert jax.tree.structure(params) == jax.tree.structure(scales)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))
  hidden = scales["stack"]["block"]["dense_0"]["kernel"]
  assert hidden.axes == "layers | embed -> embed"
  assert hidden.shape == (8, 16, 16)
  assert (hidden.update_factor, hidden.gradient_factor) == (1 / 4, 4)
  assert scales["readout"]["kernel"].kind is dmup.Kind.OUTPUT
  assert scales["input"]["kernel"].depth_update_factor == 1


def test_the_tree_does_not_depend_on_the_size():
  def structure(**sizes):
    model = residual_mlp(P, **sizes)
    return jax.tree.structure(dmup.abstract_init(model, jax.random.key(0), inputs()))

  assert structure(width=8, depth=2) == structure(width=32, depth=16)


def test_under_eval_shape_and_jit():
  model, key = residual_mlp(P), jax.random.key(0)
  params, scales = dmup.init(model, key, inputs())
  shapes = jax.eval_shape(lambda k, x: dmup.init(model, k, x)[0], key, inputs())
  both = jax.eval_shape(lambda k, x: dmup.init(model, k, x), key, inputs())
  assert both[0] == shapes
  traced = jax.tree.leaves(both[1], is_leaf=lambda s: isinstance(s, dmup.Scales))
  assert [vars(s) for s in traced] == [vars(s) for s in jax.tree.leaves(scales)]
  tx = [dmup.adam(0.1, s) for s in (scales, both[1])]
  updates = [t.update(params, t.init(params), params)[0] for t in tx]
  jax.tree.map(np.testing.assert_array_equal, *updates)
  assert jax.tree.leaves(dmup.trainable(both[1])) == [True] * 3
  abstract, again = dmup.abstract_init(model, key, inputs())
  assert shapes == abstract == jax.eval_shape(lambda: params)
  assert again == scales
  # Inputs need no values either.
  assert dmup.abstract_init(model, key, jax.eval_shape(inputs)) == (abstract, scales)
  jitted = jax.jit(lambda k: dmup.init(model, k, inputs()))(key)[0]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jitted, params)


def test_stds_are_as_resolved():
  """Drawn std within 5 standard errors; fixed key."""
  model = residual_mlp(P, width=64, depth=16, block_depth=2)
  params, scales = dmup.init(model, jax.random.key(3), inputs())

  def check(x, s):
    assert np.std(x) == pytest.approx(s.init_std, rel=5 / np.sqrt(2 * x.size))

  jax.tree.map(check, params, scales)


class Bare(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = dmup.Dense(8, "(inputs) -> embed", P)(x)
    return nn.Dense(8)(x)


def test_a_parameter_without_axes_is_named():
  with pytest.raises(dmup.DepthMupError, match="Dense_1/bias carries no axes.*with_axes"):
    dmup.init(Bare(), jax.random.key(0), inputs())


def test_a_bare_parameter_inside_a_stack_is_named():
  model = dmup.ResidualStack(nn.Dense(8, use_bias=False), 4, P)
  with pytest.raises(dmup.DepthMupError, match="block/kernel carries no axes"):
    dmup.init(model, jax.random.key(0), jnp.ones((2, 8)))


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.BatchNorm(use_running_average=False)(dmup.Dense(8, "(inputs) -> embed", P)(x))


def test_another_collection_is_named():
  with pytest.raises(dmup.DepthMupError, match="'batch_stats'.*scales_of"):
    dmup.init(Normed(), jax.random.key(0), inputs())


class Empty(nn.Module):
  def __call__(self, x):
    return x


def test_a_model_without_parameters():
  with pytest.raises(dmup.DepthMupError, match="Empty has no parameters"):
    dmup.init(Empty(), jax.random.key(0), inputs())


def test_a_misspelt_base_size_is_refused():
  p = dmup.depth_mup(base_width={"embd": 8}, base_depth=2)
  with pytest.raises(dmup.DepthMupError, match='"embd" but no parameter.*embed'):
    dmup.init(residual_mlp(p), jax.random.key(0), inputs())


def test_scales_of_a_boxed_tree():
  boxed = residual_mlp(P).init(jax.random.key(0), inputs())["params"]
  assert scales_of(boxed) == dmup.init(residual_mlp(P), jax.random.key(0), inputs())[1]


class Stock(nn.Module):
  """Stock linen layers, annotated."""

  p: dmup.Parametrization

  @nn.compact
  def __call__(self, x):
    def axes(text, init=None):
      return dmup.with_axes(init or nn.initializers.lecun_normal(), text, self.p)

    x = nn.Dense(
      64,
      kernel_init=axes("(inputs) -> embed"),
      bias_init=axes("-> embed", nn.initializers.ones),
    )(x)
    return nn.Dense(3, use_bias=False, kernel_init=axes("embed -> (outputs)"))(x)


@pytest.mark.parametrize("rule", [dmup.TABLE_3, dmup.TABLE_8, dmup.TABLE_9])
def test_with_axes_scales_stock_layers_whatever_the_table(rule):
  """A stock layer applies no multiplier, so all tables must give Table 3's form."""
  p = dmup.depth_mup(base_width=16, base_depth=2, width_rule=rule)
  params, scales = dmup.init(Stock(p), jax.random.key(0), inputs())
  plain = Stock(dmup.standard(base_width=16, base_depth=2))
  standard = dmup.init(plain, jax.random.key(0), inputs())[0]
  ratio = jax.tree.map(lambda a, b: (a / b).ravel()[0], params, standard)
  assert ratio["Dense_0"]["kernel"] == pytest.approx(1)
  assert ratio["Dense_0"]["bias"] == pytest.approx(1)
  assert ratio["Dense_1"]["kernel"] == pytest.approx(1 / 2)
  assert [s.multiplier for s in jax.tree.leaves(scales)] == [1, 1, 1]
  assert scales["Dense_1"]["kernel"].update_factor == pytest.approx(1 / 4)


@pytest.mark.parametrize(
  "name", ["lecun_normal", "he_normal", "he_uniform", "glorot_normal", "orthogonal"]
)
def test_with_axes_takes_standard_initializers(name):
  init = dmup.with_axes(getattr(nn.initializers, name)(), "embed -> embed", P)
  stack = dmup.ResidualStack(nn.Dense(32, use_bias=False, kernel_init=init), 3, P)
  params = dmup.init(stack, jax.random.key(0), jnp.ones((2, 32)))[0]
  assert params["block"]["kernel"].shape == (3, 32, 32)
  jax.eval_shape(lambda k: dmup.init(stack, k, jnp.ones((2, 32)))[0], jax.random.key(0))


@pytest.mark.parametrize(
  ("axes", "init"),
  [
    ("embed -> embed", nn.initializers.normal(0.02)),
    ("(vocab) -> embed", nn.linear.default_embed_init),
    ("(inputs) -> embed", nn.initializers.glorot_normal()),
  ],
)
def test_with_axes_refuses_others(axes, init):
  with pytest.raises(dmup.DepthMupError, match="changes its std.*base_std"):
    dmup.with_axes(init, axes, P)(jax.random.key(0), (16, 16))


def test_with_axes_leaves_the_base_net_alone():
  model = Stock(dmup.depth_mup(base_width=64, base_depth=2))
  params = dmup.init(model, jax.random.key(0), inputs())[0]
  plain = Stock(dmup.standard(base_width=64, base_depth=2))
  again = dmup.init(plain, jax.random.key(0), inputs())[0]
  jax.tree.map(np.testing.assert_array_equal, params, again)
