"""Training an MLP of L hidden layers and infinite width in muP, as random variables.

The net of width n, its gradient descent, and the gradients dx = n dLoss/dx that follow
it (Tensor Programs IV, arXiv 2011.14522, the limit of muP; no biases):

  h^1 = U xi            U_ij from N(0, sigma_u^2)        h^l = W^l x^(l-1), l = 2 .. L
  x^l = phi(h^l)        W_ij from N(0, sigma_w^2/n)      f = V x^L
                        n V_ij from N(0, sigma_v^2)      chi = dLoss/df
  U -= eta sum dh^1 xi^T      W^l -= (eta/n) sum dh^l x^(l-1)T      n V -= eta sum chi x^L

all sums over a batch. As n grows the entries of every vector become independent draws of
one random variable Z, written below as the vector itself; E is the mean over entries.
With s and t numbering examples in the order of training,

  h^l_t = Zhat(W x_t) + Zdot(W x_t) - sum_(s < t) eta_s E[x_s x_t] dh^l_s      x = x^(l-1)
  dx_t = Zhat(W^T dh_t) + Zdot(W^T dh_t) - sum_(s < t) eta_s E[dh_s dh_t] x_s  dh = dh^l
  dx^L = chi n V,     dh^l = dx^l phi'(h^l),     f = E[n V x^L]

where examples of the batch of t itself are not before t in these sums. Zhat are
centred Gaussians of covariance sigma_w^2 E[x_s x_t] and sigma_w^2 E[dh_s dh_t],
independent between W and W^T and between matrices, and

  Zdot(W x_t) = sigma_w^2 sum_s E[d x_t / d Zhat(W^T dh_s)] dh_s      s before t
  Zdot(W^T dh_t) = sigma_w^2 sum_s E[d dh_t / d Zhat(W x_s)] x_s      batch of t included

is what W^T seen before does to W. Loss gradients dh carry chi here, so that there is one
of them for an input whatever d_out is; chi is a constant in the derivatives.

The decoupled net goes backwards through an independent copy of the initial W: all Zdot
are zero and nothing else changes. It has another limit, the control of the paper's
figure 4.

What a vector is, is left to a `Layer`: coefficients for linear nets, particles for the
others. Layer: numpy.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np

from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.batches import (
  Batches,
  LossDerivative,
  check_outputs,
  loss_gradient,
)

#: The two uses of matrices: W x makes vectors of the layer above, W^T dh of that below.
UP, DOWN = "up", "down"


class Layer(Protocol):
  """The random variables of one hidden layer.

  Several of them are an array [k, ...]: sums and multiples are those of the array. A
  layer never changes an array it has given out or been given.
  """

  def fork(self) -> Self:
    """A copy that goes its own way."""

  def initial(self, count: int, sigma: float) -> np.ndarray:
    """[count, ...] independent Gaussians of mean 0 and standard deviation sigma."""

  def gaussians(self, family: str, covariance: np.ndarray) -> np.ndarray:
    """[B, ...] new Zhat, of covariance [B, k + B] with the k before them and themselves."""

  def inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """E[a b] of a [A, ...] and b [B, ...], as [A, B]."""

  def derivatives(self, a: np.ndarray, family: str) -> np.ndarray:
    """E[d a / d Zhat] for all Zhat of the family so far, [A, k]."""

  def activate(self, h: np.ndarray) -> np.ndarray:
    """phi(h)."""

  def backpropagate(self, dx: np.ndarray, h: np.ndarray) -> np.ndarray:
    """dx phi'(h)."""


class _Matrix:
  """W^l with all it has multiplied: x of the layer below and dh of the layer above."""

  def __init__(self, below: Layer, above: Layer, sigma: float, decoupled: bool) -> None:
    self.below, self.above = below, above
    self.variance, self.decoupled = sigma**2, decoupled
    self.x: np.ndarray | None = None
    self.dh: np.ndarray | None = None
    self.rates = np.zeros(0)

  def forward(self, x: np.ndarray) -> np.ndarray:
    past = self.x
    self.x = x if past is None else np.concatenate([past, x])
    h = self.above.gaussians(UP, self.variance * self.below.inner(x, self.x))
    if past is None or self.dh is None:  # nothing has been learned yet
      return h
    coefficients = -self.rates * self.below.inner(x, past)
    if not self.decoupled:
      coefficients += self.variance * self.below.derivatives(x, DOWN)
    return h + np.tensordot(coefficients, self.dh, 1)

  def backward(self, dh: np.ndarray, rate: float) -> np.ndarray:
    assert self.x is not None  # forward comes first
    past = self.dh
    self.dh = dh if past is None else np.concatenate([past, dh])
    dx = self.below.gaussians(DOWN, self.variance * self.above.inner(dh, self.dh))
    coefficients = np.zeros((len(dh), len(self.x)))
    if past is not None:
      coefficients[:, : len(past)] = -self.rates * self.above.inner(dh, past)
    if not self.decoupled:
      coefficients += self.variance * self.above.derivatives(dh, UP)
    self.rates = np.concatenate([self.rates, np.full(len(dh), rate)])
    return dx + np.tensordot(coefficients, self.x, 1)


