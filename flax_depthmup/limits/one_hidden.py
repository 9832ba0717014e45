"""The muP limit of trained nets of one hidden layer and any activation.

The net of width n and its limit (Tensor Programs IV, arXiv 2011.14522, one hidden layer):

  f(xi) = V phi(U xi)       U_ij from N(0, sigma_u^2),   n V_ij from N(0, sigma_v^2)
  f(xi) = E[v phi(u . xi)]  u [d] from N(0, sigma_u^2 I),  v [d_out] from N(0, sigma_v^2 I)

Neurons do not see each other but through f, so that in the limit each step moves all
values (u, v) by

  v -= eta sum_i chi_i phi(u . xi_i)       u -= eta sum_i xi_i (chi_i . v) phi'(u . xi_i)

over the batch, chi_i = dLoss/df(xi_i), both with the old (u, v). One step serves every
`OneHiddenNet`: with `random_net` it is gradient descent on the net of width n, with
learning rates eta n of U and eta/n of V, and with `quadrature_net` and `sobol_net` the
limit.

Layer: jax, numpy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.activation import derivatives
from flax_depthmup.limits.batches import (
  LossDerivative,
  check_batches,
  check_inputs,
  check_outputs,
  loss_gradient,
  scalar,
)
from flax_depthmup.limits.one_hidden_nets import OneHiddenNet, check_one_hidden_net

Activation = Callable[[Any], Any]


class OneHiddenTrajectory(NamedTuple):
  """Outputs during training.

  Attributes:
    outputs: [T, B, d_out] f_t of the batch of step t, before that step.
    probe_outputs: [T + 1, P, d_out] f_t of the probes, before each step and at the end.
    net: the net at the end.
  """

  outputs: np.ndarray
  probe_outputs: np.ndarray
  net: OneHiddenNet


def one_hidden_outputs(net: OneHiddenNet, inputs: Any, phi: Activation) -> np.ndarray:
  """f [B, d_out] of inputs [B, d].

  Raises:
    DepthMupError: the net is none, inputs are not of this shape, or phi is no continuous
      elementwise function of jax arrays.
  """
  net = check_one_hidden_net(net)
  x = check_inputs(inputs, "inputs", ("B", net.u.shape[1]))
  return _outputs(net, derivatives(phi, 1)(net.u @ x.T)[0])


def one_hidden_kernel(net: OneHiddenNet, inputs: Any, phi: Activation) -> np.ndarray:
  """E[phi(u . xi) phi(u . xi')], the feature kernel [B, B] of inputs [B, d].

  Raises:
    DepthMupError: as `one_hidden_outputs`.
  """
  net = check_one_hidden_net(net)
  x = check_inputs(inputs, "inputs", ("B", net.u.shape[1]))
  features = derivatives(phi, 1)(net.u @ x.T)[0]
  return features.T @ (net.weights[:, None] * features)


def one_hidden_step(
  net: OneHiddenNet,
  inputs: Any,
  target: Any,
  loss_derivative: LossDerivative,
  learning_rate: float,
  phi: Activation,
) -> tuple[OneHiddenNet, np.ndarray]:
  """One step of gradient descent, at any width.

  Args:
    net: before the step.
    inputs: [B, d].
    target: of the batch, as `loss_derivative` takes it.
    loss_derivative: chi [B, d_out] = dLoss/df of outputs f [B, d_out] and the target;
      with a loss that is a mean it contains 1/B.
    learning_rate: eta.
    phi: continuous elementwise function of jax arrays.

  Returns:
    The net after the step, and its outputs [B, d_out] before it.

  Raises:
    DepthMupError: an argument is not this, or the outputs are not finite.
  """
  net = check_one_hidden_net(net)
  x = check_inputs(inputs, "inputs", ("B", net.u.shape[1]))
  learning_rate = scalar(learning_rate)
  check_nonnegative(learning_rate, "learning_rate")
  return _step(net, x, target, loss_derivative, learning_rate, phi, 0)


def one_hidden_limit(
  net: OneHiddenNet,
  inputs: Any,
  targets: Any,
  loss_derivative: LossDerivative,
  learning_rate: Any,
  phi: Activation,
  *,
  probes: Any = None,
) -> OneHiddenTrajectory:
  """T steps of gradient descent; the limit if the net is that of the limit.

  Args:
    net: at initialization, such as `quadrature_net(1, 1, 64)`.
    inputs: [T, B, d].
    targets: [T, ...], a target for each step, or a dict of such arrays.
    loss_derivative: as in `one_hidden_step`.
    learning_rate: eta, one number or [T].
    phi: continuous elementwise function of jax arrays.
    probes: [P, d] inputs to look at without training on them.

  Raises:
    DepthMupError: an argument is not this, or the outputs leave float64.
  """
  net = check_one_hidden_net(net)
  batches = check_batches(inputs, targets, learning_rate, probes)
  if batches.inputs.shape[2] != net.u.shape[1]:
    raise DepthMupError(
      f"inputs of d = {batches.inputs.shape[2]} for a net of d = {net.u.shape[1]}"
    )
  evaluate = derivatives(phi, 1)

  def probe(net: OneHiddenNet) -> np.ndarray:
    return _outputs(net, evaluate(net.u @ batches.probes.T)[0])

  outputs, probed = [], [probe(net)]
  for t, (x, rate) in enumerate(zip(batches.inputs, batches.rates, strict=True)):
    net, f = _step(net, x, batches.targets[t], loss_derivative, float(rate), phi, t)
    outputs.append(f)
    probed.append(probe(net))
  check_outputs(probed[-1], len(outputs))
  return OneHiddenTrajectory(np.stack(outputs), np.stack(probed), net)


def _outputs(net: OneHiddenNet, features: np.ndarray) -> np.ndarray:
  """[B, d_out] of features [n, B]."""
  return features.T @ (net.weights[:, None] * net.v)


def _step(
  net: OneHiddenNet,
  x: np.ndarray,
  target: Any,
  loss_derivative: LossDerivative,
  rate: float,
  phi: Activation,
  t: int,
) -> tuple[OneHiddenNet, np.ndarray]:
  with np.errstate(over="ignore", invalid="ignore"):
    features, slopes = derivatives(phi, 1)(net.u @ x.T)
    f = _outputs(net, features)
    chi = loss_gradient(loss_derivative, f, target, t)
    v = net.v - rate * features @ chi
    u = net.u - rate * ((net.v @ chi.T) * slopes) @ x
  return OneHiddenNet(u, v, net.weights), f
