"""The muP limit of trained deep linear nets, exactly, by an algebra of coefficients.

Without an activation all vectors of a layer in the recursion of
`flax_depthmup.limits.deep_mlp` (Tensor Programs IV, arXiv 2011.14522) are combinations of
Gaussians: the initial columns of U in layer 1, the initial rows of n V in layer L, and
the Zhat. A vector is its coefficients a; with the Gram matrix G of the Gaussians,
E[a b] = a^T G b, and E[d a / d Zhat] is the coefficient on that Zhat. Both are numbers,
so the limit has no error but rounding.

A new Zhat(W x) joins the Gaussians of its layer with the covariance sigma_w^2 E[x x_s] to
the Zhat(W x_s) and zero to all others. Memory grows as (T B)^2 L numbers of 8 bytes for
T steps of batches of B, time as (T B)^3 L: measured on one core with L = 3 and B = 1,
0.03 s for T = 100, 0.2 s for 200, 1.2 s for 400, 14 s for 800.

With one hidden layer this is the net of `flax_depthmup.limits.linear_net` again.
Layer: numpy.
"""

import copy
from typing import Any, NamedTuple, Self

import numpy as np

from flax_depthmup.limits.batches import LossDerivative, check_batches
from flax_depthmup.limits.deep_mlp import (
  DOWN,
  UP,
  check_decoupled,
  check_net,
  gaussian_counts,
  train_limit,
)


class DeepLinearLimit(NamedTuple):
  """Outputs in the limit, in float64.

  Attributes:
    outputs: [T, B, d_out] f_t of the batch of step t, before that step.
    probe_outputs: [T + 1, P, d_out] f_t of the probes, before each step and at the end.
  """

  outputs: np.ndarray
  probe_outputs: np.ndarray


def deep_linear_limit(
  inputs: Any,
  targets: Any,
  loss_derivative: LossDerivative,
  learning_rate: Any,
  *,
  hidden_layers: int,
  d_out: int,
  sigma_u: float = 1.0,
  sigma_w: float = 1.0,
  sigma_v: float = 1.0,
  probes: Any = None,
  decoupled: bool = False,
) -> DeepLinearLimit:
  """Gradient descent on a linear net of L hidden layers at infinite width, in muP.

  Args:
    inputs: [T, B, d], a batch for each of T steps.
    targets: [T, ...], a target for each, as `loss_derivative` takes them; or a dict of
      such arrays.
    loss_derivative: chi [B, d_out] = dLoss/df of outputs f [B, d_out] and the targets of
      their batch; with a loss that is a mean it contains 1/B.
    learning_rate: eta, one number or [T].
    hidden_layers: L.
    d_out: number of outputs.
    sigma_u: standard deviation of the input weights.
    sigma_w: that of sqrt(n) times the weights between hidden layers.
    sigma_v: that of n times the output weights.
    probes: [P, d] inputs to look at without training on them.
    decoupled: go backwards through an independent copy of the initial weights.

  Raises:
    DepthMupError: an argument is not this, or the outputs leave float64.
  """
  batches = check_batches(inputs, targets, learning_rate, probes)
  sigmas = (sigma_u, sigma_w, sigma_v)
  check_net(hidden_layers, d_out, sigmas)
  check_decoupled(decoupled)
  room = gaussian_counts(hidden_layers, batches)
  room[0] += batches.inputs.shape[2]
  room[-1] += d_out
  layers = [_Coefficients(size) for size in room]
  return DeepLinearLimit(
    *train_limit(
      layers, batches, loss_derivative, d_out=d_out, sigmas=sigmas, decoupled=decoupled
    )
  )


class _Coefficients:
  """Vectors [k, size] of coefficients on the Gaussians of a layer (a `Layer`)."""

  def __init__(self, size: int) -> None:
    self.gram = np.zeros((size, size))
    self.count = 0
    self.families = {UP: np.zeros(0, int), DOWN: np.zeros(0, int)}

  def fork(self) -> Self:
    other = copy.copy(self)
    other.gram, other.families = self.gram.copy(), dict(self.families)
    return other

  def _add(self, count: int) -> np.ndarray:
    new = np.arange(self.count, self.count + count)
    self.count += count
    return new

  def initial(self, count: int, sigma: float) -> np.ndarray:
    new = self._add(count)
    self.gram[new, new] = sigma**2
    return np.eye(len(self.gram))[new]

  def gaussians(self, family: str, covariance: np.ndarray) -> np.ndarray:
    new = self._add(len(covariance))
    members = np.concatenate([self.families[family], new])
    self.families[family] = members
    self.gram[np.ix_(new, members)] = covariance
    self.gram[np.ix_(members, new)] = covariance.T
    return np.eye(len(self.gram))[new]

  def inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ self.gram) @ b.T

  def derivatives(self, a: np.ndarray, family: str) -> np.ndarray:
    return a[:, self.families[family]]

  def activate(self, h: np.ndarray) -> np.ndarray:
    return h

  def backpropagate(self, dx: np.ndarray, h: np.ndarray) -> np.ndarray:
    del h
    return dx
