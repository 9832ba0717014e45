"""Distance from linearization: of every block in its own update, and of a whole net.

Tensor Programs VI (arXiv 2310.02244), on layerwise linearization; CompleteP
(arXiv 2505.01618), Figure 6. Layer: jax, flax, `branches`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from flax_depthmup.diagnostics.branches import (
  Call,
  Path,
  Site,
  by_block,
  check_first_call,
  check_found,
  check_module,
  scope_of,
  watching,
)
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name

#: The collection that holds the update, beside the parameters.
UPDATE = "parameter_update"
#: The collection of the results.
RATIOS = "linearization"
_RATIO, _ROUNDING = "(ratio)", "(rounding)"


@struct.dataclass
class Linearization:
  """How far a function is from linear in an update of its parameters.

  Attributes:
    ratio: |F(W + dW) - F(W) - J dW| / |J dW|, norms over all outputs and examples;
      [L] of blocks, a scalar of a net.
    rounding: what rounding alone can make of it, eps |F(W)| / |J dW| with the eps of
      the dtype that F computes in. A ratio that is not far above says nothing: give a
      larger update, or compute in float64 (`with jax.enable_x64(True)`, parameters and
      inputs converted).
  """

  ratio: np.ndarray | jax.Array
  rounding: np.ndarray | jax.Array


def layerwise_linearization(
  model: nn.Module, params: Any, update: Any, *inputs: Any, **kwargs: Any
) -> dict[str, Linearization]:
  """How far every residual branch is from linear in the update of its own parameters.

  Each at the input that it has in the net with `params`, all others unchanged. Blocks
  of depth k >= 2 lose the products of their updates as L grows, unless the updates are of
  order 1: after Adam at rates L^(alpha - 1) the ratio falls as L^(alpha - 1), for alpha =
  1/2 (Depth-muP) by L^(-1/2), for alpha = 1 (CompleteP, ODE) not at all. For k = 1 the
  same holds by the curvature of phi; a linear branch has 0. A kink of phi leaves the root
  of that, L^((alpha - 1)/2): a share of order dW of the units crosses it.

  Can be traced by `jax.jit`: then an update that does not move a block gives nan or inf.

  Args:
    model: any linen module.
    params: as `init` gives them.
    update: a tree like `params`: dW of all of them.
    *inputs: of the module's `__call__`.
    **kwargs: likewise.

  Returns:
    Path of a branch, such as "stack/block" -> its ratios, [L]. Branches in a Python
    loop: see `by_block`.

  Raises:
    DepthMupError: no residual branch with parameters, one that is called twice, an
      update of other shapes, or one that does not move a block or is not finite, or a
      scan that keeps the watcher out.
  """
  check_module(model)
  _check_update(params, update)
  sites: dict[Path, Site] = {}
  inside = False

  def visit(call: Call) -> Any:
    nonlocal inside
    y = call.run()
    module = call.module
    if inside or module is not call.branch or "params" not in module.variables:
      return y
    check_first_call(module, RATIOS, _RATIO)
    if UPDATE not in module.variables:
      where = "/".join(module.path)
      raise DepthMupError(
        f"the update does not reach {where}: it is inside an nn.scan or the like without "
        f'the collection "{UPDATE}"; add variable_axes={{"{UPDATE}": 0}} to that'
      )
    inside = True  # what the branch calls now is not the net's
    try:
      values = _of_branch(module, call.args, call.kwargs)
    finally:
      inside = False
    for name, value in zip((_RATIO, _ROUNDING), values, strict=True):
      scope_of(module).put_variable(RATIOS, name, value)
    sites.setdefault(module.path, Site(module.path, len(module.path), ()))
    return y

  @jax.jit
  def measure(params: Any, update: Any) -> Any:
    variables = {"params": params, UPDATE: update}
    return model.apply(variables, *inputs, mutable=[RATIOS], **kwargs)[1]

  with watching(visit):
    kept = measure(params, update)
  check_found(model, sites, "residual branch with parameters")
  ratios, rounding = (
    by_block(kept[RATIOS], sites.values(), name) for name in (_RATIO, _ROUNDING)
  )
  return {
    name: _checked(f"a block of {name}", ratios[name], rounding[name]) for name in ratios
  }


def linearization_distance(
  apply: Callable[..., Any], params: Any, update: Any, *inputs: Any
) -> Linearization:
  """How far a whole net, or any function, is from linear in an update of all parameters.

  |f(theta + D) - f(theta) - J D| / |J D|, over everything that it gives in floats.
  Layerwise linearization is not this: a net each of whose blocks becomes linear in its
  own update stays nonlinear in all of them together. Can be traced by `jax.jit`.

  Args:
    apply: f, called as apply(params, *inputs); differentiable by `jax.jvp`.
    params: theta, a tree of arrays.
    update: D, a tree like it.
    *inputs: of f.

  Raises:
    DepthMupError: an update of other shapes, or one that does not move the outputs or
      is not finite; no outputs in floats.
  """
  if not callable(apply):
    raise DepthMupError(f"apply={apply!r} is no function; give one of (params, *inputs)")
  _check_update(params, update)

  def outputs(params: Any) -> list[jax.Array]:
    found = jax.tree.leaves(apply(params, *inputs))
    return [y for y in found if jnp.issubdtype(jnp.result_type(y), jnp.floating)]

  @jax.jit
  def measure(params: Any, update: Any) -> tuple[jax.Array, jax.Array]:
    return _compare(outputs, params, update)

  if not jax.eval_shape(outputs, params):
    raise DepthMupError("apply gives no arrays of floats; give a function that does")
  return _checked("the outputs", *measure(params, update))


def _of_branch(module: nn.Module, args: Any, kwargs: Any) -> tuple[jax.Array, jax.Array]:
  """(ratio, rounding) of a bound branch at these arguments."""
  block, variables = module.unbind()
  update = variables[UPDATE]
  rest = {k: v for k, v in variables.items() if k not in ("params", UPDATE, RATIOS)}

  def outputs(params: Any) -> Any:
    return block.apply({"params": params, **rest}, *args, **kwargs)

  return _compare(outputs, variables["params"], update)


def _compare(outputs: Any, params: Any, update: Any) -> tuple[jax.Array, jax.Array]:
  """(ratio, rounding) of a function of parameters."""
  update = jax.tree.map(lambda d, w: jnp.asarray(d, w.dtype), update, params)
  still, moved = jax.jvp(outputs, (params,), (update,))
  whole = outputs(jax.tree.map(jnp.add, params, update))
  left = jax.tree.map(lambda a, b, c: _wide(a) - _wide(b) - _wide(c), whole, still, moved)
  eps = float(jnp.finfo(_coarsest(outputs, params)).eps)
  size = _norm(moved)
  return _norm(left) / size, eps * _norm(still) / size


def _coarsest(outputs: Any, params: Any) -> Any:
  """The coarsest dtype that a function computes in, whatever it gives in the end."""
  found = str(jax.make_jaxpr(outputs)(params))
  for short, dtype in (("bf16[", jnp.bfloat16), ("f16[", jnp.float16)):
    if short in found:
      return dtype
  given = jax.tree.leaves(jax.eval_shape(outputs, params))
  return max((y.dtype for y in given), key=lambda d: float(jnp.finfo(d).eps))


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _norm(tree: Any) -> jax.Array:
  """Of all entries; the largest is taken out, so that small ones do not underflow."""
  leaves = [_wide(x) for x in jax.tree.leaves(tree)]
  largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
  scale = jnp.where(largest > 0, largest, 1)
  return scale * jnp.sqrt(sum(jnp.sum(jnp.square(x / scale)) for x in leaves))


def _check_update(params: Any, update: Any) -> None:
  def shapes(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): jnp.shape(x) for path, x in leaves}

  have, given = shapes(params), shapes(update)
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      raise DepthMupError(
        f"parameter {path_name(path)} is {jnp.result_type(x)}; expected floats, which "
        "can be moved a little"
      )
  for name in [*have, *given]:
    if have.get(name) != given.get(name):
      raise DepthMupError(
        f"the update of {name} has shape {given.get(name)}, the parameter "
        f"{have.get(name)}; give a tree like params, such as the difference of two"
      )


def _checked(what: str, ratio: jax.Array, rounding: jax.Array) -> Linearization:
  """The result in numpy; as it is while it is traced."""
  if isinstance(ratio, jax.core.Tracer):
    return Linearization(ratio, rounding)
  if not np.isfinite(ratio).all():
    raise DepthMupError(
      f"the update does not move {what}, or not by a finite number; give one that does, "
      "such as that of a training step"
    )
  return Linearization(np.asarray(ratio), np.asarray(rounding))
