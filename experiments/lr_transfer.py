"""Is the best learning rate of a shallow net still the best of a deep one?

Tensor Programs VI (arXiv 2310.02244), Figure 10, and by its flags Figures 2, 3,
11 and 12: residual MLPs of growing depth, a grid of learning rates and seeds,
for any parametrizations of the class.

  python -m experiments.lr_transfer --workdir=DIR

trains 8x8 digits. The paper's setting, from the official CIFAR-10 files (the
paper's a = 2 multiplies 1/sqrt(L0); ours is the multiplier at base depth):

  python -m experiments.lr_transfer --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --parametrizations=depth_mup,0.5:0 --width=256 \
    --base_depth=8 --depths=8,16,32,64 --block_multiplier=0.70710678 \
    --log2_lrs=-12.5:-8.5:0.5 --seeds=3 --steps=500 --window=100

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net), summary.json (the verdict,
under "transfer") and lr_transfer.png. Interrupted, the same command continues.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

import flax_depthmup as dmup
from experiments._lib import app, classification, data, transfer_figure, transfer_table
from experiments._lib import flags as reading
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import transfer_verdict
from flax_depthmup.sweeps import ChunkDone, run_sweep

_DATASET = flags.DEFINE_string("dataset", "digits", "digits, mnist or cifar10.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the official files.")
_PARAMETRIZATIONS = flags.DEFINE_list(
  "parametrizations",
  ["depth_mup", "0.5:0", "standard"],
  "Names (standard, mup, depth_mup, ode, complete_p) or alpha:gamma.",
)
_DEPTHS = flags.DEFINE_list("depths", ["4", "8", "16", "32", "64"], "Numbers of blocks.")
_BASE_DEPTH = flags.DEFINE_integer("base_depth", 4, "Depth of the base net.")
_WIDTH = flags.DEFINE_integer("width", 64, "Width of every net.")
_BASE_WIDTH = flags.DEFINE_integer("base_width", None, "Default: the width.")
_LOG2_LRS = flags.DEFINE_string(
  "log2_lrs", "-13:-5:0.5", "Learning rates: start:stop:step, stop included, or a list."
)
_SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...")
_STEPS = flags.DEFINE_integer("steps", 100, "Training steps.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Examples a step.")
_OPTIMIZER = flags.DEFINE_string(
  "optimizer", "adam", f"One of {', '.join(classification.OPTIMIZERS)}."
)
_ACTIVATION = flags.DEFINE_string("activation", "relu", "relu, abs, tanh, gelu, identity.")
_BLOCK_DEPTH = flags.DEFINE_integer("block_depth", 1, "Weight matrices in a branch.")
_PRE_NONLINEARITY = flags.DEFINE_boolean("pre_nonlinearity", False, "W phi(x) blocks.")
_NORM = flags.DEFINE_string("norm", None, "Of a branch's input: layer_norm or rms_norm.")
_BLOCK_MULTIPLIER = flags.DEFINE_float(
  "block_multiplier", 1.0, "Branch multiplier at base depth."
)
_WINDOW = flags.DEFINE_integer("window", 50, "Steps averaged at the end.")
_TRAIN_BOUNDARY = flags.DEFINE_boolean(
  "train_boundary", False, "Train the input and output layers too."
)
_CHUNK = flags.DEFINE_integer("chunk", 50, "Steps between two reports.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The resolved flags; what config.json holds. See the flags' own help."""

  dataset: str
  data_dir: str | None
  parametrizations: tuple[str, ...]
  depths: tuple[int, ...]
  base_depth: int
  width: int
  base_width: int
  log2_lrs: tuple[float, ...]
  seeds: int
  steps: int
  batch_size: int
  optimizer: str
  activation: str
  block_depth: int
  pre_nonlinearity: bool
  norm: str | None
  block_multiplier: float
  window: int
  train_boundary: bool

  def __post_init__(self):
    for name in (
      "base_depth",
      "width",
      "base_width",
      "seeds",
      "steps",
      "batch_size",
      "window",
    ):
      reading.positive(getattr(self, name), name)
    reading.positive(self.block_multiplier, "block_multiplier")
    if self.window > self.steps:
      raise DepthMupError(
        f"--window={self.window} is longer than --steps={self.steps}; average over at "
        "most all steps"
      )
    if max(map(abs, self.log2_lrs)) > 126:
      raise DepthMupError("--log2_lrs: 2^-126 to 2^126 are the rates of float32")
    if self.optimizer not in classification.OPTIMIZERS:
      known = ", ".join(classification.OPTIMIZERS)
      raise DepthMupError(f"--optimizer={self.optimizer}: expected one of {known}")
    names = self.parametrizations
    if not names or len(set(names)) != len(names):
      raise DepthMupError("--parametrizations: expected distinct names, at least one")
    for name, depth in itertools.product(names, self.depths):
      self.model(name, depth)  # names a wrong value of the model

  def model(self, name: str, depth: int) -> dmup.ResidualMLP:
    """The net of one parametrization and depth."""
    return dmup.ResidualMLP(
      width=self.width,
      depth=depth,
      outputs=data.CLASSES,
      parametrization=reading.parametrization(name, self.base_width, self.base_depth),
      block_depth=self.block_depth,
      activation=self.activation,
      pre_nonlinearity=self.pre_nonlinearity,
      norm=self.norm,
      train_boundary=self.train_boundary,
    )


