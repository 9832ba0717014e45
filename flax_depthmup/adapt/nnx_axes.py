"""The same annotation on `nnx.Param`: axes as metadata, plain arrays as values.

`with_axes` and `normal` make initializers for nnx layers; what they know of a parameter
goes into its metadata, where `nnx.jit`, `nnx.vmap`, `nnx.scan`, `nnx.split` and
`nnx.merge` keep it. `scales_of` reads it into a tree of `Scales` for `nnx.Optimizer`.
Layer: flax, mathematics; no optax.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flax_depthmup import initializers, metadata
from flax_depthmup.axes import Axes, Axis, Role
from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.metadata import Annotated
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales

Initializer = Callable[..., Any]

#: Keys of a Param's metadata. nnx keeps the first, a tuple with one entry an axis, in
#: step with the axes that its transformations add and remove. The second is linen's box,
#: empty, for all else that it holds.
_AXES, _BOX = "dmup_axes", "dmup_box"
#: The name of the stacked axis along which depth is counted.
_LAYERS = "layers"


@dataclasses.dataclass(frozen=True)
class _Sized:
  """An axis and its size when the parameter was made; None where a vmap added it."""

  axis: Axis
  size: int | None = None


def normal(
  axes: str | Axes,
  parametrization: Parametrization,
  *,
  base_std: float | None = None,
  trainable: bool = True,
  shape: tuple[int, ...] | None = None,
) -> Initializer:
  """Draws N(0, init_std^2) and annotates: `dmup.normal` for nnx.

      nnx.Linear(n, 4 * n, kernel_init=normal("embed -> mlp", p), rngs=rngs)

  nnx's layers apply no forward multiplier, so it is folded into std, gradient and
  update (the abc-symmetry; see `dmup.resolve`).

  Args:
    axes: of the parameter, as "embed -> mlp"; see `Axes`.
    parametrization: the rule and base sizes.
    base_std: std in the base net; None: 1/sqrt(fan_in) there.
    trainable: False: the updates of the parameter are zero.
    shape: of the parameter, for the layers that initialize a flat matrix and reshape it,
      `nnx.LinearGeneral` and `nnx.MultiHeadAttention`.

  Returns:
    An initializer (key, shape, dtype) for any nnx layer or `nnx.Param`.
  """
  boxed = initializers.normal(axes, parametrization, base_std=base_std, trainable=trainable)
  return _for_nnx(boxed, {}, shape)


def with_axes(
  init: Initializer,
  axes: str | Axes,
  parametrization: Parametrization,
  *,
  trainable: bool = True,
  shape: tuple[int, ...] | None = None,
) -> Initializer:
  """Annotates what a standard initializer makes, and scales it: `dmup.with_axes` for nnx.

      kernel_init = with_axes(nnx.initializers.lecun_normal(), "embed -> mlp", p)
      scale_init = with_axes(nnx.initializers.ones, "-> embed", p)

  Args:
    init: an initializer (key, shape, dtype) -> array, standard at every size; with
      metadata (`nnx.with_partitioning`) the metadata stay.
    axes: of the parameter.
    parametrization: the rule and base sizes.
    trainable: False: the updates of the parameter are zero.
    shape: see `normal`; `init` is called with the flat one.

  Raises:
    DepthMupError: `init` is no initializer; when called, if it is not standard.
  """
  if not callable(init):
    raise DepthMupError(f"init={init!r} is no initializer; give one such as lecun_normal()")
  axes = Axes.parse(axes)
  roles = [r for r in (Role.IN, Role.OUT) if any(axis.role is r for axis in axes.axes)]
  others: dict[str, Any] = {}

  def plain(key: jax.Array, full: tuple[int, ...], *args: Any) -> Any:
    flat = full if shape is None else tuple(axes.sizes(role, full) for role in roles)
    made = init(key, flat, *args)
    if isinstance(made, nnx.VariableMetadata):
      others.update(made.metadata)
      made = made.raw_value
    return made.reshape(full)

  boxed = initializers.with_axes(plain, axes, parametrization, trainable=trainable)
  return _for_nnx(boxed, others, shape)


def _for_nnx(
  boxed: Initializer, others: dict[str, Any], shape: tuple[int, ...] | None
) -> Initializer:
  """An initializer that gives an `Annotated` box, as one that gives nnx its metadata."""

  def draw(key: jax.Array, asked: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
    full = asked if shape is None else shape
    if math.prod(full) != math.prod(asked):
      raise DepthMupError(
        f"shape={shape} is no reshape of {tuple(asked)}, the one that the layer asks for; "
        "give the shape of this parameter, without stacked axes"
      )
    box = boxed(key, full, dtype)
    sized = zip(box.axes.axes, full, strict=True)
    axes = tuple(_Sized(axis, int(n)) for axis, n in sized)
    known: dict[str, Any] = {_AXES: axes, _BOX: _without_value(box)}
    return nnx.with_metadata(lambda: box.value.reshape(asked), **(others | known))()

  return draw


def _without_value(box: Annotated) -> Annotated:
  return box.replace(value=None)


def stacked(name: str = _LAYERS, partition: str | None = None) -> dict[str, Any]:
  """The `transform_metadata` of the `nnx.vmap` that makes a stack of blocks.

      @nnx.vmap(transform_metadata=stacked("layers"))
      def make(rngs): return Block(rngs)

      blocks = make(nnx.Rngs(0).split(depth))

  It inserts a stacked axis into the axes of every parameter, as nnx does into shardings.
  An `nnx.scan` that makes parameters needs it too. One that runs the blocks may have it
  or not.

  Args:
    name: of the stacked axis; one called "layers" may not be longer than the depth of
      the branches along it.
    partition: the `nnx.PARTITION_NAME` of shardings, a mesh axis or a logical one; None:
      the stacked axis is not sharded.

  Raises:
    DepthMupError: `name` is no axis name.
  """
  if not isinstance(name, str) or not name.isidentifier():
    raise DepthMupError(f'name={name!r}: expected the name of an axis, such as "layers"')
  return {nnx.PARTITION_NAME: partition, _AXES: _Sized(Axis(name, Role.STACKED))}


def scales_of(module: nnx.Module, wrt: Any = nnx.Param) -> nnx.State:
  """The tree of `Scales` of the `nnx.Param` of a module, shaped as nnx.state(module, wrt).

      tx = dmup.adamw(1e-3, scales_of(model))
      optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

  Also of an abstract module, as `nnx.eval_shape` gives it.

  Args:
    module: the whole model.
    wrt: nnx's filter of the parameters that are trained, the one that `nnx.Optimizer`
      and `nnx.DiffState` are given. The others need axes too.

  Raises:
    DepthMupError: a parameter carries no axes, its shape is not the one its axes speak
      of, its stack is longer than the depth it is marked with, the module has no
      parameters, a base size is of no axis, or `wrt` is no filter, selects nothing or
      something that is no `nnx.Param`.
  """
  boxes = _boxes(module)
  _check_stacks(boxes)
  scales = metadata.scales_of(boxes)
  if wrt is nnx.Param:
    return scales
  by_name = {path_name(path): s for path, s in _leaves(scales, Scales)}
  chosen = _chosen(module, wrt, by_name)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: by_name[path_name(path)],
    chosen,
    is_leaf=lambda x: isinstance(x, nnx.Variable),
  )


def _chosen(module: nnx.Module, wrt: Any, known: Container[str]) -> nnx.State:
  """The variables that a filter selects, all of them parameters."""
  remedy = 'give one such as nnx.All(nnx.Param, nnx.PathContains("readout"))'
  try:
    hash(nnx.filterlib.to_predicate(wrt)), hash(wrt)  # nnx caches by them
  except (TypeError, ValueError):  # the second is of flax's own message
    raise DepthMupError(f"wrt={wrt!r} is no filter of nnx; {remedy}") from None
  chosen = nnx.state(module, wrt)
  names = [path_name(path) for path, _ in _leaves(chosen, nnx.Variable)]
  if not names:
    raise DepthMupError(f"wrt={wrt!r} selects no parameter; {remedy}")
  for name in names:
    if name not in known:
      raise DepthMupError(f"wrt={wrt!r} selects {name}, which is no nnx.Param; {remedy}")
  return chosen


def mark_branch(module: nnx.Module, depth: int, parametrization: Parametrization) -> None:
  """Marks every parameter of a module as inside a branch of a stack of `depth` blocks.

  This gives them their depth factors. `nnx_residual.Residual` does it; call it where a
  block adds to the stream by itself, which it must with p.branch_multiplier(depth).

  Args:
    module: a block, or a stack of blocks that `nnx.vmap` made.
    depth: L, the number of blocks of the whole stack.
    parametrization: that of the block's parameters.

  Raises:
    DepthMupError: a parameter carries no axes, is in another branch already, has
      another parametrization, or its axis "layers" is longer than `depth`.
  """
  check_size(depth, "depth")
  check_parametrization(parametrization)
  boxes = _boxes(module)
  marked = metadata.mark_branch(boxes, depth, parametrization)
  _check_stacks(marked)
  by_name = {path_name(path): box for path, box in _leaves(marked, Annotated)}
  for path, param in _leaves(nnx.state(module, nnx.Param), nnx.Variable):
    param.set_metadata(_BOX, _without_value(by_name[path_name(path)]))


def _leaves(tree: Any, kind: type) -> list[tuple[Any, Any]]:
  return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, kind))


def _boxes(module: nnx.Module) -> Any:
  """The parameters as linen's boxes, shapes in the place of arrays."""
  if not isinstance(module, nnx.Module):
    raise DepthMupError(f"{module!r} is no nnx.Module; give an instance of one")
  params = nnx.state(module, nnx.Param)
  leaves = _leaves(params, nnx.Variable)
  if not leaves:
    raise DepthMupError(
      f"{type(module).__name__} has no nnx.Param to scale; give the whole model"
    )
  bare = [path_name(path) for path, param in leaves if not param.has_metadata(_AXES)]
  if bare:
    raise DepthMupError(
      f"parameter {bare[0]} carries no axes ({len(bare)} of {len(leaves)} parameters do "
      "not); give its layer an initializer of nnx_axes, such as "
      'kernel_init=nnx_axes.with_axes(init, "embed -> embed", parametrization)'
    )

  def box(path: Any, param: nnx.Variable) -> Annotated:
    _check_sizes(path_name(path), param)
    axes = Axes(tuple(sized.axis for sized in param.get_metadata(_AXES)))
    value = jax.ShapeDtypeStruct(param.shape, param.dtype)
    return param.get_metadata(_BOX).replace(value=value, axes=axes)

  return jax.tree_util.tree_map_with_path(
    box, params, is_leaf=lambda x: isinstance(x, nnx.Variable)
  )


