"""What the residual branches of a net are made of, read off one abstract call.

Nothing is computed: the model is traced at the shapes of its inputs. Layer: jax, flax,
metadata, residual, `diagnostics.branches`.
"""

import dataclasses
import math
from typing import Any

import jax
from flax import linen as nn

from flax_depthmup.axes import Kind
from flax_depthmup.diagnostics.branches import Call, Path, watching
from flax_depthmup.layers import Embed
from flax_depthmup.metadata import abstract_init
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.residual import Residual
from flax_depthmup.scales import Scales
from flax_depthmup.transforms import named_leaves

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm, nn.BatchNorm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
  """One residual branch as it is written; a scan stacks `depth` of them.

  Attributes:
    path: of the branch's module, which its parameters' names start with.
    module: the name of its class.
    depth: L, the number of blocks of its stack, as the parametrization sees it.
    multiplier: a (L/L0)^(-alpha), what the branch is multiplied by; None where a is a
      traced scalar.
    parametrization: that of the stack.
    matrices: names, below `path`, of the hidden weight matrices inside.
    norms: where modules that normalize stand: "head" before the first matrix, "end"
      behind the last, "inside" between; empty without any, None where the order of
      norms and matrices cannot be seen.
    mean_left_in: a positive nonlinearity's mean is not subtracted; None: cannot be seen.
  """

  path: str
  module: str
  depth: int
  multiplier: float | None
  parametrization: Parametrization
  matrices: tuple[str, ...]
  norms: frozenset[str] | None
  mean_left_in: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
  """A net as one abstract call shows it.

  Attributes:
    params: shapes and dtypes.
    scales: the same tree of `Scales`.
    branches: in the order they are called in.
    norm_on_stream: a module normalizes the residual stream between blocks (post-norm).
    tied: paths of the embeddings that are readouts as well.
  """

  params: Any
  scales: Any
  branches: tuple[Branch, ...]
  norm_on_stream: bool
  tied: tuple[str, ...]

  def branch_of(self, parameter: str) -> Branch | None:
    """The branch that a parameter is in, by its name; None: in none."""
    inside = (b for b in self.branches if parameter.startswith(f"{b.path}/"))
    return next(inside, None)


def survey(model: nn.Module, *inputs: Any) -> Survey:
  """Looks at a net whose blocks are `Residual`s and whose parameters are annotated.

  A norm is a module of linen's norms, or one whose class has "norm" in its name; plain
  functions are not seen.

  Args:
    model: any linen module.
    *inputs: of its `__call__`; shapes are enough (`jax.ShapeDtypeStruct`).

  Raises:
    DepthMupError: see `abstract_init`.
  """
  watch = _Watch()
  with nn.intercept_methods(watch.attends), watching(watch.call):
    params, scales = abstract_init(model, jax.random.key(0), *inputs)
  table = dict(named_leaves(scales))
  found = []
  for residual in watch.residuals.values():
    if residual.branch is not None:
      found.append(_branch(residual, table))
  return Survey(
    params=params,
    scales=scales,
    branches=tuple(found),
    norm_on_stream=_norm_on_stream(watch, table),
    tied=tuple(watch.tied),
  )


@dataclasses.dataclass
class _Seen:
  """A `Residual` that is in no other, and the modules called in its branch, in order."""

  parent: Path
  depth: int
  multiplier: Any
  parametrization: Parametrization
  branch: Path | None = None
  module: str = ""
  calls: dict[Path, bool] = dataclasses.field(default_factory=dict)  # path -> is a norm
  mean_left_in: bool | None = None


