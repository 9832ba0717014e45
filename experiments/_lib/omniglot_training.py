"""Meta-training and meta-testing the models of omniglot_maml."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib.omniglot_config import Config, Model
from experiments._lib.omniglot_tasks import Images, sample
from flax_depthmup import DepthMupError
from flax_depthmup.checkpoint import Checkpoints, abstract

Record = dict[str, Any]

#: Meta-steps of one call, after which there may be a validation; the paper's epoch.
EPOCH = 100
KEEP_SECONDS = 120.0
#: Batches of test tasks whose means a record keeps, to compare models task by task.
_BATCHES = 50


class Training:
  """The drawings on the device, and what is done with them."""

  def __init__(self, config: Config, images: dict[str, Images | None]):
    """Puts the drawings on the device.

    Raises:
      DepthMupError: a part has fewer characters than a task.
    """
    self._config = config
    given = {part: own for part, own in images.items() if own is not None}
    for part, own in given.items():
      if own.characters < config.ways:
        raise DepthMupError(
          f"--{part}_sets have {own.characters} characters: too few for --ways="
          f"{config.ways}"
        )
    self._characters = {part: own.characters for part, own in given.items()}
    self._pixels = {part: jnp.asarray(own.pixels) for part, own in given.items()}

  def record(
    self, model: Model, seed: int, folder: pathlib.Path, report: Callable[[int], None]
  ) -> Record:
    """Trains one model, from where an interrupted call left a state, and tests it.

    Args:
      model: which.
      seed: of the initialization and the tasks.
      folder: for the state.
      report: is given the number of meta-steps taken.
    """
    config, pixels = self._config, self._pixels["train"]
    learner, total = config.learner(model), config.meta_steps(model)
    start = learner.init(seed, pixels)
    kept = Checkpoints(folder)
    found = kept.latest(abstract({"now": start, "best": start}))
    begin, state, note = found or (
      0,
      {"now": start, "best": start},
      {"curve": [], "validation": None},
    )
    report(begin)
    mark = time.monotonic()
    for first in range(begin, total, EPOCH):
      last = min(first + EPOCH, total)
      tasks = self._tasks("train", seed, first // EPOCH, EPOCH * config.batch_size)
      tasks = tasks.reshape(EPOCH, config.batch_size, *tasks.shape[1:])
      now, right = _advance(learner, state["now"], pixels, tasks[: last - first])
      note["curve"].append([last, float(np.asarray(right).mean())])
      state = self._better(learner, now, state, note, seed, last)
      report(last - first)
      if last < total and time.monotonic() - mark > KEEP_SECONDS:
        kept.save(last, state, note)
        mark = time.monotonic()
    kept.close()
    return self._tested(model, seed, learner, state, note)

  def _tasks(self, part: str, seed: int, block: int, count: int) -> np.ndarray:
    c = self._config
    drawings = c.shots + c.queries
    return sample(part, seed, block, count, self._characters[part], c.ways, drawings)

  def _better(
    self, learner: Any, now: Any, state: Any, note: Record, seed: int, step: int
  ) -> Any:
    """The state after an epoch; the best is the last where nothing is validated."""
    if "validation" not in self._pixels:
      return {"now": now, "best": now}
    c = self._config
    found = self._accuracy(
      learner, now, "validation", seed, c.validation_tasks, c.inner_steps
    )[:2]
    best = note["validation"]
    if best is not None and found[0] <= best[0]:
      return {"now": now, "best": state["best"]}
    note["validation"] = [*found, step]
    return {"now": now, "best": now}

  def _accuracy(
    self, learner: Any, state: Any, part: str, seed: int, count: int, inner_steps: int
  ) -> tuple[float, float, list[float]]:
    """Mean over tasks, its standard error, and the means of batches of tasks."""
    tasks = self._tasks(part, seed, 0, count)
    images = self._pixels["train"], self._pixels[part]
    right = np.asarray(_evaluate(learner, state, *images, tasks, inner_steps), np.float64)
    batches = np.array_split(right, min(_BATCHES, count))
    means = [round(float(own.mean()), 6) for own in batches]
    return float(right.mean()), float(right.std() / np.sqrt(count)), means

  def _tested(
    self, model: Model, seed: int, learner: Any, state: Any, note: Record
  ) -> Record:
    c = self._config
    validation = note["validation"] or [None, None, c.meta_steps(model)]
    test = functools.partial(
      self._accuracy, learner, state["best"], "test", seed, c.test_tasks
    )
    accuracy, error, batches = test(c.test_inner_steps)
    early, early_error, _ = test(c.inner_steps)
    finite = all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state["now"]))
    return {
      **model._asdict(),
      "seed": seed,
      "meta_steps": c.meta_steps(model),
      "diverged": not finite,
      "validation_accuracy": validation[0],
      "validation_error": validation[1],
      "best_meta_step": validation[2],
      "test_accuracy": accuracy,
      "test_error": error,
      "test_batches": batches,
      "test_as_trained_accuracy": early,
      "test_as_trained_error": early_error,
      "train_curve": note["curve"],
    }


@functools.partial(jax.jit, static_argnums=0)
def _advance(learner: Any, state: Any, images: Any, tasks: Any) -> tuple[Any, Any]:
  """Meta-steps one after the other; the accuracy before each, [meta-steps]."""
  return jax.lax.scan(lambda s, own: learner.meta_step(s, images, own), state, tasks)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(
  learner: Any, state: Any, trained_on: Any, images: Any, tasks: Any, inner_steps: Any
) -> Any:
  return learner.evaluate(state, trained_on, images, tasks, inner_steps)
