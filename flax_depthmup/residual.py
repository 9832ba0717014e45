"""Residual branches and stacks: the depth side of a parametrization.

Layer: flax, mathematics; no optax.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from flax_depthmup.checks import check_size, is_number
from flax_depthmup.errors import DepthMupError
from flax_depthmup.forward_multipliers import multiplied_branch
from flax_depthmup.metadata import mark_branch, unmark_branch
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization


class Residual(nn.Module):
  """x + a (L/L0)^(-alpha) block(x), one block of a stack of L (TP-VI, section 3).

  The parameters of the block are marked as inside a branch, which gives them
  their depth factors. Use it where a stack is a Python loop; `ResidualStack`
  scans.

  Attributes:
    block: the branch: a module whose output has the shape of its first input.
    depth: L, the number of blocks of the whole stack.
    parametrization: alpha and the base depth L0.
    multiplier: a, the branch multiplier at base depth; a number or a traced
      scalar.
  """

  block: nn.Module
  depth: int
  parametrization: Parametrization
  multiplier: float | jax.Array = 1.0

  @nn.compact
  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Adds the scaled branch to x; further arguments go to the block.

    Raises:
      DepthMupError: the block changes the shape of x, or a multiplier or depth
        is no positive number.
    """
    check_size(self.depth, "depth")
    check_multiplier(self.multiplier)
    check_parametrization(self.parametrization)
    if not isinstance(self.block, nn.Module):
      raise DepthMupError(f"Residual: block={self.block!r} is no linen module; give one")
    depth, p = self.depth, self.parametrization
    marked = nn.map_variables(
      lambda block, x: block(x, *args, **kwargs),
      "params",
      trans_in_fn=unmark_branch,
      trans_out_fn=lambda params: mark_branch(params, depth, p),
      init=self.is_initializing(),
      mutable=self.is_mutable_collection("params"),
    )
    y = marked(self.block, x)
    name = type(self.block).__name__
    if not isinstance(y, jax.Array):
      raise DepthMupError(
        f"Residual: the block {name} gave {type(y).__name__}; a branch must give one array"
      )
    if y.shape != x.shape:
      raise DepthMupError(
        f"Residual: the block {name} maps {x.shape} to {y.shape}; a branch must keep the "
        "shape of its input"
      )
    multiplier = self.multiplier * p.branch_multiplier(depth)
    return x + multiplied_branch(self.block, y, multiplier).astype(x.dtype)


class ResidualStack(nn.Module):
  """`depth` residual blocks with parameters of their own, scanned.

  Compile time does not grow with depth. Parameters are stacked along a leading
  axis named "layers" that counts for no fan.

  Attributes:
    block: the branch: a linen module, a module class, or a partial of one.
      Called as block(x, *args); its output has the shape of x.
    depth: the number of blocks of this stack.
    parametrization: that of the block's own layers; gives the branch multiplier
      (L/L0)^(-alpha).
    multiplier: a, the branch multiplier at base depth; a number or a traced
      scalar.
    remat: recompute each block in the backward pass, so memory keeps only the
      inputs of the blocks.
    total_depth: L, the number of blocks of the whole net, where this stack is one
      stage of several; branch multiplier and depth factors follow it. None: the
      stack is the whole net, L = depth.
  """

  block: nn.Module | Callable[..., nn.Module]
  depth: int
  parametrization: Parametrization
  multiplier: float | jax.Array = 1.0
  remat: bool = False
  total_depth: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """Maps x through all blocks; further arguments are given to each of them.

    Arrays among `args` reach every block alike, other values (a flag such as
    deterministic=True) stay Python values; `kwargs` take Python values only.

    Raises:
      DepthMupError: see `Residual`; or total_depth is less than depth.
    """
    check_size(self.depth, "depth")
    total = self.depth if self.total_depth is None else self.total_depth
    check_size(total, "total_depth")
    if total < self.depth:
      raise DepthMupError(
        f"ResidualStack: total_depth={total} is less than depth={self.depth}; give the "
        "number of blocks of the whole net, those of this stack among them"
      )
    step = nn.remat(_Step, prevent_cse=False) if self.remat else _Step
    scanned = nn.scan(
      step,
      variable_axes={True: 0},
      split_rngs={True: True},
      in_axes=nn.broadcast,
      length=self.depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    block = self.block if isinstance(self.block, nn.Module) else _make(self.block)
    # A scan passes arrays; flags and the like go around it.
    is_array = [isinstance(arg, jax.Array | np.ndarray) for arg in args]
    arrays = tuple(a if is_a else None for a, is_a in zip(args, is_array, strict=True))
    flags = tuple(None if is_a else a for a, is_a in zip(args, is_array, strict=True))
    blocks = scanned(block, total, self.parametrization, self.multiplier, flags, kwargs)
    return blocks(x, arrays)[0]


class _Step(nn.Module):
  """One scanned step: carry x, give nothing out."""

  block: nn.Module
  depth: int
  parametrization: Parametrization
  multiplier: float | jax.Array
  flags: tuple[Any, ...]
  kwargs: dict[str, Any]

  @nn.compact
  def __call__(self, x: jax.Array, arrays: tuple[Any, ...]) -> tuple[jax.Array, None]:
    args = [f if a is None else a for a, f in zip(arrays, self.flags, strict=True)]
    residual = Residual(self.block, self.depth, self.parametrization, self.multiplier)
    return residual(x, *args, **self.kwargs), None


def _make(block: Any) -> nn.Module:
  """A module from its class or a partial of it, named "block"."""
  cls = block.func if isinstance(block, functools.partial) else block
  if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
    raise DepthMupError(
      f"ResidualStack: block={block!r} is no linen module; give a module, a module "
      "class, or functools.partial of one"
    )
  return block(name="block")


def check_multiplier(a: Any) -> None:
  """Raises `DepthMupError` for a block multiplier that is no positive number.

  A traced scalar passes: its value is not known.
  """
  if isinstance(a, jax.core.Tracer) and a.ndim == 0:
    return
  if isinstance(a, jax.Array) and a.ndim == 0:
    a = a.item()
  if not is_number(a) or a <= 0:
    raise DepthMupError(f"block multiplier a={a!r}: expected a positive number")
