"""Batches on the mesh: read by grain, each process its own rows, in a fixed order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from flax_depthmup import DepthMupError

_THREADS = 4
_AHEAD = 8  # examples that each thread prepares


class Batches:
  """An endless iterator of training batches, shuffled anew every epoch.

  The examples of batch t are a function of (seed, t) alone: whatever the number of
  processes, and wherever a run was interrupted. Their order within the batch
  depends on the number of processes.
  """

  def __init__(
    self, source: Any, batch_size: int, seed: int, place: NamedSharding, what: str
  ):
    """Opens the source.

    Args:
      source: `len` and [i] -> a tree of numpy arrays, an example.
      batch_size: examples of a batch, over all processes.
      seed: of the shuffles.
      place: the sharding of a batch; its first axis is split, or none.
      what: names the source in messages.

    Raises:
      DepthMupError: the source holds fewer examples than a batch.
    """
    self._place, self._size = place, batch_size
    part, parts, _ = share_of_this_process(place, batch_size)
    _check_enough(source, batch_size, what)
    shuffled = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    own = shuffled[part::parts].batch(batch_size // parts)
    reading = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    self._iterator = iter(own.to_iter_dataset(reading))

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    """The next batch, on the devices."""
    return put(next(self._iterator), self._place, self._size)

  def state(self) -> dict[str, Any]:
    """The position, for JSON; the same for any number of processes."""
    return self._iterator.get_state()

  def restore(self, state: dict[str, Any]) -> None:
    """Goes on from a position.

    Raises:
      DepthMupError: it is no position of such an iterator.
    """
    try:
      self._iterator.set_state(state)
    except (KeyError, TypeError, ValueError):
      raise DepthMupError(f"data position {state!r} cannot be read by grain") from None


def in_order(
  source: Sequence[Any], batch_size: int, count: int, place: NamedSharding, what: str
) -> Callable[[], Iterator[Any]]:
  """The first `count` whole batches of a source, as a function that starts anew.

  All there are, if there are fewer.

  Raises:
    DepthMupError: there is none.
  """
  _check_enough(source, batch_size, what)
  count = min(count, len(source) // batch_size)
  part, parts, _ = share_of_this_process(place, batch_size)

  def batches() -> Iterator[Any]:
    for t in range(count):
      rows = range(t * batch_size + part, (t + 1) * batch_size, parts)
      examples = [source[i] for i in rows]
      yield put(jax.tree.map(lambda *x: np.stack(x), *examples), place, batch_size)

  return batches


def _check_enough(source: Any, batch_size: int, what: str) -> None:
  if len(source) < batch_size:
    raise DepthMupError(
      f"{what} holds {len(source)} examples, fewer than the {batch_size} of a batch; "
      "take a smaller --batch_size, shorter examples, or more data"
    )


def put(local: Any, place: NamedSharding, batch_size: int) -> Any:
  """A tree of this process's rows, in their order, as arrays over all processes."""
  rows = np.array(share_of_this_process(place, batch_size)[2])

  def one(x: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      wanted = np.arange(batch_size)[index[0]]
      return x[np.searchsorted(rows, wanted)][(slice(None), *index[1:])]

    return jax.make_array_from_callback((batch_size, *x.shape[1:]), place, part)

  return jax.tree.map(one, local)


def share_of_this_process(
  place: NamedSharding, batch_size: int
) -> tuple[int, int, tuple[int, ...]]:
  """(part, parts, rows): this process holds these rows, one of so many equal shares.

  Processes whose devices hold copies of the same rows have the same part.
  """
  held: dict[int, set[int]] = {}
  for device, (rows,) in place.devices_indices_map((batch_size,)).items():
    held.setdefault(device.process_index, set()).update(range(*rows.indices(batch_size)))
  shares = sorted({tuple(sorted(rows)) for rows in held.values()})
  if sum(map(len, shares)) != batch_size or len(set(map(len, shares))) != 1:
    raise DepthMupError(
      f"the {len(held)} processes hold {len(shares)} overlapping shares of a batch of "
      f"{batch_size}; give a --mesh in which data and fsdp run over whole processes"
    )
  own = tuple(sorted(held[jax.process_index()]))
  return shares.index(own), len(shares), own
