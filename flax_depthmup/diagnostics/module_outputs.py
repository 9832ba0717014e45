"""What every module of a net gives, and where in the net it stands.

Layer: jax, flax, `branches`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.diagnostics.branches import (
  Call,
  Path,
  check_first_call,
  scope_of,
  watching,
)
from flax_depthmup.errors import DepthMupError

#: What linen puts into the path of a scanned or rematerialized module.
_LIFTED = re.compile(r"(Scan|Checkpoint|Remat)+_")
_START = "module_outputs_start"
_MOVED = "module_outputs_moved"


#: From a call to the branch that it is in, or is; None: in none.
BranchOf = Callable[[Call], nn.Module | None]


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


def plain_path(path: Sequence[str]) -> Path:
  """The path of a module without what linen's lifting adds to it."""
  return tuple(part for part in path if not _LIFTED.match(part))


def own_branch(call: Call) -> nn.Module | None:
  """The branch of a net of `Residual`s."""
  return call.branch


def places_of(
  model: nn.Module, args: Any, branch_of: BranchOf = own_branch
) -> dict[Path, Place]:
  """Path -> place, in the order in which calls end.

  Raises:
    DepthMupError: the net has no residual branch.
  """
  places: dict[Path, Place] = {}
  begun = 0

  def visit(call: Call) -> Any:
    nonlocal begun
    before, branch = begun, branch_of(call)
    begun += branch is call.module
    out, path = call.run(), plain_path(call.module.path)
    around = begun > before  # it calls branches: its output is the stream
    stem = len(path) if around else 0
    if branch is not None:
      stem = len(plain_path(branch.path))
    zone = "inside" if stem else "after" if begun else "before"
    keep = branch is not None and branch_of is not own_branch
    place = Place(_without_numbers(path, stem, keep), zone)
    known = places.setdefault(path, place)
    places[path] = place if known.zone == zone else place._replace(zone=None)
    return out

  with watching(visit):
    jax.eval_shape(lambda: model.init(jax.random.key(0), *args))
  if not begun:
    raise DepthMupError(
      f"{type(model).__name__} has no residual branch; build its blocks with "
      "dmup.ResidualStack or dmup.Residual, or name the modules in its branches by "
      "patterns of a PlainNet that fit some"
    )
  return {**places, (): Place("output", "after")}


def _without_numbers(path: Path, stem: int, keep: bool) -> str:
  """The name of a place: without the numbers of layers along the stem.

  With `keep` the last of the stem keeps its number if another has one: Block_3/Dense_0
  and Block_3/Dense_1 are two branches, or parts of one.
  """
  plain = [re.sub(r"_?\d+$", "", part) or part for part in path[:stem]]
  if keep and plain[:-1] != list(path[: stem - 1]):
    plain[-1] = path[stem - 1]
  return "/".join([*plain, *path[stem:]])


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
      found.setdefault(plain_path(keys), []).append(x)
  return found


def branch_moves(
  model: nn.Module, params: Any, start: Any, args: Any, branch_of: BranchOf = own_branch
) -> dict[Path, list[jax.Array]]:
  """Branch -> g(x; W_t) - g(x; W_0) at its inputs of now, before the multiplier.

  Raises:
    DepthMupError: a branch is called twice, gives more than one array, or is inside of a
      transformation that keeps it out of sight.
  """

  def visit(call: Call) -> Any:
    out, module = call.run(), call.module
    if module is branch_of(call):
      check_first_call(module, _MOVED, "moved")
      before = {"params": _start_of(module)}
      old: Any = module.clone(parent=None).apply(before, *call.args, **call.kwargs)
      if not isinstance(out, jax.Array):
        raise DepthMupError(
          f"branch {'/'.join(module.path)} gives {type(out).__name__}, expected one array; "
          "name the modules inside of the blocks by patterns, not the blocks"
        )
      scope_of(module).put_variable(_MOVED, "moved", out - old)
    return out

  with watching(visit):
    variables = {"params": params, _START: start}
    _, seen = model.apply(variables, *args, mutable=[_MOVED])
  found: dict[Path, list[jax.Array]] = {}
  for path, x in jax.tree_util.tree_leaves_with_path(seen[_MOVED]):
    found.setdefault(plain_path([k.key for k in path[:-1]]), []).append(x)
  return found


def _start_of(module: nn.Module) -> Any:
  """The parameters that a branch started with; none where it has none."""
  if "params" in module.variables and _START not in module.variables:
    raise DepthMupError(
      f"branch {'/'.join(module.path)} is inside an nn.scan, nn.vmap or the like that "
      "keeps collections out; give it variable_axes={True: 0} and split_rngs={True: True}"
    )
  return module.variables.get(_START, {})
