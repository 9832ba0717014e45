import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError

P = dmup.depth_mup(base_width=4, base_depth=2, width_rule=dmup.TABLE_9)
KEY = jax.random.key(0)


def test_dense_applies_its_multiplier():
  x = jax.random.normal(KEY, (3, 5))
  layer = dmup.Dense(16, "(inputs) -> embed", P, use_bias=True)
  params, scales = dmup.init(layer, KEY, x)
  params = params | {"bias": jnp.arange(16.0)}
  s = scales["kernel"]
  assert s.multiplier == pytest.approx(2)
  expected = 2 * x @ params["kernel"] + 2 * params["bias"][None]
  np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-5)


def test_dense_over_several_axes():
  p = dmup.depth_mup(base_width={"embed": 4, "heads": 2}, base_depth=2)
  x = jax.random.normal(KEY, (3, 8))
  split = dmup.Dense((4, 6), "embed -> heads (head_dim)", p)
  params, scales = dmup.init(split, KEY, x)
  y = split.apply({"params": params}, x)
  assert y.shape == (3, 4, 6)
  np.testing.assert_allclose(y, jnp.einsum("bi,ihd->bhd", x, params["kernel"]), rtol=1e-5)
  assert (scales["kernel"].update_factor, scales["kernel"].gradient_factor) == (1 / 2, 2)
  merge = dmup.Dense(8, "heads (head_dim) -> embed", p)
  params = dmup.init(merge, KEY, y)[0]
  out = merge.apply({"params": params}, y)
  np.testing.assert_allclose(
    out, jnp.einsum("bhd,hdo->bo", y, params["kernel"]), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  ("layer", "words"),
  [
    (lambda: dmup.Dense(4, "embed -> embed embed", P), "do not fit"),
    (lambda: dmup.Dense(4, "-> embed", P), "do not fit"),
    (lambda: dmup.Dense(4, "a b c -> embed", P), "do not fit"),
    (lambda: dmup.Dense(0, "(inputs) -> embed", P), "features=0"),
    (lambda: dmup.Dense(4, "inputs", P), "cannot be read"),
    (lambda: dmup.Embed(10, 4, P), "dtype float32"),
  ],
)
def test_errors(layer, words):
  with pytest.raises(DepthMupError, match=words):
    dmup.init(layer(), KEY, jnp.ones((2, 3)))


def test_embed_is_an_input_layer():
  tokens = jnp.array([[0, 3], [2, 2]])
  layer = dmup.Embed(5, 16, P)
  params, scales = dmup.init(layer, KEY, tokens)
  s = scales["embedding"]
  assert (s.kind, s.init_std, s.multiplier) == (dmup.Kind.INPUT, 0.5, 2)
  out = layer.apply({"params": params}, tokens)
  np.testing.assert_allclose(out, 2 * params["embedding"][tokens], rtol=1e-6)


def test_a_frozen_layer_has_no_gradient_and_no_update():
  x = jnp.ones((2, 3))
  layer = dmup.Dense(4, "(inputs) -> embed", P, use_bias=True, trainable=False)
  params, scales = dmup.init(layer, KEY, x)
  grads = jax.grad(lambda p: layer.apply({"params": p}, x).sum())(params)
  assert all((g == 0).all() for g in jax.tree.leaves(grads))
  assert [s.update_factor for s in jax.tree.leaves(scales)] == [0, 0]


def test_readout_that_starts_at_zero():
  layer = dmup.Readout(3, P, base_std=0.0)
  params, scales = dmup.init(layer, KEY, jnp.ones((2, 8)))
  assert list(params) == ["kernel"]
  assert (params["kernel"] == 0).all()
  assert scales["kernel"].kind is dmup.Kind.OUTPUT


def test_bfloat16_compute_keeps_float32_parameters():
  layer = dmup.Dense(4, "(inputs) -> embed", P, use_bias=True, dtype=jnp.bfloat16)
  params = dmup.init(layer, KEY, jnp.ones((2, 3)))[0]
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  assert layer.apply({"params": params}, jnp.ones((2, 3))).dtype == jnp.bfloat16


def test_mean_subtraction():
  x = jax.random.normal(KEY, (4, 9))
  y = dmup.mean_subtraction(x)
  np.testing.assert_allclose(y.mean(-1), np.zeros(4), atol=1e-6)
  np.testing.assert_allclose(y, x - x.mean(-1, keepdims=True), rtol=1e-6)


def test_annotation_survives_sharding_metadata():
  init = nn.with_partitioning(nn.initializers.lecun_normal(), ("fsdp", None))
  layer = nn.Dense(8, use_bias=False, kernel_init=dmup.with_axes(init, "embed -> embed", P))
  boxed = jax.eval_shape(layer.init, KEY, jnp.ones((2, 8)))["params"]
  assert boxed["kernel"].value.names == ("fsdp", None)
  assert dmup.scales_of(boxed)["kernel"].update_factor == 1 / 2
