"""Training the nets whose features are looked at, and looking at them."""

import itertools
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from experiments._lib.data import Dataset
from experiments._lib.feature_diversity_config import Config, Net
from experiments._lib.task import Task
from flax_depthmup.checkpoint import Checkpoints
from flax_depthmup.diagnostics import feature_diversity, residual_stream

Record = dict[str, Any]

#: Steps between two reports, and seconds between two states that are kept.
CHUNK, KEEP_SECONDS = 20, 120.0


class Training:
  """One architecture, trained from all seeds side by side."""

  def __init__(self, config: Config, net: Net, dataset: Dataset):
    self._config, self._net = config, net
    model = config.model(net).clone(block_multiplier=config.block_multiplier)
    task = Task(model=model, optimizer=config.optimizer, batch_size=config.batch_size)
    seeds = tuple(range(config.seeds))
    self._members = {
      "seed": np.array(seeds, np.int32),
      "lr": np.full(len(seeds), config.learning_rate, np.float32),
      "block_multiplier": np.full(len(seeds), config.block_multiplier, np.float32),
    }
    self._data = task.data(dataset, seeds, config.snapshots[-1])
    images = dataset.x[: config.probe_images]

    def advance(state: Any, member: Any, data: Any, begin: Any, end: Any) -> Any:
      def step(t: jax.Array, carry: Any) -> Any:
        state, loss = task.step(carry[0], member, t, data)
        return state, carry[1] + loss

      state, loss = jax.lax.fori_loop(begin, end, step, (state, jnp.zeros(())))
      return state, loss / (end - begin)

    lanes = max(n for n in range(1, jax.device_count() + 1) if len(seeds) % n == 0)
    self._mesh = jax.make_mesh((lanes,), ("seeds",), axis_types=(AxisType.Auto,))
    self._init = _by_seed(self._mesh, task.init, 1)
    self._advance = _by_seed(self._mesh, advance, 2, donate=True)
    self._stream = _by_seed(self._mesh, lambda s: residual_stream(model, s[0], images), 1)

  def records(self, folder: pathlib.Path, report: Callable[[int], None]) -> list[Record]:
    """Trains to the last snapshot, from where an interrupted call left a state.

    Args:
      folder: for the state.
      report: is given the number of steps taken, of all seeds together.

    Returns:
      One per snapshot, seed and epsilon.
    """
    kept = Checkpoints(folder)
    found = kept.latest(self._abstract_state())
    if found is None:
      start, state = 0, self._init(self._members, self._data)
      records = self._look(0, state, None) if self._config.snapshots[0] == 0 else []
    else:
      start, state, note = found
      records = note["records"]
    report(start * self._config.seeds)
    mark = time.monotonic()
    for begin, end in self._chunks(start):
      state, losses = self._advance(state, self._members, self._data, begin, end)
      losses = np.asarray(losses)  # waits, so that the bar and the clock tell the truth
      if end in self._config.snapshots:
        records += self._look(end, state, losses)
      report((end - begin) * self._config.seeds)
      unfinished = end < self._config.snapshots[-1]
      if unfinished and time.monotonic() - mark > KEEP_SECONDS:
        kept.save(end, state, {"records": records})
        mark = time.monotonic()
    kept.close()
    return records

  def _chunks(self, start: int) -> Iterator[tuple[int, int]]:
    """(first step, step after the last) from `start` on; each snapshot ends one."""
    ends = {*range(CHUNK, self._config.snapshots[-1], CHUNK), *self._config.snapshots}
    edges = sorted(ends | {0})
    return ((a, b) for a, b in itertools.pairwise(edges) if a >= start)

  def _abstract_state(self) -> Any:
    shapes = jax.eval_shape(self._init, self._members, self._data)
    where = NamedSharding(self._mesh, jax.P("seeds"))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
    )

  def _look(self, step: int, state: Any, losses: Any) -> list[Record]:
    """What the features are like now; losses are means over the steps before."""
    records = []
    for seed, stream in enumerate(np.asarray(self._stream(state))):
      loss = None if losses is None else float(losses[seed])
      diverged = not np.isfinite(stream).all() or not math.isfinite(loss or 0)
      own = self._net._asdict() | {"seed": seed, "step": step, "loss": loss}
      if diverged:
        empty = dict.fromkeys(("epsilon", "d", "scaled", "kappa", "kappa_error"))
        records.append({**own, **empty, "loss": None, "diverged": True})
        continue
      found = feature_diversity(stream, self._config.epsilons())
      exponent = {"kappa": found.kappa, "kappa_error": found.standard_error}
      for epsilon, d, scaled in zip(found.epsilons, found.d, found.scaled, strict=True):
        point = {"epsilon": float(epsilon), "d": float(d), "scaled": float(scaled)}
        records.append({**own, **point, **exponent, "diverged": False})
    return records


def _by_seed(mesh: Mesh, one: Callable, mapped: int, donate: bool = False) -> Callable:
  """A function of one seed for all: the devices share the seeds.

  Args:
    mesh: with an axis "seeds".
    one: the function.
    mapped: how many of its first arguments have a leading axis of seeds.
    donate: the first argument is used up.
  """

  def local(*args: Any) -> Any:
    rest = args[mapped:]
    return jax.lax.map(lambda own: one(*own, *rest), args[:mapped])

  def everywhere(*args: Any) -> Any:
    specs = (jax.P("seeds"),) * mapped + (jax.P(),) * (len(args) - mapped)
    mapped_over = jax.shard_map(
      local, mesh=mesh, in_specs=specs, out_specs=jax.P("seeds"), check_vma=False
    )
    return mapped_over(*args)

  return jax.jit(everywhere, donate_argnums=(0,) if donate else ())
