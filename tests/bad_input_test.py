"""Public functions given something else altogether: one sentence, naming it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import fit_optimum
from flax_depthmup.sweeps import run_sweep
from tests.helpers import inputs, residual_mlp

KEY = jax.random.key(0)
P = dmup.depth_mup(base_width=8, base_depth=2)
X = jnp.ones((2, 8))
MEMBERS = {"lr": np.ones(2, np.float32)}


def scales():
  return dmup.abstract_init(residual_mlp(P), KEY, inputs())[1]


def zero(member, data):
  del data
  return {"w": member["lr"]}


CALLS = {
  "init: no module": (lambda: dmup.init(5, KEY, X), "model=5"),
  "init: no key": (lambda: dmup.init(residual_mlp(P), 7, X), "key=7"),
  "Dense: no parametrization": (
    lambda: dmup.init(dmup.Dense(4, "(inputs) -> embed", "mup"), KEY, X),
    "parametrization='mup' is no Parametrization",
  ),
  "resolve: no parametrization": (
    lambda: dmup.resolve("-> embed", (4,), None),
    "parametrization=None",
  ),
  "ResidualMLP: no parametrization": (lambda: residual_mlp(None), "parametrization=None"),
  "Residual: no block": (
    lambda: dmup.init(dmup.Residual(None, 2, P), KEY, X),
    "block=None is no linen module",
  ),
  "ResidualStack: no parametrization": (
    lambda: dmup.init(dmup.ResidualStack(dmup.Dense(8, "embed -> embed", P), 2, 3), KEY, X),
    "parametrization=3",
  ),
  "adam: no rate": (lambda: dmup.adam("fast", scales()), "learning_rate='fast'"),
  "adam: negative rate": (lambda: dmup.adam(-1.0, scales()), "learning_rate=-1.0"),
  "adam: nan rate": (lambda: dmup.adam(float("nan"), scales()), "learning_rate=nan"),
  "adam: b1 of 1": (lambda: dmup.adam(1.0, scales(), b1=1.0), "b1=1.0"),
  "adamw: b2": (lambda: dmup.adamw(1.0, scales(), b2=-0.1), "b2=-0.1"),
  "adamw: weight_decay": (
    lambda: dmup.adamw(1.0, scales(), weight_decay="much"),
    "weight_decay='much'",
  ),
  "adamw: eps": (lambda: dmup.adamw(1.0, scales(), eps=-1.0), "eps=-1.0"),
  "adamw: peak of 0": (
    lambda: dmup.adamw(1.0, scales(), decay="independent_peak", peak_learning_rate=0.0),
    "peak_learning_rate=0.0",
  ),
  "adam: a vector of rates": (lambda: dmup.adam(jnp.ones(3), scales()), "learning_rate="),
  "resolve: negative size": (
    lambda: dmup.resolve("embed -> embed", (-4, 4), P),
    "a size of shape",
  ),
  "resolve: fractional size": (
    lambda: dmup.resolve("embed -> embed", (4.5, 4), P),
    "a size of shape",
  ),
  "resolve: no shape": (lambda: dmup.resolve("-> embed", 4, P), "shape=4"),
  "resolve: base_std": (
    lambda: dmup.resolve("-> embed", (4,), P, base_std="x"),
    "base_std",
  ),
  "base_width: a bare tuple": (
    lambda: dmup.mup(base_width=(4,), base_depth=2),
    "expected one size, or a mapping",
  ),
  "base_width: nothing": (lambda: dmup.mup(base_width={}, base_depth=2), "at least one"),
  "exponent beyond": (lambda: dmup.classify(-400, 0), "alpha=-400 is beyond"),
  "exponent as numpy nan": (lambda: dmup.classify(np.float32("nan"), 0), "alpha=.*nan"),
  "Dense: stacked axis": (
    lambda: dmup.init(dmup.Dense((4, 8), "heads | embed -> embed", P), KEY, X),
    "no stacked axis",
  ),
  "with_axes: no parametrization": (
    lambda: dmup.with_axes(jax.nn.initializers.lecun_normal(), "-> embed", None),
    "parametrization=None",
  ),
  "with_axes: no initializer": (lambda: dmup.with_axes(None, "-> embed", P), "init=None"),
  "activation: a list": (lambda: residual_mlp(P, activation=["x"]), "activation="),
  "scales_of: nothing": (lambda: dmup.scales_of({}), "no parameters"),
  "run_sweep: no function": (lambda: run_sweep(None, None, MEMBERS, steps=2), "init=None"),
  "sgd: momentum": (lambda: dmup.sgd(1.0, scales(), momentum=1.5), "momentum=1.5"),
  "sgd: no scales": (lambda: dmup.sgd(1.0, {"w": 1.0}), "scales: w is a float"),
  "trainable: no scales": (lambda: dmup.trainable({"w": 1.0}), "scales: w is a float"),
  "scales_of: plain arrays": (lambda: dmup.scales_of({"w": X}), "w carries no axes"),
  "fit_optimum: shapes": (lambda: fit_optimum(np.arange(3), np.ones((2, 4))), "shape"),
  "fit_optimum: order": (lambda: fit_optimum([2, 1], np.ones((2, 2))), "increasing"),
  "run_sweep: no pair": (
    lambda: run_sweep(zero, lambda s, m, t, d: s, MEMBERS, steps=2),
    "expected the pair",
  ),
  "run_sweep: no scalar": (
    lambda: run_sweep(zero, lambda s, m, t, d: (s, jnp.ones(3)), MEMBERS, steps=2),
    "expected a scalar",
  ),
  "run_sweep: another shape": (
    lambda: run_sweep(
      zero, lambda s, m, t, d: ({"w": jnp.ones(2)}, m["lr"]), MEMBERS, steps=2
    ),
    r"changes state\['w'\] from float32\[\] to float32\[2\]",
  ),
  "run_sweep: another tree": (
    lambda: run_sweep(zero, lambda s, m, t, d: (s["w"], m["lr"]), MEMBERS, steps=2),
    "changes the tree",
  ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_input(name):
  call, words = CALLS[name]
  with pytest.raises(DepthMupError, match=words):
    call()


def test_a_config_that_is_no_json(tmp_path):
  def step(state, member, t, data):
    del t, data
    return state, member["lr"]

  with pytest.raises(DepthMupError, match="cannot be written as JSON"):
    run_sweep(zero, step, MEMBERS, steps=2, directory=tmp_path, config={"f": step})


def test_a_mask_that_misses_a_parameter_and_one_that_is_a_prefix():
  params, table = dmup.init(residual_mlp(P), KEY, inputs())
  zero_grads = jax.tree.map(jnp.zeros_like, params)

  def update(mask):
    tx = dmup.adamw(0.1, table, mask=mask)
    return tx.update(zero_grads, tx.init(params), params)[0]

  with pytest.raises(DepthMupError, match="mask says nothing of parameter readout/kernel"):
    update({"input": True, "stack": True})
  updates = update({"input": True, "stack": True, "readout": False})
  assert (updates["readout"]["kernel"] == 0).all()
  assert (updates["stack"]["block"]["dense_0"]["kernel"] != 0).any()
  assert optax.tree.norm(updates["input"]) > 0


def test_numpy_scalars_are_numbers():
  one = dmup.adamw(
    np.float32(0.1), scales(), weight_decay=np.float64(0.1), b1=np.float32(0.9)
  )
  assert one.init(dmup.init(residual_mlp(P), KEY, inputs())[0])
  p = dmup.depth_mup(base_width=np.int64(8), base_depth=np.int32(2))
  assert p == P
  assert dmup.classify(np.float32(0.5), np.float64(0.5)).name == "Depth-muP"
  layer = dmup.Dense(np.int64(8), "embed -> embed", P)
  assert dmup.init(dmup.Residual(layer, np.int64(4), P, np.float32(0.5)), KEY, X)


def test_a_mask_of_one_boolean():
  params, table = dmup.init(residual_mlp(P), KEY, inputs())
  zero_grads = jax.tree.map(jnp.zeros_like, params)
  for mask in (True, False, lambda params: False):
    tx = dmup.adamw(0.1, table, mask=mask)
    updates = tx.update(zero_grads, tx.init(params), params)[0]
    assert (optax.tree.norm(updates) > 0) == (mask is True)


def test_a_frozen_parameter_does_not_catch_a_nan():
  params, table = dmup.init(residual_mlp(P, train_boundary=False), KEY, inputs())
  bad = jax.tree.map(lambda x: x * jnp.nan, params)
  tx = dmup.sgd(0.1, table)
  assert (tx.update(bad, tx.init(params), params)[0]["input"]["kernel"] == 0).all()
