"""The pure functions and members that a sweep is made of, checked before it runs.

Layer: jax, `sweep_store`.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import AbstractMesh, Mesh, Sharding

from flax_depthmup.errors import DepthMupError
from flax_depthmup.sweep_store import fingerprint

Member = dict[str, jax.Array]  # one value of every swept quantity
Init = Callable[[Member, Any], Any]  # (member, data) -> state
Step = Callable[[Any, Member, jax.Array, Any], tuple[Any, jax.Array]]


def check_members(members: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Names and values as arrays; raises unless they are of one length, above 0."""
  if not isinstance(members, Mapping):
    raise DepthMupError(f"members={members!r}: expected a mapping from names to values")
  values = {name: np.asarray(v) for name, v in members.items()}
  lengths = {name: v.shape[:1] for name, v in values.items()}
  if not values or len(set(lengths.values())) != 1 or () in lengths.values():
    raise DepthMupError(
      f"members {lengths}: expected at least one name, each with the same number of values"
    )
  if next(iter(lengths.values())) == (0,):
    raise DepthMupError("members are empty: give at least one value of each name")
  return values


def trace(init: Init, step: Step, member: Member, data: Any) -> tuple[Any, str]:
  """What `init` and `step` do, without running them.

  Returns:
    The shapes and dtypes of one member's state, and both functions as a text: the
    same in another process, and on another mesh, as far as the mesh only says where
    arrays lie.

  Raises:
    DepthMupError: no functions, or `step` changes the state or gives no loss.
  """
  for name, f in (("init", init), ("step", step)):
    if not callable(f):
      raise DepthMupError(f"{name}={f!r} is no function")
  first, before = jax.make_jaxpr(init, return_shape=True)(member, data)
  t = jax.ShapeDtypeStruct((), jnp.int32)
  second, result = jax.make_jaxpr(step, return_shape=True)(before, member, t, data)
  if not isinstance(result, tuple) or len(result) != 2:
    raise DepthMupError(
      f"step gave {type(result).__name__} {result}; expected the pair (state, loss)"
    )
  after, loss = result
  if not isinstance(loss, jax.ShapeDtypeStruct) or loss.shape:
    raise DepthMupError(f"step gave the loss {loss}; expected a scalar array")
  given: Any = jax.tree.structure(before)
  back: Any = jax.tree.structure(after)
  if given != back:
    raise DepthMupError(
      f"step changes the tree of the state from {given} to "
      f"{back}; it must give back what it takes"
    )
  leaves = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
  for (path, a), b in leaves:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
      raise DepthMupError(
        f"step changes state{jax.tree_util.keystr(path)} from {a.dtype}{list(a.shape)} "
        f"to {b.dtype}{list(b.shape)}; it must keep shapes and dtypes"
      )
  constants = fingerprint([*first.consts, *second.consts])
  known: dict[int, str] = {}
  text = f"{_as_text(first.jaxpr, known)}\n{_as_text(second.jaxpr, known)}\n{constants}"
  return before, text


def _as_text(jaxpr: core.Jaxpr, known: dict[int, str]) -> str:
  """A program, without what says where its arrays lie.

  Args:
    jaxpr: the program.
    known: id of a program inside -> its fingerprint; one that is used many times
      is written once.
  """
  names: dict[core.Var, str] = {}
  numbers = itertools.count()

  def name(v: core.Var | core.Literal) -> str:
    if isinstance(v, core.Literal):
      return f"{v.val}:{v.aval}"
    if v not in names:
      names[v] = f"v{next(numbers)}:{v.aval}"
    return names[v]

  lines = [" ".join(map(name, [*jaxpr.constvars, *jaxpr.invars]))]
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "sharding_constraint":
      names[eqn.outvars[0]] = name(eqn.invars[0])
      continue
    params = [f"{key}={_value_text(v, known)}" for key, v in sorted(eqn.params.items())]
    ins, outs = (" ".join(map(name, vs)) for vs in (eqn.invars, eqn.outvars))
    lines.append(f"{outs} = {eqn.primitive.name} [{' '.join(params)}] {ins}")
  lines.append(" ".join(map(name, jaxpr.outvars)))
  return "\n".join(lines)


def _value_text(value: Any, known: dict[int, str]) -> str:
  """A parameter of an operation, the same in another process."""
  if isinstance(value, core.ClosedJaxpr):
    return _value_text(value.jaxpr, known) + fingerprint(value.consts)
  if isinstance(value, core.Jaxpr):
    if id(value) not in known:
      text = _as_text(value, known).encode()
      known[id(value)] = fingerprint([np.frombuffer(text, np.uint8)])
    return known[id(value)]
  if isinstance(value, tuple | list):
    return f"({', '.join(_value_text(v, known) for v in value)})"
  if isinstance(value, set | frozenset):
    return f"{{{', '.join(sorted(map(str, value)))}}}"
  if isinstance(value, Mesh | AbstractMesh | Sharding):
    return str(None)
  return re.sub(" at 0x[0-9a-f]+", "", str(value))
