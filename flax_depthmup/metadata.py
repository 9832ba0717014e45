"""The box that carries a parameter's annotation through linen's transformations.

An initializer wrapped by `initializers` returns the array in an `Annotated`
box; `nn.scan` and `nn.remat` carry the box along (scan calls `add_axis`), and
`Residual` marks it with the depth of its stack. `init` reads the boxes into a
tree of `Scales` and hands out plain arrays. Layer: flax, mathematics.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import struct

from flax_depthmup.axes import Axes, infinite
from flax_depthmup.errors import DepthMupError
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales, resolve


class Annotated(struct.PyTreeNode, nn.meta.AxisMetadata):
  """A parameter with all that `resolve` needs to know of it.

  Attributes:
    value: the array, or another metadata box around it (`nn.Partitioned`).
    axes: names and roles, one per axis of the array.
    parametrization: the rule the parameter was initialized by.
    depth: number of blocks of the residual stack it is in; None outside.
    base_std: see `resolve`.
    trainable: False for a frozen layer.
    folded: the forward multiplier is folded into the other factors; see `resolve`.
  """

  value: Any
  axes: Axes = struct.field(pytree_node=False)
  parametrization: Parametrization = struct.field(pytree_node=False)
  depth: int | None = struct.field(pytree_node=False, default=None)
  base_std: float | None = struct.field(pytree_node=False, default=None)
  trainable: bool = struct.field(pytree_node=False, default=True)
  folded: bool = struct.field(pytree_node=False, default=False)

  def unbox(self) -> Any:
    """The array."""
    return self.value

  def replace_boxed(self, val: Any) -> Annotated:
    """The same annotation around another array."""
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict[Any, Any]) -> Annotated:
    """The array gained a stacked axis at `index`, named by nn.PARTITION_NAME."""
    axes = self.axes.insert(index, params.get(nn.PARTITION_NAME) or "stacked")
    return self._with_inner("add_axis", index, params).replace(axes=axes)

  def remove_axis(self, index: int, params: dict[Any, Any]) -> Annotated:
    """The array lost the axis at `index`; undoes `add_axis`."""
    axes = self.axes.remove(index)
    return self._with_inner("remove_axis", index, params).replace(axes=axes)

  def _with_inner(self, change: str, index: int, params: dict[Any, Any]) -> Annotated:
    """A box inside (sharding metadata) sees the same change of axes."""
    if isinstance(self.value, nn.meta.AxisMetadata):
      return self.replace(value=getattr(self.value, change)(index, params))
    return self

  def get_partition_spec(self) -> jax.P:
    """For `nn.get_partition_spec`: an inner box's own, or the names of the axes.

    The names are logical ones, for `nn.logical_to_mesh_sharding`.
    """
    if isinstance(self.value, nn.meta.AxisMetadata):
      inner: Any = self.value  # the method is not of the base class
      return inner.get_partition_spec()
    return jax.P(*(axis.name for axis in self.axes.axes))

  def scales(self, net_depth: int | None = None) -> Scales:
    """The numbers of this parameter; for `net_depth` see `resolve`."""
    shape = jax.tree.leaves(self.value)[0].shape
    return resolve(
      self.axes,
      shape,
      self.parametrization,
      depth=self.depth,
      net_depth=net_depth,
      base_std=self.base_std,
      trainable=self.trainable,
      folded=self.folded,
    )


@jax.tree_util.register_static
class TracedScales(Scales):
  """`Scales` that a traced function may return: a static node instead of a leaf."""


def is_annotated(node: Any) -> bool:
  """Whether a node of a tree is a box."""
  return isinstance(node, Annotated)


def mark_branch(boxed: Any, depth: int, parametrization: Parametrization) -> Any:
  """Marks every parameter of a tree as inside a branch of a stack of `depth` blocks.

  Raises:
    DepthMupError: a parameter is in another branch already, or was annotated
      with another parametrization.
  """

  def mark(path, box):
    if not is_annotated(box):
      return box  # a plain array: `scales_of` reports it with its full path
    if box.depth is not None:
      raise DepthMupError(
        f"parameter {path_name(path)} is inside two residual branches, of stacks of "
        f"{box.depth} and {depth} blocks; its depth factor is undefined, so neither "
        "nest stacks nor give one block instance to two of them"
      )
    if box.parametrization != parametrization:
      raise DepthMupError(
        f"parameter {path_name(path)} was made with parametrization "
        f"{box.parametrization} but its residual branch has {parametrization}; give "
        "the block's layers the parametrization of the stack"
      )
    return box.replace(depth=depth)

  return jax.tree_util.tree_map_with_path(mark, boxed, is_leaf=is_annotated)


def unmark_branch(boxed: Any) -> Any:
  """Undoes `mark_branch`: what the block itself sees of its parameters."""
  return jax.tree.map(
    lambda box: box.replace(depth=None) if is_annotated(box) else box,
    boxed,
    is_leaf=is_annotated,
  )


def scales_of(boxed_params: Any) -> Any:
  """The tree of `Scales` of a tree of boxed parameters, as `model.init` returns it.

  Works on abstract values (`jax.eval_shape`) as well.

  Raises:
    DepthMupError: a parameter carries no annotation, or a base size names an
      axis that no parameter has.
  """
  boxes = jax.tree_util.tree_leaves_with_path(boxed_params, is_leaf=is_annotated)
  if not boxes:
    raise DepthMupError("there are no parameters: give model.init(...)['params']")
  bare = [path_name(path) for path, box in boxes if not is_annotated(box)]
  if bare:
    raise DepthMupError(
      f"parameter {bare[0]} carries no axes ({len(bare)} of {len(boxes)} parameters "
      "do not); use dmup.Dense, Embed or Readout, or wrap its initializer: "
      'kernel_init=dmup.with_axes(init, "embed -> embed", parametrization)'
    )
  _check_base_sizes_used([box for _, box in boxes])
  depths = {box.depth for _, box in boxes} - {None}
  net_depth = depths.pop() if len(depths) == 1 else None
  return jax.tree.map(lambda box: box.scales(net_depth), boxed_params, is_leaf=is_annotated)


def _check_base_sizes_used(boxes: list[Annotated]) -> None:
  """A misspelt axis in `base_width` would make the real one finite, silently."""
  for p in {box.parametrization for box in boxes}:
    own = [axis for box in boxes if box.parametrization == p for axis in box.axes.axes]
    used = {axis.name for axis in own if infinite(axis, p.base_sizes)}
    unused = sorted(set(p.base_sizes) - used)
    if unused:
      names = sorted({axis.name for axis in own})
      raise DepthMupError(
        f'base_width names the axis "{unused[0]}" but no parameter scales along it; '
        f"the axes of this model are {', '.join(names)}: correct the name or drop it"
      )


def init(model: nn.Module, key: jax.Array, *inputs: Any, **kwargs: Any) -> tuple[Any, Any]:
  """Initializes a model: plain parameter arrays, and the same tree of `Scales`.

  Args:
    model: any linen module whose parameters are annotated.
    key: a jax random key.
    *inputs: of the module's `__call__`; only their shapes matter.
    **kwargs: likewise.

  Returns:
    (params, scales): `params` is what goes into `model.apply({"params": params},
    ...)`; `scales` holds a `Scales` in the place of each array, a leaf to jax's
    tree functions. Inside `jax.eval_shape` and `jax.jit` it is a `TracedScales`,
    which the traced function may return and which every function of this
    library takes as well.

  Raises:
    DepthMupError: a parameter carries no annotation, or the model has
      collections besides its parameters.
  """
  scales = abstract_init(model, key, *inputs, **kwargs)[1]
  params = nn.meta.unbox(model.init(key, *inputs, **kwargs)["params"])
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(params)):
    scales = jax.tree.map(lambda s: TracedScales(**vars(s)), scales)
  return params, scales


def abstract_init(
  model: nn.Module, key: jax.Array, *inputs: Any, **kwargs: Any
) -> tuple[Any, Any]:
  """`init` without computing anything: shapes and dtypes instead of arrays."""
  if not isinstance(model, nn.Module):
    raise DepthMupError(f"model={model!r} is no linen module; give an instance of one")
  if not isinstance(key, jax.Array | dict):
    raise DepthMupError(f"key={key!r} is no random key; give jax.random.key(seed)")
  # Arrays become shapes; a flag such as train=True stays what it is.
  leaves, tree = jax.tree.flatten((key, inputs, kwargs))
  is_array = [isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct) for x in leaves]

  def make(arrays: list[Any]) -> Any:
    given = iter(arrays)
    full = [next(given) if a else x for x, a in zip(leaves, is_array, strict=True)]
    key, inputs, kwargs = jax.tree.unflatten(tree, full)
    return model.init(key, *inputs, **kwargs)

  arrays = [x for x, a in zip(leaves, is_array, strict=True) if a]
  variables = jax.eval_shape(make, arrays)
  others = sorted(set(variables) - {"params"})
  if "params" not in variables:
    raise DepthMupError(f"{type(model).__name__} has no parameters to scale")
  if others:
    raise DepthMupError(
      f"{type(model).__name__} has the collection {others[0]!r} besides its "
      "parameters; call variables = model.init(...), then scales = dmup.scales_of("
      'variables["params"]) and flax.linen.unbox(variables)'
    )
  scales = scales_of(variables["params"])
  return nn.meta.unbox(variables["params"]), scales
