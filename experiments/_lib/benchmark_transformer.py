"""What a transformer costs: its speed against a plain one, and its memory by depth."""

import bisect
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import flax_depthmup as dmup
from experiments._lib.throughput import transformer_flops
from experiments._lib.timing import alternate
from experiments._lib.transformer_step import Shape, TrainingStep, library_model
from flax_depthmup import DepthMupError

#: The net whose step is timed, the net whose depth grows, and one of 352 million
#: parameters.
TIMED = Shape()
GROWING = Shape(width=256, batch=16)
LARGE = Shape(
  width=1024,
  depth=24,
  base_width=256,
  base_depth=4,
  head_dim=64,
  vocab=24_576,
  batch=32,
  length=1024,
  dtype="bfloat16",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformers:
  """What is measured on any device.

  Attributes:
    timed: the net whose step is timed.
    steps: timed, of each rival.
    growing: the net whose depth grows; its own does not matter.
    most_layers: no deeper, a power of two.
  """

  timed: Shape = TIMED
  steps: int = 40
  growing: Shape = GROWING
  most_layers: int = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utilization:
  """What is measured on an accelerator.

  Attributes:
    shape: of the net; its batch is halved until both rivals fit.
    steps: timed, of each rival.
  """

  shape: Shape = LARGE
  steps: int = 20


def measurements(
  c: Transformers, memory_gib: float | None
) -> dict[str, Callable[[], dict[str, Any]]]:
  """Name -> a function that measures it and gives entries of the summary."""

  def speed() -> dict[str, Any]:
    rates = tokens_per_second(c.timed, _rivals(c.timed), c.steps)
    return {"transformer_tokens_per_second": rates}

  def bytes_at(remat: bool, depth: int) -> int:
    shape = dataclasses.replace(c.growing, depth=depth)
    return TrainingStep(shape, remat=remat).bytes_needed

  def depth() -> dict[str, Any]:
    budget = memory_budget(memory_gib)
    found = {
      name: largest_depth(functools.partial(bytes_at, remat), budget, c.most_layers)
      for name, remat in (("plain", False), ("remat", True))
    }
    return {"largest_depth": {"budget_bytes": budget} | found}

  return {"transformer speed": speed, "transformer depth": depth}


def tokens_per_second(
  shape: Shape, rivals: dict[str, TrainingStep], steps: int
) -> dict[str, float]:
  """Of "ours" and "plain", at their median steps, and the "ratio" of the first."""
  runners = {name: step.runner() for name, step in rivals.items()}
  seconds = alternate(runners, steps)
  rates = {name: shape.batch * shape.length / s for name, s in seconds.items()}
  return rates | {"ratio": rates["ours"] / rates["plain"]}


def memory_budget(gib: float | None) -> int:
  """Bytes: those given, those of the first device, or the machine's on CPU.

  Raises:
    DepthMupError: the device does not tell its memory.
  """
  if gib is not None:
    return int(gib * 2**30)
  device = jax.local_devices()[0]
  if device.platform == "cpu":
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  limit = (device.memory_stats() or {}).get("bytes_limit")
  if limit is None:
    raise DepthMupError(
      f"{device} does not tell its memory; give --memory_gib, what a step may take"
    )
  return int(limit)


def largest_depth(bytes_at: Callable[[int], int], budget: int, most: int) -> dict[str, Any]:
  """The largest power of two of layers that fits into `budget` bytes.

  Args:
    bytes_at: what so many layers need; it grows with them, so few are asked for.
    budget: bytes.
    most: the largest power to try.

  Returns:
    "depth", None if one layer does not fit; "bytes" there; "bytes_by_depth" of every
    depth tried.
  """
  needed: dict[int, int] = {}

  def measured(depth: int) -> int:
    needed[depth] = bytes_at(depth)
    return needed[depth]

  powers = [2**i for i in range(most.bit_length())]
  fitting = bisect.bisect_right(powers, budget, key=measured)
  depth = powers[fitting - 1] if fitting else None
  return {
    "depth": depth,
    "bytes": needed.get(depth),
    "bytes_by_depth": {str(tried): needed[tried] for tried in sorted(needed)},
  }


def utilization(
  c: Utilization, memory_gib: float | None, peak: float | None
) -> dict[str, Any]:
  """Model-FLOP utilization and tokens per second, beside those of the plain net.

  Args:
    c: the net.
    memory_gib: see `memory_budget`.
    peak: operations per second of the device; None: utilization is None.

  Raises:
    DepthMupError: not even one sequence a step fits.
  """
  shape, rivals = fitting(c.shape, memory_budget(memory_gib))
  rates = tokens_per_second(shape, rivals, c.steps)
  model = library_model(shape)
  flops = transformer_flops(model, shape.length)
  tokens = jax.ShapeDtypeStruct((1, shape.length), np.int32)
  params = dmup.abstract_init(model, jax.random.key(0), tokens)[0]
  return {
    "utilization": rates["ours"] * flops / peak if peak else None,
    "tokens_per_second": rates,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "flops_per_token": flops,
    "peak_flops": peak,
    "batch": shape.batch,
  }


def _rivals(shape: Shape) -> dict[str, TrainingStep]:
  return {"ours": TrainingStep(shape), "plain": TrainingStep(shape, plain=True)}


def fitting(shape: Shape, budget: int) -> tuple[Shape, dict[str, TrainingStep]]:
  """The rivals, with the largest halving of the batch at which both fit at once."""
  while True:
    rivals = _rivals(shape)
    steps = rivals.values()
    needed = sum(s.bytes_held for s in steps) + max(s.bytes_temporary for s in steps)
    if needed <= budget:
      return shape, rivals
    if shape.batch == 1:
      raise DepthMupError(
        f"two nets of width {shape.width} and depth {shape.depth} need {needed:,} bytes "
        f"on the device, the budget is {budget:,}; take a larger device or --memory_gib"
      )
    shape = dataclasses.replace(shape, batch=shape.batch // 2)
