"""From finite depths to infinite depth, with an estimate of the error.

What `linear_residual` at alpha = 1/2 or 1, `nonlinear_residual` and `residual_ode` give at
depth L is a + b/L + c/L^2 + ..., so that depths L, 2L and 4L, extrapolated twice
(Richardson), are within O(1/L^3) of the limit. `linear_residual` at alpha in (1/2, 1) is
only within L^(1 - 2 alpha) of its own, which `residual_ode` gives directly; such an order
is noticed and refused. Layer: jax, numpy.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flax_depthmup.checks import check_size, is_number
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.residual_training import ResidualTraining


class Extrapolated(NamedTuple):
  """A value at infinite depth.

  Attributes:
    value: the limit.
    error: twice the largest move of the second extrapolation anywhere in the array; at
      a single entry it may vanish by chance.
    by_depth: [3, ...] at L, 2L and 4L.
  """

  value: np.ndarray
  error: float
  by_depth: np.ndarray


class DepthLimit(NamedTuple):
  """A training run at infinite width and depth, N = T B samples.

  Attributes:
    outputs: [T, B, d_out].
    positions: [P] parts of the depth, from 0 to 1.
    forward_kernel, backward_kernel: [P, N, N] there.
  """

  outputs: Extrapolated
  positions: np.ndarray
  forward_kernel: Extrapolated
  backward_kernel: Extrapolated


def infinite_depth(
  solve: Callable[[int], ResidualTraining],
  *,
  depth: int = 128,
  positions: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> DepthLimit:
  """Extrapolates a solver of finite depths.

  Args:
    solve: depth -> the run, such as `lambda depth: linear_residual(x, y, depth=depth,
      loss_derivative=chi)`, with an error of 1/L.
    depth: L; runs have L, 2L and 4L layers.
    positions: parts p of the depth at which kernels are wanted; p L is whole.

  Raises:
    DepthMupError: a depth that is no whole number, a position that is no layer, a solver
      that gives no `ResidualTraining`, or outputs whose error is not 1/L.
  """
  check_size(depth, "depth")
  where = _layers(positions, depth)
  runs = [_solved(solve, depth * k) for k in (1, 2, 4)]
  _check_order([np.asarray(run.outputs, float) for run in runs])

  def kernel(name: str) -> Extrapolated:
    return _extrapolate(
      [
        np.asarray(getattr(r, name))[where * k]
        for r, k in zip(runs, (1, 2, 4), strict=True)
      ]
    )

  return DepthLimit(
    outputs=_extrapolate([np.asarray(run.outputs) for run in runs]),
    positions=where / depth,
    forward_kernel=kernel("forward_kernel"),
    backward_kernel=kernel("backward_kernel"),
  )


def _layers(positions: Sequence[float], depth: int) -> np.ndarray:
  layers = []
  for p in positions:
    whole = is_number(p) and abs(p * depth - round(p * depth)) < 1e-9 * depth
    if not whole or not 0 <= p <= 1:
      raise DepthMupError(
        f"position {p!r} is no layer of a net of depth {depth}: expected p in [0, 1] with "
        "p times depth whole"
      )
    layers.append(round(p * depth))
  return np.array(layers, int)


def _solved(solve: Callable[[int], ResidualTraining], depth: int) -> ResidualTraining:
  run = solve(depth) if callable(solve) else solve
  if not isinstance(run, ResidualTraining):
    raise DepthMupError(
      f"solve gives {type(run).__name__} at depth {depth}, not a ResidualTraining; give a "
      "function of the depth, such as lambda depth: linear_residual(..., depth=depth)"
    )
  return run


def _check_order(values: list[np.ndarray]) -> None:
  """Raises `DepthMupError` unless differences about halve when the depth doubles."""
  first, second = (np.sqrt(np.mean(d**2)) for d in np.diff(np.stack(values), axis=0))
  if second > 1e-6 * np.abs(values[-1]).max() and not 1.6 < first / second < 3.0:
    raise DepthMupError(
      f"from one depth to twice it the outputs move by {first:.3g}, then by {second:.3g}: "
      "the error is not 1/L yet, or not at all; take a larger depth, or, for alpha in "
      "(1/2, 1), residual_ode"
    )


def _extrapolate(values: list[np.ndarray]) -> Extrapolated:
  first, second, third = values
  once, twice = 2 * second - first, 2 * third - second
  value = (4 * twice - once) / 3
  return Extrapolated(value, 2 * float(np.abs(value - twice).max()), np.stack(values))
