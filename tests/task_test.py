"""The experiment's task in the sweep engine, against nets trained by hand."""

import itertools

import jax
import numpy as np
import optax

import flax_depthmup as dmup
from experiments._lib.data import epoch_order, load
from experiments._lib.task import Task
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
