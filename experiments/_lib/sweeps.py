"""The sweeps of one run: nets one after another, each at every member of a grid."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import linen as nn
from tqdm import tqdm

import flax_depthmup as dmup
from experiments._lib import app, data, packing
from experiments._lib.sweeps_config import Config
from experiments._lib.task import Task
from experiments._lib.workdir import Workdir
from flax_depthmup.sweeps import ChunkDone, run_sweep

CHUNK = flags.DEFINE_integer("chunk", 50, "Steps between two reports.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Net:
  """One net of a run.

  Attributes:
    label: on the progress bar.
    folder: of its sweep, in the folder "sweeps" of the work directory.
    model: gives logits.
    columns: what each of its records says of it.
  """

  label: str
  folder: str
  model: nn.Module
  columns: dict[str, Any]


class Sweeps:
  """The sweeps of one run, a net after the other, and their records."""

  def __init__(self, config: Config, workdir: Workdir, dataset: data.Dataset):
    self._config, self._workdir, self._dataset = config, workdir, dataset
    self._members = config.members()
    several = jax.process_count() > 1
    sizes = flags.FLAGS.mesh or ("sweep:-1" if several else None)
    self._mesh = None if sizes is None else dmup.make_mesh(sizes)
    self.records: list[dict] = []

  def run(self, nets: Sequence[Net]) -> None:
    """Trains everything that has not been trained, writing records as they come."""
    total = len(nets) * len(self._members) * self._config.steps
    quiet = jax.process_index() > 0
    with app.progress(total=total, unit="step", unit_scale=True, disable=quiet) as bar:
      for net in nets:
        bar.set_description(net.label, refresh=False)
        self._train(net, bar)

  def _train(self, net: Net, bar: tqdm) -> None:
    c = self._config
    task = Task(model=net.model, optimizer=c.optimizer, batch_size=c.batch_size)

    def on_chunk(done: ChunkDone) -> None:
      bar.update(done.member_steps)
      if done.wave_done:
        self._record(net.columns, done)

    arrays = task.data(self._dataset, tuple(range(c.seeds)), c.steps)
    mesh, rules = self._mesh, dmup.make_rules(flags.FLAGS.rules)
    with contextlib.nullcontext() if mesh is None else dmup.on_mesh(mesh, rules):
      run_sweep(
        task.init,
        task.step,
        self._values(),
        arrays,
        steps=c.steps,
        mesh=mesh,
        state_specs=None if mesh is None else task.state_specs(arrays, mesh, rules),
        chunk=CHUNK.value,
        directory=self._workdir.path / "sweeps" / net.folder,
        on_chunk=on_chunk,
      )

  def _values(self) -> dict[str, np.ndarray]:
    """The members as the sweep engine takes them."""
    c = self._config
    rates, multipliers, seeds = zip(*self._members, strict=True)
    if c.log2_multipliers is None:
      a = np.full(len(rates), c.block_multiplier)
    else:
      a = 2.0 ** np.array(multipliers)
    return {
      "lr": (2.0 ** np.array(rates)).astype(np.float32),
      "seed": np.array(seeds).astype(np.int32),
      "block_multiplier": a.astype(np.float32),
    }

  def _record(self, columns: dict[str, Any], done: ChunkDone) -> None:
    for i, losses, diverged in zip(done.members, done.losses, done.diverged, strict=True):
      member = self._members[i]
      swept = {k: v for k, v in member._asdict().items() if v is not None}
      # In float64: losses near float32's largest would sum to infinity.
      loss = float(np.mean(losses[-self._config.window :], dtype=np.float64))
      lost = bool(diverged) or not math.isfinite(loss)
      self.records.append({**columns, **swept, "loss": loss, "diverged": lost})
    self._workdir.write_results(self.records)


def results(
  config: Config, workdir: Workdir, nets: Callable[[int | None], Sequence[Net]]
) -> list[dict[str, Any]] | None:
  """Trains what has not been trained; the records, as they stand in results.jsonl.

  Args:
    config: of the run.
    workdir: claimed here, once the data are read.
    nets: from the size of the data's vocabulary.

  Returns:
    None in every process but the one that speaks for all.
  """
  dataset = load(config, workdir.path)
  sweeps = Sweeps(config, workdir, dataset)
  workdir.claim()
  sweeps.run(nets(dataset.vocab))
  return None if jax.process_index() > 0 else workdir.results()


def load(config: Config, path: pathlib.Path) -> data.Dataset:
  """The training set, in the shape the net takes."""
  if config.model == "transformer":
    if config.data_dir is None:
      app.once(lambda: packing.prepare(path / "tokens"))
    folder = config.data_dir or path / "tokens"
    return data.text(folder, config.sequence_length)
  dataset = data.load(config.dataset, config.data_dir)
  return dataset.images() if config.model == "resnet" else dataset


def grown(config: Config, vocab: int | None) -> list[Net]:
  """The nets of every parametrization and size, in this order."""
  found = []
  for name, (width, depth) in itertools.product(config.parametrizations, config.sizes):
    model = config.net(name, width, depth, vocab)
    p = model.parametrization
    size = depth if config.axis == "depth" else f"{width}-{depth}"
    columns = {
      "parametrization": name,
      "alpha": float(p.alpha),
      "gamma": float(p.gamma),
      "width": width,
      "depth": depth,
    }
    label = f"{name}, width {width}, depth {depth}"
    folder = f"{name.replace('/', '_')}-{size}"
    found.append(Net(label=label, folder=folder, model=model, columns=columns))
  return found
