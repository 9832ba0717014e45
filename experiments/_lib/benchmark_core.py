"""What a sweep, an update, a compilation and a gradient of residual MLPs cost."""

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_depthmup as dmup
from experiments._lib import data
from experiments._lib.task import Task
from experiments._lib.timing import alternate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """Nets trained by the sweep engine and one after another.

  Attributes:
    width, depth: of the nets.
    members: their number.
    steps: of each, at least 4.
    per_device: trained at once on a device; see `dmup.run_sweep`.
  """

  width: int = 64
  depth: int = 64
  members: int = 8
  steps: int = 200
  per_device: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Core:
  """What is measured.

  Attributes:
    sweep: against one net after another.
    update_width, update_depth: of the net that is updated.
    updates: timed.
    width: of the nets that are compiled.
    compilations: of each depth.
    memory_depths: whose gradients' memory is planned.
    imports: of the library, and of what it rests on, each in a fresh process.
  """

  sweep: Sweep = dataclasses.field(default_factory=Sweep)
  update_width: int = 256
  update_depth: int = 64
  updates: int = 400
  width: int = 64
  compilations: int = 5
  memory_depths: tuple[int, ...] = (8, 64, 512, 1024)
  imports: int = 7


def measurements(c: Core) -> dict[str, Callable[[], dict[str, Any]]]:
  """Name -> a function that measures it and gives entries of the summary."""

  def sweep() -> dict[str, Any]:
    rates = sweep_rates(c.sweep)
    return {"sweep_speedup": rates.pop("speedup"), "member_steps_per_second": rates}

  def compilation() -> dict[str, Any]:
    seconds = compile_seconds(c.width, (8, 1024), c.compilations)
    return {
      "compile_ratio_1024_over_8": seconds[1024] / seconds[8],
      "compile_seconds": {str(depth): value for depth, value in seconds.items()},
    }

  def memory() -> dict[str, Any]:
    variants = {"plain": False, "remat": True}
    by_depth = {
      str(depth): {k: gradient_bytes(c.width, depth, v) for k, v in variants.items()}
      for depth in c.memory_depths
    }
    return {"peak_memory": by_depth}

  def update() -> dict[str, Any]:
    overhead = transformation_overhead(c.update_width, c.update_depth, c.updates)
    return {"transformation_overhead": overhead}

  return {
    "import": lambda: {"import_ratio": import_ratio(c.imports)},
    "sweep": sweep,
    "update": update,
    "compilation": compilation,
    "memory": memory,
  }


def import_ratio(repeats: int) -> float:
  """Median time to import the library in a fresh process over that of flax.linen, optax."""

  def fresh(code: str) -> Callable[[], Any]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True).returncode

  seconds = alternate(
    {"base": fresh("import flax.linen, optax"), "library": fresh("import flax_depthmup")},
    repeats,
  )
  return seconds["library"] / seconds["base"]


def model_of(width: int, depth: int, **fields: Any) -> dmup.ResidualMLP:
  """The net that is measured."""
  p = dmup.depth_mup(base_width=width, base_depth=8)
  return dmup.ResidualMLP(width, depth, 10, p, train_boundary=False, **fields)


def _task(width: int, depth: int, batch_size: int = 64, **fields: Any) -> Task:
  model = model_of(width, depth, **fields)
  return Task(model=model, optimizer="adam", batch_size=batch_size)


