"""Exact: under Adam, (1/2, 0) is Depth-muP with the learning rate shifted.

Blocks only trained, the update factor (L/L0)^(-1/2) is the only difference, so
the loss curve over log2 eta is the Depth-muP curve moved by half an octave per
doubling (Tensor Programs VI, Figure 10).
"""

import numpy as np
import pytest

import flax_depthmup as dmup
from experiments._lib.data import load
from experiments._lib.task import Task
from flax_depthmup.sweeps import run_sweep

STEPS, BASE = 40, 4
RATES = np.arange(-10, -6.9, 0.5)


def losses(gamma, depth, rates, optimizer):
  p = dmup.depthwise(alpha="1/2", gamma=gamma, base_width=32, base_depth=BASE)
  model = dmup.ResidualMLP(32, depth, 10, p, train_boundary=False)
  task = Task(model=model, optimizer=optimizer, batch_size=32)
  members = {
    "lr": (2.0**rates).astype(np.float32),
    "seed": np.zeros(len(rates), np.int32),
    "block_multiplier": np.ones(len(rates), np.float32),
  }
  data = task.data(load("digits", None), (0,), STEPS)
  return run_sweep(task.init, task.step, members, data, steps=STEPS, per_device=2).losses


@pytest.mark.parametrize(
  ("depth", "optimizer"),
  [
    (4, "adam"),
    pytest.param(16, "lion", marks=pytest.mark.slow),
    *(pytest.param(d, "adam", marks=pytest.mark.slow) for d in (8, 16)),
  ],
)
def test_shift(depth, optimizer):
  """Rates to 2^-7, 40 steps: rounding is not amplified beyond 1e-3 (bitwise where
  the factor is a power of two)."""
  octaves = 0.5 * np.log2(depth / BASE)
  depth_mup = losses("1/2", depth, RATES, optimizer)
  shifted = losses(0, depth, RATES - octaves, optimizer)
  if float(octaves).is_integer():
    np.testing.assert_array_equal(shifted, depth_mup)
  np.testing.assert_allclose(shifted, depth_mup, rtol=1e-3)
  if octaves:
    assert np.abs(losses(0, depth, RATES, optimizer) / depth_mup - 1).max() > 0.05
