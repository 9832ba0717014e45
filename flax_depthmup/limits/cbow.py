r"""Word2Vec in muP, continuous bag of words, at finite width and in its exact limit.

Tensor Programs IV (arXiv 2011.14522), Word2Vec: the loss is (34) and
(37) there, whose signs are misprinted, the step (38). Each of |V| words has an input
embedding U_w, its feature, and an output embedding V_w, both of width n. For a centre
word with context words J, and targets tau of label y = 1 (the centre) or 0 (words drawn
at random, the negatives),

  h = 1/|J| sum_{j in J} U_j,   f = <h, V_tau>,   loss = -y log s(f) - (1 - y) log s(-f)

with s the logistic function. One SGD step, learning rate eta and weight decay gamma,

  for each target   g = eta (y - s(f)),  e += g V_tau,
                    V_tau <- (1 - eta gamma) V_tau + g h
  for each context  U_j <- (1 - eta gamma) U_j + e/|J|

the targets one after another with h held fixed, e from values before their update, a word
that occurs twice being visited twice. Weight decay is lazy: it shrinks what a step visits.
With U_wi ~ N(0, 1/n), V_wi ~ N(0, sigma_v^2/n) and eta free of n this is muP: logits
and features move by Theta(1) at every width.

The net is linear in its one-hot input, so every row stays a combination of the 2|V|
initial rows, which are orthonormal as n grows: the finite closure of one-hidden-layer
linear nets. The limit is therefore the same step at h = 2|V| from

  U = [I, 0],   V = [0, sigma_v I],

exactly; with sigma_v = 0 the right half stays zero and h = |V| is enough. A word's row
of U then holds the coefficients of its feature, and cosines of rows are the limits of
cosines of embeddings. Finite nets approach it as n^(-1/2).

The batched step takes the gradients of B positions at one point and adds them up: it is
the sequential step to first order in eta. Layer: jax, numpy.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.batches import check_rate


class CbowPositions(NamedTuple):
  """What is drawn at B positions of a text, padded to C context words and K targets.

  Attributes:
    context: [B, C] words of the context, any valid word where there is none.
    mask: [B, C] 1.0 where there is one, else 0.0.
    targets: [B, K] words whose logits are trained.
    labels: [B, K] 1.0 for the centre word, 0.0 for a negative.
    weights: [B, K] 1.0, or 0.0 for a target that is skipped. A position whose mask and
      weights are all zero does nothing.
  """

  context: jax.Array
  mask: jax.Array
  targets: jax.Array
  labels: jax.Array
  weights: jax.Array


class CbowStep(NamedTuple):
  """The embeddings after a step, and what it saw.

  Attributes:
    u: [|V|, h] input embeddings.
    v: [|V|, h] output embeddings.
    loss: sum over positions and targets, each before its own update.
  """

  u: jax.Array
  v: jax.Array
  loss: jax.Array


def infinite_embeddings(
  vocabulary_size: int, sigma_v: float = 0.0
) -> tuple[jax.Array, jax.Array]:
  """U and V of infinite width, in float32.

  Args:
    vocabulary_size: |V|.
    sigma_v: of the output embeddings; the paper states 1, its code has 0.

  Returns:
    Two arrays [|V|, h]; h = |V| for sigma_v = 0, else 2|V|.

  Raises:
    DepthMupError: an argument is wrong.
  """
  check_size(vocabulary_size, "vocabulary_size")
  check_nonnegative(sigma_v, "sigma_v")
  return _diagonal(vocabulary_size, sigma_v)


@functools.partial(jax.jit, static_argnums=(0, 1))  # without a third matrix in memory
def _diagonal(words: int, sigma_v: float) -> tuple[jax.Array, jax.Array]:
  if not sigma_v:
    eye = jnp.eye(words, dtype=jnp.float32)
    return eye, jnp.zeros_like(eye)
  shape = (words, 2 * words)
  right = jnp.eye(*shape, k=words, dtype=jnp.float32)
  return jnp.eye(*shape, dtype=jnp.float32), sigma_v * right


def finite_embeddings(
  key: jax.Array,
  vocabulary_size: int,
  width: int,
  sigma_v: float = 0.0,
  *,
  uniform: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """U and V of width n at initialization, in float32.

  Args:
    key: of the draw.
    vocabulary_size: |V|.
    width: n.
    sigma_v: V has entries from N(0, sigma_v^2/n); the paper states 1, its code has 0.
    uniform: U has entries uniform on +-sqrt(3/n), as in the paper's code; else from
      N(0, 1/n), as in its text. Variance and limit are the same.

  Returns:
    Two arrays [|V|, n].

  Raises:
    DepthMupError: an argument is wrong.
  """
  check_size(vocabulary_size, "vocabulary_size")
  check_size(width, "width")
  check_nonnegative(sigma_v, "sigma_v")
  return _drawn(key, (vocabulary_size, width), sigma_v, uniform)


@functools.partial(jax.jit, static_argnames=("shape", "sigma_v", "uniform"))
def _drawn(
  key: jax.Array, shape: tuple[int, int], sigma_v: float, uniform: bool
) -> tuple[jax.Array, jax.Array]:
  of_u, of_v = jax.random.split(key)
  size = shape[1] ** -0.5  # standard deviation of an entry
  if uniform:
    edge = 3**0.5 * size
    u = jax.random.uniform(of_u, shape, jnp.float32, -edge, edge)
  else:
    u = jax.random.normal(of_u, shape, jnp.float32) * size
  if not sigma_v:
    return u, jnp.zeros_like(u)
  return u, jax.random.normal(of_v, shape, jnp.float32) * (sigma_v * size)


def cbow_sequential_step(
  u: jax.Array,
  v: jax.Array,
  positions: CbowPositions,
  lr: Any,
  weight_decay: Any,
  *,
  lazy: bool = True,
) -> CbowStep:
  """The step at each of B positions, one after another, exactly as in the formulas.

  Args:
    u: [|V|, h] input embeddings, of a floating type.
    v: [|V|, h] output embeddings, of the same.
    positions: B of them.
    lr: eta, a number of at least 0, or traced.
    weight_decay: gamma, likewise.
    lazy: rows are shrunk when visited; else at every position all of both matrices
      lose eta gamma times what they were before it, as in the paper's pseudo-code.

  Raises:
    DepthMupError: shapes or types do not fit, a word is outside of the vocabulary, or lr
      or weight_decay is no such number.
  """
  u, v, positions, lr, decay = _checked(u, v, positions, lr, weight_decay)

  def visit(carry: Any, position: CbowPositions) -> tuple[Any, jax.Array]:
    u, v = carry
    share = position.mask / jnp.maximum(position.mask.sum(), 1)  # 1/|J| of each word
    h = share @ _rows(u, position.context)

    def target(carry: Any, drawn: Any) -> tuple[Any, jax.Array]:
      v, e = carry
      word, label, weight = drawn
      row = _rows(v, word)
      f = h @ row
      g = lr * weight * (label - jax.nn.sigmoid(f))
      kept = 1 - decay * weight if lazy else 1.0
      return (v.at[word].set(kept * row + g * h), e + g * row), weight * _loss(f, label)

    def context(u: jax.Array, drawn: Any) -> tuple[jax.Array, None]:
      word, there, part = drawn
      kept = 1 - decay * there if lazy else 1.0
      return u.at[word].set(kept * _rows(u, word) + part * e), None

    drawn = (position.targets, position.labels, position.weights)
    (new_v, e), losses = jax.lax.scan(target, (v, jnp.zeros_like(h)), drawn)
    new_u, _ = jax.lax.scan(context, u, (position.context, position.mask, share))
    if not lazy:
      lost = decay * _active(position)
      new_u, new_v = new_u - lost * u, new_v - lost * v
    return (new_u, new_v), losses.sum()

  (u, v), losses = jax.lax.scan(visit, (u, v), positions)
  return CbowStep(u, v, losses.sum())


def cbow_batched_step(
  u: jax.Array,
  v: jax.Array,
  positions: CbowPositions,
  lr: Any,
  weight_decay: Any,
  *,
  lazy: bool = True,
) -> CbowStep:
  """One step on the sum of the losses of B positions.

  Arguments, result and errors are those of `cbow_sequential_step`, to which it is equal
  to first order in lr. A row visited m times in a batch moves by the sum of m gradients
  at one point, so keep B small against |V|.
  """
  u, v, positions, lr, decay = _checked(u, v, positions, lr, weight_decay)
  context, mask, targets, labels, weights = positions
  share = mask / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
  inputs, outputs = _rows(u, context), _rows(v, targets)
  h = jnp.einsum("bc,bch->bh", share, inputs)
  f = jnp.einsum("bh,bkh->bk", h, outputs)
  g = lr * weights * (labels - jax.nn.sigmoid(f))
  e = jnp.einsum("bk,bkh->bh", g, outputs)
  of_v = g[:, :, None] * h[:, None, :]
  of_u = share[:, :, None] * e[:, None, :]
  if lazy:
    of_v -= decay * weights[:, :, None] * outputs
    of_u -= decay * mask[:, :, None] * inputs
  else:
    kept = 1 - decay * jax.vmap(_active)(positions).sum()
    u, v = kept * u, kept * v
  u = u.at[context].add(of_u, mode="promise_in_bounds")
  v = v.at[targets].add(of_v, mode="promise_in_bounds")
  return CbowStep(u, v, (weights * _loss(f, labels)).sum())


def _loss(f: jax.Array, label: jax.Array) -> jax.Array:
  """-log s(f) for label 1, -log s(-f) for label 0."""
  return jax.nn.softplus((1 - 2 * label) * f)


def _rows(matrix: jax.Array, words: jax.Array) -> jax.Array:
  return matrix.at[words].get(mode="promise_in_bounds")


def _active(position: CbowPositions) -> jax.Array:
  """1.0, or 0.0 for padding."""
  return jnp.maximum(position.mask.max(), position.weights.max())


def _checked(
  u: Any, v: Any, positions: CbowPositions, lr: Any, weight_decay: Any
) -> tuple[jax.Array, jax.Array, CbowPositions, Any, Any]:
  """Arrays of jax, lr, and lr times decay; raises `DepthMupError` for what is wrong."""
  lr, weight_decay = check_rate(lr, "lr"), check_rate(weight_decay, "weight_decay")
  u, v = jnp.asarray(u), jnp.asarray(v)
  if u.dtype != v.dtype or not jnp.issubdtype(u.dtype, jnp.floating):
    raise DepthMupError(
      f"u in {u.dtype} and v in {v.dtype}: expected one floating type, such as float32"
    )
  if u.ndim != 2 or u.shape != v.shape:
    raise DepthMupError(
      f"u of shape {u.shape} and v of shape {v.shape}: expected one shape [words, width]"
    )
  shapes = [jnp.shape(x) for x in positions]
  good = all(len(shape) == 2 and shape[:1] == shapes[0][:1] for shape in shapes)
  if not good or shapes[0] != shapes[1] or len({*shapes[2:]}) > 1:
    raise DepthMupError(
      f"positions of shapes {', '.join(map(str, shapes))}: expected context and mask "
      "[B, C], and targets, labels and weights [B, K]"
    )
  for name in ("context", "targets"):
    words = getattr(positions, name)
    if isinstance(words, jax.core.Tracer) or not np.size(words):
      continue
    words = np.asarray(words)
    if words.dtype.kind not in "iu" or words.min() < 0 or words.max() >= len(u):
      raise DepthMupError(
        f"{name} holds {words.min()} to {words.max()} in {words.dtype}: expected whole "
        f"numbers from 0 to {len(u) - 1}, the rows of u"
      )
  positions = CbowPositions(*map(jnp.asarray, positions))
  return u, v, positions, lr, lr * weight_decay
