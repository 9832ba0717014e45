"""Coordinates of real nets: against plain formulas, and with mistakes planted.

Residual MLPs of width 64 on 32 digits, Adam, depths 8, 32 and 128, five fixed seeds.
Slopes have standard errors of at most 0.06; each mistake moves some slope by 0.35 or
more, the tolerance is 0.15.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib import coordinate_faults
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import (
  coordinate_rows,
  sizes_of,
)
from tests.coordinate_nets import (
  DECAY,
  EPS,
  P,
  X,
  adamw,
  check,
  loss,
  net,
  rows_of,
  training,
)


def test_a_sound_net_passes():
  found = check()
  assert found.passed is True, found.reason
  assert {s.probe for s in found.slopes} == {"training", "eps", "decay"}
  columns = "width depth module t l1 l2 mean std optimizer lr seed quantity probe zone"
  assert set(found.rows[0]) == set(columns.split())


@pytest.mark.slow
def test_a_sound_net_passes_over_width():
  """With the ODE scaling, whose width rule is the same; wide nets, as corrections to
  the readout's movements fall only as 1/sqrt(n), and without the probe of eps, where
  those corrections still give the output a slope of -0.15."""
  p = dmup.ode(base_width=128, base_depth=8)
  found = check(functools.partial(net, p=p), eps=None, widths=(128, 256, 512), depths=(8,))
  assert found.passed is True, found.reason
  assert {s.axis for s in found.slopes} == {"width"}


def spoilt(fault):
  """The check with one mistake planted."""
  if fault in coordinate_faults.OF_MODEL:
    spoil = coordinate_faults.OF_MODEL[fault]
    return check(lambda width, depth: spoil(net(width, depth)))
  if fault == "decay_inside":
    return check(optimizer=coordinate_faults.decay_inside(EPS, DECAY))
  return check(optimizer=coordinate_faults.OF_OPTIMIZER[fault](adamw))


#: Mistake -> a slope that must give it away: (probe, quantity, module).
SYMPTOMS = {
  "no_branch_multiplier": ("training", "value", "stack"),
  "no_mean_subtraction": ("training", "value", "stack"),
  "no_update_factor": ("training", "branch", "stack/block"),
  "update_factor_everywhere": ("training", "change", "input"),
  "plain_eps": ("eps", "branch", "stack/block"),
  "decay_inside": ("decay", "parameter", "stack/block/dense_0/kernel"),
}


@pytest.mark.parametrize("fault", coordinate_faults.NAMES)
def test_a_planted_mistake_turns_the_check_red(fault):
  found = spoilt(fault)
  assert found.passed is False
  assert SYMPTOMS[fault] in {(s.probe, s.quantity, s.module) for s in found.failures}


def test_full_size_gradients_hide_a_wrong_eps():
  """Why there is a probe for it."""
  failures = spoilt("plain_eps").failures
  assert {s.probe for s in failures} == {"eps"}


def test_weight_decay_alone_moves_by_what_it_says():
  rows = coordinate_rows(net(64, 8), training(), 64, 8, {"decay": 0.0})
  assert {r["quantity"] for r in rows} == {"parameter"}
  shrunk = 1 - (1 - 2**-10 * DECAY) ** 3
  for row in rows:
    assert row["l2"] == pytest.approx(shrunk, rel=1e-3)


def test_against_the_formula():
  """Values, changes and updates of branches after one step, by plain linear algebra."""
  model = net(16, 4)
  params, scales = dmup.init(model, jax.random.key(0), X)
  tx = adamw(scales, 2**-10)
  grads = jax.grad(lambda p: loss(model.apply({"params": p}, X)))(params)
  moved = optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])
  a = 0.7 * P.branch_multiplier(4)

  def branch(x, w):
    y = np.maximum(np.asarray(x @ w), 0)
    return y - y.mean(-1, keepdims=True)

  def stream(params):
    xs = [X @ params["input"]["kernel"]]
    for w in params["stack"]["block"]["dense_0"]["kernel"]:
      xs.append(xs[-1] + a * branch(xs[-1], w))
    return np.array(xs)

  def rms(x):
    return np.sqrt(np.mean(np.square(x)))

  found = rows_of(model, steps=1, times=(1,))
  then, now = stream(params), stream(moved)
  kernels = [p["stack"]["block"]["dense_0"]["kernel"] for p in (params, moved)]
  update = np.array(
    [branch(x, new) - branch(x, old) for x, old, new in zip(now, *kernels, strict=False)]
  )
  expected = {
    ("value", "stack/Residual", 0): then[1:],
    ("value", "stack", 1): now[-1],
    ("change", "stack", 1): now[-1] - then[-1],
    ("change", "stack/Residual", 1): (now - then)[1:],
    ("change", "input", 1): now[0] - then[0],
    ("branch", "stack/block", 1): update,
  }
  for key, x in expected.items():
    assert found[key]["l2"] == pytest.approx(rms(x), rel=1e-3), key
    assert found[key]["l1"] == pytest.approx(np.abs(x).mean(), rel=1e-3), key
    assert found[key]["mean"] == pytest.approx(x.mean(), rel=1e-3, abs=1e-6), key


class Looped(nn.Module):
  """The stack as a loop in Python."""

  depth: int = 4
  parametrization: dmup.Parametrization = P

  @nn.compact
  def __call__(self, x):
    p = self.parametrization
    x = dmup.Dense(16, "(inputs) -> embed", p, name="input")(x)
    for i in range(self.depth):
      block = dmup.Dense(16, "embed -> embed", p, name=f"block_{i}")
      x = dmup.Residual(block, self.depth, p, name=f"add_{i}")(x)
    return dmup.Readout(10, p, name="readout")(x)


def test_the_blocks_of_a_loop_are_one_row():
  found = rows_of(Looped())
  assert ("value", "block", 3) in found
  assert ("branch", "block", 3) in found
  assert not [key for key in found if "block_" in key[1]]
  assert found["change", "add", 3]["zone"] == "inside"
  assert found["change", "readout", 3]["zone"] == "after"


@pytest.mark.slow
def test_a_transformer_shows_both_branches():
  sizes = dmup.axis_sizes(width=16, heads=2)
  p = dmup.complete_p(base_width=sizes, base_depth=2)
  model = dmup.Transformer(16, 2, 11, 2, p, remat=True)
  tokens = jnp.arange(12).reshape(2, 6) % 11
  found = rows_of(model, inputs=tokens, loss=lambda out: jnp.mean(out**2))
  branches = {key[1] for key in found if key[0] == "branch"}
  assert branches == {"layers/attention", "layers/mlp"}
  zones = {key[1]: row["zone"] for key, row in found.items()}
  assert zones["embed"] == "before"
  assert zones["layers/mlp/up"] == zones["layers"] == "inside"
  assert zones["norm"] == zones["output"] == "after"


class Curious(nn.Module):
  """Keeps intermediates of its own, gives a dictionary, and calls one norm twice."""

  parametrization: dmup.Parametrization = P

  @nn.compact
  def __call__(self, x):
    p = self.parametrization
    norm = nn.RMSNorm(use_scale=False, name="norm")
    x = norm(dmup.Dense(16, "(inputs) -> embed", p, name="input")(x))
    x = dmup.Residual(Sowing(name="block0"), 2, p, name="add0")(x)
    x = dmup.Residual(Sowing(name="block1"), 2, p, name="add1")(x)
    return {"logits": dmup.Readout(10, p, name="readout")(norm(x))}


class Sowing(nn.Module):
  """A branch that sows something large."""

  @nn.compact
  def __call__(self, x):
    self.sow("intermediates", "extra", 1e3 * jnp.ones(100))
    return dmup.Dense(16, "embed -> embed", P, name="dense")(x)


def test_only_what_modules_give_is_taken():
  found = rows_of(Curious(), loss=lambda out: loss(out["logits"]))
  assert found["value", "block", 3]["l2"] < 10  # not what was sown
  assert found["change", "output", 3]["l2"] > 0  # the dictionary's
  assert ("branch", "block", 3) in found  # block0 and block1 are one
  assert found["change", "norm", 3]["zone"] is None
  assert found["change", "input", 3]["zone"] == "before"


class Dropping(nn.Module):
  parametrization: dmup.Parametrization = P

  @nn.compact
  def __call__(self, x):
    x = dmup.Dense(16, "(inputs) -> embed", P)(x)
    return dmup.Residual(nn.Dropout(0.5, deterministic=False), 2, P)(x)


def test_dropout_is_refused():
  with pytest.raises(DepthMupError, match="Dropping draws random numbers"):
    rows_of(Dropping())


def test_sizes_in_any_order_and_kind():
  assert sizes_of(np.array([64]), (32, 8, 16)) == [(64, 8), (64, 16), (64, 32)]
