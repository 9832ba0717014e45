"""What every module of a net gives, and where in the net it stands.

Layer: jax, flax, `branches`.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.diagnostics.branches import Call, Path, check_first_call, watching
from flax_depthmup.errors import DepthMupError

#: What linen puts into the path of a scanned or rematerialized module.
_LIFTED = re.compile(r"(Scan|Checkpoint|Remat)+_")
_START = "module_outputs_start"
_MOVED = "module_outputs_moved"


class Place(NamedTuple):
  """What a module is called in the records, and where it stands.

  Attributes:
    name: its path; the blocks of a loop in Python, such as block_0 and block_1, have
      one name, as the layers of a scan do.
    zone: "before" the first residual branch, "inside" of the stack, or "after" it; None
      of a module that is called in several zones.
  """

  name: str
  zone: str | None


def _plain(path: Sequence[str]) -> tuple[str, ...]:
  """The path of a module without what linen's lifting adds to it."""
  return tuple(part for part in path if not _LIFTED.match(part))


def places_of(model: nn.Module, args: Any) -> dict[Path, Place]:
  """Path -> place, in the order in which calls end.

  Raises:
    DepthMupError: the net has no residual branch.
  """
  places: dict[Path, Place] = {}
  begun = 0

  def visit(call: Call) -> Any:
    nonlocal begun
    before = begun
    begun += call.adds_to_stream
    out, path = call.run(), _plain(call.module.path)
    around = begun > before  # a residual, or around some: its output is the stream
    stem = len(path) if around else 0
    if call.branch is not None:
      stem = len(_plain(call.branch.path))
    zone = "inside" if stem else "after" if begun else "before"
    parts = [re.sub(r"_?\d+$", "", part) or part for part in path[:stem]]
    place = Place("/".join([*parts, *path[stem:]]), zone)
    known = places.setdefault(path, place)
    places[path] = place if known.zone == zone else place._replace(zone=None)
    return out

  with watching(visit):
    jax.eval_shape(lambda: model.init(jax.random.key(0), *args))
  if not begun:
    raise DepthMupError(
      f"{type(model).__name__} has no residual branch; build its blocks with "
      "dmup.ResidualStack or dmup.Residual"
    )
  return {**places, (): Place("output", "after")}


def module_outputs(model: nn.Module, params: Any, args: Any) -> dict[Path, list[jax.Array]]:
  """Path of a module -> its outputs, those of all layers of a scan in one array."""
  _, seen = model.apply(
    {"params": params}, *args, capture_intermediates=True, mutable=["intermediates"]
  )
  found: dict[Path, list[jax.Array]] = {}
  for path, x in jax.tree_util.tree_leaves_with_path(seen["intermediates"]):
    keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    if "__call__" not in keys:
      continue  # what the net itself keeps among its intermediates
    keys = keys[: keys.index("__call__")]
    lifted = keys and _LIFTED.match(keys[-1])  # a carry, which its Residual shows
    if jnp.issubdtype(x.dtype, jnp.floating) and not lifted:
      found.setdefault(_plain(keys), []).append(x)
  return found


def branch_moves(
  model: nn.Module, params: Any, start: Any, args: Any
) -> dict[Path, list[jax.Array]]:
  """Branch -> g(x; W_t) - g(x; W_0) at its inputs of now, before the multiplier."""

  def visit(call: Call) -> Any:
    out, module = call.run(), call.module
    if module is call.branch:
      check_first_call(module, _MOVED, "moved")
      before = {"params": module.variables[_START]}
      old = module.clone(parent=None).apply(before, *call.args, **call.kwargs)
      module.scope.put_variable(_MOVED, "moved", out - old)
    return out

  with watching(visit):
    variables = {"params": params, _START: start}
    _, seen = model.apply(variables, *args, mutable=[_MOVED])
  found: dict[Path, list[jax.Array]] = {}
  for path, x in jax.tree_util.tree_leaves_with_path(seen[_MOVED]):
    found.setdefault(_plain([k.key for k in path[:-1]]), []).append(x)
  return found
