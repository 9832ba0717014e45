"""The pure functions and members that a sweep is made of, checked before it runs.

Layer: jax, `sweep_store`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def program_text(init: Init, step: Step, member: Member, data: Any) -> str:
  """The program as a text; raises unless `step` keeps the state and gives a loss."""
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
  if jax.tree.structure(before) != jax.tree.structure(after):
    raise DepthMupError(
      f"step changes the tree of the state from {jax.tree.structure(before)} to "
      f"{jax.tree.structure(after)}; it must give back what it takes"
    )
  leaves = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
  for (path, a), b in leaves:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
      raise DepthMupError(
        f"step changes state{jax.tree_util.keystr(path)} from {a.dtype}{list(a.shape)} "
        f"to {b.dtype}{list(b.shape)}; it must keep shapes and dtypes"
      )
  constants = fingerprint([*first.consts, *second.consts])
  return re.sub(" at 0x[0-9a-f]+", "", f"{first}\n{second}\n{constants}")
