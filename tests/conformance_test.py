"""Every preset x every optimizer through the same gauntlet, on a net that trains.

At the base size a preset is standard parametrization, bit for bit; away from it
the three width tables are one; nothing compiles on the second step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from tests.helpers import INNER, compilations, inputs, residual_mlp

PRESETS = {
  "mup": dmup.mup,
  "depth_mup": dmup.depth_mup,
  "ode": dmup.ode,
  "complete_p": dmup.complete_p,
  "2/3:1/5": lambda **sizes: dmup.depthwise(alpha="2/3", gamma="1/5", **sizes),
}
WIDTH, DEPTH = 16, 4
Y = jnp.arange(5) % 3


def train(p, inner, steps=4, lr=0.05):
  """Losses of a few steps, and the compiled step's compilations after the first."""
  model = residual_mlp(p, width=WIDTH, depth=DEPTH)
  params, scales = dmup.init(model, jax.random.key(0), inputs())
  tx = optax.chain(dmup.scale_by_parametrization(inner, scales), optax.scale(-lr))
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    def loss_of(params):
      logits = model.apply({"params": params}, inputs())
      return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  losses, later = [], []
  for t in range(steps):
    with compilations() as names:
      params, state, loss = step(params, state)
    later += names if t else []
    losses.append(float(loss))
  return losses, later


@pytest.mark.parametrize("optimizer", INNER)
@pytest.mark.parametrize("preset", PRESETS)
def test_base_size_trains_as_standard(preset, optimizer):
  sizes = {"base_width": WIDTH, "base_depth": DEPTH}
  expected, _ = train(dmup.standard(**sizes), INNER[optimizer]())
  losses, later = train(PRESETS[preset](**sizes), INNER[optimizer]())
  assert losses == expected
  assert losses[0] != losses[-1]
  assert later == []


@pytest.mark.parametrize("optimizer", INNER)
def test_the_width_tables_train_alike(optimizer):
  """Tolerance: rounding, amplified by four steps of an adaptive optimizer."""
  runs = []
  for rule in (dmup.TABLE_3, dmup.TABLE_8, dmup.TABLE_9):
    p = dmup.depth_mup(base_width=4, base_depth=2, width_rule=rule)
    runs.append(train(p, INNER[optimizer](), lr=0.01)[0])
  np.testing.assert_allclose(runs[1], runs[0], rtol=2e-4)
  np.testing.assert_allclose(runs[2], runs[0], rtol=2e-4)


def test_standard_trains_otherwise_when_wide():
  """The gauntlet above can fail: away from the base size the presets differ."""
  sizes = {"base_width": 4, "base_depth": 2}
  losses = [train(p(**sizes), optax.scale_by_adam())[0] for p in (dmup.standard, dmup.mup)]
  assert abs(losses[0][-1] - losses[1][-1]) > 1e-3
