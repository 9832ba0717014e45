"""The CBOW step, against a plain loop, and its limit of infinite width."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib import word2vec_demo
from experiments._lib.word2vec_sampler import Epoch, Sampling
from experiments._lib.word2vec_vocabulary import build
from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  CbowPositions,
  cbow_batched_step,
  cbow_sequential_step,
  finite_embeddings,
  infinite_embeddings,
)

WORDS, WIDTH = 12, 5
sequential = jax.jit(cbow_sequential_step, static_argnames="lazy")
batched = jax.jit(cbow_batched_step, static_argnames="lazy")


def positions(count=9, seed=0):
  """Random ones; words repeat in contexts and targets, some places are empty."""
  rng = np.random.default_rng(seed)
  context = rng.integers(0, WORDS, (count, 6))
  context[:, 1] = context[:, 0]  # a word that occurs twice
  mask = rng.random((count, 6)) < 0.7
  mask[:, :2] = True
  targets = rng.integers(0, WORDS, (count, 4))
  targets[:, 3] = targets[:, 2]
  labels = np.zeros((count, 4))
  labels[:, 0] = 1
  weights = rng.random((count, 4)) < 0.8
  weights[:, [0, 2, 3]] = True
  floats = (x.astype(np.float32) for x in (mask, labels, weights))
  mask, labels, weights = floats
  return CbowPositions(
    context.astype(np.int32), mask, targets.astype(np.int32), labels, weights
  )


def embeddings(seed=0):
  rng = np.random.default_rng(100 + seed)
  return rng.normal(size=(2, WORDS, WIDTH)).astype(np.float32)


def loop(u, v, positions, lr, decay, lazy=True):
  """The update of the paper's program, word by word, in float64."""
  u, v, loss = np.array(u, float), np.array(v, float), 0.0
  for context, mask, targets, labels, weights in zip(*positions, strict=True):
    old_u, old_v = u.copy(), v.copy()
    words = [j for j, there in zip(context, mask, strict=True) if there]
    if not words:
      continue
    shrink = 1 - lr * decay if lazy else 1.0
    h = sum(u[j] for j in words) / len(words)
    e = np.zeros_like(h)
    for tau, y, used in zip(targets, labels, weights, strict=True):
      if not used:
        continue
      p = 1 / (1 + np.exp(-(h @ v[tau])))
      loss -= np.log(p) if y else np.log(1 - p)
      g = lr * (y - p)
      e += g * v[tau]
      v[tau] = shrink * v[tau] + g * h
    for j in words:
      u[j] = shrink * u[j] + e / len(words)
    if not lazy:
      u, v = u - lr * decay * old_u, v - lr * decay * old_v
  return u, v, loss


@pytest.mark.parametrize("lazy", [True, False])
def test_sequential_step_is_the_plain_loop(lazy):
  u, v = embeddings()
  drawn = positions()
  want = loop(u, v, drawn, 0.3, 0.2, lazy)
  found = sequential(u, v, drawn, 0.3, 0.2, lazy=lazy)
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # float32 of nine steps


@pytest.mark.parametrize("lazy", [True, False])
def test_batched_step_differs_at_second_order(lazy):
  """Halving the learning rate quarters the difference from the sequential step."""
  u, v = embeddings()
  drawn = positions()

  def difference(lr):
    moved = batched(u, v, drawn, lr, 0.2, lazy=lazy)
    want = loop(u, v, drawn, lr, 0.2, lazy)
    moves = max(np.abs(w - x).max() for w, x in zip(want[:2], (u, v), strict=True))
    apart = max(np.abs(m - w).max() for m, w in zip(moved[:2], want[:2], strict=True))
    return apart, moves

  (wide, _), (narrow, moves) = difference(0.02), difference(0.01)
  assert 3.5 < wide / narrow < 4.5
  assert narrow < 0.1 * moves
  # The first position alone sees what the sequential step sees, up to repeated words.
  first = CbowPositions(*(x[:1] for x in drawn))
  found, want = batched(u, v, first, 1e-3, 0.2), loop(u, v, first, 1e-3, 0.2)
  assert float(found.loss) == pytest.approx(want[2], rel=1e-3)


def test_batched_step_is_the_gradient():
  """With labels as weights of the loss, the move is -lr times its gradient."""
  u, v = embeddings()
  c, mask, t, y, used = drawn = positions()

  def loss(u, v):
    h = jnp.einsum("bc,bch->bh", mask, u[c]) / mask.sum(axis=1)[:, None]
    f = jnp.einsum("bh,bkh->bk", h, v[t])
    return (used * -jnp.where(y, jax.nn.log_sigmoid(f), jax.nn.log_sigmoid(-f))).sum()

  value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(u, v)
  found = batched(u, v, drawn, 0.1, 0.0)
  assert float(found.loss) == pytest.approx(float(value), rel=1e-5)
  for new, old, gradient in zip(found, (u, v), gradients, strict=False):
    np.testing.assert_allclose(new - old, -0.1 * gradient, atol=1e-5)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("step", [sequential, batched])