def sweep_rates(c: Sweep) -> dict[str, float]:
  """Member-steps per second of the sweep engine and of one net after another.

  Returns:
    "sweep", "one_after_another", and their ratio "speedup". Compilation counts in
    neither.
  """
  task, dataset = _task(c.width, c.depth), data.load("digits", None)
  arrays = task.data(dataset, (0, 1), c.steps)
  values = {
    "lr": np.geomspace(1e-4, 1e-3, c.members).astype(np.float32),
    "seed": (np.arange(c.members) % 2).astype(np.int32),
    "block_multiplier": np.ones(c.members, np.float32),
  }
  marks, done = [], []

  def on_chunk(report: dmup.ChunkDone) -> None:
    marks.append(time.perf_counter())
    done.append(report.member_steps)

  dmup.run_sweep(
    task.init,
    task.step,
    values,
    arrays,
    steps=c.steps,
    chunk=c.steps // 4,
    per_device=c.per_device,
    on_chunk=on_chunk,
  )
  swept = sum(done[1:]) / (marks[-1] - marks[0])  # the first chunk compiles
  seconds = _seconds_one_after_another(task, values, arrays, c.steps)
  plain = c.members * c.steps / seconds
  return {"sweep": swept, "one_after_another": plain, "speedup": swept / plain}


def _seconds_one_after_another(
  task: Task, values: dict[str, np.ndarray], arrays: Any, steps: int
) -> float:
  """Of training every member by itself, by jitted steps that are compiled before."""
  arrays = jax.device_put(arrays)
  step, init = jax.jit(task.step, donate_argnums=0), jax.jit(task.init)
  rows = zip(*values.values(), strict=True)
  members = [dict(zip(values, row, strict=True)) for row in rows]
  jax.block_until_ready(step(init(members[0], arrays), members[0], 0, arrays))
  begin = time.perf_counter()
  for member in members:
    state = init(member, arrays)
    for t in range(steps):
      state, loss = step(state, member, t, arrays)
    jax.block_until_ready((state, loss))
  return time.perf_counter() - begin


def transformation_overhead(width: int, depth: int, updates: int) -> float:
  """Median time of adam's compiled update with the scales over that without."""
  params, scales = dmup.init(
    _task(width, depth).model, jax.random.key(0), jnp.zeros((1, 64))
  )
  grads = jax.tree.map(lambda p: 1e-3 * p, params)

  def update_of(tx: optax.GradientTransformation) -> Callable[[], Any]:
    state = tx.init(params)
    update = jax.jit(tx.update).lower(grads, state, params).compile()
    return lambda: update(grads, state, params)

  rivals = {"ours": dmup.adam(1e-3, scales), "plain": optax.adam(1e-3)}
  seconds = alternate({name: update_of(tx) for name, tx in rivals.items()}, updates)
  return seconds["ours"] / seconds["plain"]


def compile_seconds(width: int, depths: tuple[int, ...], repeats: int) -> dict[int, float]:
  """Median time to trace, lower and compile a step at each depth; no caches."""
  dataset = data.load("digits", None)
  member = {"lr": np.float32(1e-3), "seed": np.int32(0), "block_multiplier": np.float32(1)}
  seconds: dict[int, list[float]] = {depth: [] for depth in depths}
  for _ in range(repeats):
    for depth, times in seconds.items():
      task = _task(width, depth)
      arrays = task.data(dataset, (0,), 1)
      state = jax.eval_shape(task.init, member, arrays)
      jax.clear_caches()
      begin = time.perf_counter()
      jax.jit(task.step).lower(state, member, 0, arrays).compile()
      times.append(time.perf_counter() - begin)
  return {depth: statistics.median(times) for depth, times in seconds.items()}


def gradient_bytes(width: int, depth: int, remat: bool) -> int:
  """Temporary memory of the compiled gradient, as the compiler plans it.

  Blocks of depth 2 behind a LayerNorm, batch 1024: there is something to recompute.
  """
  fields = {"block_depth": 2, "norm": "layer_norm", "remat": remat}
  model = _task(width, depth, **fields).model
  x, y = jnp.zeros((1024, 64)), jnp.zeros(1024, jnp.int32)
  params = dmup.abstract_init(model, jax.random.key(0), x)[0]

  def loss_of(params: Any) -> jax.Array:
    logits = model.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  compiled = jax.jit(jax.grad(loss_of)).lower(params).compile()
  return int(compiled.memory_analysis().temp_size_in_bytes)
