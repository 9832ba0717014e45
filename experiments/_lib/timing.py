"""Timing rivals on a machine that others use too."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def alternate(rivals: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
  """Median seconds of a run of each, taking turns, each first in its share of rounds.

  Runs each once more before, to warm it up. A run ends when the arrays that it gives
  are there.
  """
  names = list(rivals)
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for name in names:
    jax.block_until_ready(rivals[name]())
  for i in range(repeats):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      begin = time.perf_counter()
      jax.block_until_ready(rivals[name]())
      seconds[name].append(time.perf_counter() - begin)
  return {name: statistics.median(times) for name, times in seconds.items()}
