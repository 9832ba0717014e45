"""Every preset x every optimizer x (scan, loop, sharded), on a net that trains.

At the base size a preset is standard parametrization, bit for bit; away from it the
factors are those of the tables, the three width tables are one, and the three forms of a
net train alike; nothing compiles on the second step. A program depends on its preset
through the numbers of its scales alone, so that all pairs are held to their numbers, and
a part of them is trained; `make test-slow` trains them all.
"""

import jax
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from tests.conformance_nets import (
  ADAM_ONLY,
  DEPTH,
  OPTIMIZERS,
  PAIRS,
  PRESETS,
  WIDTH,
  X,
  train,
)
from tests.helpers import residual_mlp

BASE = {"base_width": WIDTH, "base_depth": DEPTH}
SMALLER = {"base_width": 4, "base_depth": 2}
ALL = PRESETS | ADAM_ONLY


def numbers(p, family, width=WIDTH, depth=DEPTH):
  """Parameter -> (std, multiplier, gradient, update), as the optimizer applies them."""
  model = residual_mlp(p, width=width, depth=depth)
  found = {}
  scales = dmup.abstract_init(model, jax.random.key(0), X)[1]
  for path, s in jax.tree_util.tree_leaves_with_path(scales):
    factors = (family or dmup.ENTRYWISE).factors(s)
    found[path[-2].key] = (s.init_std, s.multiplier, *factors)
  return found


@pytest.mark.parametrize(("preset", "optimizer"), PAIRS)
def test_base_size_has_the_numbers_of_standard(preset, optimizer):
  family = OPTIMIZERS[optimizer][1]
  p = ALL[preset](**BASE)
  assert numbers(p, family) == numbers(dmup.standard(**BASE), family)
  assert p.branch_multiplier(DEPTH) == 1


#: Adam's rates of (input, hidden, readout) at width x 4 and depth x 2, and the readout's
#: std, as its tables say.
RATES = {
  "mup": ((1, 1 / 4, 1), 1),
  "mup, table 3": ((1, 1 / 4, 1 / 4), 1 / 4),
  "mup, table 9": ((1 / 2, 1 / 4, 1 / 2), 1 / 2),
  "depth_mup": ((1, 2**-2.5, 1 / 4), 1 / 4),
  "ode": ((1, 1 / 4, 1 / 4), 1 / 4),
  "complete_p": ((1, 1 / 4, 1), 1),
  "2/3:1/5": ((1, 2**-2.2, 1 / 4), 1 / 4),
  "complete_p_paper": ((1, 1 / 4, 1), 1),
  "complete_p_eleuther": ((1, 1 / 4, 1), 1),
  "complete_d_p": ((1, 1 / 4, 1 / 4), 1 / 4),
  "u_mup": ((1 / 2, 2**-1.5, 1), 1),
  "mup_package": ((1, 1 / 4, 1), 1),
  "megatron_depth_mup": ((1, 1 / 4, 1), 1),
  "mini_cpm": ((1, 1 / 4, 1), 1),
}
#: What an optimizer's family makes of them, at fan_in x 4 and fan_out x 4 where wide.
ON_TOP = {
  "muon": (2, 4, 2),
  "shampoo": (2, 4, 2),
  "normalized": (2, 4, 2),
  "factored": (1, 1, 1),
}
RELATIVE = ("adafactor", "lamb")


@pytest.mark.parametrize(("preset", "optimizer"), PAIRS)
def test_factors_are_those_of_the_tables(preset, optimizer):
  family = OPTIMIZERS[optimizer][1]
  found = numbers(ALL[preset](**SMALLER), family)
  rates, readout_std = RATES[preset]
  std = [
    1 / 2 if preset == "mup, table 9" else 1,
    1 if preset == "u_mup" else 1 / 2,
    readout_std,
  ]
  if optimizer in RELATIVE:
    on_top = [1 / s for s in std]
  else:
    on_top = ON_TOP.get(optimizer, (1, 1, 1))
  expected = [rate * more for rate, more in zip(rates, on_top, strict=True)]
  updates = [found[name][3] for name in ("input", "dense_0", "readout")]
  np.testing.assert_allclose(updates, expected, rtol=1e-12)


def held_at_base(preset, optimizer):
  expected, _ = train(dmup.standard(**BASE), OPTIMIZERS[optimizer])
  losses, later = train(ALL[preset](**BASE), OPTIMIZERS[optimizer])
  assert losses == expected
  assert losses[0] != losses[-1]
  assert later == []


def held_in_every_form(preset, optimizer):
  """Tolerance: rounding, amplified by three steps of an adaptive optimizer."""
  p = ALL[preset](**SMALLER)
  scan, later = train(p, OPTIMIZERS[optimizer])
  assert later == []
  for form in ("loop", "sharded"):
    losses, later = train(p, OPTIMIZERS[optimizer], form)
    np.testing.assert_allclose(losses, scan, rtol=1e-3, err_msg=form)
    assert later == []


#: Those trained in the fast suite: of each width rule, of each family.
SOME = [
  ("complete_p", "sgd"),
  ("depth_mup", "muon"),
  ("u_mup", "adafactor"),
  ("complete_p_paper", "adam"),
  ("mup, table 9", "momentum"),
  ("mini_cpm", "shampoo"),
  ("complete_d_p", "lion"),
  ("2/3:1/5", "factored"),
]


@pytest.mark.parametrize(("preset", "optimizer"), SOME)
def test_base_size_trains_as_standard(preset, optimizer):
  held_at_base(preset, optimizer)


@pytest.mark.parametrize(("preset", "optimizer"), SOME[:3])
def test_scan_loop_and_shards_train_alike(preset, optimizer):
  held_in_every_form(preset, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "optimizer"), PAIRS)
def test_all_pairs_train(preset, optimizer):
  held_at_base(preset, optimizer)
  held_in_every_form(preset, optimizer)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_width_tables_train_alike(optimizer):
  """Tolerance: rounding, amplified by three steps of an adaptive optimizer."""
  runs = []
  for rule in (dmup.TABLE_3, dmup.TABLE_8, dmup.TABLE_9):
    p = dmup.depth_mup(**SMALLER, width_rule=rule)
    runs.append(train(p, OPTIMIZERS[optimizer], lr=0.01)[0])
  np.testing.assert_allclose(runs[1], runs[0], rtol=2e-4)
  np.testing.assert_allclose(runs[2], runs[0], rtol=2e-4)


def test_standard_trains_otherwise_when_wide():
  """The gauntlet above can fail: away from the base size the presets differ."""
  adam = optax.scale_by_adam, None
  losses = [train(p(**SMALLER), adam)[0] for p in (dmup.standard, dmup.mup)]
  assert abs(losses[0][-1] - losses[1][-1]) > 1e-3