class _Watch:
  """Notes what is called. A scan may trace its body twice: a path counts once."""

  def __init__(self):
    self.residuals: dict[Path, _Seen] = {}
    self.tied: dict[str, None] = {}
    #: Path of the caller -> "+" for each `Residual` and "n" for each norm on the stream.
    self.stream: dict[Path, dict[Path, str]] = {}

  def attends(self, run: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Notes an embedding that is used as a readout."""
    attends = context.method_name == "attend"
    if attends and isinstance(context.module, Embed | nn.Embed):
      self.tied["/".join(context.module.path)] = None
    return run(*args, **kwargs)

  def call(self, call: Call) -> Any:
    """Notes a call and makes it."""
    module, path = call.module, call.module.path
    parent = call.above[-1].path if call.above else ()
    if call.adds_to_stream:
      seen = _Seen(parent, module.depth, module.multiplier, module.parametrization)
      self.residuals.setdefault(path, seen)
      self.stream.setdefault(parent, {}).setdefault(path, "+")
    elif call.branch is not None:
      outermost = next(m for m in call.above if isinstance(m, Residual))
      self._inside(self.residuals[outermost.path], module, module is call.branch)
    elif _is_norm(module):
      self.stream.setdefault(parent, {}).setdefault(path, "n")
    return call.run()

  def _inside(self, seen: _Seen, module: nn.Module, first: bool) -> None:
    if first:
      seen.branch, seen.module = module.path, type(module).__name__
    seen.calls.setdefault(module.path, _is_norm(module))
    if hasattr(module, "mean_subtraction") and hasattr(module, "activation"):
      seen.mean_left_in = not module.mean_subtraction and module.activation == "relu"


def _is_norm(module: nn.Module) -> bool:
  return isinstance(module, _NORMS) or "norm" in type(module).__name__.lower()


def _branch(seen: _Seen, table: dict[str, Scales]) -> Branch:
  assert seen.branch is not None
  path = "/".join(seen.branch)
  inside = {n: s for n, s in table.items() if n.startswith(f"{path}/")}
  matrices = [name for name, s in inside.items() if s.kind is Kind.HIDDEN]
  number = isinstance(seen.multiplier, int | float)
  at_depth = seen.parametrization.branch_multiplier(seen.depth)
  return Branch(
    path=path,
    module=seen.module,
    depth=seen.depth,
    multiplier=seen.multiplier * at_depth if number else None,
    parametrization=seen.parametrization,
    matrices=tuple(name[len(path) + 1 :] for name in matrices),
    norms=_norms(seen, matrices),
    mean_left_in=seen.mean_left_in,
  )


def _norms(seen: _Seen, matrices: list[str]) -> frozenset[str] | None:
  """Where norms stand among the modules that own the matrices."""
  owners = {tuple(name.split("/")[:-1]) for name in matrices}
  norms = [i for i, is_norm in enumerate(seen.calls.values()) if is_norm]
  if not norms:
    return frozenset()
  if seen.branch in owners or not owners:
    return None  # matrices of the branch's own: no call shows when they are used
  order = [i for i, path in enumerate(seen.calls) if path in owners]
  first, last = (order[0], order[-1]) if order else (math.inf, -math.inf)
  places = {"head" if i < first else "end" if i > last else "inside" for i in norms}
  return frozenset(places)


def _norm_on_stream(watch: _Watch, table: dict[str, Scales]) -> bool:
  """Whether a norm follows a block and a further block follows the norm.

  A scan repeats its body, so that there the norm may be the last of it.
  """
  for calls in watch.stream.values():
    order = "".join(calls.values())
    if "+n+" in order.replace("nn", "n"):
      return True
    blocks = [path for path, what in calls.items() if what == "+"]
    repeated = any(_is_stacked(watch.residuals[path], table) for path in blocks)
    if repeated and "+n" in order:
      return True
  return False


def _is_stacked(seen: _Seen, table: dict[str, Scales]) -> bool:
  """Whether the parameters of a branch have one more axis, that of a scan."""
  path = "/".join(seen.branch or ("?",))
  inside = [s for name, s in table.items() if name.startswith(f"{path}/")]
  return bool(inside) and all("|" in s.axes for s in inside)
