"""The sweep engine: a grid of training runs of one architecture as one program.

Members (learning rate x block multiplier x seed, or whatever differs in value
but not in shape) are laid over all local devices and trained in waves of as
many as fit; a wave trains in chunks of steps. Every wave runs the same compiled
program. Knows no model and no optimizer: it maps two pure functions.

Layer: jax, `checkpoint`, `sweep_store`.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding

from flax_depthmup.checks import check_size
from flax_depthmup.sweep_program import Init, Step, check_members, program_text
from flax_depthmup.sweep_store import SweepStore, Wave, fingerprint

_AXIS = "sweep"


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


@dataclasses.dataclass(frozen=True)
class ChunkDone:
  """What `on_chunk` is told after every chunk.

  Attributes:
    member_steps: training steps newly done, summed over members; members found
      diverged count as if they went on, so that the total is members * steps.
    wave_done: these members have finished.
    members: [wave] indices of the members of the wave.
    losses: [wave, steps so far] their losses.
    diverged: [wave] bool.
  """

  member_steps: int
  wave_done: bool
  members: np.ndarray
  losses: np.ndarray
  diverged: np.ndarray


def run_sweep(
  init: Init,
  step: Step,
  members: Mapping[str, np.ndarray],
  data: Any = None,
  *,
  steps: int,
  chunk: int = 100,
  per_device: int | None = None,
  directory: str | pathlib.Path | None = None,
  config: Mapping[str, Any] | None = None,
  save_seconds: float = 10.0,
  on_chunk: Callable[[ChunkDone], None] | None = None,
) -> SweepResult:
  """Trains every member for `steps` steps.

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
    chunk: steps between two reports.
    per_device: members trained at once on each device, vectorized by `vmap`.
      None: 1 on CPU, where it is the fastest; elsewhere all.
    directory: where results and state are kept, so that an interrupted call,
      made again, continues with bitwise the same result. None keeps nothing.
    config: a description to keep with the results, as JSON values. A call that
      finds `directory` made under another config, members, data, or program
      (the traced `init` and `step`) is refused.
    save_seconds: the state is saved after a chunk when so long has passed;
      finished members and the losses so far are flushed after every chunk.
    on_chunk: called after every chunk, also for what a former call had done.

  Raises:
    DepthMupError: `step` changes the shape of the state or gives no scalar loss,
      members of different lengths, a size that is not positive, a
      directory of another sweep or with an unreadable file.
  """
  members = check_members(members)
  check_size(steps, "steps")
  check_size(chunk, "chunk")
  count = len(next(iter(members.values())))
  devices = jax.local_devices()
  if per_device is None:
    per_device = 1 if devices[0].platform == "cpu" else -(-count // len(devices))
  check_size(per_device, "per_device")
  program = program_text(init, step, {k: v[0] for k, v in members.items()}, data)
  identity = {
    "steps": int(steps),
    "count": count,
    "members": {name: fingerprint([v]) for name, v in members.items()},
    "config": dict(config or {}),
    "program": fingerprint([np.frombuffer(program.encode(), np.uint8)]),
    "data": None if directory is None else fingerprint(jax.tree.leaves(data)),
  }
  store = SweepStore(directory, identity, save_seconds)
  devices = devices[: -(-count // per_device)]
  engine = _Engine(init, step, data, devices, per_device, chunk, steps)
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


class _Engine:
  """The two compiled programs, and the loop over the chunks of one wave."""

  def __init__(self, init, step, data, devices, per_device, chunk, steps):
    mesh = jax.make_mesh(
      (len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )
    self.wave = per_device * len(devices)
    self._chunk, self._steps = chunk, steps
    self._split = NamedSharding(mesh, jax.P(_AXIS))
    self._data = jax.device_put(data, NamedSharding(mesh, jax.P()))
    each, all_of = jax.P(_AXIS), jax.P()

    def on_each_device(f, in_specs, donate=()):
      local = jax.shard_map(
        f, mesh=mesh, in_specs=in_specs, out_specs=each, check_vma=False
      )
      return jax.jit(local, donate_argnums=donate)

    self._init = on_each_device(
      lambda members, data: _map_members(lambda m: init(m, data), members),
      (each, all_of),
    )
    self._train = on_each_device(
      _train_chunk(step, chunk), (each, each, each, all_of, all_of, all_of), donate=(0,)
    )

  def train(
    self, wave: np.ndarray, members: dict[str, np.ndarray], store: SweepStore
  ) -> Iterator[ChunkDone]:
    """Trains one wave, yielding after each chunk; continues what `store` holds."""
    real, pad = len(wave), self.wave - len(wave)
    padded = {name: np.pad(v, (0, pad), mode="edge") for name, v in members.items()}
    members = jax.device_put(padded, self._split)
    state = self._init(members, self._data)
    losses = np.full((real, self._steps), np.nan, np.float32)
    empty = Wave(wave, losses, np.zeros(real, bool))
    start, state, losses, diverged = store.running(empty, self.wave, state)
    last_save = time.monotonic()
    if start:
      yield self._report(wave, start, start, losses, diverged)
    while start < self._steps:
      stop = min(start + self._chunk, self._steps)
      alive = np.pad(~diverged, (0, pad))  # the padding is not trained
      if alive.any():
        put = jax.device_put(alive, self._split)
        state, new, finite = self._train(state, members, put, start, stop, self._data)
        losses[:, start:stop] = np.asarray(new)[:real, : stop - start]
        diverged = diverged | ~np.asarray(finite)[:real]
      if stop == self._steps:
        store.finish(Wave(wave, losses, diverged), self.wave)
      else:
        store.flush(Wave(wave, losses[:, :stop], diverged))
        if time.monotonic() - last_save >= store.save_seconds:
          store.save(stop, Wave(wave, losses, diverged), self.wave, state)
          last_save = time.monotonic()
      yield self._report(wave, stop, stop - start, losses, diverged)
      start = stop

  def _report(self, wave, stop, new, losses, diverged) -> ChunkDone:
    done = stop == self._steps
    return ChunkDone(new * len(wave), done, wave, losses[:, :stop].copy(), diverged.copy())


def _map_members(f: Callable[..., Any], *trees: Any) -> Any:
  """f over the leading axis; one member alone is not vectorized."""
  if jax.tree.leaves(trees)[0].shape[0] == 1:
    out = f(*jax.tree.map(lambda x: x[0], trees))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], out)
  return jax.vmap(f)(*trees)


def _train_chunk(step: Step, chunk: int) -> Callable[..., Any]:
  """(state, members, alive, start, stop, data) -> (state, losses, finite).

  A dynamic trip count: the last chunk, shorter, runs the same program.
  """

  def train(state, members, alive, start, stop, data):
    # Where no member of this device is alive there is nothing to do.
    end = jnp.where(jnp.any(alive), stop, start)
    done = jnp.arange(chunk) < end - start

    def one(state, member, alive):
      def body(t, carry):
        state, losses = carry
        state, loss = step(state, member, t, data)
        return state, losses.at[t - start].set(jnp.asarray(loss, jnp.float32))

      losses = jnp.full(chunk, jnp.nan, jnp.float32)
      state, losses = jax.lax.fori_loop(start, end, body, (state, losses))
      finite = alive & jnp.all(jnp.isfinite(losses) | ~done)
      for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
          finite &= jnp.all(jnp.isfinite(leaf))
      return state, jnp.where(alive, losses, jnp.nan), finite

    return _map_members(one, state, members, alive)

  return train
