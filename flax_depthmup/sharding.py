"""Meshes, and where arrays go on them: from the names of axes to mesh axes.

  sweep   members of a sweep
  data    examples; parameters are copied
  fsdp    examples, and parameters along "embed": gathered when they are used
  model   parameters along "mlp", "heads", "kv_heads", "vocab", and what they make

The names of a parameter's axes are those of its annotation, so one annotation
gives its scales and its sharding. Layer: jax, flax (its logical rules), optax.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name
from flax_depthmup.transforms import is_scales, named_leaves

MESH_AXES = ("sweep", "data", "fsdp", "model")

Rules = Mapping[str, str | tuple[str, ...] | None]

#: Axis name -> mesh axis or axes. A name that is absent is not split.
DEFAULT_RULES: Rules = MappingProxyType(
  {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "mlp": "model",
    "heads": "model",
    "kv_heads": "model",
    "vocab": "model",
  }
)


def make_mesh(
  sizes: str | Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh with the axes sweep, data, fsdp, model, of size 1 where not named.

  Args:
    sizes: "data:2,fsdp:-1" or the same as a mapping; -1 takes what is left. None:
      all devices along data.
    devices: to lay out; None: all devices of all processes.

  Raises:
    DepthMupError: an unknown or repeated axis, two times -1, or sizes whose
      product is not the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = {"data": -1} if sizes is None else sizes
  sizes = _parse(sizes) if isinstance(sizes, str) else dict(sizes)
  written = ",".join(f"{name}:{size}" for name, size in sizes.items())
  for name, size in sizes.items():
    if name not in MESH_AXES:
      raise DepthMupError(
        f'mesh {written}: unknown axis "{name}"; the axes are {", ".join(MESH_AXES)}'
      )
    if size != -1:
      check_size(size, f"mesh axis {name}")
  free = [name for name, size in sizes.items() if size == -1]
  given = math.prod(size for size in sizes.values() if size != -1)
  if len(free) > 1:
    raise DepthMupError(f"mesh {written}: -1, all that is left, can stand once")
  if len(devices) % given or (not free and given != len(devices)):
    raise DepthMupError(
      f"mesh {written} needs {'a multiple of ' if free else ''}{given} devices, there "
      f"are {len(devices)}; give sizes whose product is {len(devices)}, or -1 for one"
    )
  sizes |= dict.fromkeys(free, len(devices) // given)
  shape = tuple(sizes.get(name, 1) for name in MESH_AXES)
  # A TPU slice has a shape of its own, of which a mesh axis may take a part.
  laid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  return Mesh(laid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _parse(text: str) -> dict[str, int]:
  sizes: dict[str, int] = {}
  for part in text.split(","):
    name, _, size = part.strip().partition(":")
    try:
      number = int(size)
    except ValueError:
      raise DepthMupError(
        f"mesh {text!r}: {part!r} is no axis:size; write data:2,fsdp:2,model:2, or -1 for "
        "what is left"
      ) from None
    if name in sizes:
      raise DepthMupError(f'mesh {text!r} names "{name}" twice')
    sizes[name] = number
  return sizes


def make_rules(changes: str | Mapping[str, Any] | None = None) -> Rules:
  """The default rules with changes.

  Args:
    changes: axis name -> mesh axis, several, or None; or written
      "kv_heads:,embed:data+fsdp", where nothing behind the colon is None.

  Raises:
    DepthMupError: a mesh axis that is none.
  """
  if isinstance(changes, str):
    written: dict[str, Any] = {}
    for part in filter(None, changes.split(",")):
      name, colon, axes = part.strip().partition(":")
      if not colon or not name:
        raise DepthMupError(
          f"rules {changes!r}: {part!r} is no name:axis; write kv_heads: for no axis, or "
          "embed:data+fsdp"
        )
      written[name] = tuple(axes.split("+")) if axes else None
    changes = written
  rules = dict(DEFAULT_RULES) | dict(changes or {})
  for name, axes in rules.items():
    for axis in _as_tuple(axes):
      if axis not in MESH_AXES or axis == "sweep":
        raise DepthMupError(
          f'rule for "{name}": {axis!r} is no axis to split along; expected data, fsdp or '
          "model"
        )
  return MappingProxyType(rules)


def spec(names: Sequence[str | None], mesh: Mesh, rules: Rules = DEFAULT_RULES) -> jax.P:
  """The partition of an array whose axes have these names.

  A mesh axis splits one axis of an array, the first that asks for it.
  """
  used: set[str] = set()
  parts = []
  for name in names:
    wanted = () if name is None else _as_tuple(rules.get(name))
    axes = tuple(a for a in wanted if a not in used and mesh.shape.get(a, 1) > 1)
    used |= set(axes)
    parts.append(axes[0] if len(axes) == 1 else axes or None)
  return jax.P(*parts)


def param_shardings(scales: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
  """The tree of `NamedSharding` of the parameters, for `jax.jit`.

  Args:
    scales: the second value of `dmup.init` or `dmup.abstract_init`.
    mesh: see `make_mesh`.
    rules: see `make_rules`.

  Raises:
    DepthMupError: a mesh axis does not divide the axis of a parameter.
  """
  for name, s in named_leaves(scales):
    for axis, size, part in zip(
      s.axis_names, s.shape, spec(s.axis_names, mesh, rules), strict=True
    ):
      ways = math.prod(mesh.shape[a] for a in _as_tuple(part))
      if size % ways:
        raise DepthMupError(
          f'parameter {name}: its axis "{axis}" has size {size}, which the {ways} '
          f"devices along {'+'.join(_as_tuple(part))} do not divide; take another size or "
          f'mesh, or keep the axis whole with the rule "{axis}:"'
        )
  return jax.tree.map(
    lambda s: NamedSharding(mesh, spec(s.axis_names, mesh, rules)),
    scales,
    is_leaf=is_scales,
  )


def optimizer_shardings(
  tx: optax.GradientTransformation, params: Any, shardings: Any, mesh: Mesh
) -> Any:
  """Shardings of `tx.init(params)`: what is like a parameter lies where it lies.

  What is kept for a parameter in another shape (the rows and columns of Adafactor,
  the factors of Shampoo) is on every device.

  Args:
    tx: the whole optimizer.
    params: arrays, or their shapes.
    shardings: of the parameters.
    mesh: for the rest, which every device holds.
  """
  own = {
    path_name(path): (x.shape, sharding)
    for (path, x), sharding in zip(
      jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    )
  }

  def place(path: Any, kept: Any) -> NamedSharding:
    parts = path_name(path).split("/")
    for start in range(len(parts)):  # the end of the path is the parameter's
      shape, sharding = own.get("/".join(parts[start:]), (None, None))
      if shape == kept.shape:
        return sharding
    return NamedSharding(mesh, jax.P())

  return jax.tree_util.tree_map_with_path(place, jax.eval_shape(tx.init, params))


def batch_sharding(
  mesh: Mesh, batch_size: int, rules: Rules = DEFAULT_RULES
) -> NamedSharding:
  """Where batches go: their first axis over the devices of data and fsdp.

  Raises:
    DepthMupError: these do not divide the batch.
  """
  part = spec(("batch",), mesh, rules)
  ways = math.prod(mesh.shape[a] for a in _as_tuple(part[0]))
  if batch_size % ways:
    raise DepthMupError(
      f"batch_size={batch_size} is no multiple of the {ways} devices along "
      f"{'+'.join(_as_tuple(part[0]))}; give one that is"
    )
  return NamedSharding(mesh, part)


@contextlib.contextmanager
def on_mesh(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
  """Traces inside place their activations on the mesh, as our models name them."""
  logical = [
    (name, tuple(axes) if isinstance(axes, list | tuple) else axes)
    for name, axes in rules.items()
  ]
  with jax.set_mesh(mesh), nn.logical_axis_rules(logical):
    yield


def _as_tuple(axes: Any) -> tuple[str, ...]:
  return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
