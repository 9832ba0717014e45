"""SGD: the largest stable learning rate against depth, blocks only trained.

After the third section of CompleteP's CPU checks: ReLU, no norm, width 64, 60
full-batch steps of a regression, rates in half octaves. Without a depth rule it
falls by octaves and vanishes; with the rules it stays; with the branch
multiplier 1/L but SGD's factor L left out it grows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup.sweeps import run_sweep

RATES, SEEDS, STEPS = np.arange(-11, 5.1, 0.5), 2, 60
DEPTHS = (2, 4, 16, 32)


def problem():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, 16)).astype(np.float32)
  return x, np.sign(x[:, :1] * x[:, 1:2]).astype(np.float32)


def largest_stable(alpha, gamma, depth):
  """log2 of the largest rate at which no seed diverges; None if all do."""
  p = dmup.depthwise(alpha=alpha, gamma=gamma, base_width=64, base_depth=2)
  model = dmup.ResidualMLP(64, depth, 1, p, train_boundary=False)
  x, _ = problem()
  scales = dmup.abstract_init(model, jax.random.key(0), x)[1]

  def init(member, data):
    params = dmup.init(model, jax.random.key(member["seed"]), data[0])[0]
    return params, dmup.sgd(member["lr"], scales).init(params)

  def step(state, member, t, data):
    del t
    params, opt_state = state

    def loss_of(params):
      return jnp.mean(jnp.square(model.apply({"params": params}, data[0]) - data[1]))

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, opt_state = dmup.sgd(member["lr"], scales).update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  members = {
    "lr": np.repeat(2.0**RATES, SEEDS).astype(np.float32),
    "seed": np.tile(np.arange(SEEDS, dtype=np.int32), len(RATES)),
  }
  lanes = -(-len(members["lr"]) // jax.local_device_count())
  result = run_sweep(
    init, step, members, problem(), steps=STEPS, chunk=STEPS, per_device=lanes
  )
  fine = ~result.diverged & (result.losses[:, -1] <= result.losses[:, 0])
  stable = RATES[fine.reshape(len(RATES), SEEDS).all(axis=1)]
  return stable.max() if len(stable) else None


@pytest.mark.slow
def test_standard_loses_octaves_and_then_all():
  found = [largest_stable(0, 0, depth) for depth in DEPTHS]
  assert found[0] - found[2] >= 7
  assert found[3] is None


@pytest.mark.parametrize(
  ("alpha", "gamma", "octaves"),
  [
    pytest.param("1/2", "1/2", 1, marks=pytest.mark.slow),
    pytest.param(1, 0, 2, marks=pytest.mark.slow),
  ],
)
def test_the_depth_rules_keep_it(alpha, gamma, octaves):
  """Over four doublings. The ODE's rate still settles at the smallest depths."""
  found = [largest_stable(alpha, gamma, depth) for depth in DEPTHS]
  assert max(found) - min(found) <= octaves
  assert max(found[1:]) - min(found[1:]) <= 1


@pytest.mark.slow
def test_without_its_factor_the_ode_drifts_up():
  """gamma = 1 leaves SGD's rate at L^(alpha-gamma) = 1 instead of L."""
  found = [largest_stable(1, 1, depth) for depth in DEPTHS]
  assert found[3] - found[1] >= 0.9 * np.log2(DEPTHS[3] / DEPTHS[1])
