"""The two compiled programs of a sweep, and the loop over the chunks of one wave.

Each index along the mesh axis "sweep" is a lane: one device, or several that
share its members. Layer: jax, `sweep_store`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flax_depthmup.sweep_mesh import AXIS, Layout, fetch, place
from flax_depthmup.sweep_program import Init, Step
from flax_depthmup.sweep_store import SweepStore, Wave


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


class Engine:
  """Trains waves of members."""

  def __init__(
    self, init: Init, step: Step, data: Any, layout: Layout, chunk: int, steps: int
  ):
    """Prepares the programs; nothing is compiled yet.

    Args:
      init: see `run_sweep`, as for all that is not named here.
      step: ditto.
      data: ditto.
      layout: of the members on the devices.
      chunk: ditto.
      steps: ditto.
    """
    self._mesh, self.wave = layout.mesh, layout.wave
    self._chunk, self._steps = chunk, steps
    self._split = NamedSharding(layout.mesh, jax.P(AXIS))
    self._data = place(data, NamedSharding(layout.mesh, jax.P()))
    self._state, shardings = layout.abstract(), layout.shardings()
    constrain, lanes = layout.constrain, layout.mesh.shape[AXIS]
    each, all_of = jax.P(AXIS), jax.P()
    self._init = self._on_each_lane(
      lambda members, data: _map_members(lambda m: constrain(init(m, data)), members),
      (each, all_of),
      out_shardings=shardings,
    )
    self._train = self._on_each_lane(
      _train_chunk(step, constrain, chunk, skip=layout.mesh.size == lanes),
      (each, each, each, all_of, all_of, all_of),
      out_shardings=(shardings, self._split, self._split),
      donate_argnums=(0,),
    )

  def _on_each_lane(self, f: Callable[..., Any], in_specs: Any, **fields: Any) -> Any:
    """Compiles f, which sees the members of one lane as if it were alone."""
    local = jax.shard_map(
      f,
      mesh=self._mesh,
      axis_names={AXIS},
      in_specs=in_specs,
      out_specs=jax.P(AXIS),
      check_vma=False,
    )
    compiled = jax.jit(local, **fields)

    def call(*args: Any) -> Any:
      with jax.set_mesh(self._mesh):
        return compiled(*args)

    return call

  def train(
    self, wave: np.ndarray, members: dict[str, np.ndarray], store: SweepStore
  ) -> Iterator[ChunkDone]:
    """Trains one wave, yielding after each chunk; continues what `store` holds."""
    real, pad = len(wave), self.wave - len(wave)
    padded = {name: np.pad(v, (0, pad), mode="edge") for name, v in members.items()}
    members = place(padded, self._split)
    losses = np.full((real, self._steps), np.nan, np.float32)
    empty = Wave(wave, losses, np.zeros(real, bool))
    start, state, losses, diverged = store.running(empty, self.wave, self._state)
    if start:
      yield self._report(wave, start, start, losses, diverged)
    else:
      state = self._init(members, self._data)
    while start < self._steps:
      stop = min(start + self._chunk, self._steps)
      alive = np.pad(~diverged, (0, pad))  # the padding is not trained
      if alive.any():
        put = place(alive, self._split)
        state, new, finite = self._train(state, members, put, start, stop, self._data)
        losses[:, start:stop] = fetch(new)[:real, : stop - start]
        diverged = diverged | ~fetch(finite)[:real]
      if stop == self._steps:
        store.finish(Wave(wave, losses, diverged), self.wave)
      else:
        store.keep(stop, Wave(wave, losses, diverged), self.wave, state)
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


def _train_chunk(
  step: Step, constrain: Callable[[Any], Any], chunk: int, skip: bool
) -> Callable[..., Any]:
  """(state, members, alive, start, stop, data) -> (state, losses, finite).

  A dynamic trip count: the last chunk, shorter, runs the same program.

  Args:
    step: see `run_sweep`.
    constrain: keeps the state of one member where it is to lie.
    chunk: the most steps.
    skip: a lane on which no member is alive does nothing. Not where lanes have
      several devices: these may exchange arrays in one operation for all lanes,
      which would wait for those that skip it.
  """

  def train(state, members, alive, start, stop, data):
    end = jnp.where(jnp.any(alive), stop, start) if skip else stop
    done = jnp.arange(chunk) < end - start

    def one(state, member, alive):
      def body(t, carry):
        state, losses = carry
        state, loss = step(state, member, t, data)
        losses = losses.at[t - start].set(jnp.asarray(loss, jnp.float32))
        return constrain(state), losses

      losses = jnp.full(chunk, jnp.nan, jnp.float32)
      state, losses = jax.lax.fori_loop(start, end, body, (constrain(state), losses))
      finite = alive & jnp.all(jnp.isfinite(losses) | ~done)
      for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
          finite &= jnp.all(jnp.isfinite(leaf))
      return state, jnp.where(alive, losses, jnp.nan), finite

    return _map_members(one, state, members, alive)

  return train
