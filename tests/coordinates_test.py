"""Coordinate slopes in depth: what moves by which power of L.

After a few Adam steps, log-log slopes over L = 16..128 of (theory: Tensor
Programs VI, section 7)

  rms(x_L(t) - x_L(0))        1 - alpha - gamma
  rms((W(t) - W(0)) x)        -gamma

at width 256, ReLU with mean subtraction, boundary frozen, 32 digits, branch
multiplier 1/8 at L0 = 16, where finite-L corrections are small. Two seeds,
fixed; the slopes scatter between seeds by less than 0.02, the tolerance is 0.1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from experiments._lib.data import load

DEPTHS = (16, 32, 64, 128)
A, L0, WIDTH = 0.125, 16, 256
SMALL, LARGE = 1e-5, 3e-4
_DIGITS = load("digits", None)
X, Y = _DIGITS.x[:32], _DIGITS.y[:32]


def features(params, multiplier):
  """x_L [batch, n] and the inputs of the blocks [L, batch, n], by the paper's formula."""

  def block(x, w):
    phi = jax.nn.relu(x @ w)
    return x + multiplier * (phi - phi.mean(-1, keepdims=True)), x

  kernels = params["stack"]["block"]["dense_0"]["kernel"]
  return jax.lax.scan(block, X @ params["input"]["kernel"], kernels)


def rms(x):
  return jnp.sqrt(jnp.mean(jnp.square(x)))


@functools.cache
def measured(alpha, gamma):
  """log2 of (rms dx, rms dW x), [depths, seeds, rates, times, 2]; times 1 and 10."""
  return np.log2([_at_depth(alpha, gamma, depth) for depth in DEPTHS])


def _at_depth(alpha, gamma, depth):
  p = dmup.depthwise(alpha=alpha, gamma=gamma, base_width=WIDTH, base_depth=L0)
  model = dmup.ResidualMLP(WIDTH, depth, 10, p, block_multiplier=A, train_boundary=False)
  scales = dmup.abstract_init(model, jax.random.key(0), X)[1]
  multiplier = A * p.branch_multiplier(depth)

  @jax.jit
  def run(seed, lr):
    start = dmup.init(model, jax.random.key(seed), X)[0]
    tx = dmup.adam(lr, scales)

    def loss_of(params):
      logits = model.apply({"params": params}, X)
      return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    def step(carry, _):
      params, state = carry
      updates, state = tx.update(jax.grad(loss_of)(params), state, params)
      params = optax.apply_updates(params, updates)
      return (params, state), None

    def sizes(params):
      x, inputs = features(params, multiplier)
      moved = jax.tree.map(lambda a, b: a - b, params, start)
      moved = moved["stack"]["block"]["dense_0"]["kernel"]
      return rms(x - features(start, multiplier)[0]), rms(inputs @ moved)

    one, _ = step((start, tx.init(start)), None)
    ten, _ = jax.lax.scan(step, one, length=9)
    return jnp.array([sizes(one[0]), sizes(ten[0])])

  return [[run(seed, lr) for lr in (SMALL, LARGE)] for seed in (0, 1)]


def slopes(alpha, gamma, rate, time):
  """Slopes over L of (dx, dW x), mean over the seeds."""
  table = measured(alpha, gamma)[:, :, (SMALL, LARGE).index(rate), (1, 10).index(time)]
  return np.polyfit(np.log2(DEPTHS), table.mean(axis=1), 1)[0]


STABLE = [
  *(
    pytest.param(p, marks=pytest.mark.slow)
    for p in (
      ("1/2", "1/2"),
      (1, 0),
      ("3/4", "1/4"),
      ("1/2", 1),
      (1, "1/2"),
      ("3/4", "3/4"),
    )
  ),
]
UNSTABLE = [pytest.param((a, 0), marks=pytest.mark.slow) for a in ("1/2", "3/4")]


def check(alpha, gamma, rate, time):
  a, g = (
    float(dmup.depthwise(alpha=x, gamma=0, base_width=1, base_depth=1).alpha)
    for x in (alpha, gamma)
  )
  dx, dwx = slopes(alpha, gamma, rate, time)
  assert dx == pytest.approx(1 - a - g, abs=0.1)
  assert dwx == pytest.approx(-g, abs=0.1)


@pytest.mark.parametrize("point", STABLE, ids=str)
@pytest.mark.parametrize("rate", [SMALL, LARGE])
@pytest.mark.parametrize("time", [1, 10])
def test_predicted_exponents(point, rate, time):
  check(*point, rate, time)


@pytest.mark.parametrize("point", UNSTABLE, ids=str)
@pytest.mark.parametrize(("rate", "time"), [(SMALL, 1), (SMALL, 10), (LARGE, 1)])
def test_predicted_exponents_of_unstable_points(point, rate, time):
  """Not at large rates after ten steps: there the update has left its power law."""
  check(*point, rate, time)


@pytest.mark.slow
def test_depth_mup_is_flat_and_standard_grows():
  for rate, time in ((SMALL, 1), (SMALL, 10), (LARGE, 1), (LARGE, 10)):
    assert abs(slopes("1/2", "1/2", rate, time)[0]) < 0.05
    assert slopes(0, 0, rate, time)[0] > 0.7