class _Net:
  def __init__(
    self,
    layers: Sequence[Layer],
    sizes: tuple[int, int],
    sigmas: tuple[float, float, float],
    decoupled: bool,
  ) -> None:
    sigma_u, sigma_w, sigma_v = sigmas
    self.layers = layers
    self.matrices = [
      _Matrix(below, above, sigma_w, decoupled)
      for below, above in itertools.pairwise(layers)
    ]
    self.u = layers[0].initial(sizes[0], sigma_u)
    self.v = layers[-1].initial(sizes[1], sigma_v)

  def fork(self) -> "_Net":
    other = copy.copy(self)
    other.layers = [layer.fork() for layer in self.layers]
    other.matrices = [copy.copy(matrix) for matrix in self.matrices]
    for matrix, below, above in zip(
      other.matrices, other.layers, other.layers[1:], strict=False
    ):
      matrix.below, matrix.above = below, above
    return other

  def forward(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Outputs [B, d_out], x^L, and h^1 .. h^L of inputs [B, d]."""
    hs = [np.tensordot(inputs, self.u, 1)]
    x = self.layers[0].activate(hs[0])
    for matrix, layer in zip(self.matrices, self.layers[1:], strict=True):
      hs.append(matrix.forward(x))
      x = layer.activate(hs[-1])
    return self.layers[-1].inner(x, self.v), x, hs

  def step(
    self, inputs: np.ndarray, rate: float, derivative: Callable[[np.ndarray], np.ndarray]
  ) -> np.ndarray:
    """One step of gradient descent; returns the outputs before it."""
    outputs, x, hs = self.forward(inputs)
    chi = derivative(outputs)
    dx = np.tensordot(chi, self.v, 1)
    dh = self.layers[-1].backpropagate(dx, hs[-1])
    for i in reversed(range(len(self.matrices))):
      dx = self.matrices[i].backward(dh, rate)
      dh = self.layers[i].backpropagate(dx, hs[i])
    self.v = self.v - rate * np.tensordot(chi.T, x, 1)
    self.u = self.u - rate * np.tensordot(inputs.T, dh, 1)
    return outputs

  def probe(self, probes: np.ndarray, chunk: int) -> np.ndarray:
    """Outputs of probes, which leave the net as it is."""
    parts = [probes[i : i + chunk] for i in range(0, len(probes), chunk)]
    shape = (len(probes), len(self.v))
    return np.reshape([f for part in parts for f in self.fork().forward(part)[0]], shape)


def gaussian_counts(hidden_layers: int, batches: Batches) -> list[int]:
  """How many Zhat training and a chunk of probes create, in each layer."""
  steps, batch = batches.inputs.shape[:2]
  up = [0] + [(steps + 1) * batch] * (hidden_layers - 1)
  down = [steps * batch] * (hidden_layers - 1) + [0]
  return [a + b for a, b in zip(up, down, strict=True)]


def train_limit(
  layers: Sequence[Layer],
  batches: Batches,
  loss_derivative: LossDerivative,
  *,
  d_out: int,
  sigmas: tuple[float, float, float],
  decoupled: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Trains; see the module.

  Args:
    layers: the L hidden layers, as new; of room for `gaussian_counts`.
    batches: the data.
    loss_derivative: chi of outputs and targets.
    d_out: number of outputs.
    sigmas: sigma_u, sigma_w and sigma_v.
    decoupled: leave all Zdot out.

  Returns:
    Outputs [T, B, d_out] before each step, and outputs of the probes [T + 1, P, d_out]
    before each step and after the last.

  Raises:
    DepthMupError: the outputs leave float64, or chi is of another shape.
  """
  steps, batch, d = batches.inputs.shape
  net = _Net(layers, (d, d_out), sigmas, decoupled)
  outputs, probed = [], []
  with np.errstate(over="ignore", invalid="ignore"):
    for t in range(steps):
      probed.append(net.probe(batches.probes, batch))

      def derivative(f: np.ndarray, t: int = t) -> np.ndarray:
        return loss_gradient(loss_derivative, f, batches.targets[t], t)

      outputs.append(net.step(batches.inputs[t], float(batches.rates[t]), derivative))
    probed.append(net.probe(batches.probes, batch))
  check_outputs(probed[-1], steps)
  return np.stack(outputs), np.stack(probed)


def check_net(hidden_layers: Any, d_out: Any, sigmas: tuple[Any, Any, Any]) -> None:
  """Raises `DepthMupError` unless these are the sizes and sigmas of a net."""
  check_size(hidden_layers, "hidden_layers")
  check_size(d_out, "d_out")
  for name, sigma in zip(("sigma_u", "sigma_w", "sigma_v"), sigmas, strict=True):
    check_nonnegative(sigma, name)


def check_decoupled(decoupled: Any) -> None:
  """Raises `DepthMupError` unless `decoupled` is True or False."""
  if not isinstance(decoupled, bool | np.bool_):
    raise DepthMupError(f"decoupled={decoupled!r}: expected True or False")
