"""What the library costs: four ratios, each measured in one run on this machine.

  python -m experiments.benchmark --workdir=DIR

summary.json holds
  sweep_speedup              member-steps per second of the sweep engine over
                             those of the same nets trained one after another by
                             plain jitted steps (compilation excluded from both)
  transformation_overhead    time of the compiled update of a net under adam with
                             the parametrization over that without; 1.0: none
  compile_ratio_1024_over_8  time to trace and compile a training step at depth
                             1024 over that at depth 8
  peak_memory                bytes the compiled gradient needs beyond its inputs
                             and outputs, by depth, plain and with remat
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import flax_depthmup as dmup
from experiments._lib import app, data
from experiments._lib import flags as reading
from experiments._lib.classification import Task
from experiments._lib.workdir import Workdir
from flax_depthmup.sweeps import run_sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is measured; config.json holds it.

  Attributes:
    width, depth: of the nets in sweep and update (the update: width 256).
    members, steps: of the sweep.
    depths: for the memory.
    repeats: timed updates.
    compilations: of each depth.
  """

  width: int = 64
  depth: int = 64
  members: int = 8
  steps: int = 200
  depths: tuple[int, ...] = (8, 64, 512, 1024)
  repeats: int = 400
  compilations: int = 5


def _task(width: int, depth: int, batch_size: int = 64, **fields: Any) -> Task:
  p = dmup.depth_mup(base_width=width, base_depth=8)
  model = dmup.ResidualMLP(width, depth, 10, p, train_boundary=False, **fields)
  return Task(model=model, optimizer="adam", batch_size=batch_size)


def sweep_speedup(width: int, depth: int, members: int, steps: int) -> dict[str, float]:
  """The sweep engine against one net after another."""
  task, dataset = _task(width, depth), data.load("digits", None)
  arrays = task.data(dataset, (0, 1), steps)
  values = {
    "lr": np.geomspace(1e-4, 1e-3, members).astype(np.float32),
    "seed": (np.arange(members) % 2).astype(np.int32),
    "block_multiplier": np.ones(members, np.float32),
  }
  marks, done = [], []

  def on_chunk(report):
    marks.append(time.perf_counter())
    done.append(report.member_steps)

  run_sweep(
    task.init, task.step, values, arrays, steps=steps, chunk=steps // 4, on_chunk=on_chunk
  )
  swept = sum(done[1:]) / (marks[-1] - marks[0])  # the first chunk compiles

  arrays = jax.device_put(arrays)
  step, init = jax.jit(task.step, donate_argnums=0), jax.jit(task.init)
  first = {name: v[0] for name, v in values.items()}
  jax.block_until_ready(step(init(first, arrays), first, 0, arrays))
  begin = time.perf_counter()
  for i in range(members):
    member = {name: v[i] for name, v in values.items()}
    state = init(member, arrays)
    for t in range(steps):
      state, loss = step(state, member, t, arrays)
    jax.block_until_ready((state, loss))
  plain = members * steps / (time.perf_counter() - begin)
  return {"sweep": swept, "one_after_another": plain, "speedup": swept / plain}


def transformation_overhead(width: int, depth: int, repeats: int) -> float:
  """Median time of adam's update with the scales over that without, alternating."""
  task = _task(width, depth)
  x = jnp.zeros((1, 64))
  params, scales = dmup.init(task.model, jax.random.key(0), x)
  grads = jax.tree.map(lambda p: 1e-3 * p, params)

  def timed(tx: optax.GradientTransformation) -> Callable[[], float]:
    state = tx.init(params)
    update = jax.jit(tx.update).lower(grads, state, params).compile()
    jax.block_until_ready(update(grads, state, params))

    def once() -> float:
      begin = time.perf_counter()
      jax.block_until_ready(update(grads, state, params))
      return time.perf_counter() - begin

    return once

  ours, plain = timed(dmup.adam(1e-3, scales)), timed(optax.adam(1e-3))
  times = [(ours(), plain()) if i % 2 else (plain(), ours())[::-1] for i in range(repeats)]
  return statistics.median(a for a, _ in times) / statistics.median(b for _, b in times)


