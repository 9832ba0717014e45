"""Gradient descent on MLPs of finite width in muP, many seeds at once, in float64.

The net of Tensor Programs IV (arXiv 2011.14522), without biases, of L hidden layers of
width n:

  f(xi) = V phi(W^L ... phi(W^2 phi(U xi)))
  U_ij from N(0, sigma_u^2), W_ij from N(0, sigma_w^2/n), n V_ij from N(0, sigma_v^2)
  learning rates eta n, eta, eta/n of U, W and V

so that f has a limit as n grows, `flax_depthmup.limits`. The `decoupled` net goes
backwards through an independent copy of the initial W, to which the same updates are
added: the control of the paper's figure 4, no net that anybody would train.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Entries of a matrix W, over the seeds that train at once.
_AT_ONCE = 2**22

Activation = Callable[[Any], Any]
LossDerivative = Callable[[np.ndarray, Any], np.ndarray]


def train_finite(
  width: int,
  seeds: Sequence[int],
  inputs: np.ndarray,
  targets: Sequence[Any],
  loss_derivative: LossDerivative,
  learning_rate: float | Sequence[float],
  phi: Activation,
  *,
  hidden_layers: int,
  d_out: int,
  sigma_u: float = 1.0,
  sigma_w: float = 1.0,
  sigma_v: float = 1.0,
  probes: np.ndarray | None = None,
  decoupled: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Trains one net for each seed.

  Args:
    width: n.
    seeds: of the nets.
    inputs: [T, B, d], a batch for each step.
    targets: [T, ...], a target for each.
    loss_derivative: dLoss/df [B, d_out] of outputs [B, d_out] and the target.
    learning_rate: eta, one number or [T].
    phi: elementwise function of jax arrays.
    hidden_layers: L.
    d_out: number of outputs.
    sigma_u: standard deviation of the entries of U.
    sigma_w: that of sqrt(n) W.
    sigma_v: that of n V.
    probes: [P, d] inputs to look at without training on them.
    decoupled: as above.

  Returns:
    Outputs [seeds, T, B, d_out] of the batches before their steps, and outputs of the
    probes [seeds, T + 1, P, d_out] before each step and after the last.
  """
  steps, _, d = inputs.shape
  rates = np.broadcast_to(learning_rate, (steps,))
  probes = np.zeros((0, d)) if probes is None else probes
  sizes, sigmas = (d, width, d_out, hidden_layers), (sigma_u, sigma_w, sigma_v)
  outputs, probed = [], []
  for some in _chunks(seeds, max(1, _AT_ONCE // width**2)):
    net = _Nets(some, sizes, sigmas, phi, decoupled)
    before = [net.outputs(probes)]
    during = []
    for x, target, rate in zip(inputs, targets, rates, strict=True):
      during.append(net.step(x, target, loss_derivative, rate))
      before.append(net.outputs(probes))
    outputs.append(np.stack(during, 1))
    probed.append(np.stack(before, 1))
  return np.concatenate(outputs), np.concatenate(probed)


def _chunks(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
  for i in range(0, len(seeds), size):
    yield seeds[i : i + size]


class _Nets:
  """S nets of one shape; every array has S in front."""

  def __init__(
    self,
    seeds: Sequence[int],
    sizes: tuple[int, int, int, int],
    sigmas: tuple[float, float, float],
    phi: Activation,
    decoupled: bool,
  ) -> None:
    d, n, d_out, hidden_layers = sizes
    sigma_u, sigma_w, sigma_v = sigmas
    rngs = [np.random.default_rng([seed, n]) for seed in seeds]

    def draw(sigma: float, *shape: int) -> np.ndarray:
      return sigma * np.stack([rng.standard_normal(shape) for rng in rngs])

    self.n, self.slopes = n, _slopes(phi)
    self.u, self.v = draw(sigma_u, n, d), draw(sigma_v, d_out, n)
    self.w = [draw(sigma_w * n**-0.5, n, n) for _ in range(hidden_layers - 1)]
    #: The matrices of the way back: the same arrays, or other ones.
    self.back = self.w
    if decoupled:
      self.back = [draw(sigma_w * n**-0.5, n, n) for _ in self.w]

  def _forward(self, inputs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """phi(h) and phi'(h) of each hidden layer, [S, n, B]."""
    x, slope = self.slopes(self.u @ inputs.T)
    xs, slopes = [x], [slope]
    for w in self.w:
      x, slope = self.slopes(w @ xs[-1])
      xs.append(x)
      slopes.append(slope)
    return xs, slopes

  def _read(self, x: np.ndarray) -> np.ndarray:
    return (self.v @ x).swapaxes(1, 2) / self.n

  def outputs(self, inputs: np.ndarray) -> np.ndarray:
    """f [S, B, d_out]."""
    if not len(inputs):
      return np.zeros((len(self.u), 0, self.v.shape[1]))
    return self._read(self._forward(inputs)[0][-1])

  def step(
    self, inputs: np.ndarray, target: Any, loss_derivative: LossDerivative, rate: float
  ) -> np.ndarray:
    """One step; returns the outputs before it."""
    xs, slopes = self._forward(inputs)
    outputs = self._read(xs[-1])
    chi = np.stack([loss_derivative(f, target) for f in outputs])  # [S, B, d_out]
    dh = (self.v.swapaxes(1, 2) @ chi.swapaxes(1, 2)) * slopes[-1]  # n dLoss/dh
    self.v -= rate * (xs[-1] @ chi).swapaxes(1, 2)
    for i in reversed(range(len(self.w))):
      below = (self.back[i].swapaxes(1, 2) @ dh) * slopes[i]
      update = dh @ xs[i].swapaxes(1, 2)
      update *= rate / self.n
      for w in {id(a): a for a in (self.w[i], self.back[i])}.values():
        w -= update
      dh = below
    self.u -= rate * dh @ inputs
    return outputs


@functools.lru_cache(maxsize=16)
def _slopes(phi: Activation) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """The function that gives phi and phi' in float64."""
  compiled = jax.jit(lambda h: jax.jvp(phi, (h,), (jnp.ones_like(h),)))

  def evaluate(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(True):
      value, slope = compiled(h)
    return np.asarray(value), np.asarray(slope)

  return evaluate
