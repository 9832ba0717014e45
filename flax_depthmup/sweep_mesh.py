"""The mesh that a sweep runs on: members along "sweep", each split along the rest.

Layer: jax.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError

AXIS = "sweep"

#: Shapes and dtypes of one member's state -> a tree of `jax.P`, or a prefix of it.
StateSpecs = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Layout:
  """How members lie on the devices.

  Attributes:
    mesh: with an axis "sweep"; each index along it is a lane.
    per_lane: members that a lane trains at once.
    state: shapes and dtypes of one member's state.
    specs: the `jax.P` of each of its leaves, along the other axes.
  """

  mesh: Mesh
  per_lane: int
  state: Any
  specs: Any

  @property
  def wave(self) -> int:
    """Members that all lanes train at once."""
    return self.per_lane * self.mesh.shape[AXIS]

  def described(self) -> dict[str, Any]:
    """As JSON, to compare with that of another process."""
    devices = [device.id for device in self.mesh.devices.flat]
    return {
      "mesh": str(self.mesh),
      "devices of the mesh": devices,
      "per_device": self.per_lane,
      "state_specs": [str(spec) for spec in jax.tree.leaves(self.specs)],
    }

  def shardings(self) -> Any:
    """Of the state of a wave, whose leaves are those of one member, stacked."""
    return jax.tree.map(lambda s: NamedSharding(self.mesh, jax.P(AXIS, *s)), self.specs)

  def abstract(self) -> Any:
    """Shapes, dtypes and shardings of the state of a wave."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct((self.wave, *x.shape), x.dtype, sharding=s),
      self.state,
      self.shardings(),
    )

  def constrain(self, state: Any) -> Any:
    """Keeps the state of one member, traced, where it is to lie."""
    if self.mesh.axis_names == (AXIS,):
      return state  # jax takes no constraint where no axis is left to it
    return jax.tree.map(jax.lax.with_sharding_constraint, state, self.specs)


def lay_out(mesh: Any, per_device: int | None, count: int) -> tuple[Mesh, int]:
  """The mesh, and how many of `count` members each lane trains at once.

  Args:
    mesh: see `run_sweep`.
    per_device: ditto.
    count: of all members.

  Raises:
    DepthMupError: members cannot be laid on the mesh, or `per_device` is no size.
  """
  if mesh is not None:
    _check_mesh(mesh)
  devices = jax.local_devices() if mesh is None else [*mesh.devices.flat]
  if per_device is None:
    lanes = len(devices) if mesh is None else mesh.shape[AXIS]
    per_device = 1 if devices[0].platform == "cpu" else -(-count // lanes)
  check_size(per_device, "per_device")
  if mesh is not None:
    return mesh, int(per_device)
  if jax.process_count() > 1:
    raise DepthMupError(
      f"{jax.process_count()} processes run one sweep without a mesh: give one over all "
      "devices, as mesh=jax.make_mesh((jax.device_count(),), ('sweep',), "
      "axis_types=(jax.sharding.AxisType.Auto,))"
    )
  devices, types = devices[: -(-count // per_device)], (AxisType.Auto,)
  mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=types, devices=devices)
  return mesh, int(per_device)


def _check_mesh(mesh: Any) -> None:
  """Raises `DepthMupError` unless members can be laid along an axis of the mesh."""
  if not isinstance(mesh, Mesh):
    raise DepthMupError(f"mesh={mesh!r} is no jax.sharding.Mesh; give one, or None")
  if AXIS not in mesh.shape:
    raise DepthMupError(
      f'mesh has the axes {mesh.axis_names}, and none is "{AXIS}", along which members '
      "are laid; give it one, of size 1 if need be"
    )
  for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
    if kind != AxisType.Auto:
      raise DepthMupError(
        f'mesh axis "{name}" is {kind}, expected AxisType.Auto; make the mesh with '
        f"axis_types=(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}"
      )
  if jax.process_count() > 1 and {*mesh.devices.flat} != {*jax.devices()}:
    raise DepthMupError(
      f"mesh has {mesh.size} devices, the {jax.process_count()} processes have "
      f"{jax.device_count()}; give a mesh over all of them"
    )


def check_specs(state_specs: StateSpecs | None, state: Any, mesh: Mesh) -> Any:
  """The `jax.P` of every leaf of one member's state.

  Args:
    state_specs: see `run_sweep`.
    state: shapes and dtypes of one member's state.
    mesh: that `lay_out` has given.

  Raises:
    DepthMupError: the specs do not fit the state, or the mesh.
  """
  if state_specs is None:
    return jax.tree.map(lambda _: jax.P(), state)
  if not callable(state_specs):
    raise DepthMupError(
      f"state_specs={state_specs!r} is no function from the shapes of a state to its "
      "tree of jax.P; give lambda state: ..."
    )
  given = jax.tree.map(
    _as_spec,
    state_specs(state),
    is_leaf=lambda x: x is None or isinstance(x, jax.P | NamedSharding),
  )
  try:
    specs = jax.tree.broadcast(given, state)
  except ValueError as error:
    told = " ".join(" ".join(str(error).splitlines()[:2]).split())
    fault = told.replace("broadcast_prefix prefix_tree", "state")
    raise DepthMupError(
      f"state_specs gave a tree that is no prefix of the state ({fault}); give a "
      "jax.P for each leaf, or one for all below a place"
    ) from None
  leaves = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(specs), strict=True)
  for (path, leaf), spec in leaves:
    _check_spec(f"state{jax.tree_util.keystr(path)}", leaf.shape, spec, mesh)
  return specs


def _as_spec(leaf: Any) -> jax.P:
  spec = leaf.spec if isinstance(leaf, NamedSharding) else leaf
  if spec is not None and not isinstance(spec, jax.P):
    raise DepthMupError(f"state_specs gave the leaf {leaf!r}, expected jax.P or None")
  return jax.P() if spec is None else spec


def _check_spec(name: str, shape: tuple[int, ...], spec: jax.P, mesh: Mesh) -> None:
  where = f"state_specs gave {name} of shape {list(shape)} the {spec}"
  if len(spec) > len(shape):
    raise DepthMupError(
      f"{where}: {len(spec)} entries for {len(shape)} axes; give at most one for each"
    )
  used: set[str] = set()
  for axis, entry in enumerate(spec):
    parts = (entry,) if isinstance(entry, str) else () if entry is None else entry
    if not isinstance(parts, tuple):
      raise DepthMupError(f"{where}: expected mesh axes or None, not {entry}")
    for part in parts:
      if part not in mesh.shape or part == AXIS:
        others = [name for name in mesh.axis_names if name != AXIS]
        raise DepthMupError(
          f'{where}: a member cannot be split along "{part}"; expected one of {others}'
        )
      if part in used:
        raise DepthMupError(f'{where}: it names "{part}" twice; once is all that goes')
      used.add(part)
    ways = math.prod(mesh.shape[part] for part in parts)
    if shape[axis] % ways:
      sizes = ", ".join(f'"{part}" of size {mesh.shape[part]}' for part in parts)
      raise DepthMupError(
        f"{where}: mesh axis {sizes} does not divide {shape[axis]}, the size of axis "
        f"{axis}; give another size or mesh, or None there"
      )


def place(tree: Any, sharding: NamedSharding) -> Any:
  """Host arrays, the same in every process, on the devices."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def put(x: Any) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(put, tree)


def fetch(array: jax.Array) -> np.ndarray:
  """The whole of an array, in every process."""
  if jax.process_count() == 1:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)
