"""Training the embeddings of one width from one seed, epoch by epoch."""

import contextlib
import functools
import json
import math
import os
import pathlib
import time
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib import word2vec_analogies as analogies
from experiments._lib.word2vec_config import KERNEL, LIMIT, Cell, Config
from experiments._lib.word2vec_sampler import BLOCK, Epoch
from experiments._lib.word2vec_vocabulary import Corpus
from flax_depthmup import DepthMupError
from flax_depthmup.limits import (
  CbowPositions,
  cbow_batched_step,
  cbow_sequential_step,
  finite_embeddings,
  infinite_embeddings,
)

Record = dict[str, Any]
Groups = dict[str, list[str]]

#: A state of more bytes is not kept between epochs.
KEPT_BYTES = 8 * 2**30
#: Most frequent words, whose logits among each other are compared with the limit's.
PROBE = 128
#: Random embeddings that the kernel regime is measured on, and their width.
_DRAWS, _BASELINE_WIDTH = 16, 64


class Training:
  """All that cells have in common."""

  def __init__(
    self, config: Config, corpus: Corpus, questions: analogies.Questions, groups: Groups
  ):
    self._config, self._corpus, self._questions = config, corpus, questions
    index = corpus.vocabulary.index()
    self._groups = {
      name: {word: index[word] for word in words} for name, words in groups.items()
    }
    step = cbow_sequential_step if config.sequential else cbow_batched_step
    step = functools.partial(step, lazy=config.lazy_decay)
    self._advance = jax.jit(functools.partial(_advance, step), donate_argnums=(0, 1))

  def records(
    self, cell: Cell, folder: pathlib.Path, report: Callable[[int, list[Record]], None]
  ) -> list[Record]:
    """Trains one cell from where an interrupted call left a state.

    Args:
      cell: width and seed.
      folder: for the state, and for logits of the limit that later cells read.
      report: is given the number of positions since the last time, and the records.

    Returns:
      One per epoch; a cell that diverges ends with that epoch.
    """
    state = folder / f"state-{cell[0]}-{cell[1]}.npz"
    u, v, records = _restored(state) if state.exists() else (*self._init(cell), [])
    report(sum(r["positions"] for r in records), records)
    for epoch in range(len(records), self._config.epochs):
      begin = time.monotonic()
      stream = Epoch(self._corpus, self._config.sampling, cell[1], epoch)
      total, targets = 0.0, 0.0
      for block in range(stream.blocks):
        positions = stream.block(block)
        rates = self._rates(epoch, block, stream.size)
        batches = _batches(positions, self._config.batch_size)
        u, v, loss = self._advance(u, v, batches, rates, self._config.weight_decay)
        total += float(loss)  # waits, so that the bar tells the truth
        targets += float(positions.weights.sum())
        report(len(positions.mask), records)
      seconds = time.monotonic() - begin
      loss = total / max(targets, 1.0)
      own = {"width": cell[0], "seed": cell[1], "epoch": epoch + 1}
      own |= {"positions": stream.size, "seconds": round(seconds, 3)}
      if not (math.isfinite(loss) and bool(_finite(u))):
        records.append(own | {"loss": None, "diverged": True})
        break
      own |= {"loss": loss, "diverged": False, **self._look(cell, u, v, epoch, folder)}
      records.append(own)
      if epoch + 1 < self._config.epochs and 2 * u.nbytes <= KEPT_BYTES:
        folder.mkdir(exist_ok=True)
        _write(state, u=u, v=v, records=np.array(json.dumps(records)))
      report(0, records)
    return records

  def baseline(self) -> Record:
    """NNGP and NTK of infinite width: embeddings stay independent of each other.

    The answer to an analogy is then any of the |V| - 3 other words, all alike; measured
    on independent Gaussian embeddings, whose law makes it so at every width.
    """
    words, shares, points = len(self._corpus.vocabulary), [], None
    for draw in range(_DRAWS):
      rng = np.random.default_rng(draw)
      u = jnp.asarray(rng.normal(size=(words, _BASELINE_WIDTH)), jnp.float32)
      shares.append(analogies.accuracy(u, self._questions)["accuracy"])
      points = points or self._points(u)
    error = float(np.std(shares, ddof=1) / len(shares) ** 0.5)
    return {
      "width": KERNEL,
      "words": words,
      "questions": len(self._questions.words),
      "expected": 1 / (words - 3),
      "accuracy": float(np.mean(shares)),
      "accuracy_error": error,
      "draws": _DRAWS,
      "points": points,
    }

  def _init(self, cell: Cell) -> tuple[jax.Array, jax.Array]:
    width, seed = cell
    words, sigma = len(self._corpus.vocabulary), self._config.readout_sigma
    if width == LIMIT:
      return infinite_embeddings(words, sigma)
    uniform = self._config.uniform_embeddings
    return finite_embeddings(jax.random.key(seed), words, width, sigma, uniform=uniform)

  def _rates(self, epoch: int, block: int, size: int) -> np.ndarray:
    """Of each batch: from lr linearly to 1e-4 of it by the last position of all."""
    begin = np.arange(block * BLOCK, (block + 1) * BLOCK, self._config.batch_size)
    progress = (epoch + begin / size) / self._config.epochs
    return (self._config.lr * np.maximum(1 - progress, 1e-4)).astype(np.float32)

  def _look(
    self, cell: Cell, u: jax.Array, v: jax.Array, epoch: int, folder: pathlib.Path
  ) -> Record:
    """Analogies, and the distance of the logits from those of the limit."""
    found: Record = analogies.accuracy(u, self._questions)
    logits = np.asarray(_logits(u, v))
    path = logits_path(folder, cell[1], epoch)
    if cell[0] == LIMIT:
      folder.mkdir(exist_ok=True)
      _write(path, logits=logits)
    rms = relative = None
    if path.exists():
      with _read(path) as kept:
        goal = kept["logits"]
      rms = float(np.sqrt(np.mean((logits - goal) ** 2)))
      size = float(np.sqrt(np.mean(goal**2)))
      relative = rms / size if size else None
    found |= {"logit_rms": rms, "logit_rms_relative": relative}
    if epoch + 1 == self._config.epochs:
      found["points"] = self._points(u)
    return found

  def _points(self, u: jax.Array) -> dict[str, dict[str, list[float]]]:
    """Group -> word -> its place in the plane of the first two principal components."""
    rows = np.array([row for group in self._groups.values() for row in group.values()])
    x = np.asarray(_rows(u, rows), np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    x -= x.mean(axis=0)
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    plane = iter((left[:, :2] * sizes[:2]).round(5).tolist())
    return {
      name: {word: next(plane) for word in group} for name, group in self._groups.items()
    }


def logits_path(folder: pathlib.Path, seed: int, epoch: int) -> pathlib.Path:
  """Where the logits of the limit are kept for the finite nets of a run."""
  return folder / f"logits-{seed}-{epoch}.npz"


@jax.jit
def _finite(u: jax.Array) -> jax.Array:
  return jnp.isfinite(u).all()


@jax.jit
def _logits(u: jax.Array, v: jax.Array) -> jax.Array:
  some = slice(1, PROBE + 1)
  return jnp.matmul(u[some], v[some].T, precision="highest")


@jax.jit
def _rows(u: jax.Array, rows: jax.Array) -> jax.Array:
  return u[rows]


def _advance(step: Callable, u: Any, v: Any, batches: Any, rates: Any, decay: Any) -> Any:
  def one(carry: Any, drawn: Any) -> Any:
    positions, lr = drawn
    found = step(*carry, positions, lr, decay)
    return (found.u, found.v), found.loss

  rates = rates[: len(batches.mask)]
  (u, v), losses = jax.lax.scan(one, (u, v), (batches, rates))
  return u, v, losses.sum()


def _batches(positions: CbowPositions, size: int) -> CbowPositions:
  """[batches, size, ...], padded with positions that do nothing.

  A short block is padded to a power of two of batches, so that few shapes are compiled.
  """
  count = len(positions.mask)
  most = -(-BLOCK // size)
  batches = min(most, 1 << (-(-count // size) - 1).bit_length())
  extra = batches * size - count

  def padded(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, ((0, extra), (0, 0)))
    return x.reshape(batches, size, x.shape[1])

  return CbowPositions(*map(padded, positions))


def _write(path: pathlib.Path, **arrays: Any) -> None:
  temporary = path.with_suffix(".tmp")
  with temporary.open("wb") as file:
    np.savez(file, **arrays)
  os.replace(temporary, path)


@contextlib.contextmanager
def _read(path: pathlib.Path) -> Any:
  try:
    with path.open("rb") as file, np.load(file) as found:
      yield found
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
    raise DepthMupError(
      f"{path} is damaged; delete it, and the same command trains that width again"
    ) from None


def _restored(state: pathlib.Path) -> tuple[jax.Array, jax.Array, list[Record]]:
  with _read(state) as found:
    records = json.loads(str(found["records"]))
    return jnp.asarray(found["u"]), jnp.asarray(found["v"]), records