def test_padding_does_nothing(step, lazy):
  u, v = embeddings()
  drawn = positions()
  padded = CbowPositions(*(np.pad(x, ((0, 3), (0, 2))) for x in drawn))
  for a, b in zip(
    step(u, v, drawn, 0.3, 0.2, lazy=lazy),
    step(u, v, padded, 0.3, 0.2, lazy=lazy),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_lazy_decay_leaves_other_rows():
  u, v = embeddings()
  first = (np.arange(9) < 2)[:, None]  # the others are padding
  c, mask, t, _, used = drawn = CbowPositions(*(x * first for x in positions()))
  for step in (sequential, batched):
    found = step(u, v, drawn, 0.3, 0.2)
    for new, old, ids, there in ((found.u, u, c, mask), (found.v, v, t, used)):
      same = [w for w in range(WORDS) if w not in ids[there > 0]]
      assert same
      np.testing.assert_array_equal(np.asarray(new)[same], old[same])


# Initialization ------------------------------------------------------------------------


def test_infinite_embeddings():
  u, v = infinite_embeddings(3)
  np.testing.assert_array_equal(u, np.eye(3))
  assert not np.asarray(v).any()
  u, v = infinite_embeddings(3, 0.5)
  np.testing.assert_array_equal(u, np.hstack([np.eye(3), np.zeros((3, 3))]))
  np.testing.assert_array_equal(v, np.hstack([np.zeros((3, 3)), 0.5 * np.eye(3)]))
  assert u.dtype == v.dtype == jnp.float32


def test_finite_embeddings_have_the_law():
  words, n = 200, 500  # 1e5 entries: the variance is known to 0.5 %
  key = jax.random.key(0)
  u, v = finite_embeddings(key, words, n)
  assert float(jnp.abs(u).max()) == pytest.approx((3 / n) ** 0.5, rel=1e-3)
  assert float(u.var()) * n == pytest.approx(1, rel=0.02)
  assert not np.asarray(v).any()
  u, v = finite_embeddings(key, words, n, 0.5, uniform=False)
  assert float((u**4).mean() / (u**2).mean() ** 2) == pytest.approx(3, rel=0.05)
  assert float(u.var()) * n == pytest.approx(1, rel=0.02)
  assert float(v.var()) * n == pytest.approx(0.25, rel=0.02)
  assert abs(float((u * v).mean())) * n < 0.01


def test_right_half_stays_zero():
  """With V = 0 the coefficients of the initial output rows are never needed."""
  drawn = positions()
  u, v = infinite_embeddings(WORDS, 1.0)
  wide = batched(u, jnp.zeros_like(v), drawn, 0.3, 1e-3)
  for matrix in wide[:2]:
    assert not np.asarray(matrix[:, WORDS:]).any()
  narrow = batched(*infinite_embeddings(WORDS), drawn, 0.3, 1e-3)
  np.testing.assert_allclose(wide.u[:, :WORDS], narrow.u, atol=1e-6)
  np.testing.assert_allclose(wide.v[:, :WORDS], narrow.v, atol=1e-6)
  kept = batched(u, v, drawn, 0.3, 1e-3)
  assert np.abs(kept.v[:, WORDS:]).max() > 0.9


# Finite nets approach the limit ----------------------------------------------------------

BATCH = 10


@functools.cache
def stream(sentences):
  corpus = build(word2vec_demo.words(sentences), 1)
  sampling = Sampling(window=2, subsample=0.0, negatives=5)
  epoch = Epoch(corpus, sampling, 0, 0)
  blocks = [epoch.block(i) for i in range(epoch.blocks)]
  drawn = CbowPositions(*map(np.concatenate, zip(*blocks, strict=True)))
  count = len(drawn.mask) // BATCH
  return len(corpus.vocabulary), CbowPositions(
    *(x[: count * BATCH].reshape(count, BATCH, x.shape[1]) for x in drawn)
  )


@functools.partial(jax.jit, static_argnums=(3, 4))
def logits(u, v, batches, step, lazy):
  def one(carry, drawn):
    found = step(*carry, drawn, 0.3, 1e-3, lazy=lazy)
    return (found.u, found.v), None

  (u, v), _ = jax.lax.scan(one, (u, v), batches)
  return u @ v.T


def slope(widths, sentences, sigma_v=0.0, step=batched, seeds=2, lazy=True, **init):
  """Exponent of the rms distance of all logits to those of the limit.

  A mean over 91^2 logits of each seed, so the exponent hardly depends on the seeds.
  """
  words, batches = stream(sentences)
  goal = logits(*infinite_embeddings(words, sigma_v), batches, step, lazy)
  rms = []
  for n in widths:
    u, v = finite_embeddings(jax.random.key(n), words, n, sigma_v, **init)
    found = logits(u, v, batches, step, lazy)
    rms.append(float(jnp.sqrt(jnp.mean((found - goal) ** 2))))
  return float(np.polyfit(np.log(widths), np.log(rms), 1)[0]), rms


def test_logits_converge_in_width():
  found, _ = slope([32, 256, 1024], 500)
  assert -0.6 < found < -0.4


@pytest.mark.slow
def test_gaussian_embeddings_and_a_readout_converge_too():
  found, _ = slope([64, 256, 1024], 500, sigma_v=1.0, uniform=False)
  assert -0.6 < found < -0.4


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [True, False])
def test_logits_converge_in_width_sequentially(lazy):
  """Five doublings; n = 32, below |V|, is off the line: -0.7 to n = 64."""
  widths = [64, 128, 256, 512, 1024, 2048]
  found, _ = slope(widths, 1500, step=sequential, lazy=lazy)
  assert -0.6 < found < -0.4


