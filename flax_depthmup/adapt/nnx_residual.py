"""Residual branches of nnx modules. Layer: flax, mathematics; no optax."""

from typing import Any

import jax
from flax import nnx

from flax_depthmup.adapt.nnx_axes import mark_branch
from flax_depthmup.errors import DepthMupError
from flax_depthmup.forward_multipliers import scaled
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.residual import check_multiplier


class Residual(nnx.Module):
  """x + a (L/L0)^(-alpha) block(x), one block of a stack of L (TP-VI, section 3).

  The parameters of the block are marked as inside a branch.

  Attributes:
    block: the branch: a module whose output has the shape of its first input.
    depth: L, the number of blocks of the whole stack.
    parametrization: alpha and the base depth L0.
    multiplier: a, the branch multiplier at base depth.
  """

  def __init__(
    self,
    block: nnx.Module,
    depth: int,
    parametrization: Parametrization,
    multiplier: float = 1.0,
  ):
    """Marks the block.

    Raises:
      DepthMupError: see `mark_branch`; or the multiplier is no positive number.
    """
    check_multiplier(multiplier)
    mark_branch(block, depth, parametrization)
    self.block = block
    self.depth = depth
    self.parametrization = parametrization
    self.multiplier = multiplier

  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Adds the scaled branch to x; further arguments go to the block.

    Raises:
      DepthMupError: the block changes the shape of x.
    """
    y = self.block(x, *args, **kwargs)
    if not isinstance(y, jax.Array) or y.shape != x.shape:
      found = getattr(y, "shape", type(y).__name__)
      raise DepthMupError(
        f"Residual: the block {type(self.block).__name__} maps {x.shape} to {found}; a "
        "branch must give one array of the shape of its input"
      )
    multiplier = self.multiplier * self.parametrization.branch_multiplier(self.depth)
    return x + scaled(y, multiplier).astype(x.dtype)
