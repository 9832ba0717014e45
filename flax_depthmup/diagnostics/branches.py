"""How the instruments look into the residual branches of a net.

linen lets a watcher see every call of a module, through `nn.scan` and `nn.remat` too,
and what it puts into a collection comes out stacked over the layers of a scan. So no
model carries code for being measured. Layer: jax, flax, `residual`.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import Scope

from flax_depthmup.errors import DepthMupError
from flax_depthmup.residual import Residual

Path = tuple[str, ...]


class Call(NamedTuple):
  """A module's `__call__` that is about to be made.

  Attributes:
    module: whose.
    above: the modules it is made in, outermost first.
    run: makes it, and gives its result.
    args, kwargs: its arguments.
  """

  module: nn.Module
  above: Sequence[nn.Module]
  run: Callable[[], Any]
  args: tuple[Any, ...]
  kwargs: dict[str, Any]

  @property
  def branch(self) -> nn.Module | None:
    """The branch of the outermost `Residual` that this is in, or is; None: in none."""
    modules = [*self.above, self.module]
    inside = itertools.dropwhile(lambda m: not isinstance(m, Residual), modules)
    return next(itertools.islice(inside, 1, None), None)

  @property
  def adds_to_stream(self) -> bool:
    """Whether this is a `Residual` that is inside no other."""
    return isinstance(self.module, Residual) and self.branch is None


class Site(NamedTuple):
  """A module that something was kept of.

  Attributes:
    path: its path in the model.
    stem: how many names of the path lead to the branch that it is in, or is.
    shape: of what was kept, without the layers of a scan.
  """

  path: Path
  stem: int
  shape: tuple[int, ...]


def watching(visit: Callable[[Call], Any]) -> Any:
  """A context in which `visit` stands in for every module's `__call__`.

  It makes the call itself by `call.run()`, and what it gives counts as the result.
  """
  above: list[nn.Module] = []

  def watch(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if context.method_name != "__call__":
      return run(*args, **kwargs)
    module = context.module
    call = Call(module, tuple(above), lambda: run(*args, **kwargs), args, kwargs)
    above.append(module)
    try:
      return visit(call)
    finally:
      above.pop()

  return nn.intercept_methods(watch)


def by_block(kept: Any, sites: Iterable[Site], variable: str) -> dict[str, jax.Array]:
  """Name of a module -> what was kept of it, stacked over the blocks [L, ...].

  A scan stacks its layers. Modules of a loop in Python, such as Block_0/dense and
  Block_1/dense, are stacked here, in the order they are called in, under the name
  Block/dense; followed by a shape where what was kept of them differs in it.

  Raises:
    DepthMupError: a module is in a scan of scans.
  """
  found: dict[str, jax.Array] = {}
  loops: dict[str, dict[tuple[int, ...], list[jax.Array]]] = {}
  for site in sites:
    value = at(kept, site.path)[variable]
    if in_scan(site, value):
      found["/".join(site.path)] = value
    else:
      stem = [re.sub(r"_?\d+$", "", name) or name for name in site.path[: site.stem]]
      shapes = loops.setdefault("/".join([*stem, *site.path[site.stem :]]), {})
      shapes.setdefault(site.shape, []).append(value)
  for name, shapes in loops.items():
    for shape, values in shapes.items():
      found[name if len(shapes) == 1 else f"{name} {shape}"] = jnp.stack(values)
  return found


def in_scan(site: Site, kept: jax.Array) -> bool:
  """Whether what was kept of a module is stacked over the layers of a scan.

  Raises:
    DepthMupError: of several scans.
  """
  axes = kept.ndim - len(site.shape)
  if axes > 1:
    raise DepthMupError(
      f"{'/'.join(site.path)} is in {axes} scans, one in the other; what is in one scan "
      "over layers can be measured"
    )
  return axes == 1


def at(tree: Any, path: Path) -> Any:
  """The subtree at a path."""
  for name in path:
    tree = tree[name]
  return tree


def check_module(model: Any) -> None:
  """Raises `DepthMupError` unless this is a linen module."""
  if not isinstance(model, nn.Module):
    raise DepthMupError(f"model={model!r} is no linen module; give an instance of one")


def scope_of(module: nn.Module) -> Scope:
  """Where a module that is being called keeps its variables."""
  assert module.scope is not None
  return module.scope


def check_first_call(module: nn.Module, collection: str, name: str) -> None:
  """Raises `DepthMupError` if `name` cannot be kept of the module, or has been."""
  where = f"{type(module).__name__} {'/'.join(module.path)}"
  if not scope_of(module).is_mutable_collection(collection):
    raise DepthMupError(
      f"{where} cannot be seen: it is inside an nn.scan, nn.vmap or the like without the "
      f'collection "{collection}"; add variable_axes={{"{collection}": 0}} to that'
    )
  if scope_of(module).has_variable(collection, name):
    raise DepthMupError(
      f"{where} is called twice in one pass, but can be measured once; give every block "
      "a module of its own"
    )


def check_found(model: nn.Module, sites: Any, what: str) -> None:
  """Raises `DepthMupError` unless the net has `what` is measured in its branches."""
  if not sites:
    raise DepthMupError(
      f"{type(model).__name__} has no {what}; build its blocks with dmup.Residual or "
      "dmup.ResidualStack"
    )
