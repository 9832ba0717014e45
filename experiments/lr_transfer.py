r"""Is the best learning rate of a shallow net still the best of a deep one?

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

Transformers on text and convolutional nets: --model=transformer, --model=resnet. What
grows: --axis=depth, --axis=width with --widths, or both in pairs, --axis=joint:

  python -m experiments.lr_transfer --workdir=DIR --model=transformer --axis=joint \
    --parametrizations=complete_p --widths=64,128,256 --depths=2,4,8 --base_depth=2 \
    --log2_lrs=-11:-6:1 --seeds=3 --steps=300 --batch_size=16

On a pod, members along one axis of the mesh and each member split along the others:
--mesh=sweep:16,fsdp:4 (docs/pods.md).

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net), summary.json (the verdict,
under "transfer") and lr_transfer.png. Interrupted, the same command continues.
"""

import contextlib
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import flax_depthmup as dmup
from experiments._lib import (
  app,
  data,
  packing,
  transfer_config,
  transfer_figure,
  transfer_table,
)
from experiments._lib import flags as reading
from experiments._lib.task import Task
from experiments._lib.transfer_config import Config
from experiments._lib.workdir import Workdir
from flax_depthmup.diagnostics import transfer_verdict
from flax_depthmup.sweeps import ChunkDone, run_sweep

_CHUNK = flags.DEFINE_integer("chunk", 50, "Steps between two reports.")


class Sweeps:
  """The sweeps of one run, an architecture after the other, and their records."""

  def __init__(self, config: Config, workdir: Workdir, dataset: data.Dataset):
    self._config, self._workdir, self._dataset = config, workdir, dataset
    grid = itertools.product(config.log2_lrs, range(config.seeds))
    self._members = list(grid)
    several = jax.process_count() > 1
    sizes = flags.FLAGS.mesh or ("sweep:-1" if several else None)
    self._mesh = None if sizes is None else dmup.make_mesh(sizes)
    self.records: list[dict] = []

  def run(self, chunk: int) -> None:
    """Trains everything that has not been trained, writing records as they come."""
    c = self._config
    architectures = list(itertools.product(c.parametrizations, c.sizes))
    total = len(architectures) * len(self._members) * c.steps
    quiet = jax.process_index() > 0
    with app.progress(total=total, unit="step", unit_scale=True, disable=quiet) as bar:
      for name, (width, depth) in architectures:
        bar.set_description(f"{name}, width {width}, depth {depth}", refresh=False)
        self._train(name, width, depth, chunk, bar)

  def _train(self, name: str, width: int, depth: int, chunk: int, bar: tqdm) -> None:
    c = self._config
    model = c.net(name, width, depth, self._dataset.vocab)
    task = Task(model=model, optimizer=c.optimizer, batch_size=c.batch_size)
    rates, seeds = (np.array(v) for v in zip(*self._members, strict=True))
    members = {
      "lr": (2.0**rates).astype(np.float32),
      "seed": seeds.astype(np.int32),
      "block_multiplier": np.full(len(rates), c.block_multiplier, np.float32),
    }

    def on_chunk(done: ChunkDone) -> None:
      bar.update(done.member_steps)
      if done.wave_done:
        self._record(model.parametrization, name, width, depth, done)

    arrays = task.data(self._dataset, tuple(range(c.seeds)), c.steps)
    mesh, rules = self._mesh, dmup.make_rules(flags.FLAGS.rules)
    with contextlib.nullcontext() if mesh is None else dmup.on_mesh(mesh, rules):
      run_sweep(
        task.init,
        task.step,
        members,
        arrays,
        steps=c.steps,
        mesh=mesh,
        state_specs=None if mesh is None else task.state_specs(arrays, mesh, rules),
        chunk=chunk,
        directory=self._workdir.path / "sweeps" / self._folder(name, width, depth),
        on_chunk=on_chunk,
      )

  def _folder(self, name: str, width: int, depth: int) -> str:
    size = depth if self._config.axis == "depth" else f"{width}-{depth}"
    return f"{name.replace('/', '_')}-{size}"

  def _record(
    self, p: dmup.Parametrization, name: str, width: int, depth: int, done: ChunkDone
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
          "width": width,
          "depth": depth,
          "log2_lr": rate,
          "seed": seed,
          "loss": loss,
          "diverged": bool(diverged) or not math.isfinite(loss),
        }
      )
    self._workdir.write_results(self.records)


def load(config: Config, path: pathlib.Path) -> data.Dataset:
  """The training set, in the shape the net takes."""
  if config.model == "transformer":
    if config.data_dir is None:
      app.once(lambda: packing.prepare(path / "tokens"))
    folder = config.data_dir or path / "tokens"
    return data.text(folder, config.sequence_length)
  dataset = data.load(config.dataset, config.data_dir)
  return dataset.images() if config.model == "resnet" else dataset


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = transfer_config.from_flags()
  reading.positive(_CHUNK.value, "chunk")
  workdir = Workdir(reading.WORKDIR.value, dataclasses.asdict(config), claim=False)
  summary = workdir.summary()
  if summary is not None and "transfer" in summary:
    print(f"already done: {workdir.path}")
    transfer_table.show(summary["transfer"], config.size)
    return
  sweeps = Sweeps(config, workdir, load(config, workdir.path))
  workdir.claim()
  sweeps.run(_CHUNK.value)
  if jax.process_index() > 0:
    return  # one process speaks for all
  records = workdir.results()
  verdicts = transfer_verdict(records, config.size)
  figure = workdir.path / "lr_transfer.png"
  transfer_figure.draw(records, verdicts, config.size, config.title(), figure)
  workdir.write_summary({"transfer": verdicts})
  transfer_table.show(verdicts, config.size)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
