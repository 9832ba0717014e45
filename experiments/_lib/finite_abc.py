"""Finite nets of any abc-parametrization, trained by SGD in float64.

The MLP of `flax_depthmup.limits` (Tensor Programs IV, arXiv 2011.14522, section 3): no
biases, W^l = n^(-a_l) w^l, w^l ~ N(0, n^(-2 b_l)), learning rate eta n^(-c). Plain numpy,
nothing of the theory in it: what the limits are confronted with. Networks of one seed and
one width start from the same normal draws in every parametrization.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flax_depthmup.limits.abc import AbcParametrization

Function = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Activation:
  """phi and its derivative, of arrays."""

  phi: Function
  derivative: Function


TANH = Activation(np.tanh, lambda h: 1 - np.tanh(h) ** 2)
RELU = Activation(lambda h: np.maximum(h, 0.0), lambda h: (h > 0).astype(h.dtype))
IDENTITY = Activation(lambda h: h, np.ones_like)


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """What training did to the probes.

  Attributes:
    outputs: [seeds, T + 1, probes, d_out] f before each step and after the last.
    features: [seeds, T + 1, L, probes, n] x^1 .. x^L at the same times.
  """

  outputs: np.ndarray
  features: np.ndarray

  def movements(self) -> np.ndarray:
    """[T + 1, L] sizes of x_t - x_0: root mean square over seeds, probes, coordinates."""
    moved = self.features - self.features[:, :1]
    return np.sqrt(np.mean(moved**2, axis=(0, 3, 4)))


def train(
  abc: AbcParametrization,
  width: int,
  activation: Activation,
  inputs: Any,
  targets: Any,
  probes: Any,
  *,
  eta: float,
  seeds: Sequence[int],
  loss_derivative: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.subtract,
) -> Trajectory:
  """Trains one net per seed on one batch a step.

  Args:
    abc: the parametrization; its L is that of the nets.
    width: n.
    activation: phi and phi'.
    inputs: [T, B, d] batch of every step; gradients are averaged over it.
    targets: [T, B, d_out].
    probes: [m, d] inputs on which f and the features are recorded.
    eta: learning rate, before its power of n.
    seeds: of the nets.
    loss_derivative: (f, y) -> dLoss/df, all [B, d_out]; f - y of the squared loss.
  """
  inputs, targets, probes = (np.asarray(v, np.float64) for v in (inputs, targets, probes))
  sizes = [inputs.shape[-1], *[width] * abc.hidden_layers, targets.shape[-1]]
  multipliers = [width ** -float(a) for a in abc.a]
  rate = eta * width ** -float(abc.c)
  outputs, features = [], []
  for seed in seeds:
    w = [
      width ** -float(b) * _normal(seed, layer, sizes[layer + 1], sizes[layer])
      for layer, b in enumerate(abc.b)
    ]
    records = [_forward(w, multipliers, activation, probes)]
    for batch, wanted in zip(inputs, targets, strict=True):
      _step(w, multipliers, activation, batch, wanted, rate, loss_derivative)
      records.append(_forward(w, multipliers, activation, probes))
    outputs.append([f for _, _, f in records])
    features.append([x[1:] for _, x, _ in records])
  return Trajectory(np.array(outputs), np.array(features))


def _normal(seed: int, layer: int, rows: int, columns: int) -> np.ndarray:
  return np.random.default_rng([seed, layer]).standard_normal((rows, columns))


def _forward(w: list, multipliers: list, activation: Activation, inputs: np.ndarray):
  """h^1 .. h^L, x^0 .. x^L and f; an example a row."""
  h, x = [], [inputs]
  for weights, multiplier in zip(w[:-1], multipliers, strict=False):
    h.append(multiplier * (x[-1] @ weights.T))
    x.append(activation.phi(h[-1]))
  return h, x, multipliers[-1] * (x[-1] @ w[-1].T)


def _step(w, multipliers, activation, inputs, targets, rate, loss_derivative) -> None:
  """One step of SGD on every w^l, in place."""
  h, x, f = _forward(w, multipliers, activation, inputs)
  gradient = loss_derivative(f, targets) / len(inputs)  # with respect to h^(l + 1)
  for layer in reversed(range(len(w))):
    below = multipliers[layer] * (gradient @ w[layer])
    w[layer] -= (rate * multipliers[layer]) * (gradient.T @ x[layer])
    if layer:
      gradient = below * activation.derivative(h[layer - 1])
