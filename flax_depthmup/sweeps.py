"""The sweep engine: a grid of training runs of one architecture as one program.

Members (learning rate x block multiplier x seed, or whatever differs in value
but not in shape) are laid along the axis "sweep" of a mesh, each split along its
other axes, and trained in waves of as many as fit; a wave trains in chunks of
steps. Every wave runs the same compiled program. Knows no model and no optimizer:
it maps two pure functions.

Layer: jax, `sweep_engine`, `sweep_mesh`, `sweep_program`, `sweep_store`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.identity import as_json, difference
from flax_depthmup.processes import gather
from flax_depthmup.sweep_engine import ChunkDone, Engine
from flax_depthmup.sweep_mesh import Layout, StateSpecs, check_specs, lay_out
from flax_depthmup.sweep_program import Init, Step, check_members, trace
from flax_depthmup.sweep_store import SweepStore, fingerprint, together


@dataclasses.dataclass(frozen=True)
class SweepResult:
  """What came of every member.

  Attributes:
    losses: [members, steps] float32, the loss of each step; nan from the chunk
      after the one that a member diverged in.
    diverged: [members] bool, a loss or the state was not finite.
  """

  losses: np.ndarray
  diverged: np.ndarray


def run_sweep(
  init: Init,
  step: Step,
  members: Mapping[str, np.ndarray],
  data: Any = None,
  *,
  steps: int,
  mesh: Mesh | None = None,
  state_specs: StateSpecs | None = None,
  chunk: int = 100,
  per_device: int | None = None,
  directory: str | pathlib.Path | None = None,
  config: Mapping[str, Any] | None = None,
  save_seconds: float = 10.0,
  on_chunk: Callable[[ChunkDone], None] | None = None,
) -> SweepResult:
  """Trains every member for `steps` steps.

  With several processes, every one makes the same call, with the whole of members
  and data, and gets the whole result.

  Args:
    init: (member, data) -> state, pure and traceable; the same shapes for every
      member.
    step: (state, member, t, data) -> (state, scalar loss), pure and traceable;
      t is the step number, int32. Draw the batch of step t as a function of
      (seed, t), so the order of the data is fixed.
    members: name -> [members] values; `member[name]` is a scalar in `init` and
      `step`.
    data: any tree of arrays, given to both functions on every device.
    steps: training steps of each member.
    mesh: its axes are of type Auto, and one is "sweep"; each index along it is a
      lane with members of its own, the devices along the other axes share them.
      It is the ambient mesh of `init` and `step`, which may split what they compute
      along the other axes by `jax.lax.with_sharding_constraint(x, jax.P(...))`.
      None: every device of the only process is a lane.
    state_specs: from the shapes and dtypes of one member's state to the tree of
      `jax.P` (or `NamedSharding`), or a prefix of it, that says how it is split
      along the axes of the mesh but "sweep". None, also as a leaf: not split, every
      device of a lane holds the whole.
    chunk: steps between two reports.
    per_device: members trained at once on each lane, vectorized by `vmap`.
      None: 1 on CPU, where it is the fastest; elsewhere all.
    directory: where results and state are kept, so that an interrupted call,
      made again, continues with bitwise the same result. On another mesh it
      continues with the same up to rounding, the members in training from their
      start unless a wave has as many. All processes share it. None keeps nothing.
    config: a description to keep with the results, as JSON values. A call that
      finds `directory` made under another config, members, data, or program
      (the traced `init` and `step`) is refused.
    save_seconds: the state is saved after a chunk when so long has passed;
      finished members and the losses so far are flushed after every chunk.
    on_chunk: called after every chunk, also for what a former call had done.

  Raises:
    DepthMupError: `step` changes the shape of the state or gives no scalar loss,
      members of different lengths, a size that is not positive, a
      directory of another sweep or with an unreadable file, a mesh or specs that do
      not fit, several processes without a mesh or with different calls.
  """

  def prepare():
    values = check_members(members)
    check_size(steps, "steps")
    check_size(chunk, "chunk")
    on, per_lane = lay_out(mesh, per_device, len(next(iter(values.values()))))
    with jax.set_mesh(on):
      one = {name: v[0] for name, v in values.items()}
      state, program = trace(init, step, one, data)
    layout = Layout(on, per_lane, state, check_specs(state_specs, state, on))
    return values, layout, program, as_json(dict(config or {}), "config")

  members, layout, program, config = together(prepare)
  count = len(next(iter(members.values())))
  kept = directory is not None or jax.process_count() > 1
  what = {
    "steps": int(steps),
    "count": count,
    "members": {name: fingerprint([v]) for name, v in members.items()},
    "config": config,
    "program": fingerprint([np.frombuffer(program.encode(), np.uint8)]),
    "data": fingerprint(jax.tree.leaves(data)) if kept else None,
  }
  _check_alike(
    {**what, "chunk": int(chunk), "directory": str(directory), **layout.described()}
  )
  store = SweepStore(directory, what, save_seconds)
  engine = Engine(init, step, data, layout, chunk, steps)
  report = on_chunk or (lambda done: None)

  losses = np.full((count, steps), np.nan, np.float32)
  diverged = np.zeros(count, bool)
  for found in store.finished():
    losses[found.members], diverged[found.members] = found.losses, found.diverged
    work = len(found.members) * steps
    report(ChunkDone(work, True, found.members, found.losses, found.diverged))
  left = np.setdiff1d(np.arange(count), store.finished_members())
  complete = False
  try:
    for wave in np.split(left, range(engine.wave, len(left), engine.wave)):
      if not len(wave):
        continue
      chosen = {name: values[wave] for name, values in members.items()}
      for done in engine.train(wave, chosen, store):
        report(done)
      losses[wave], diverged[wave] = done.losses, done.diverged
    complete = True
  finally:
    store.close(done=complete)
  return SweepResult(losses, diverged)


def _check_alike(call: dict[str, Any]) -> None:
  """Raises `DepthMupError` in all processes unless all have made this call."""
  first, *others = map(json.loads, gather(json.dumps(call)))
  for process, other in enumerate(others, 1):
    if found := difference(first, other):
      found = found.replace("this run", f"process {process}")
      raise DepthMupError(
        f"run_sweep: in process 0 {found}; every process must make the same call"
      )
