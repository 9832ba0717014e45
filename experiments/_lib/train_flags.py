"""Flags that train_lm and train_resnet share, and what follows from them."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax
from absl import flags

import flax_depthmup as dmup
from experiments._lib import flags as reading
from experiments._lib.schedules import SCHEDULES, schedule
from experiments._lib.training import Cadence
from flax_depthmup import DepthMupError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

flags.DEFINE_string(
  "parametrization", None, "The name of a preset, as in dmup, or alpha:gamma."
)
flags.DEFINE_float("lr", None, "Peak learning rate.")
flags.DEFINE_enum("schedule", "cosine", SCHEDULES, "Of the learning rate.")
flags.DEFINE_integer("warmup", None, "Steps of linear warm-up; default: a twentieth.")
flags.DEFINE_integer("decay", None, "Last steps, in which wsd falls; default: a fifth.")
flags.DEFINE_enum(
  "decay_mode", "width_compensated", get_args(dmup.Decay), "What it means; see dmup.adamw."
)
flags.DEFINE_float("b1", 0.9, "Adam's.")
flags.DEFINE_float("b2", 0.95, "Adam's.")
flags.DEFINE_float("clip", 1.0, "Largest norm of the gradient; 0: none.")
flags.DEFINE_integer("accumulate", 1, "Parts of a batch, one after another.")
flags.DEFINE_integer("seed", 0, "Of the parameters and of the order of the data.")
flags.DEFINE_enum("dtype", "float32", DTYPES, "Of the computation; parameters: float32.")
flags.DEFINE_boolean("remat", False, "Recompute blocks in the backward pass.")
flags.DEFINE_integer("log_every", 10, "Steps between two records.")
flags.DEFINE_integer("eval_every", 100, "Steps between evaluations.")
flags.DEFINE_integer("eval_batches", 10, "Batches of an evaluation.")
flags.DEFINE_integer("save_every", 100, "Steps between checkpoints.")
flags.DEFINE_integer("keep", 2, "Newest checkpoints that stay, besides the best.")
flags.DEFINE_boolean("tensorboard", False, "Write TensorBoard's files too.")
flags.DEFINE_string("profile", None, "Steps to profile, as in 10:12.")
flags.DEFINE_float("peak_tflops", None, "Of one device, where it is not known.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
  """How a net is trained; part of what the run is."""

  steps: int
  batch_size: int
  lr: float
  schedule: str
  warmup: int
  decay: int
  weight_decay: float
  decay_mode: str
  b1: float
  b2: float
  eps: float
  clip: float
  seed: int
  dtype: str

  def __post_init__(self):
    for name in ("steps", "batch_size", "lr"):
      reading.positive(getattr(self, name), name)
    if not 0 <= self.seed < 2**31:
      raise DepthMupError(f"--seed={self.seed}: expected 0 to 2^31 - 1")
    if self.clip < 0:
      raise DepthMupError(f"--clip={self.clip}: expected a norm, or 0 for none")
    self.rate()  # names a schedule that does not fit

  def rate(self) -> optax.Schedule:
    """Learning rate by step."""
    return schedule(self.schedule, self.lr, self.steps, self.warmup, self.decay)

  def optimizer(self, scales: Any) -> optax.GradientTransformation:
    """Clipping before the parametrization, decay of matrices after it."""
    vectors = ("vector", "scalar")
    tx = dmup.adamw(
      self.rate(),
      scales,
      self.b1,
      self.b2,
      self.eps,
      self.weight_decay,
      self.decay_mode,
      mask=_by_leaf(scales, lambda s: s.kind.value not in vectors),
      peak_learning_rate=self.lr if self.decay_mode == "independent_peak" else None,
    )
    return optax.chain(optax.clip_by_global_norm(self.clip), tx) if self.clip else tx


def _by_leaf(scales: Any, f: Callable[[dmup.Scales], Any]) -> Any:
  return jax.tree.map(f, scales, is_leaf=lambda s: isinstance(s, dmup.Scales))


def optimization(steps: int, batch_size: int, lr: float) -> Optimization:
  """The flags, with an entry point's own defaults."""
  f = flags.FLAGS
  if f.schedule != "wsd":
    reading.refuse(f"--schedule={f.schedule}", ("decay",))
  steps = reading.default(f.steps, steps)
  names = {field.name for field in dataclasses.fields(Optimization)}
  own = {
    "steps": steps,
    "batch_size": reading.default(f.batch_size, batch_size),
    "lr": reading.default(f.lr, lr),
    "warmup": reading.default(f.warmup, steps // 20),
    "decay": reading.default(f.decay, steps // 5),
    "weight_decay": reading.default(f.weight_decay, 0.0),
    "eps": reading.default(f.eps, 1e-8),
  }
  return Optimization(**own, **{name: f[name].value for name in names - set(own)})


def mesh(batch_size: int) -> jax.sharding.Mesh:
  """The mesh of the flag; without one all devices along data.

  On one machine's CPU, as many of its cores as divide the batch: there, devices are
  only a way to use them.
  """
  f, devices = flags.FLAGS, jax.devices()
  if f.mesh is None and jax.process_count() == 1 and devices[0].platform == "cpu":
    part = max(batch_size // f.accumulate, 1)
    count = max(n for n in range(1, len(devices) + 1) if part % n == 0)
    return dmup.make_mesh({"data": count}, devices[:count])
  return dmup.make_mesh(f.mesh)


def cadence(steps: int) -> Cadence:
  """The flags.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  counts = ("log_every", "eval_every", "eval_batches", "save_every", "keep")
  for name in (*counts, "accumulate"):
    reading.positive(f[name].value, name)
  if f.peak_tflops is not None:
    reading.positive(f.peak_tflops, "peak_tflops")
  names = ("log_every", "eval_every", "save_every", "keep", "tensorboard")
  return Cadence(
    **{name: f[name].value for name in names}, profile=_steps(f.profile, steps)
  )


def _steps(text: str | None, steps: int) -> tuple[int, int] | None:
  if text is None:
    return None
  first, _, last = text.partition(":")
  if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) <= steps):
    raise DepthMupError(
      f"--profile={text!r}: expected first:last, steps such as 10:12, of the {steps}"
    )
  return int(first), int(last)
