"""The linear net of one hidden layer in muP: one step function for every width.

Tensor Programs IV (arXiv 2011.14522), its exact limit of one hidden layer. The net is

  h(x) = u x + alpha beta            u [h, d], beta [h], alpha the bias multiplier
  f(x) = v h(x)                      v [d_out, h]

with u_ij from N(0, sigma_u^2/n), v_ij from N(0, sigma_v^2/n), beta = 0 at width h = n.
Without an activation the factors sqrt(n) of muP's input layer and 1/sqrt(n) of its output
layer cancel, so that gradient descent on (u, v, beta) with a learning rate that does not
depend on n is muP.

The limit n -> infinity. All columns of u and of v^T stay combinations of those they began
as, d + d_out independent Gaussian vectors, whose inner products over n tend to the
identity; the coefficients become deterministic. They are a net of this very form, of
width d + d_out, with

  u = sigma_u (I_d; 0)      v = sigma_v (0, I_d_out)      beta = 0

trained by the same steps. Infinite width is therefore only another initializer
(`infinite_linear_net`), exact to rounding, for every algorithm whose updates are
combinations of gradients with coefficients that depend on outputs, losses, and norms and
inner products of u, v, beta and gradients: stochastic gradient descent, momentum,
schedules, weight decay, clipping by the global norm, and gradient steps within gradient
steps as in MAML. It is exact for no other: not for updates that act coordinate by
coordinate (Adam, clipping by value), not with an activation, not with a norm layer.

Where sigma_v = 0, the last d_out coefficients stay zero and h = d is the whole limit.
Outputs differ from those of the finite net by O(n^(-1/2)). Inner products of features,
h(x) h(x'), have limits too: those of the coefficients. Layer: jax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.batches import check_rate


class LinearNet(NamedTuple):
  """Weights of the net, or their gradients; of a limit, coefficients.

  Attributes:
    u: [h, d] input weights.
    v: [d_out, h] output weights.
    bias: [h] beta, of the hidden layer.
  """

  u: Any
  v: Any
  bias: Any


def infinite_linear_net(d: int, d_out: int, sigma_u: float, sigma_v: float) -> LinearNet:
  """The limit n -> infinity at initialization, of h = d + d_out, or d if sigma_v is 0.

  Args:
    d: number of inputs.
    d_out: number of outputs.
    sigma_u: standard deviation of sqrt(n) u_ij.
    sigma_v: that of sqrt(n) v_ij.

  Raises:
    DepthMupError: a size is no whole number of at least 1, a sigma negative or infinite.
  """
  _check(d, d_out, sigma_u, sigma_v)
  h = d + d_out if sigma_v > 0 else d
  return LinearNet(
    u=sigma_u * jnp.eye(h, d),
    v=sigma_v * jnp.eye(d_out, h, k=d),
    bias=jnp.zeros(h),
  )


def finite_linear_net(
  key: Any, width: int, d: int, d_out: int, sigma_u: float, sigma_v: float
) -> LinearNet:
  """A net of width h = `width` at initialization.

  Args:
    key: of jax.random.
    width: n.
    d: number of inputs.
    d_out: number of outputs.
    sigma_u: standard deviation of sqrt(n) u_ij.
    sigma_v: that of sqrt(n) v_ij.

  Raises:
    DepthMupError: as `infinite_linear_net`.
  """
  _check(d, d_out, sigma_u, sigma_v)
  check_size(width, "width")
  key_u, key_v = jax.random.split(key)
  return LinearNet(
    u=sigma_u * width**-0.5 * jax.random.normal(key_u, (width, d)),
    v=sigma_v * width**-0.5 * jax.random.normal(key_v, (d_out, width)),
    bias=jnp.zeros(width),
  )


def sample_linear_net(key: Any, net: LinearNet, width: int) -> LinearNet:
  """A finite net that has a limit's coefficients, at initialization or trained.

  The same Gaussian vectors are drawn for all of u, v and bias. Of a limit at
  initialization this is the law of `finite_linear_net`. After training it is not the law
  of trained finite nets, though both have the one limit.

  Args:
    key: of jax.random.
    net: the limit.
    width: n, that of the sample.

  Raises:
    DepthMupError: width is no whole number of at least 1.
  """
  check_size(width, "width")
  omega = jax.random.normal(key, (width, net.u.shape[0]), net.u.dtype) * width**-0.5
  return LinearNet(u=omega @ net.u, v=net.v @ omega.T, bias=omega @ net.bias)


def linear_features(net: LinearNet, x: Any, bias_multiplier: float = 0.0) -> jax.Array:
  """h(x) of inputs [B, d], as [B, h].

  Raises:
    DepthMupError: x is not of shape [B, d].
  """
  x = _array(x, "x")
  if x.ndim != 2 or x.shape[1] != net.u.shape[1]:
    raise DepthMupError(
      f"x of shape {x.shape}: expected [B, {net.u.shape[1]}], one row an input of the net"
    )
  return x @ net.u.T + bias_multiplier * net.bias[None, :]


def linear_outputs(net: LinearNet, x: Any, bias_multiplier: float = 0.0) -> jax.Array:
  """f(x) of inputs [B, d], as [B, d_out].

  Raises:
    DepthMupError: x is not of shape [B, d].
  """
  return linear_features(net, x, bias_multiplier) @ net.v.T


def linear_gradient(
  net: LinearNet, x: Any, chi: Any, bias_multiplier: float = 0.0
) -> LinearNet:
  """The gradient of a loss, from its derivative in the outputs.

  Args:
    net: where.
    x: [B, d] inputs.
    chi: [B, d_out] dLoss/df; 1/B is in it where the loss is a mean.
    bias_multiplier: alpha.

  Raises:
    DepthMupError: x or chi is not of this shape.
  """
  x, chi = _array(x, "x"), _array(chi, "the derivative of the loss")
  features = linear_features(net, x, bias_multiplier)
  expected = (features.shape[0], net.v.shape[0])
  if chi.shape != expected:
    raise DepthMupError(
      f"the derivative of the loss has shape {chi.shape}: expected {expected}, [B, d_out]"
    )
  back = chi @ net.v
  return LinearNet(
    u=back.T @ x, v=chi.T @ features, bias=bias_multiplier * back.sum(axis=0)
  )


def linear_update(
  net: LinearNet,
  gradient: LinearNet,
  *,
  lr: Any,
  clip: float | None = None,
  weight_decay: Any = 0.0,
) -> LinearNet:
  """w - lr (rho g + weight_decay w), rho = min(1, clip / the norm of all of g).

  Args:
    net: w.
    gradient: g, such as a sum of `linear_gradient`.
    lr: learning rate of this step, the same at every width; a number or traced.
    clip: bound on the norm over u, v and bias jointly, a Python number; None for none.
    weight_decay: not decoupled from the learning rate; a number or traced.

  Raises:
    DepthMupError: lr or weight_decay is no finite number of at least 0, or clip no
      positive finite number.
  """
  lr, weight_decay = check_rate(lr, "lr"), check_rate(weight_decay, "weight_decay")
  rho: float | jax.Array = 1.0
  if clip is not None:
    check_nonnegative(clip, "clip")
    if clip == 0:
      raise DepthMupError("clip=0 stops all training; give a positive number, or None")
    square = sum(jnp.sum(jnp.square(g)) for g in gradient)
    # Written so that a gradient of zero divides nothing by zero.
    rho = clip / jnp.maximum(jnp.sqrt(square), clip)
  return jax.tree.map(lambda w, g: w - lr * (rho * g + weight_decay * w), net, gradient)


def linear_step(
  net: LinearNet,
  x: Any,
  y: Any,
  *,
  lr: Any,
  loss_derivative: Callable[[Any, Any], Any],
  clip: float | None = None,
  weight_decay: Any = 0.0,
  bias_multiplier: float = 0.0,
) -> LinearNet:
  """One step of gradient descent, of a finite net and of the limit alike.

  Args:
    net: before.
    x: [B, d] inputs.
    y: targets, as loss_derivative takes them.
    lr: as in `linear_update`.
    loss_derivative: (f [B, d_out], y) -> dLoss/df [B, d_out], with 1/B for means.
    clip: bound on the norm of the gradient; None for none.
    weight_decay: as in `linear_update`.
    bias_multiplier: alpha; 0 is a net without bias.

  Raises:
    DepthMupError: x or the derivative has another shape, loss_derivative is no function,
      or as `linear_update`.
  """
  if not callable(loss_derivative):
    raise DepthMupError(
      f"loss_derivative={loss_derivative!r}: expected a function of outputs and targets"
    )
  chi = loss_derivative(linear_outputs(net, x, bias_multiplier), y)
  gradient = linear_gradient(net, x, chi, bias_multiplier)
  return linear_update(net, gradient, lr=lr, clip=clip, weight_decay=weight_decay)


def _array(values: Any, name: str) -> jax.Array:
  try:
    array = jnp.asarray(values)
  except (TypeError, ValueError):
    array = None
  kinds = (jnp.floating, jnp.integer, jnp.bool_)
  if array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
    found = type(values).__name__ if array is None else array.dtype
    raise DepthMupError(f"{name}: found {found}, expected an array of real numbers")
  return array


def _check(d: int, d_out: int, sigma_u: float, sigma_v: float) -> None:
  for name, size in (("d", d), ("d_out", d_out)):
    check_size(size, name)
  for name, sigma in (("sigma_u", sigma_u), ("sigma_v", sigma_v)):
    check_nonnegative(sigma, name)
