"""The limits of trained MLPs and of Word2Vec, for limit_convergence.

Four steps of two samples, and of the kernel regime three. Values: outputs on probes
before each step and after the last; of Word2Vec all logits, and the inner products of
all features, after forty positions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib import finite_abc, finite_mlp
from experiments._lib.limit_convergence_case import Case, doublings
from experiments._lib.limit_convergence_residual import square
from flax_depthmup.limits import (
  AbcParametrization,
  CbowPositions,
  LinearNet,
  abc_ntp,
  abc_sp,
  cbow_sequential_step,
  deep_linear_limit,
  finite_embeddings,
  finite_linear_net,
  infinite_embeddings,
  infinite_linear_net,
  kernel_regime_kernel,
  linear_outputs,
  linear_step,
  one_hidden_limit,
  particle_limit,
  quadrature_net,
)

_STEPS, _BATCH, _D_IN, _D_OUT, _PROBES = 4, 2, 2, 1, 3
_RATE = 0.3
#: Of a net in muP, by its hidden layers: three are linear, and fast.
_RATES = {1: 1.0, 2: 1.0, 3: 0.3}
#: Gauss-Hermite nodes an axis: f is within 1e-4 of the limit, nets of width 1024 are
#: within 1e-2.
_NODES = 48
#: Outputs in the kernel regime, where targets less f_0 differ from net to net: their
#: mean square scatters less.
_KERNEL_OUTPUTS = 8
_WORDS, _POSITIONS = 10, 40


def cases() -> dict[str, Case]:
  """Name -> case."""
  return {
    "linear_net": Case(
      words="one hidden, linear, clipping, weight decay",
      nets=_linear_nets,
      widths=doublings(32, 6),
      seeds=200,
    ),
    "one_hidden": Case(
      words="one hidden, tanh",
      nets=functools.partial(_mlp_nets, 1),
      widths=doublings(32),
      seeds=200,
    ),
    "deep_linear": Case(
      words="three hidden, linear",
      nets=functools.partial(_mlp_nets, 3),
      widths=doublings(32),
      seeds=60,
    ),
    "particles": Case(
      words="two hidden, tanh",
      nets=functools.partial(_mlp_nets, 2),
      widths=doublings(32),
      seeds=100,
    ),
    "ntp_kernel": Case(
      words="kernel regime, NTP, tanh",
      nets=functools.partial(_kernel_nets, abc_ntp(2)),
      widths=doublings(16),
      seeds=200,
    ),
    "sp_kernel": Case(
      words="kernel regime, SP with rate 1/n, tanh",
      nets=functools.partial(_kernel_nets, abc_sp(2)),
      widths=doublings(16),
      seeds=200,
    ),
    "word2vec": Case(words="Word2Vec", nets=_word_nets, widths=doublings(32, 6), seeds=100),
  }


def _data(d_out: int = _D_OUT) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Inputs of norm one on average, targets of size one, and probes."""
  rng = np.random.default_rng(1)
  x = rng.normal(size=(_STEPS, _BATCH, _D_IN)) / _D_IN**0.5
  y = rng.normal(size=(_STEPS, _BATCH, d_out))
  return x, y, rng.normal(size=(_PROBES, _D_IN)) / _D_IN**0.5


def _linear_nets(width: int, seeds: int) -> np.ndarray:
  x, y, probes = (jnp.asarray(a, jnp.float32) for a in _data(2))
  step = functools.partial(
    linear_step,
    lr=0.4,
    loss_derivative=square,
    clip=0.8,
    weight_decay=0.1,
    bias_multiplier=0.5,
  )

  def outputs(net: LinearNet) -> jax.Array:
    found = [linear_outputs(net, probes, 0.5)]
    for inputs, targets in zip(x, y, strict=True):
      net = step(net, inputs, targets)
      found.append(linear_outputs(net, probes, 0.5))
    return jnp.stack(found).ravel()

  def run(seed: jax.Array) -> jax.Array:
    return outputs(finite_linear_net(jax.random.key(seed), width, _D_IN, 2, 1.0, 1.0))

  found = jax.jit(jax.vmap(run))(jnp.arange(seeds))
  goal = outputs(infinite_linear_net(_D_IN, 2, 1.0, 1.0))
  return np.asarray(found, float) - np.asarray(goal, float)


