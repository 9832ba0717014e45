"""The experiment's task in the sweep engine, against nets trained by hand."""

import itertools

import jax
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from experiments._lib.data import epoch_order, load
from experiments._lib.task import Task, scaled_direction
from flax_depthmup.sweeps import run_sweep

STEPS, BATCH = 6, 16
P = dmup.depth_mup(base_width=8, base_depth=2)


def model(a):
  return dmup.ResidualMLP(16, 4, 10, P, block_multiplier=a, train_boundary=False)


def by_hand(lr, a, seed):
  """One net in plain optax, its data drawn in numpy."""
  dataset, net = load("digits", None), model(float(a))
  params, scales = dmup.init(net, jax.random.key(seed), dataset.x[:1])
  tx = dmup.adam(float(lr), scales)
  state, losses = tx.init(params), []
  order = epoch_order(seed, len(dataset.x), STEPS * BATCH)

  @jax.jit
  def step(params, state, x, y):
    def loss_of(params):
      logits = net.apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  for t in range(STEPS):
    batch = order[t * BATCH : (t + 1) * BATCH]
    params, state, loss = step(params, state, dataset.x[batch], dataset.y[batch])
    losses.append(loss)
  return losses


def test_a_grid_of_rate_multiplier_and_seed():
  grid = list(itertools.product([1e-3, 1e-2], [0.5, 2.0], [3, 11]))
  lr, a, seed = (np.array(column) for column in zip(*grid, strict=True))
  members = {
    "lr": lr.astype(np.float32),
    "block_multiplier": a.astype(np.float32),
    "seed": seed.astype(np.int32),
  }
  task = Task(model=model(1.0), optimizer="adam", batch_size=BATCH)
  data = task.data(load("digits", None), (3, 11), STEPS)
  found = run_sweep(task.init, task.step, members, data, steps=STEPS)
  expected = [by_hand(*member) for member in grid]
  np.testing.assert_allclose(found.losses, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_matrix_optimizers_train_in_a_sweep(name):
  """One rate serves Muon's matrices and Adam's vectors: Muon's entries are 0.2 there."""
  task = Task(model=model(1.0), optimizer=name, batch_size=BATCH)
  members = {
    "lr": np.array([0.0, 0.01], np.float32),
    "block_multiplier": np.ones(2, np.float32),
    "seed": np.zeros(2, np.int32),
  }
  data = task.data(load("digits", None), (0,), 4)
  found = run_sweep(task.init, task.step, members, data, steps=4)
  assert np.isfinite(found.losses).all()
  assert found.losses[0, 0] == found.losses[1, 0]
  assert abs(found.losses[1, 3] - found.losses[0, 3]) > 1e-3


def test_muon_moves_matrices_as_far_as_adam():
  scales = {"w": dmup.resolve("embed -> embed", (64, 64), P)}
  g = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
  rms = {}
  for name in ("muon", "adam"):
    tx = scaled_direction(name, scales)
    update = jax.jit(lambda g, tx=tx: tx.update(g, tx.init(g), g)[0])(g)["w"]
    # 64 is 8 times the base width: Muon at 8^-1/2 of its rate, Adam at 1/8
    rms[name] = float(np.sqrt(np.mean(update**2))) * 8 ** (0.5 if name == "muon" else 1)
  assert rms["adam"] == pytest.approx(1, rel=1e-3)
  assert 0.14 < rms["muon"] / rms["adam"] < 0.24