def compile_seconds(width: int, depth: int) -> float:
  """Time to trace, lower and compile one training step; caches are not used."""
  task, dataset = _task(width, depth), data.load("digits", None)
  arrays = task.data(dataset, (0,), 1)
  member = {"lr": np.float32(1e-3), "seed": np.int32(0), "block_multiplier": np.float32(1)}
  state = jax.eval_shape(task.init, member, arrays)
  jax.clear_caches()
  begin = time.perf_counter()
  jax.jit(task.step).lower(state, member, 0, arrays).compile()
  return time.perf_counter() - begin


def gradient_bytes(width: int, depth: int, remat: bool) -> int:
  """Temporary memory of the compiled gradient, as the compiler plans it.

  Blocks of depth 2 behind a LayerNorm, batch 1024: there is something to recompute.
  """
  fields = {"block_depth": 2, "norm": "layer_norm", "remat": remat}
  model = _task(width, depth, **fields).model
  x, y = jnp.zeros((1024, 64)), jnp.zeros(1024, jnp.int32)
  params = dmup.abstract_init(model, jax.random.key(0), x)[0]

  def loss_of(params):
    logits = model.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  compiled = jax.jit(jax.grad(loss_of)).lower(params).compile()
  return int(compiled.memory_analysis().temp_size_in_bytes)


def measure(settings: Settings) -> dict[str, Any]:
  """All four, with a progress bar."""
  c = settings
  total = 3 + 2 * c.compilations + 2 * len(c.depths)
  with app.progress(total=total) as bar:

    def do(name: str, f: Callable[..., Any], *args: Any) -> Any:
      bar.set_description(name, refresh=False)
      result = f(*args)
      bar.update()
      return result

    sweep = do("sweep", sweep_speedup, c.width, c.depth, c.members, c.steps)
    overhead = [
      do("update", transformation_overhead, 256, c.depth, c.repeats) for _ in range(2)
    ]
    seconds = {8: [], 1024: []}
    for _ in range(c.compilations):
      for size, times in seconds.items():
        times.append(do(f"compile {size}", compile_seconds, c.width, size))
    medians = {size: statistics.median(times) for size, times in seconds.items()}
    memory = {
      str(size): {
        name: do(f"memory {size}", gradient_bytes, c.width, size, name == "remat")
        for name in ("plain", "remat")
      }
      for size in c.depths
    }
  return {
    "sweep_speedup": sweep["speedup"],
    "transformation_overhead": statistics.mean(overhead),
    "compile_ratio_1024_over_8": medians[1024] / medians[8],
    "peak_memory": memory,
    "member_steps_per_second": {k: sweep[k] for k in ("sweep", "one_after_another")},
    "compile_seconds": {str(size): value for size, value in medians.items()},
    "devices": [str(device) for device in jax.local_devices()],
  }


def show(summary: dict[str, Any]) -> None:
  """Prints the ratios."""
  table = Table("measure", "value", title="What the library costs")
  for name in ("sweep_speedup", "transformation_overhead", "compile_ratio_1024_over_8"):
    table.add_row(name, f"{summary[name]:.3f}")
  for depth, size in summary["peak_memory"].items():
    plain, remat = (f"{size[name] / 2**20:.1f} MiB" for name in ("plain", "remat"))
    table.add_row(f"peak_memory, depth {depth}", f"{plain}, with remat {remat}")
  Console().print(table)


def run(settings: Settings, path: str | None) -> None:
  """Measures into a work directory, or shows what is there."""
  workdir = Workdir(path, dataclasses.asdict(settings))
  summary = workdir.summary()
  if summary is not None:
    print(f"already done: {workdir.path}")
  else:
    summary = measure(settings)
    workdir.write_summary(summary)
  show(summary)


def main(argv: Sequence[str]) -> None:
  """Runs the benchmark."""
  del argv
  run(Settings(), reading.WORKDIR.value)


if __name__ == "__main__":
  app.run(main)
