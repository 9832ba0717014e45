"""The residual stream of a net: x^0, x^1, ..., x^L. Layer: jax, flax, `branches`."""

import collections
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.diagnostics.branches import (
  Call,
  Path,
  Site,
  at,
  check_first_call,
  check_found,
  check_module,
  in_scan,
  scope_of,
  watching,
)
from flax_depthmup.errors import DepthMupError

#: The collection that the states are kept in.
STREAM = "residual_stream"
# In parentheses: a variable shares its names with the children of its module.
_IN, _OUT, _MARK = "(in)", "(out)", "(mark)"

#: Of a module: its path, and whether it is what a lifting such as nn.scan was given.
_Place = tuple[Path, bool]


def residual_stream(
  model: nn.Module, params: Any, *inputs: Any, stack: str | None = None, **kwargs: Any
) -> jax.Array:
  """x^0, x^1, ..., x^L: what enters the first residual branch, and what each gives.

  Every `Residual` of the net counts, in the order they are called in: a
  `ResidualStack`, a loop in Python, and scans of layers with several of them, so that a
  Transformer of L layers has 2L + 1 states. A `Residual` inside the branch of another
  belongs to that branch. Can be traced by `jax.jit`.

  Your own `nn.scan` is seen through with variable_axes={True: 0, ...}, or with
  "residual_stream" among them. An `nn.vmap` over nets would pass for a scan of layers:
  vmap this function instead.

  Args:
    model: any linen module.
    params: as `init` gives them.
    *inputs: of the module's `__call__`.
    stack: the path of a part of the net, such as "stage_0", whose states are wanted.
      None: all of it.
    **kwargs: likewise.

  Returns:
    [L + 1, *shape of a state].

  Raises:
    DepthMupError: no residual branch, or none in `stack`; one is called twice; states
      of different shapes; a scan keeps the watcher out, or hides the order.
  """
  check_module(model)
  wanted = () if stack is None else tuple(str(stack).split("/"))
  sites: dict[Path, Site] = {}
  chains: dict[Path, list[_Place]] = {}
  others: dict[Path, None] = {}

  def visit(call: Call) -> Any:
    path, scope = call.module.path, scope_of(call.module)
    ours = call.adds_to_stream and path[: len(wanted)] == wanted
    if ours:
      check_first_call(call.module, STREAM, _OUT)
      if next(iter(sites), path) == path:  # the x of one branch is enough
        x = call.args[0] if call.args else call.kwargs["x"]
        scope.put_variable(STREAM, _IN, x)
    elif call.adds_to_stream:
      others[path] = None
    y = call.run()
    if ours:
      scope.put_variable(STREAM, _OUT, y)
      sites.setdefault(path, Site(path, len(path), y.shape))
      around = [*call.above, call.module]
      chains[path] = [(m.path, scope_of(m).parent is None) for m in around]
    if scope.is_mutable_collection(STREAM):
      scope.put_variable(STREAM, _MARK, jnp.zeros(()))
    return y

  with watching(visit):
    kept = model.apply({"params": params}, *inputs, mutable=[STREAM], **kwargs)[1]
  if others and not sites:
    names = ", ".join(map(repr, _parts(others)))
    raise DepthMupError(f"stack={stack!r} holds no residual branch; there are {names}")
  check_found(model, sites, "residual branch")
  _check_one_shape(model, sites)
  return _in_order(kept[STREAM], sites, chains)


def _in_order(
  kept: Any, sites: dict[Path, Site], chains: dict[Path, list[_Place]]
) -> jax.Array:
  """The states in the order of the net; those of one scan of layers take turns."""
  outs = {path: at(kept, path)[_OUT] for path in sites}
  scans = {
    path: _scan(kept, chains[path]) if in_scan(site, outs[path]) else None
    for path, site in sites.items()
  }
  count = collections.Counter(scans.values())
  first, site = next(iter(sites.items()))
  states = [at(kept, first)[_IN].reshape(-1, *site.shape)[:1]]
  for scan, together in itertools.groupby(sites, scans.get):
    paths = list(together)
    if scan is None:
      states.append(jnp.stack([outs[path] for path in paths]))
      continue
    if count[scan] > 1 and not scan[1]:
      raise DepthMupError(
        f"the order of {', '.join('/'.join(p) for p in scans if scans[p] == scan)} is "
        "unknown, because a function is scanned and not a module; scan a module, as in "
        "nn.scan(Layer, ...), or take one with stack="
      )
    turns = jnp.stack([outs[path] for path in paths], axis=1)
    states.append(turns.reshape(-1, *site.shape))
  return jnp.concatenate(states)


def _scan(kept: Any, chain: list[_Place]) -> _Place:
  """What is scanned around a module: the outermost in the scan, or that one's parent."""
  inner = next(i for i, (path, _) in enumerate(chain) if at(kept, path)[_MARK].ndim)
  path, lifted = chain[inner]
  return path if lifted else chain[max(inner - 1, 0)][0], lifted


def _check_one_shape(model: nn.Module, sites: dict[Path, Site]) -> None:
  if len({site.shape for site in sites.values()}) == 1:
    return
  parts = _parts(sites)
  told = ", ".join(f"{part} {_shapes(part, sites)}" for part in parts)
  raise DepthMupError(
    f"the states of {type(model).__name__} differ in shape, so they are no one stream: "
    f"{told}; take one part, as in stack={parts[0]!r}"
  )


def _shapes(part: str, sites: dict[Path, Site]) -> str:
  names = tuple(part.split("/"))
  shapes = [site.shape for p, site in sites.items() if p[: len(names)] == names]
  return " and ".join(map(str, dict.fromkeys(shapes)))


def _parts(paths: Iterable[Path]) -> list[str]:
  """The paths, in order, cut after the first name in which they differ."""
  paths = list(paths)
  shared = 0
  while shared < len(paths[0]) and len({path[: shared + 1] for path in paths}) == 1:
    shared += 1
  return list(dict.fromkeys("/".join(path[: shared + 1]) for path in paths))