def _check_stacks(boxes: Any) -> None:
  """A stack longer than L; a shorter one may be a stage of a deeper net.

  Other stacked axes, of experts or of seeds, say nothing of depth.
  """
  for path, box in _leaves(boxes, Annotated):
    sizes = zip(box.axes.axes, box.value.shape, strict=True)
    blocks = math.prod(
      n for axis, n in sizes if axis.role is Role.STACKED and axis.name == _LAYERS
    )
    if box.depth is not None and blocks > box.depth:
      raise DepthMupError(
        f"parameter {path_name(path)} is in a stack of {blocks} blocks but marked as in a "
        f"branch of depth {box.depth}; give Residual or mark_branch the number of blocks "
        f"of the whole stack, depth={blocks} or more"
      )


def _check_sizes(name: str, param: nnx.Variable) -> None:
  """A vmap that said nothing of its axis, or put it where the metadata have another."""
  sized = param.get_metadata(_AXES)
  fits = len(sized) == len(param.shape) and all(
    s.size in (None, n) for s, n in zip(sized, param.shape, strict=True)
  )
  if not fits:
    known = [f"{s.axis}={s.size or 'any'}" for s in sized]
    raise DepthMupError(
      f"parameter {name} has shape {tuple(param.shape)} but its axes are "
      f"{', '.join(known) or 'none'}; give the nnx.vmap or nnx.scan that stacks it "
      'transform_metadata=nnx_axes.stacked("layers") and an axis of at least 0, and make '
      "a parameter of another size anew"
    )
