"""Coordinate slopes in width: what moves by which power of the width.

The slope, over widths 32 to 512 with heads of 16, of the logarithm of

  rms(f(t) - f(0))        the logits
  rms(x_L(t) - x_L(0))    the residual stream before the last norm

after 2 and 4 steps of Adam at 2^-7, a rate at which the loss falls from 3.4 to 2.6.
muP and CompleteP should have slope 0 (Tensor Programs V, appendix D); standard
parametrization at least 1/2. The readout starts at zero: at random it adds to f(0) a
part that shrinks as width^(-1/2) and is no fault.

Two seeds, fixed, drawn by numpy, so the numbers are those below but for rounding. Found:
the stream within 0.03 of 0, logits between -0.11 and -0.05 (finite width: above 128 it
is less), standard between 0.72 and 1.1. Tolerances: 0.1 and 0.2; above 0.5.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from tests.naive_transformer import quick_jit

VOCAB, STEPS = 32, (2, 4)
TEXT = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (4, 17)))
BASE = dmup.axis_sizes(width=32, heads=2)


def rms(x):
  return jnp.sqrt(jnp.mean(jnp.square(x)))


@functools.cache
def movement(preset, depth, width):
  """log2 rms of the movement of (logits, stream), [seeds, times, 2]."""
  p = preset(base_width=BASE, base_depth=2)
  model = dmup.Transformer(width, depth, VOCAB, width // 16, p, readout_std=0.0)
  shapes, scales = dmup.abstract_init(model, jax.random.key(0), TEXT)
  tx = dmup.adam(2**-7, scales, b2=0.95)

  def loss_of(params):
    logits, kept = model.apply(
      {"params": params},
      TEXT[:, :-1],
      capture_intermediates=lambda module, _: module.name == "layers",
      mutable=["intermediates"],
    )
    (stream, _), *_ = kept["intermediates"]["layers"]["__call__"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, TEXT[:, 1:])
    return losses.mean(), (logits, stream)

  def step(carry, _):
    params, state = carry
    grads, seen = jax.grad(loss_of, has_aux=True)(params)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), seen

  @quick_jit
  def run(start):
    _, seen = jax.lax.scan(step, (start, tx.init(start)), length=max(STEPS) + 1)
    return jnp.array([[rms(x[t] - x[0]) for x in seen] for t in STEPS])

  def start(seed):
    rng = np.random.default_rng(seed)

    def draw(path, x, s):
      if path[-1].key == "scale":  # of a norm
        return np.ones(x.shape, np.float32)
      return rng.normal(0, s.init_std, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes, scales)

  return np.log2([run(start(seed)) for seed in (0, 1)])


def slopes(preset, depth, widths):
  """Over log2 width of (logits, stream), [times, 2], of the mean over seeds."""
  moved = np.array([movement(preset, depth, width).mean(axis=0) for width in widths])
  fit = np.polyfit(np.log2(widths), moved.reshape(len(widths), -1), 1)
  return fit[0].reshape(len(STEPS), 2)


@pytest.mark.parametrize(
  ("preset", "depth", "widths"),
  [
    (dmup.mup, 2, (32, 512)),
    pytest.param(dmup.mup, 2, (32, 128, 512), marks=pytest.mark.slow),
    pytest.param(dmup.complete_p, 4, (32, 512), marks=pytest.mark.slow),
  ],
)
def test_under_mup_and_complete_p_movements_are_flat_in_width(preset, depth, widths):
  logits, stream = slopes(preset, depth, widths).T
  np.testing.assert_allclose(logits, 0, atol=0.2)
  np.testing.assert_allclose(stream, 0, atol=0.1)


@pytest.mark.slow
def test_under_standard_parametrization_movements_grow_with_width():
  assert (slopes(dmup.standard, 2, (32, 512)) > 0.5).all()
