"""An activation and its derivatives, in float64, and whether they are what they say.

The limits of trained nets hold expectations of phi and up to three derivatives of
Gaussians. The derivatives are those of jax; where one jumps, jax says 0 of the next and
an expectation is silently wrong. Stein's identity, E phi'(z) = E (z - E z) phi(z) for
Gaussian z of variance 1, shows it. Layer: jax, numpy.
"""

import functools
import itertools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_depthmup.errors import DepthMupError

#: Means of the Gaussians that Stein's identity is tried with, and the grid of all.
_MEANS = (-1.3, 0.0, 0.4, 1.1)
_GRID = np.linspace(-9.0, 9.0, 18001)
#: Mismatch of the identity, relative to the sizes of its sides, that counts as a jump. A
#: kink costs the grid less than 1e-3.
_JUMP = 0.02
_NAMES = ("phi", "the first derivative of phi", "the second derivative of phi")
#: What phi must be for 1, 2 and 3 derivatives.
_SMOOTH = (
  "continuous",
  "continuous with its first derivative",
  "continuous with its first two derivatives",
)


def derivatives(phi: Any, order: int) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
  """phi and its derivatives as a function of arrays of any shape, in float64.

  Args:
    phi: elementwise function of jax arrays, such as `jax.numpy.tanh`.
    order: how many derivatives, 1 to 3; all but the last must be continuous. relu is fine
      for 1 and not for 2, elu, whose phi'' jumps, for 2 and not for 3.

  Returns:
    Function of an array of shape [...], which returns `order` + 1 arrays of shape [...].

  Raises:
    DepthMupError: phi is no elementwise function that jax can differentiate, is not
      finite, or phi or a derivative but the last jumps.
  """
  if not callable(phi) or not isinstance(phi, Hashable):
    raise DepthMupError(
      f"phi={phi!r}: expected an elementwise function such as jax.numpy.tanh"
    )
  return _derivatives(phi, order)


@functools.lru_cache(maxsize=64)
def _derivatives(
  phi: Callable[[Any], Any], order: int
) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
  towers = [phi]
  for _ in range(order):
    towers.append(functools.partial(_slope, towers[-1]))
  compiled = jax.jit(lambda h: tuple(tower(h) for tower in towers))

  def evaluate(h: np.ndarray) -> tuple[np.ndarray, ...]:
    with jax.enable_x64(True):
      return tuple(np.asarray(value) for value in compiled(h))

  _check(phi, evaluate)
  return evaluate


def _slope(phi: Callable[[Any], Any], h: Any) -> Any:
  return jax.jvp(phi, (h,), (jnp.ones_like(h),))[1]


def _check(
  phi: Callable[[Any], Any], evaluate: Callable[[np.ndarray], tuple[np.ndarray, ...]]
) -> None:
  """Raises `DepthMupError` unless phi is what `derivatives` says."""
  name = getattr(phi, "__name__", repr(phi))
  try:
    values = [evaluate(_GRID + mean) for mean in _MEANS]
    backwards = evaluate((_GRID + _MEANS[0])[::-1])[0]
  except Exception as error:  # of the caller's function: any
    raise DepthMupError(
      f"phi={name} fails on an array of jax ({type(error).__name__}); give an elementwise "
      "function of jax.numpy, such as jax.numpy.tanh"
    ) from error
  shapes = {value.shape for each in values for value in each}
  kinds = {value.dtype for each in values for value in each}
  if shapes != {_GRID.shape} or kinds != {np.dtype(np.float64)}:
    raise DepthMupError(
      f"phi={name} maps float64 of shape {_GRID.shape} to {values[0][0].dtype} of shape "
      f"{values[0][0].shape}; give an elementwise function of real numbers"
    )
  if not np.allclose(backwards[::-1], values[0][0], 1e-9, 1e-12, equal_nan=True):
    raise DepthMupError(
      f"phi={name} maps the same number to another value elsewhere in an array; give an "
      "elementwise function"
    )
  density = np.exp(-(_GRID**2) / 2)
  density /= density.sum()
  for each in values:
    for n, (low, high) in enumerate(itertools.pairwise(each), start=1):
      sides = density @ high, density @ (_GRID * low)
      sizes = density @ np.abs(high) + density @ np.abs(_GRID * low)
      # Not <=, so that what is not finite fails too.
      if not abs(sides[0] - sides[1]) <= _JUMP * sizes:
        raise DepthMupError(
          f"phi={name}: {_NAMES[n - 1]} jumps or is not finite, and this limit takes "
          f"derivative {n} of phi; {'jumps' if n == 1 else 'kinks'} are not supported "
          f"here: give a phi that is {_SMOOTH[len(each) - 2]}, such as jax.numpy.tanh"
        )
