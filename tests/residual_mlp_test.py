"""The net against a plain reimplementation of Tensor Programs VI, section 3."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from tests.helpers import assert_trees_close, assert_trees_equal, inputs, residual_mlp

KEY = jax.random.key(0)
P = dmup.depth_mup(base_width=8, base_depth=2)
PHI = {
  "relu": lambda x: np.maximum(x, 0),
  "abs": np.abs,
  "tanh": np.tanh,
  "identity": lambda x: x,
  "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def center(x):
  return x - x.mean(-1, keepdims=True)


NORM = {
  None: lambda x: x,
  "layer_norm": lambda x: center(x) / np.sqrt(x.var(-1, keepdims=True) + 1e-6),
  "rms_norm": lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6),
}


def plain(params, x, *, phi, k, pre, ms, norm, a, multiplier):
  """f of the paper, in numpy."""
  params = jax.tree.map(np.asarray, params)
  g = center if ms else (lambda x: x)
  x = np.asarray(x) @ params["input"]["kernel"]
  block = params["stack"]["block"]
  for layer in range(len(block["dense_0"]["kernel"])):
    h = NORM[norm](x)
    for i in range(k):
      w = block[f"dense_{i}"]["kernel"][layer]
      h = g(PHI[phi](h)) @ w if pre else g(PHI[phi](h @ w))
    x = x + a * multiplier * h
  return x @ params["readout"]["kernel"]


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize(
  ("k", "pre", "ms", "norm"),
  [
    (1, False, True, None),
    (1, True, True, None),
    (2, False, False, "layer_norm"),
    (2, True, True, "rms_norm"),
  ],
)
def test_against_the_formula(phi, k, pre, ms, norm):
  model = residual_mlp(
    P,
    block_depth=k,
    activation=phi,
    pre_nonlinearity=pre,
    mean_subtraction=ms,
    norm=norm,
    block_multiplier=0.7,
  )
  params = dmup.init(model, KEY, inputs())[0]
  expected = plain(
    params, inputs(), phi=phi, k=k, pre=pre, ms=ms, norm=norm, a=0.7, multiplier=0.5
  )
  out = model.apply({"params": params}, inputs())
  np.testing.assert_allclose(out, expected, rtol=2e-3, atol=2e-5)


def test_a_callable_activation():
  params = dmup.init(residual_mlp(P), KEY, inputs())[0]
  own = residual_mlp(P, activation=lambda x: jnp.maximum(x, 0)).apply(
    {"params": params}, inputs()
  )
  named = residual_mlp(P).apply({"params": params}, inputs())
  np.testing.assert_array_equal(own, named)


PRESETS = [dmup.standard, dmup.mup, dmup.depth_mup, dmup.ode, dmup.complete_p]


@pytest.mark.parametrize(("a", "b"), list(itertools.pairwise(PRESETS)))
def test_at_the_base_size_all_presets_are_the_same_net(a, b):
  nets = [residual_mlp(p(base_width=16, base_depth=8)) for p in (a, b)]
  params = [dmup.init(net, KEY, inputs())[0] for net in nets]
  assert_trees_equal(*params)
  outs = [net.apply({"params": params[0]}, inputs()) for net in nets]
  np.testing.assert_array_equal(*outs)


def test_a_deeper_net_is_not():
  shallow, deep = (dmup.ode(base_width=16, base_depth=b) for b in (8, 4))
  params = dmup.init(residual_mlp(deep), KEY, inputs())[0]
  outs = [residual_mlp(p).apply({"params": params}, inputs()) for p in (shallow, deep)]
  assert np.abs(outs[0] - outs[1]).max() > 0.05


def test_remat_changes_nothing():
  def gradient(remat):
    model = residual_mlp(P, remat=remat)
    params = dmup.init(model, KEY, inputs())[0]
    return jax.grad(lambda p: model.apply({"params": p}, inputs()).var())(params)

  assert_trees_close(gradient(False), gradient(True), rtol=1e-4, atol=1e-7)


def test_a_frozen_boundary():
  model = residual_mlp(P, train_boundary=False)
  params, scales = dmup.init(model, KEY, inputs())
  grads = jax.grad(lambda p: model.apply({"params": p}, inputs()).var())(params)
  for name, trains in (("input", False), ("readout", False)):
    assert scales[name]["kernel"].trainable is trains
    assert (grads[name]["kernel"] == 0).all()
  assert scales["stack"]["block"]["dense_0"]["kernel"].trainable
  assert dmup.trainable(scales)["input"]["kernel"] is False


def test_bfloat16():
  model = residual_mlp(P, dtype=jnp.bfloat16)
  params = dmup.init(model, KEY, inputs())[0]
  out = model.apply({"params": params}, inputs())
  full = residual_mlp(P).apply({"params": params}, inputs())
  assert out.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  np.testing.assert_allclose(out.astype(jnp.float32), full, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("activation", "swish", "activation='swish': expected one of relu"),
    ("norm", "batch_norm", "norm='batch_norm': expected None or one of"),
    ("width", 0, "width=0"),
    ("depth", -1, "depth=-1"),
    ("block_depth", 1.5, "block_depth=1.5"),
  ],
)
def test_errors(field, value, words):
  with pytest.raises(DepthMupError, match=words):
    residual_mlp(P, **{field: value})


def test_the_program_does_not_grow_with_depth():
  """What keeps the compile time flat; `experiments.benchmark` measures it."""

  def equations(depth):
    model = residual_mlp(P, depth=depth)
    params = dmup.abstract_init(model, KEY, inputs())[0]

    def loss(params):
      return model.apply({"params": params}, inputs()).var()

    return str(jax.make_jaxpr(jax.grad(loss))(params)).count("\n")

  assert equations(8) == equations(1024)
