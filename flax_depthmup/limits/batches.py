"""The training data of a limit: batches, learning rates and probe inputs, checked.

Layer: jax, numpy.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_depthmup.checks import check_nonnegative
from flax_depthmup.errors import DepthMupError

#: dLoss/df [B, d_out] of outputs f [B, d_out] and the targets of their batch; the 1/B of
#: a mean over the batch is its own matter.
LossDerivative = Callable[[np.ndarray, Any], Any]


class Batches(NamedTuple):
  """What T steps of gradient descent see.

  Attributes:
    inputs: [T, B, d] in float64.
    targets: T targets, each as the loss derivative takes it.
    rates: [T] learning rates.
    probes: [P, d] inputs that are looked at and not trained on.
  """

  inputs: np.ndarray
  targets: Sequence[Any]
  rates: np.ndarray
  probes: np.ndarray


def check_batches(inputs: Any, targets: Any, learning_rate: Any, probes: Any) -> Batches:
  """The batches in float64.

  Args:
    inputs: [T, B, d].
    targets: [T, ...], a list of T targets of any kind, or a tree of arrays [T, ...] that
      is no list or plain tuple, such as a dict.
    learning_rate: one number of at least 0, or [T].
    probes: [P, d], or None for none.

  Raises:
    DepthMupError: a shape is another, or a number is not finite or is negative where it
      may not be.
  """
  x = check_inputs(inputs, "inputs", ("T", "B", "d"))
  steps, d = len(x), x.shape[2]
  targets = _by_step(targets, steps)
  learning_rate = scalar(learning_rate)
  if np.ndim(learning_rate) == 0:
    check_nonnegative(learning_rate, "learning_rate")
  rates = real_array(learning_rate)
  if rates is None or rates.shape not in ((), (steps,)):
    raise DepthMupError(
      f"learning_rate={learning_rate!r}: expected a number, or {steps}, one a step"
    )
  for rate in rates.flat:
    check_nonnegative(float(rate), "learning_rate")
  probes = np.zeros((0, d)) if probes is None else check_inputs(probes, "probes", ("P", d))
  return Batches(x, targets, np.broadcast_to(rates, (steps,)), probes)


def _by_step(targets: Any, steps: int) -> Sequence[Any]:
  """The target of each step."""
  listed = isinstance(targets, list) or type(targets) is tuple
  found: int | str
  try:
    if listed or jax.tree_util.all_leaves([targets]):
      found = len(targets)
      if found == steps:
        return [targets[t] for t in range(steps)]
    else:
      leaves, tree = jax.tree.flatten(targets)
      shapes = [np.shape(leaf) for leaf in leaves]
      if shapes and all(shape[:1] == (steps,) for shape in shapes):
        return [
          jax.tree.unflatten(tree, [leaf[t] for leaf in leaves]) for t in range(steps)
        ]
      found = f"a tree of arrays of shapes {', '.join(map(str, shapes)) or 'none'}"
  except (TypeError, ValueError, LookupError):
    found = f"{targets!r:.60}"
  raise DepthMupError(
    f"targets: found {found}, expected {steps}, one for each of the steps of inputs"
  )


def check_inputs(values: Any, name: str, axes: tuple[str | int, ...]) -> np.ndarray:
  """Finite numbers in float64, of one axis for each of `axes`: a name, or its length.

  Raises:
    DepthMupError: they are not.
  """
  array, expected = real_array(values), ", ".join(map(str, axes))
  if array is None or not _fits(array.shape, axes):
    found = type(values).__name__ if array is None else f"shape {array.shape}"
    raise DepthMupError(f"{name}: found {found}, expected real numbers [{expected}]")
  if not np.isfinite(array).all():
    raise DepthMupError(f"{name}: not finite everywhere; give finite numbers")
  return array


def _fits(shape: tuple[int, ...], axes: tuple[str | int, ...]) -> bool:
  """Whether a shape, empty nowhere, has these axes."""
  return len(shape) == len(axes) and all(
    n and (isinstance(axis, str) or n == axis) for n, axis in zip(shape, axes, strict=True)
  )


def loss_gradient(
  loss_derivative: LossDerivative, outputs: np.ndarray, target: Any, step: int
) -> np.ndarray:
  """chi [B, d_out] of one step.

  Raises:
    DepthMupError: the outputs are not finite, the loss derivative raises anything, or chi
      is not of their shape.
  """
  if not callable(loss_derivative):
    raise DepthMupError(
      f"loss_derivative={loss_derivative!r}: expected a function of outputs and targets"
    )
  check_outputs(outputs, step)
  try:
    chi = real_array(loss_derivative(outputs, target))
  except Exception as error:  # of the caller's function: any
    array = real_array(target)
    given = type(target).__name__ if array is None else f"shape {array.shape}"
    raise DepthMupError(
      f"loss_derivative fails at step {step} on outputs of shape {outputs.shape} and "
      f"targets of {given} ({type(error).__name__}: {error}); check what it does with them"
    ) from error
  if chi is None or chi.shape != outputs.shape:
    found = "no array of real numbers" if chi is None else f"shape {chi.shape}"
    raise DepthMupError(
      f"loss_derivative returns {found} at step {step}, expected {outputs.shape}, that of "
      "the outputs it was given; check the shape of the targets"
    )
  return chi


def check_outputs(outputs: np.ndarray, step: int) -> None:
  """Raises `DepthMupError` unless outputs are finite."""
  if not np.isfinite(outputs).all():
    raise DepthMupError(
      f"the outputs leave float64 at step {step}; give a smaller learning_rate or fewer "
      "steps"
    )


def real_array(values: Any) -> np.ndarray | None:
  """In float64; None for what is no array of real numbers."""
  try:
    return None if np.iscomplexobj(values) else np.asarray(values, np.float64)
  except (TypeError, ValueError):
    return None


def scalar(value: Any) -> Any:
  """The Python number of a numpy scalar or array of no axis; anything else as it is."""
  concrete = isinstance(value, np.generic | np.ndarray | jax.Array)
  if not concrete or isinstance(value, jax.core.Tracer) or np.ndim(value):
    return value
  try:
    return np.asarray(value).item()
  except TypeError:  # a key of jax.random
    return value


def check_rate(value: Any, name: str) -> Any:
  """A learning rate or weight decay as a Python number, or as it is if traced.

  Raises:
    DepthMupError: it is no finite number of at least 0.
  """
  value = scalar(value)
  if not isinstance(value, jax.core.Tracer):
    check_nonnegative(value, name)
  return value
