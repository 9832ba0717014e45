"""Does a transformation act entry by entry? Read off its program, nothing is computed.

Layer: jax, optax.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

#: Each entry of what comes out depends on that entry of what goes in.
_ENTRYWISE = """
  abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
  convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2
  expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max min
  mul name ne neg nextafter not optimization_barrier or pow real reduce_precision rem
  round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic
  shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
#: Entries are moved and not mixed.
_MOVES = """
  concatenate dynamic_slice dynamic_update_slice expand_dims gather pad reshape rev
  scatter slice split squeeze transpose
"""
_HARMLESS = frozenset((_ENTRYWISE + _MOVES).split())
#: What is finite or not may be asked of the whole: it decides whether to step at all.
_ASKS = frozenset({"reduce_and", "reduce_or"})
#: Axes are made at least so long, as there are optimizers that factor long ones only.
_LONG = 128


def why_not_entrywise(inner: optax.GradientTransformation, params: Any) -> str | None:
  """Why `inner` cannot be taken to act entry by entry; None where it does.

  Args:
    inner: any transformation; its `update` is traced for the shapes of `params`, and
      for longer ones; if need be with value=0 and grad= as further arguments.
    params: arrays or their shapes.

  Returns:
    A half sentence, such as "it applies reduce_sum to the entries of a parameter".
  """
  failure = None
  for least in (_LONG, 1):
    for with_more in (False, True):
      try:
        found = _mixing_at(inner, _lengthened(params, least), with_more)
      except Exception as error:  # from the user's own code, of any kind
        failure = failure or f"it cannot be traced ({(str(error).splitlines() or [''])[0]})"
      else:
        return found and f"it applies {found} to the entries of a parameter"
  return failure


def keeps_parameters(inner: optax.GradientTransformation, params: Any) -> bool:
  """Whether the state that `inner` starts with depends on the values of the parameters."""
  try:
    program = jax.make_jaxpr(inner.init)(_lengthened(params, 1))
  except Exception:  # from the user's own code; told by its first real use
    return False
  return any(_depends(program.jaxpr, [True] * len(program.jaxpr.invars)))


def _depends(jaxpr: Jaxpr, marked: Sequence[bool]) -> list[bool]:
  """Which outputs depend on the marked inputs."""
  known = dict(zip(jaxpr.invars, marked, strict=True))

  def does(x: Any) -> bool:
    return not isinstance(x, Literal) and known.get(x, False)

  for eqn in jaxpr.eqns:
    inputs = [does(x) for x in eqn.invars]
    body = _only_body(eqn)
    if body is not None and len(body.invars) == len(inputs):
      out = _depends(body, inputs)
    else:
      out = [any(inputs)] * len(eqn.outvars)
    known |= dict(zip(eqn.outvars, out, strict=True))
  return [does(x) for x in jaxpr.outvars]


def _only_body(eqn: Any) -> Any:
  """The program inside of a jit, a remat, a custom derivative; None for others."""
  inside = [v for v in eqn.params.values() if isinstance(v, ClosedJaxpr | Jaxpr)]
  if eqn.primitive.name in ("scan", "while", "cond") or len(inside) != 1:
    return None
  return getattr(inside[0], "jaxpr", inside[0])


def _lengthened(params: Any, least: int) -> Any:
  def longer(x: Any) -> jax.ShapeDtypeStruct:
    shape = tuple(max(n, least) for n in jnp.shape(x))
    return jax.ShapeDtypeStruct(shape, jnp.result_type(x))

  return jax.tree.map(longer, params)


def _mixing_at(
  inner: optax.GradientTransformation, params: Any, with_more: bool
) -> str | None:
  state = jax.eval_shape(inner.init, params)
  update = optax.with_extra_args_support(inner).update

  def step(grads: Any, state: Any, params: Any) -> Any:
    more = {"value": jnp.zeros(()), "grad": grads} if with_more else {}
    return update(grads, state, params, **more)

  program = jax.make_jaxpr(step)(params, state, params)
  leaves = jax.tree.leaves((params, state, params))
  grads = len(jax.tree.leaves(params))
  # Scalars of the state are counts and hyperparameters, not entries of parameters.
  marked = [
    i < grads or i >= len(leaves) - grads or leaf.ndim > 0 for i, leaf in enumerate(leaves)
  ]
  try:
    _follow(program.jaxpr, marked)
  except _Mixes as found:
    return str(found)
  return None


class _Mixes(Exception):
  """Raised at the first operation that mixes entries, with its name."""


def _follow(jaxpr: Jaxpr, marked: Sequence[bool]) -> list[bool]:
  """Which outputs hold entries, given which inputs do.

  Raises:
    _Mixes: an operation mixes them.
  """
  known = dict(zip(jaxpr.invars, marked, strict=True))

  def holds(x: Any) -> bool:
    return not isinstance(x, Literal) and known.get(x, False)

  for eqn in jaxpr.eqns:
    inputs = [holds(x) for x in eqn.invars]
    out = _through(eqn, inputs) if any(inputs) else [False] * len(eqn.outvars)
    known |= dict(zip(eqn.outvars, out, strict=True))
  return [holds(x) for x in jaxpr.outvars]


def _through(eqn: Any, inputs: list[bool]) -> list[bool]:
  """Which outputs of one operation hold entries; at least one input does."""
  name = eqn.primitive.name
  if name in _HARMLESS:
    return [True] * len(eqn.outvars)
  if name in _ASKS:
    return [False] * len(eqn.outvars)
  if name == "broadcast_in_dim":
    if eqn.outvars[0].aval.size > eqn.invars[0].aval.size:
      raise _Mixes(name)
    return [True]
  if name == "cond":
    if inputs[0]:
      raise _Mixes(name)
    branches = [_follow(b.jaxpr, inputs[1:]) for b in eqn.params["branches"]]
    return [any(outs) for outs in zip(*branches, strict=True)]
  if name == "while":
    return _through_while(eqn, inputs)
  body = _only_body(eqn)
  if body is not None and len(body.invars) == len(inputs):
    return _follow(body, inputs)
  raise _Mixes(name)


def _through_while(eqn: Any, inputs: list[bool]) -> list[bool]:
  """A loop: what is carried is followed until no more of it holds entries."""
  skip = eqn.params["cond_nconsts"]
  consts = inputs[skip : skip + eqn.params["body_nconsts"]]
  carry = inputs[skip + len(consts) :]
  while True:
    after = _follow(eqn.params["body_jaxpr"].jaxpr, [*consts, *carry])
    grown = [a or b for a, b in zip(carry, after, strict=True)]
    if grown == carry:
      break
    carry = grown
  _follow(eqn.params["cond_jaxpr"].jaxpr, [*inputs[:skip], *carry])
  return carry
