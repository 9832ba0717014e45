"""What limit_convergence asks of a limit: nets of finite width, infinite width by depth."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class ByDepth(NamedTuple):
  """Infinite width at finite depths, and its own limit.

  Attributes:
    at: depth -> [values] of the limit of width there.
    limit: [values] at infinite depth.
    error: of any of these.
  """

  at: Callable[[int], np.ndarray]
  limit: np.ndarray
  error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A limit, and what converges to it.

  Attributes:
    words: what it is, for figures.
    nets: (width, seeds) -> [seeds, values] of finite nets less their limit; seeds 0, 1,
      .. None for a limit of depth alone.
    widths: of the nets, unless others are asked for.
    seeds: nets of each width, likewise.
    depths: its convergence in depth; None where it has no depth, or shares its
      convergence with another case.
    grid: whether a layer of `depths` is a step of the solver's grid, not a block of a net
      of that depth: the limit is one of depth itself.
  """

  words: str
  nets: Callable[[int, int], np.ndarray] | None = None
  widths: tuple[int, ...] = ()
  seeds: int = 0
  depths: Callable[[], ByDepth] | None = None
  grid: bool = False


def doublings(first: int, number: int = 5) -> tuple[int, ...]:
  """Widths from `first` on, each twice the one before."""
  return tuple(first * 2**k for k in range(number + 1))
