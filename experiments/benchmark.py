"""What the library costs, measured in one run on this machine.

  python -m experiments.benchmark --workdir=DIR

--suite chooses a part. summary.json holds, of the suite core (residual MLPs)
  sweep_speedup              member-steps per second of the sweep engine over
                             those of the same nets trained one after another by
                             plain jitted steps (compilation excluded from both)
  transformation_overhead    time of the compiled update of a net under adam with
                             the parametrization over that without; 1.0: none
  compile_ratio_1024_over_8  time to trace and compile a training step at depth
                             1024 over that at depth 8
  peak_memory                bytes the compiled gradient needs beyond its inputs
                             and outputs, by depth, plain and with remat
of the suite transformer
  transformer_tokens_per_second  of a training step of dmup.Transformer, away from
                             its base size, and of the same net in plain linen with
                             optax.adam; their ratio
  largest_depth              of width 256: the largest power of two of layers whose
                             compiled training step fits into budget_bytes, plain
                             and with remat, and the bytes of every depth tried
of the suite limits, for each solver of flax_depthmup.limits
  limits NAME                seconds (best of three, compiled before) over the steps T
                             and the depth L, one sample a step, and the exponents of
                             their growth; of compiled solvers the bytes of the program
and of the suite accelerator, where there is one
  model_flop_utilization     of a transformer of 352 million parameters in bfloat16;
                             beside it tokens per second, also of the plain net
  large_sweep                32 nets of width 256 trained at once on one device by
                             the sweep engine, and one after another

The budget is what the device says it has, on CPU the machine's memory; --memory_gib
states another.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from experiments._lib import (
  app,
  benchmark_core,
  benchmark_limits,
  benchmark_transformer,
  described,
)
from experiments._lib import flags as reading
from experiments._lib.benchmark_core import Core, Sweep
from experiments._lib.benchmark_limits import Limits
from experiments._lib.benchmark_table import show
from experiments._lib.benchmark_transformer import Transformers, Utilization
from experiments._lib.described import Described
from experiments._lib.throughput import peak_flops
from experiments._lib.transformer_step import library_model
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError

_SUITE = flags.DEFINE_enum(
  "suite",
  "all",
  ("core", "transformer", "limits", "accelerator", "all"),
  "What to measure.",
)
_MEMORY_GIB = flags.DEFINE_float(
  "memory_gib", None, "What a training step may take; default: the device's memory."
)

LARGE_SWEEP = Sweep(width=256, members=32, steps=100, per_device=32)

Measurement = Callable[[], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is measured; config.json holds it.

  Attributes:
    suite: see --suite.
    memory_gib: see --memory_gib.
    core, transformer, limits: what the suites measure.
    utilization, sweep: what the suite accelerator measures.
  """

  suite: str = "all"
  memory_gib: float | None = None
  core: Core = dataclasses.field(default_factory=Core)
  transformer: Transformers = dataclasses.field(default_factory=Transformers)
  limits: Limits = dataclasses.field(default_factory=Limits)
  utilization: Utilization = dataclasses.field(default_factory=Utilization)
  sweep: Sweep = LARGE_SWEEP


def measurements(settings: Settings) -> dict[str, Measurement]:
  """Name -> a function that measures it, of the suites that are asked for."""
  c = settings
  suites = {
    "core": benchmark_core.measurements(c.core),
    "transformer": benchmark_transformer.measurements(c.transformer, c.memory_gib),
    "limits": benchmark_limits.measurements(c.limits),
    "accelerator": _on_accelerator(c),
  }
  chosen = suites.values() if c.suite == "all" else [suites[c.suite]]
  return {name: measure for suite in chosen for name, measure in suite.items()}


def _on_accelerator(settings: Settings) -> dict[str, Measurement]:
  """What takes hours on CPU: there it gives the reason why it was not measured."""
  c, device = settings, jax.local_devices()[0]

  def utilization() -> Any:
    peak = peak_flops(device)
    try:
      return benchmark_transformer.utilization(c.utilization, c.memory_gib, peak)
    except DepthMupError as error:  # too large for this device: the rest still counts
      return {"skipped": str(error)}

  def sweep() -> Any:
    return benchmark_core.sweep_rates(c.sweep)

  def there(name: str, measure: Callable[[], Any]) -> Measurement:
    if device.platform == "cpu":
      reason = f"needs an accelerator, and the first device is {device}"
      return lambda: {name: {"skipped": reason}}
    return lambda: {name: measure()}

  return {
    "utilization": there("model_flop_utilization", utilization),
    "large sweep": there("large_sweep", sweep),
  }


def measure(settings: Settings) -> dict[str, Any]:
  """The summary, with a progress bar."""
  work = measurements(settings)
  summary: dict[str, Any] = {}
  with app.progress(total=len(work)) as bar:
    for name, measurement in work.items():
      bar.set_description(name)
      summary |= measurement()
      bar.update()
  return summary | {"devices": [str(device) for device in jax.local_devices()]}


def described_nets(settings: Settings) -> list[Described]:
  """The nets whose updates and steps are timed, for --describe."""
  core, shape = settings.core, settings.transformer.timed
  width, depth = core.update_width, core.update_depth
  return [
    Described(
      f"core, width {width}, depth {depth}",
      benchmark_core.model_of(width, depth),
      described.image("digits"),
    ),
    Described(
      f"transformer, width {shape.width}, depth {shape.depth}",
      library_model(shape),
      described.text(shape.length),
    ),
  ]


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
  if _MEMORY_GIB.value is not None:
    reading.positive(_MEMORY_GIB.value, "memory_gib")
  settings = Settings(suite=_SUITE.value, memory_gib=_MEMORY_GIB.value)
  which = "the nets whose updates and steps are timed, of the suites core and transformer"
  if described.stops("benchmark", lambda: described_nets(settings), which):
    return
  run(settings, reading.WORKDIR.value)


if __name__ == "__main__":
  app.run(main)
