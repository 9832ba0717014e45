r"""Is the sharpness along training the same for nets of every size?

Super consistency (Noci, Meterez, Hofmann, Orvieto, arXiv 2402.17457): under muP and, with
one weight matrix a branch, Depth-muP the largest eigenvalue of the loss Hessian follows
one curve at every width and depth. It rises to the edge of stability, 2/eta under gradient
descent, and stays there, while the losses of different sizes part. Under the neural
tangent parametrization it depends on width, and wide nets hardly sharpen; with two
matrices a branch it depends on depth.

  python -m experiments.super_consistency --workdir=DIR

trains residual MLPs of width 32 to 256 by gradient descent on a fixed batch of 8x8
digits, under Depth-muP and the neural tangent parametrization (ntk, for SGD alone). Over
depth, block depth 1 against 2 (NAME@2):

  python -m experiments.super_consistency --workdir=DIR --axis=depth

Others: --parametrizations=depth_mup,0.5:0, or mup, ode, standard, ...; the first is held
to be super consistent. With --optimizer=adam the Hessian is preconditioned as Adam does
it, and the edge is 38/eta. The base width is 1, so that the initial output is small and
features must move; the input and output layers stay as they were drawn
(--train_boundary trains them).

CIFAR-10 from its official files:

  python -m experiments.super_consistency --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --log2_lr=2 --seeds=3

Larger, on an accelerator (not run; the paper's own tables of rates were out of reach, its
nets are convolutional):

  python -m experiments.super_consistency --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --log2_lr=2 --batch_size=5000 --steps=1000 --measure_every=20 \
    --widths=128,256,512,1024,2048

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per net, seed and measurement: loss,
sharpness, its residual and its ratio to the threshold), summary.json (the claims, under
"super_consistency") and super_consistency.png. Interrupted, the same command continues
with the nets that have not been trained.
"""

import dataclasses
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax

from experiments._lib import (
  app,
  data,
  described,
  super_consistency_config,
  super_consistency_figure,
  super_consistency_verdict,
)
from experiments._lib import flags as reading
from experiments._lib.super_consistency_config import Config, Net
from experiments._lib.super_consistency_training import Training
from experiments._lib.super_consistency_verdict import Records
from experiments._lib.sweeps_claims import tell
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError

_NAME = "super_consistency"
_Key = tuple[Net, int]  # and its seed


class _Stopped(Exception):
  """Another thread failed, or the user interrupts."""


class Nets:
  """All nets of one run and their records: an architecture at a time on each device."""

  def __init__(self, config: Config, workdir: Workdir, dataset: data.Dataset):
    """Takes over the records of an interrupted run."""
    self._config, self._workdir, self._dataset = config, workdir, dataset
    self._found: dict[_Key, Records] = {}
    if (workdir.path / "results.jsonl").exists():
      for record in workdir.results():
        self._found.setdefault(_key(record), []).append(record)
    self._lock, self._stop = threading.Lock(), threading.Event()
    self._devices: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()

  def run(self) -> Records:
    """Trains what has not been trained, writing a net's records when it is done."""
    c = self._config
    nets = sorted(c.nets(), key=lambda net: -net.depth * net.width**2)  # long ones first
    devices = jax.local_devices()
    for device in devices:
      self._devices.put(device)
    total = len(nets) * c.seeds * c.steps
    bar = app.progress(total=total, unit="step", unit_scale=True)
    pool = ThreadPoolExecutor(min(len(devices), len(nets)))
    with bar as self._bar, pool:
      try:
        for _ in pool.map(self._train, nets):
          pass
      except BaseException:
        self._stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    return self._workdir.results()

  def _train(self, net: Net) -> None:
    """All seeds of an architecture."""
    device = self._devices.get()
    try:
      with jax.default_device(device):
        training = Training(self._config, net, self._dataset)
        for seed in range(self._config.seeds):
          if (net, seed) in self._found:
            self._advance(self._config.steps)
            continue
          self._record(net, seed, training.records(seed, self._chunk_done))
    except _Stopped:
      pass
    except BaseException:
      self._stop.set()
      raise
    finally:
      self._devices.put(device)

  def _chunk_done(self) -> None:
    if self._stop.is_set():
      raise _Stopped
    self._advance(self._config.measure_every)

  def _advance(self, steps: int) -> None:
    with self._lock:
      self._bar.update(steps)

  def _record(self, net: Net, seed: int, records: Records) -> None:
    c = self._config
    order = [(net, seed) for net in c.nets() for seed in range(c.seeds)]
    with self._lock:
      self._found[net, seed] = records
      done = [self._found[key] for key in order if key in self._found]
      self._workdir.write_results(r for records in done for r in records)


def _key(record: dict) -> _Key:
  names = ("parametrization", "width", "depth")
  return Net(*(record[name] for name in names)), record["seed"]


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  if jax.process_count() > 1:
    raise DepthMupError(f"{_NAME} runs in one process; leave out --distributed")
  config = super_consistency_config.from_flags()
  which = "the smallest and the largest net of each kind"
  if described.stops(_NAME, config.described_nets, which):
    return
  what = {"experiment": _NAME, **dataclasses.asdict(config)}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    super_consistency_figure.show(summary[_NAME]["measured"], config.axis)
    tell(summary[_NAME]["claims"])
    return
  dataset = data.load(config.dataset, config.data_dir)
  super_consistency_config.check_batch(config, dataset)
  workdir.claim()
  records = Nets(config, workdir, dataset).run()
  found = super_consistency_verdict.summarize(records, config.axis)
  figure = workdir.path / f"{_NAME}.png"
  super_consistency_figure.draw(records, config.axis, config.title(), figure)
  workdir.write_summary({_NAME: found})
  super_consistency_figure.show(found["measured"], config.axis)
  tell(found["claims"])
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
