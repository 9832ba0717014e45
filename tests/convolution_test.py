"""The convolution against sums written out, and against `Dense`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.convolution import Conv

KEY = jax.random.key(0)
P = dmup.depth_mup(base_width=4, base_depth=2)
HIDDEN, STEM = "(kh) (kw) embed -> embed", "(kh) (kw) (channels) -> embed"
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 8, 4)), jnp.float32)


def drawn(model, x=X):
  """Parameters of the right std and their scales, drawn by numpy: compiles nothing."""
  shapes, scales = dmup.abstract_init(model, KEY, x)
  rng = np.random.default_rng(0)

  def draw(shape, s):
    return rng.normal(0, s.init_std, shape.shape).astype(np.float32)

  return jax.tree.map(draw, shapes, scales), scales


def naive(x, kernel, strides):
  """Windows of the zero-padded image, one position after another; numpy."""
  x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  (kh, kw), (sh, sw) = kernel.shape[:2], strides
  size = [-(-n // s) for n, s in zip(x.shape[1:3], strides, strict=True)]
  total = [
    max((m - 1) * s + k - n, 0)
    for m, s, k, n in zip(size, strides, (kh, kw), x.shape[1:3], strict=True)
  ]
  pads = [(t // 2, t - t // 2) for t in total]
  x = np.pad(x, [(0, 0), *pads, (0, 0)])
  out = np.zeros((len(x), *size, kernel.shape[-1]))
  for i in range(size[0]):
    for j in range(size[1]):
      window = x[:, i * sh : i * sh + kh, j * sw : j * sw + kw]
      out[:, i, j] = np.einsum("bhwi,hwio->bo", window, kernel)
  return out


@pytest.mark.parametrize(
  ("kernel_size", "strides"), [(3, 1), (3, 2), (2, 2), (4, 4), ((1, 3), (2, 1)), (5, 1)]
)
def test_against_windows_written_out(kernel_size, strides):
  layer = Conv(6, HIDDEN, P, kernel_size=kernel_size, strides=strides)
  params = drawn(layer)[0]
  y = layer.apply({"params": params}, X)
  pair = strides if isinstance(strides, tuple) else (strides, strides)
  np.testing.assert_allclose(y, naive(X, params["kernel"], pair), rtol=1e-4, atol=1e-5)


def test_against_flax():
  layer, flax_layer = Conv(6, HIDDEN, P, use_bias=True), nn.Conv(6, (3, 3))
  params = drawn(layer)[0]
  y = layer.apply({"params": params}, X)
  np.testing.assert_allclose(y, flax_layer.apply({"params": params}, X), rtol=1e-5)


def test_a_window_of_one_is_dense():
  p = dmup.depth_mup(base_width=4, base_depth=2, width_rule=dmup.TABLE_9)
  x = X[..., :3]
  conv = Conv(16, STEM, p, kernel_size=1, use_bias=True)
  dense = dmup.Dense(16, "(channels) -> embed", p, use_bias=True)
  params, scales = drawn(conv, x)
  flat = params | {"kernel": params["kernel"][0, 0]}
  expected = dense.apply({"params": flat}, x)
  np.testing.assert_allclose(conv.apply({"params": params}, x), expected, rtol=1e-5)
  dense_scales = dmup.abstract_init(dense, KEY, x)[1]
  for name in ("init_std", "multiplier", "update_factor", "gradient_factor", "kind"):
    for leaf in ("kernel", "bias"):
      assert getattr(scales[leaf], name) == getattr(dense_scales[leaf], name)
  assert scales["kernel"].multiplier == 2
  assert scales["bias"].kind is dmup.Kind.VECTOR


@pytest.mark.parametrize("width", [4, 16, 64])
def test_the_window_counts_in_the_fan_and_not_in_the_width(width):
  """Closed forms; five standard errors of a std from as many values."""
  params, scales = dmup.init(Conv(256, HIDDEN, P), KEY, jnp.ones((1, 4, 4, width)))
  s, kernel = scales["kernel"], params["kernel"]
  assert (s.kind, s.shape) == (dmup.Kind.HIDDEN, (3, 3, width, 256))
  assert s.init_std == pytest.approx((9 * width) ** -0.5)
  assert (s.update_factor, s.gradient_factor) == (4 / width, 64)
  rel = 5 / (2 * kernel.size) ** 0.5
  assert np.std(kernel) == pytest.approx((9 * width) ** -0.5, rel=rel)


def test_a_frozen_convolution():
  layer = Conv(6, HIDDEN, P, use_bias=True, trainable=False)
  params, scales = drawn(layer)
  grads = jax.grad(lambda p: layer.apply({"params": p}, X).sum())(params)
  assert all((g == 0).all() for g in jax.tree.leaves(grads))
  assert [s.update_factor for s in jax.tree.leaves(scales)] == [0, 0]


def test_dtypes_and_base_std():
  layer = Conv(6, HIDDEN, P, use_bias=True, dtype=jnp.bfloat16)
  made = dmup.init(layer, KEY, X)[0]
  assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}
  assert (made["bias"] == 0).all()
  params = drawn(layer)[0]
  y = layer.apply({"params": params}, X)
  assert y.dtype == jnp.bfloat16
  full = Conv(6, HIDDEN, P, use_bias=True).apply({"params": params}, X)
  np.testing.assert_allclose(y.astype(jnp.float32), full, rtol=0.02, atol=0.03)
  half = Conv(6, HIDDEN, P, base_std=0.0, param_dtype=jnp.bfloat16)
  kernel = dmup.init(half, KEY, X)[0]["kernel"]
  assert kernel.dtype == jnp.bfloat16
  assert (kernel == 0).all()


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"axes": "embed -> embed"}, r"not those of a kernel of shape \[kh, kw, in, out\]"),
    ({"axes": "(kh) (kw) -> embed embed"}, "not those of a kernel"),
    ({"axes": "embed (kh) (kw) -> embed"}, "the two of the window finite"),
    ({"axes": "layers | (kh) (kw) embed -> embed"}, "not those of a kernel"),
    ({"axes": "(kh) (kw) embed -> mlp"}, '"mlp".*no base size'),
    ({"features": 0}, "features=0"),
    ({"kernel_size": 0}, "kernel_size=0"),
    ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\): expected one number or"),
    ({"strides": 1.5}, "strides=1.5"),
    ({"parametrization": "mup"}, "parametrization='mup'"),
  ],
)
def test_errors(fields, words):
  fields = {"features": 4, "axes": HIDDEN, "parametrization": P} | fields
  with pytest.raises(DepthMupError, match=words):
    dmup.init(Conv(**fields), KEY, X)


def test_an_input_that_is_no_batch_of_images():
  with pytest.raises(DepthMupError, match=r"shape \(6, 8, 4\); expected \[batch, height"):
    dmup.init(Conv(4, HIDDEN, P), KEY, X[0])
