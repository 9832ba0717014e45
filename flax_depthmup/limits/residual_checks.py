"""What a training run at infinite width is given, checked. Layer: jax, numpy."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.checks import check_size, is_number
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.batches import scalar
from flax_depthmup.limits.residual_training import LossDerivative, ResidualTraining


def check_run(
  inputs: Any, targets: Any, loss_derivative: LossDerivative, d_out: int
) -> tuple[jax.Array, Any]:
  """The inputs and targets as arrays.

  Raises:
    DepthMupError: inputs are not [T, B, d_in] finite numbers, targets not a tree of
      arrays [T, ...], or `loss_derivative` does not give [B, d_out].
  """
  check_size(d_out, "d_out")
  inputs = _floats(inputs, "inputs")
  if inputs.ndim != 3 or not inputs.size:
    raise DepthMupError(
      f"inputs of shape {inputs.shape}: expected [T, B, d_in], steps by samples by features"
    )
  steps, batch, _ = inputs.shape
  try:
    targets = jax.tree.map(jnp.asarray, targets)
  except (TypeError, ValueError):
    raise DepthMupError("targets: expected a tree of arrays [T, ...]") from None
  for leaf in jax.tree.leaves(targets):
    if not leaf.ndim or len(leaf) != steps:
      raise DepthMupError(
        f"targets of shape {leaf.shape}: expected the {steps} steps of inputs first"
      )
  if not callable(loss_derivative) or not isinstance(loss_derivative, Hashable):
    raise DepthMupError(
      f"loss_derivative={loss_derivative!r}: expected a function of outputs [B, d_out] and "
      "the targets of a step, hashable, such as lambda f, y: (f - y) / len(f)"
    )
  outputs = jax.ShapeDtypeStruct((batch, d_out), inputs.dtype)
  target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), targets)
  try:
    found = jax.eval_shape(loss_derivative, outputs, target)
  except Exception as error:  # it is the user's: anything may be wrong in it
    raise DepthMupError(
      f"loss_derivative fails on outputs of shape {(batch, d_out)}: "
      f"{type(error).__name__}: {error}"
    ) from None
  if getattr(found, "shape", None) != (batch, d_out):
    raise DepthMupError(
      f"loss_derivative gives shape {getattr(found, 'shape', found)}, expected that of the "
      f"outputs, {(batch, d_out)}: [B, d_out]"
    )
  return inputs, targets


def check_no_zero_input(inputs: jax.Array) -> None:
  """Raises `DepthMupError` on an input [T, B, d_in] of norm zero, unless traced.

  Its features have variance zero, by which expectations of a nonlinearity divide.
  """
  norms = jnp.abs(inputs).sum(-1)
  if not isinstance(norms, jax.core.Tracer) and not (norms > 0).all():
    t, i = (int(k) for k in jnp.argwhere(norms == 0)[0])
    raise DepthMupError(f"input {i} of step {t} is zero; leave it out, or add a constant")


def check_scale(value: Any, name: str) -> None:
  """Raises `DepthMupError` unless it is a positive number, or traced."""
  number = scalar(value)
  if not isinstance(value, jax.core.Tracer) and not (is_number(number) and number > 0):
    raise DepthMupError(f"{name}={value!r}: expected a finite number above 0")


def check_finite(found: ResidualTraining) -> ResidualTraining:
  """The run itself; raises `DepthMupError` with the step at which it diverged."""
  if not isinstance(found.outputs, jax.core.Tracer):
    good = jnp.isfinite(found.outputs).all(axis=(1, 2))
    good &= jnp.isfinite(found.loss_derivatives).all(axis=(1, 2))
    if not good.all():
      raise DepthMupError(
        f"the outputs are not finite from step {int(jnp.argmin(good))} on: the run "
        "diverges at infinite width; lower learning_rate or branch_multiplier"
      )
    kernels = (found.forward_kernel, found.backward_kernel)
    if not all(bool(jnp.isfinite(kernel).all()) for kernel in kernels):
      raise DepthMupError(
        "the kernels are not finite: the features leave floating point; lower "
        "branch_multiplier, learning_rate or depth"
      )
  return found


def _floats(values: Any, name: str) -> jax.Array:
  try:
    if np.iscomplexobj(values):
      raise TypeError
    array = jnp.asarray(values, jnp.result_type(float))
  except (TypeError, ValueError):
    raise DepthMupError(f"{name}: expected an array of real numbers") from None
  if not isinstance(array, jax.core.Tracer) and not jnp.isfinite(array).all():
    raise DepthMupError(f"{name} are not finite everywhere; give finite numbers")
  return array