# Wrong input ---------------------------------------------------------------------------


def test_wrong_input():
  u, v = embeddings()
  drawn = positions()
  with pytest.raises(DepthMupError, match=r"u of shape \(12, 5\) and v of shape \(12, 4\)"):
    cbow_batched_step(u, v[:, :4], drawn, 0.1, 0.0)
  with pytest.raises(DepthMupError, match="expected context and mask"):
    cbow_batched_step(u, v, drawn._replace(mask=drawn.mask[:, :3]), 0.1, 0.0)
  with pytest.raises(DepthMupError, match="expected context and mask"):
    cbow_sequential_step(u, v, drawn._replace(labels=drawn.labels[:4]), 0.1, 0.0)
  for wrong in (-1, WORDS):
    bad = drawn.targets.copy()
    bad[0, 0] = wrong
    with pytest.raises(
      DepthMupError, match=r"targets holds .*expected whole numbers from 0"
    ):
      cbow_sequential_step(u, v, drawn._replace(targets=bad), 0.1, 0.0)
  floats = drawn.context.astype(np.float32)
  with pytest.raises(DepthMupError, match="in float32"):
    cbow_batched_step(u, v, drawn._replace(context=floats), 0.1, 0.0)
  with pytest.raises(DepthMupError, match="vocabulary_size=0"):
    infinite_embeddings(0)
  with pytest.raises(DepthMupError, match="sigma_v=-1"):
    infinite_embeddings(3, -1)
  with pytest.raises(DepthMupError, match="width=2.5"):
    finite_embeddings(jax.random.key(0), 3, 2.5)
  with pytest.raises(DepthMupError, match="sigma_v=nan"):
    finite_embeddings(jax.random.key(0), 3, 2, float("nan"))


@pytest.mark.parametrize("step", [cbow_sequential_step, cbow_batched_step])
def test_embeddings_are_floats_of_one_type(step):
  """Whole numbers would lose every move."""
  whole = np.eye(WORDS, dtype=int)
  for u, v in ((whole, 0 * whole), (1.0 * whole, whole), (whole, 1.0 * whole)):
    with pytest.raises(DepthMupError, match="int32.*expected one floating type"):
      step(u, v, positions(), 0.5, 0.0)
  with pytest.raises(DepthMupError, match="u in float32 and v in bfloat16"):
    step(jnp.eye(WORDS), jnp.eye(WORDS, dtype=jnp.bfloat16), positions(), 0.5, 0.0)


@pytest.mark.parametrize("step", [cbow_sequential_step, cbow_batched_step])
@pytest.mark.parametrize("wrong", [-1.0, float("nan"), "a", None, np.ones(2)], ids=repr)
def test_rates_are_numbers(step, wrong):
  with pytest.raises(DepthMupError, match="lr="):
    step(*embeddings(), positions(), wrong, 0.0)
  with pytest.raises(DepthMupError, match="weight_decay="):
    step(*embeddings(), positions(), 0.1, wrong)


def test_rates_may_be_arrays_of_no_axis():
  u, v = embeddings()
  drawn = positions()
  want = batched(u, v, drawn, 0.25, 0.5)
  rates = jnp.asarray(0.25), np.array(0.5)
  found = jax.jit(lambda u, v: cbow_batched_step(u, v, drawn, *rates))(u, v)
  np.testing.assert_allclose(found.u, want.u, atol=1e-6)
