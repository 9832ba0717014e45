"""Sharpness: the largest eigenvalues of a loss Hessian, and what they must not exceed.

With D the factors that turn a gradient into an update, w <- w - eta D g, a quadratic
loss is stable under

  | optimizer                     | largest eigenvalue of D^(1/2) H D^(1/2) below |
  |-------------------------------|-----------------------------------------------|
  | gradient descent              | 2 / eta                                       |
  | heavy ball, momentum b        | (2 + 2b) / eta                                |
  | Adam, once D moves slowly     | (2 + 2 b1) / ((1 - b1) eta), 38 / eta at 0.9  |

(Cohen et al., arXiv 2103.00065 and, for Adam, arXiv 2207.14484). Full-batch training
raises the sharpness to this edge of stability and holds it there. That the whole curve
is the same for every width and depth is the super consistency of muP and Depth-muP (Noci
et al., arXiv 2402.17457).

Layer: jax, numpy, optax.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_depthmup.checks import check_nonnegative, is_number
from flax_depthmup.diagnostics.lanczos import Ritz, lanczos
from flax_depthmup.errors import DepthMupError
from flax_depthmup.scales import Scales
from flax_depthmup.transforms import is_scales, named_leaves, trainable


def sharpness(
  loss: Callable[[Any], jax.Array],
  params: Any,
  key: jax.Array,
  *,
  preconditioner: Any = None,
  steps: int = 32,
  top: int = 1,
) -> Ritz:
  """The largest eigenvalues of the Hessian H of a loss at `params`.

  By `lanczos` with Hessian-vector products. Frozen layers of our models have zero
  gradients and so add nothing. May be traced; call it under `jax.jit` where it is called
  again and again. `steps` is enough where `residuals` is small beside `values`.

  Args:
    loss: of the parameters alone, a scalar; any model's, twice differentiable where it
      matters.
    params: a tree of real floating-point arrays.
    key: of the start of Lanczos.
    preconditioner: D, a tree like `params` of factors of at least 0 that broadcast to
      its arrays, as `sgd_preconditioner` and `adam_preconditioner` give: then the
      eigenvalues of D^(1/2) H D^(1/2), those of the product D H. None: 1.
    steps: of Lanczos, each a Hessian-vector product.
    top: how many eigenvalues.

  Raises:
    DepthMupError: the loss is no real scalar, the preconditioner does not fit the
      parameters or is negative; as for `lanczos`.
  """
  if not callable(loss):
    raise DepthMupError(f"loss={loss!r} is no function; give one of the parameters")
  found = jax.eval_shape(loss, params)
  if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
    raise DepthMupError(
      f"loss gives {found}; expected one real number, such as the mean over a batch"
    )
  hvp = functools.partial(_hvp, jax.grad(loss), params)
  if preconditioner is None:
    return lanczos(hvp, params, key, steps=steps, top=top)
  _check_preconditioner(preconditioner, params)
  root = jax.tree.map(
    lambda d, w: jnp.broadcast_to(jnp.sqrt(d), w.shape).astype(w.dtype),
    preconditioner,
    params,
  )

  def product(v: Any) -> Any:
    return jax.tree.map(jnp.multiply, root, hvp(jax.tree.map(jnp.multiply, root, v)))

  return lanczos(product, params, key, steps=steps, top=top)


def _hvp(grad: Callable[[Any], Any], params: Any, v: Any) -> Any:
  return jax.jvp(grad, (params,), (v,))[1]


def sgd_preconditioner(scales: Any) -> Any:
  """D of SGD and momentum under a parametrization: update_factor * gradient_factor.

  A number per parameter; 0 where it is frozen. `scale_by_parametrization` moves a
  parameter by -eta D g (Definition 6.1 of Tensor Programs VI with Q the identity).

  Raises:
    DepthMupError: `scales` is no tree of `Scales`.
  """
  trainable(scales)  # names what is no Scales
  return jax.tree.map(_factor, scales, is_leaf=is_scales)


def adam_preconditioner(
  scales: Any, state: Any, *, b2: float = 0.999, eps: float = 1e-8
) -> Any:
  """D of Adam: update_factor * gradient_factor / (sqrt(nu_hat) + eps), per entry.

  nu_hat is the bias-corrected second moment that the last step divided by, of gradients
  times their gradient factor. Frozen parameters get 0. An entry that has had almost no
  gradient gets a factor of up to 1 / eps: the sharpness can jump for a moment, by that
  one entry (measured, with ReLU).

  Args:
    scales: the tree of `Scales` of `dmup.init`.
    state: of an optimizer that holds one Adam, of at least one step (before, nu_hat is
      0 / 0 and D is nan).
    b2: of that Adam; its state does not tell.
    eps: likewise.

  Raises:
    DepthMupError: the state holds no Adam or several, no step was taken, the
      parameters are not those of `scales`, b2 or eps is out of range.
  """
  trainable(scales)
  check_nonnegative(eps, "eps")
  _check_decay(b2, "b2")
  leaves = jax.tree.leaves(state, is_leaf=_is_adam)
  adams = [leaf for leaf in leaves if _is_adam(leaf)]
  if len(adams) != 1:
    raise DepthMupError(
      f"the optimizer state holds {len(adams)} states of optax.scale_by_adam; expected one"
    )
  count, nu = adams[0].count, adams[0].nu
  if not isinstance(count, jax.core.Tracer) and not count:
    raise DepthMupError(
      "the optimizer has taken no step, so Adam divides by nothing yet; measure after one"
    )
  _check_moments(nu, scales)
  correction = 1 - b2 ** count.astype(jnp.float32)

  def factors(s: Scales, v: jax.Array) -> jax.Array:
    return jnp.where(_factor(s) > 0, _factor(s) / (jnp.sqrt(v / correction) + eps), 0)

  return jax.tree.map(factors, scales, nu, is_leaf=is_scales)


def descent_threshold(learning_rate: float, momentum: float = 0.0) -> float:
  """(2 + 2b) / eta: gradient descent is stable below, with heavy-ball momentum b.

  Raises:
    DepthMupError: the learning rate is not positive, the momentum not in [0, 1).
  """
  _check_decay(momentum, "momentum")
  return (2 + 2 * momentum) / _rate(learning_rate)


def adam_threshold(learning_rate: float, b1: float = 0.9) -> float:
  """(2 + 2 b1) / ((1 - b1) eta): 38 / eta at b1 = 0.9; of the preconditioned Hessian.

  Raises:
    DepthMupError: the learning rate is not positive, b1 not in [0, 1).
  """
  _check_decay(b1, "b1")
  return (2 + 2 * b1) / ((1 - b1) * _rate(learning_rate))


def _factor(s: Scales) -> float:
  return s.update_factor * s.gradient_factor


def _is_adam(node: Any) -> bool:
  return isinstance(node, optax.ScaleByAdamState)


def _rate(value: Any) -> float:
  if not is_number(value) or value <= 0:
    raise DepthMupError(f"learning_rate={value!r}: expected a positive number")
  return float(value)


def _check_decay(value: Any, name: str) -> None:
  if not is_number(value) or not 0 <= value < 1:
    raise DepthMupError(f"{name}={value!r}: expected a number in [0, 1)")


def _check_moments(nu: Any, scales: Any) -> None:
  found = {name: jnp.shape(leaf) for name, leaf in named_leaves(nu)}
  expected = {name: s.shape for name, s in named_leaves(scales)}
  for name in [*expected, *found]:
    if found.get(name) != expected.get(name):
      raise DepthMupError(
        f"parameter {name} has shape {expected.get(name)} in the scales but "
        f"{found.get(name)} in the state of Adam; pass those of one net"
      )


def _check_preconditioner(preconditioner: Any, params: Any) -> None:
  factors, weights = dict(named_leaves(preconditioner)), dict(named_leaves(params))
  for name in [*weights, *factors]:
    if name not in weights or name not in factors:
      where = "preconditioner" if name in factors else "parameters"
      raise DepthMupError(
        f"preconditioner: {name} is in the {where} alone; give a tree like the parameters"
      )
    d, shape = factors[name], jnp.shape(weights[name])
    try:
      fits = np.broadcast_shapes(jnp.shape(d), shape) == shape
    except ValueError:
      fits = False
    if not fits:
      raise DepthMupError(
        f"preconditioner: {name} has shape {jnp.shape(d)} but the parameter has {shape}; "
        "give factors that broadcast to it"
      )
    if not isinstance(d, jax.core.Tracer) and np.any(np.asarray(d) < 0):
      raise DepthMupError(
        f"preconditioner: {name} has negative factors; they have no square root"
      )