def config_from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  return Config(
    dataset=_DATASET.value,
    data_dir=_DATA_DIR.value,
    parametrizations=tuple(_PARAMETRIZATIONS.value),
    depths=reading.integers(_DEPTHS.value, "depths"),
    base_depth=_BASE_DEPTH.value,
    width=_WIDTH.value,
    base_width=_WIDTH.value if _BASE_WIDTH.value is None else _BASE_WIDTH.value,
    log2_lrs=reading.grid(_LOG2_LRS.value, "log2_lrs"),
    seeds=_SEEDS.value,
    steps=_STEPS.value,
    batch_size=_BATCH_SIZE.value,
    optimizer=_OPTIMIZER.value,
    activation=_ACTIVATION.value,
    block_depth=_BLOCK_DEPTH.value,
    pre_nonlinearity=_PRE_NONLINEARITY.value,
    norm=_NORM.value,
    block_multiplier=_BLOCK_MULTIPLIER.value,
    window=_WINDOW.value,
    train_boundary=_TRAIN_BOUNDARY.value,
  )


class Sweeps:
  """The sweeps of one run, an architecture after the other, and their records."""

  def __init__(self, config: Config, workdir: Workdir, dataset: data.Dataset):
    self._config, self._workdir, self._dataset = config, workdir, dataset
    grid = itertools.product(config.log2_lrs, range(config.seeds))
    self._members = list(grid)
    self.records: list[dict] = []

  def run(self, chunk: int) -> None:
    """Trains everything that has not been trained, writing records as they come."""
    c = self._config
    architectures = list(itertools.product(c.parametrizations, c.depths))
    total = len(architectures) * len(self._members) * c.steps
    with app.progress(total=total, unit="step", unit_scale=True) as bar:
      for name, depth in architectures:
        bar.set_description(f"{name}, depth {depth}", refresh=False)
        self._train(name, depth, chunk, bar)

  def _train(self, name: str, depth: int, chunk: int, bar: tqdm) -> None:
    c = self._config
    model = c.model(name, depth)
    task = classification.Task(model=model, optimizer=c.optimizer, batch_size=c.batch_size)
    rates, seeds = (np.array(v) for v in zip(*self._members, strict=True))
    members = {
      "lr": (2.0**rates).astype(np.float32),
      "seed": seeds.astype(np.int32),
      "block_multiplier": np.full(len(rates), c.block_multiplier, np.float32),
    }

    def on_chunk(done: ChunkDone) -> None:
      bar.update(done.member_steps)
      if done.wave_done:
        self._record(model.parametrization, name, depth, done)

    run_sweep(
      task.init,
      task.step,
      members,
      task.data(self._dataset, tuple(range(c.seeds)), c.steps),
      steps=c.steps,
      chunk=chunk,
      directory=self._workdir.path / "sweeps" / f"{name.replace('/', '_')}-{depth}",
      on_chunk=on_chunk,
    )

  def _record(
    self, p: dmup.Parametrization, name: str, depth: int, done: ChunkDone
  ) -> None:
    for i, losses, diverged in zip(done.members, done.losses, done.diverged, strict=True):
      rate, seed = self._members[i]
      # In float64: losses near float32's largest would sum to infinity.
      loss = float(np.mean(losses[-self._config.window :], dtype=np.float64))
      self.records.append(
        {
          "parametrization": name,
          "alpha": float(p.alpha),
          "gamma": float(p.gamma),
          "width": self._config.width,
          "depth": depth,
          "log2_lr": rate,
          "seed": seed,
          "loss": loss,
          "diverged": bool(diverged) or not math.isfinite(loss),
        }
      )
    self._workdir.write_results(self.records)


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = config_from_flags()
  reading.positive(_CHUNK.value, "chunk")
  dataset = data.load(config.dataset, config.data_dir)
  workdir = Workdir(reading.WORKDIR.value, dataclasses.asdict(config))
  summary = workdir.summary()
  if summary is not None and "transfer" in summary:
    print(f"already done: {workdir.path}")
    transfer_table.show(summary["transfer"])
    return
  Sweeps(config, workdir, dataset).run(_CHUNK.value)
  records = workdir.results()
  verdicts = transfer_verdict(records)
  figure = workdir.path / "lr_transfer.png"
  title = (
    f"{config.dataset}, width {config.width}, {config.optimizer}, {config.steps} steps"
  )
  transfer_figure.draw(records, verdicts, title, figure)
  workdir.write_summary({"transfer": verdicts})
  transfer_table.show(verdicts)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