def _mlp_nets(hidden_layers: int, width: int, seeds: int) -> np.ndarray:
  x, y, probes = _data()
  phi = _identity if hidden_layers == 3 else jnp.tanh
  _, found = finite_mlp.train_finite(
    width,
    range(seeds),
    x,
    y,
    square,
    _RATES[hidden_layers],
    phi,
    hidden_layers=hidden_layers,
    d_out=_D_OUT,
    probes=probes,
  )
  return (found - _mlp_limit(hidden_layers)).reshape(seeds, -1)


@functools.cache
def _mlp_limit(hidden_layers: int) -> np.ndarray:
  """Outputs [T + 1, P, d_out] of the probes: a method for each number of layers."""
  x, y, probes = _data()
  rate = _RATES[hidden_layers]
  if hidden_layers == 1:
    net = quadrature_net(_D_IN, _D_OUT, _NODES)
    return one_hidden_limit(net, x, y, square, rate, jnp.tanh, probes=probes).probe_outputs
  sizes = {"hidden_layers": hidden_layers, "d_out": _D_OUT, "probes": probes}
  if hidden_layers == 2:
    return particle_limit(x, y, square, rate, jnp.tanh, **sizes).probe_outputs
  return deep_linear_limit(x, y, square, rate, **sizes).probe_outputs


def _identity(h: jax.Array) -> jax.Array:
  return h


def _kernel_nets(point: AbcParametrization, width: int, seeds: int) -> np.ndarray:
  """Of f_t - f_0 less what the kernel makes of the net's own f_0."""
  x, y, probes = _data(_KERNEL_OUTPUTS)
  x, y = x[:3], y[:3]
  seen = np.concatenate([x.reshape(-1, _D_IN), probes])
  found = finite_abc.train(
    point, width, finite_abc.TANH, x, y, seen, eta=_RATE, seeds=range(seeds)
  )
  kernel = kernel_regime_kernel(point, seen @ seen.T, np.tanh)
  f = [found.outputs[:, 0]]
  for t, targets in enumerate(y):
    own = slice(t * _BATCH, (t + 1) * _BATCH)
    chi = (f[-1][:, own] - targets) / _BATCH  # of a mean
    f.append(f[-1] - _RATE * kernel[:, own] @ chi)
  return (found.outputs - np.stack(f, 1))[:, 1:].reshape(seeds, -1)


def _word_nets(width: int, seeds: int) -> np.ndarray:
  positions = _positions()

  def after(u: jax.Array, v: jax.Array) -> jax.Array:
    u, v, _ = cbow_sequential_step(u, v, positions, 0.5, 0.01)
    return jnp.concatenate([(u @ v.T).ravel(), (u @ u.T).ravel()])

  def run(seed: jax.Array) -> jax.Array:
    key = jax.random.key(seed)
    return after(*finite_embeddings(key, _WORDS, width, 1.0, uniform=False))

  found = jax.jit(lambda s: jax.lax.map(run, s))(jnp.arange(seeds))
  goal = after(*infinite_embeddings(_WORDS, 1.0))
  return np.asarray(found, float) - np.asarray(goal, float)


def _positions() -> CbowPositions:
  """Forty positions of four context words, the centre and two negatives."""
  rng = np.random.default_rng(2)
  shape = (_POSITIONS, 3)
  return CbowPositions(
    context=rng.integers(0, _WORDS, (_POSITIONS, 4)),
    mask=np.ones((_POSITIONS, 4), np.float32),
    targets=rng.integers(0, _WORDS, shape),
    labels=np.broadcast_to(np.float32([1, 0, 0]), shape),
    weights=np.ones(shape, np.float32),
  )
