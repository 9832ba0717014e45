"""A net without annotations, with all that a coordinate check wants to know of it.

Layer: jax, flax, `branches`, `module_outputs`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from flax_depthmup.diagnostics.branches import Call, check_module
from flax_depthmup.diagnostics.module_outputs import plain_path
from flax_depthmup.errors import DepthMupError
from flax_depthmup.patterns import as_patterns, selects
from flax_depthmup.transforms import is_scales


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainNet:
  """A linen model that is not annotated, at one size.

  Attributes:
    model: with its forward multipliers in place; see `dmup.placed_by_hand`.
    scales: the tree of `Scales` of its parameters, as of `dmup.scales_from_axes`.
    start: random key -> parameters, as initialized under the parametrization; such as
      lambda key: dmup.rescale_init(model.init(key, x)["params"], scales, base).
    branches: shell patterns of paths of the modules inside of residual branches, not of
      the blocks that add them: "*/block_*/*". A module that one fits is the branch, or a
      part of it one after the other; what it calls is inside. "!" before one excludes.
  """

  model: nn.Module
  scales: Any
  start: Callable[[jax.Array], Any]
  branches: str | Sequence[str]

  def __post_init__(self):
    check_module(self.model)
    if not callable(self.start):
      raise DepthMupError(f"start={self.start!r} is no function of a random key")
    if not as_patterns(self.branches, "branches"):
      raise DepthMupError("branches=(): a coordinate check wants residual branches")
    leaves = jax.tree.leaves(self.scales, is_leaf=is_scales)
    if not leaves or not all(map(is_scales, leaves)):
      raise DepthMupError(
        "scales of a PlainNet is no tree of Scales; give that of dmup.scales_from_axes"
      )

  def parameters(self, key: jax.Array) -> Any:
    """The initial ones, as plain arrays.

    Raises:
      DepthMupError: they are not those of the scales.
    """
    params = nn.meta.unbox(self.start(key))
    shapes = jax.tree.map(lambda s: s.shape, self.scales, is_leaf=is_scales)
    found = jax.tree.map(lambda x: tuple(x.shape), params)
    if found != shapes:
      raise DepthMupError(
        "start gives other parameters than the scales are for; give both for one size of "
        "the model, and the parameters alone, without other collections"
      )
    return params

  def branch_of(self, call: Call) -> nn.Module | None:
    """The outermost module around a call that a pattern fits; None: none does."""
    patterns = as_patterns(self.branches, "branches")
    for module in [*call.above, call.module]:
      path = plain_path(module.path)
      if path and selects(patterns, "/".join(path)):
        return module
    return None
