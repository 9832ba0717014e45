"""The muP limit of trained deep nets of any smooth activation, by particles.

Every random variable of the recursion of `flax_depthmup.limits.deep_mlp` (Tensor Programs
IV, arXiv 2011.14522; the paper has no method for this case) is a sample of M draws, E is
the mean over them, and draws of different layers are independent. A new Zhat of
covariances c with those before it is the combination of their noise that has these
covariances (a Cholesky factor, one row a Zhat), and fresh noise for the rest of its
variance. Draws carry their derivatives by all Zhat of their layer, which Zdot needs, as
forward tangents; means are constants there.

The noise of a layer is orthonormal over the M draws and sums to zero, rather than only in
expectation. It takes the error of second moments away, so that with phi = identity the
result is `deep_linear_limit` to rounding.

The error of one group of M draws is of order M^(-1/2) and grows with t; independent
groups show it. A bias of order 1/M is common to all groups. Measured with tanh, L = 2,
one input of norm 1, targets of size 1 and eta = 0.5: 0.08 to 0.16 M^(-1/2) for each of
f_0 .. f_4, bias about 0.2/M, so that the default of 8 groups of 2^14 draws has standard
errors of 2e-4 to 5e-4. Eight steps took 0.6 s of one core at L = 2 and 1.7 s at L = 3;
time grows as (T B)^3 M. Heavy tails cost more: figure 4's net of phi(x) = x^2 at
L = 2 has a standard error of about 3.5 M^(-1/2) on its loss after the first step.

phi must have two derivatives. Zdot holds E phi''(h) dx, of which relu's kink is all, and
derivatives do not see it; such a phi is refused. Layer: jax, numpy.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.activation import derivatives
from flax_depthmup.limits.batches import LossDerivative, check_batches
from flax_depthmup.limits.deep_mlp import (
  DOWN,
  UP,
  check_decoupled,
  check_net,
  gaussian_counts,
  train_limit,
)

#: Part of its own variance below which a Zhat counts as a combination of earlier ones.
_DEPENDENT = 1e-12


class ParticleLimit(NamedTuple):
  """Outputs in the limit and their standard errors, in float64.

  Attributes:
    outputs: [T, B, d_out] f_t of the batch of step t, before that step.
    outputs_error: [T, B, d_out] standard errors over the groups.
    probe_outputs: [T + 1, P, d_out] f_t of the probes, before each step and at the end.
    probe_outputs_error: [T + 1, P, d_out] standard errors over the groups.
  """

  outputs: np.ndarray
  outputs_error: np.ndarray
  probe_outputs: np.ndarray
  probe_outputs_error: np.ndarray


def particle_limit(
  inputs: Any,
  targets: Any,
  loss_derivative: LossDerivative,
  learning_rate: Any,
  phi: Callable[[Any], Any],
  *,
  hidden_layers: int,
  d_out: int,
  sigma_u: float = 1.0,
  sigma_w: float = 1.0,
  sigma_v: float = 1.0,
  probes: Any = None,
  particles: int = 2**14,
  groups: int = 8,
  seed: int = 0,
  decoupled: bool = False,
) -> ParticleLimit:
  """Gradient descent on an MLP of L hidden layers at infinite width, in muP.

  Args:
    inputs: [T, B, d], a batch for each of T steps.
    targets: [T, ...], a target for each, as `loss_derivative` takes them; or a dict of
      such arrays.
    loss_derivative: chi [B, d_out] = dLoss/df of outputs f [B, d_out] and the targets of
      their batch; with a loss that is a mean it contains 1/B.
    learning_rate: eta, one number or [T].
    phi: elementwise function of jax arrays, of two derivatives.
    hidden_layers: L.
    d_out: number of outputs.
    sigma_u: standard deviation of the input weights.
    sigma_w: that of sqrt(n) times the weights between hidden layers.
    sigma_v: that of n times the output weights.
    probes: [P, d] inputs to look at without training on them.
    particles: M of a group. Memory is about 40 M (T B)^2 bytes for each hidden layer.
    groups: number of independent groups, at least 2; they run one after the other.
    seed: of the random numbers.
    decoupled: go backwards through an independent copy of the initial weights.

  Raises:
    DepthMupError: an argument is not this, the outputs leave float64, or the particles
      are fewer than four times the Gaussians of a layer.
  """
  batches = check_batches(inputs, targets, learning_rate, probes)
  sigmas = (sigma_u, sigma_w, sigma_v)
  check_net(hidden_layers, d_out, sigmas)
  check_decoupled(decoupled)
  evaluate = derivatives(phi, 2)
  slots = gaussian_counts(hidden_layers, batches)
  _check_sampling(particles, groups, seed, max(slots) + batches.inputs.shape[2] + d_out + 1)
  results = []
  for group in range(groups):
    # A stream for each layer: a probe looks ahead in them without moving them on.
    seeds = np.random.SeedSequence([seed, group]).spawn(hidden_layers)
    layers = [
      _Particles(particles, size, evaluate, np.random.default_rng(own))
      for size, own in zip(slots, seeds, strict=True)
    ]
    results.append(
      train_limit(
        layers, batches, loss_derivative, d_out=d_out, sigmas=sigmas, decoupled=decoupled
      )
    )
  moments = [
    (np.mean(f, 0), np.std(f, 0, ddof=1) * groups**-0.5)
    for f in map(np.stack, zip(*results, strict=True))
  ]
  return ParticleLimit(*moments[0], *moments[1])


def _check_sampling(particles: Any, groups: Any, seed: Any, gaussians: int) -> None:
  check_size(particles, "particles")
  check_size(groups, "groups")
  if groups < 2:
    raise DepthMupError(f"groups={groups}: expected at least 2, to show an error")
  if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
    raise DepthMupError(f"seed={seed!r}: expected a whole number of at least 0")
  if particles < 4 * gaussians:
    raise DepthMupError(
      f"particles={particles}: a layer holds {gaussians} Gaussians, give at least four "
      f"times as many particles, {4 * gaussians}"
    )


class _Particles:
  """Vectors [k, 1 + slots, M]: draws, and their derivatives by each Zhat (a `Layer`)."""

  def __init__(
    self,
    count: int,
    slots: int,
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    rng: np.random.Generator,
  ) -> None:
    self.slots, self.evaluate, self.rng = slots, evaluate, rng
    #: [k, M] with noise @ noise.T = M I; the first row keeps the others' means at zero.
    self.noise = np.ones((1, count))
    self.used = 0
    empty = (np.zeros((0, 0)), np.zeros(0, int), np.zeros(0, int))
    #: Family -> Cholesky factor, rows of noise and slots of its Zhat.
    self.families = {UP: empty, DOWN: empty}

  def fork(self) -> Self:
    other = copy.copy(self)
    other.rng, other.families = copy.deepcopy(self.rng), dict(self.families)
    return other

  def _fresh(self, count: int) -> np.ndarray:
    """Adds rows of noise; returns which."""
    size = self.noise.shape[1]
    for _ in range(count):
      row = self.rng.standard_normal(size)
      for _ in range(2):  # once more, for rounding
        row = row - (self.noise @ row / size) @ self.noise
      row *= (size / (row @ row)) ** 0.5
      self.noise = np.concatenate([self.noise, row[None]])
    return np.arange(len(self.noise) - count, len(self.noise))

  def _vectors(self, draws: np.ndarray) -> np.ndarray:
    vectors = np.zeros((len(draws), 1 + self.slots, draws.shape[1]))
    vectors[:, 0] = draws
    return vectors

  def initial(self, count: int, sigma: float) -> np.ndarray:
    rows = self._fresh(count)
    return self._vectors(sigma * self.noise[rows])

  def gaussians(self, family: str, covariance: np.ndarray) -> np.ndarray:
    factor, rows, slots = self.families[family]
    old, count = len(factor), len(covariance)
    factor = np.pad(factor, (0, count))
    for i, c in enumerate(covariance, start=old):
      factor[i, : i + 1] = _cholesky_row(factor[:i, :i], c[: i + 1])
    rows = np.concatenate([rows, self._fresh(count)])
    slots = np.concatenate([slots, np.arange(self.used, self.used + count)])
    self.families[family] = factor, rows, slots
    self.used += count
    vectors = self._vectors(factor[old:] @ self.noise[rows])
    vectors[np.arange(count), 1 + slots[old:]] = 1.0
    return vectors

  def inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] @ b[:, 0].T / a.shape[-1]

  def derivatives(self, a: np.ndarray, family: str) -> np.ndarray:
    return a[:, 1 + self.families[family][2]].mean(-1)

  def activate(self, h: np.ndarray) -> np.ndarray:
    value, slope, _ = self.evaluate(h[:, 0])
    return np.concatenate([value[:, None], slope[:, None] * h[:, 1:]], 1)

  def backpropagate(self, dx: np.ndarray, h: np.ndarray) -> np.ndarray:
    _, slope, curvature = self.evaluate(h[:, 0])
    dh = slope[:, None] * dx
    dh[:, 1:] += (curvature * dx[:, 0])[:, None] * h[:, 1:]
    return dh


def _cholesky_row(factor: np.ndarray, c: np.ndarray) -> np.ndarray:
  """Row i of the factor: covariances c with the i before it, and its own variance last.

  A Gaussian that depends on earlier ones has a zero on the diagonal, and its noise is
  nobody's.
  """
  row = np.zeros(len(c))
  for j in range(len(factor)):
    if factor[j, j] > 0:
      row[j] = (c[j] - factor[j, :j] @ row[:j]) / factor[j, j]
  rest = c[-1] - row @ row
  row[-1] = rest**0.5 if rest > _DEPENDENT * c[-1] else 0.0
  return row
