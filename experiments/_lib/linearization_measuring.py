"""Training nets for a few steps, and measuring how linear they were in the update."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_depthmup as dmup
from experiments._lib.data import Dataset
from experiments._lib.linearization_config import BLOCKS, Config, Net
from experiments._lib.task import Task
from flax_depthmup.diagnostics import (
  gradient_diversity,
  layerwise_linearization,
  linearization_distance,
)

Record = dict[str, Any]
LINEARIZATION, GRADIENTS = "linearization", "gradient_diversity"


def linearization(config: Config, net: Net, dataset: Dataset) -> list[Record]:
  """A record per seed: |F(W + D) - F(W) - J D| / |J D|, D = W(t) - W(0).

  `ratio` is the mean over the blocks, each in its own D; `distance` is that of all
  outputs in D of the whole net.
  """
  model = config.model(net)
  task = Task(model=model, optimizer=config.optimizer, batch_size=config.batch_size)
  seeds = tuple(range(config.seeds))
  arrays = task.data(dataset, seeds, config.steps)
  members = {
    "seed": np.array(seeds, np.int32),
    "lr": np.full(len(seeds), config.learning_rate, np.float32),
    "block_multiplier": np.full(len(seeds), config.block_multiplier, np.float32),
  }

  def apply(params: Any, x: Any) -> Any:
    return model.apply({"params": params}, x)

  def one(member: dmup.Member, data: Any) -> Any:
    start = task.init(member, data)
    end = jax.lax.fori_loop(
      0, config.steps, lambda t, state: task.step(state, member, t, data)[0], start
    )
    update = jax.tree.map(jnp.subtract, end[0], start[0])
    images = data["x"][: config.probe_images]
    blocks = layerwise_linearization(model, start[0], update, images)["stack/block"]
    whole = linearization_distance(apply, start[0], update, images)
    return [jnp.mean(x) for x in (*jax.tree.leaves(blocks), *jax.tree.leaves(whole))]

  program = jax.jit(lambda members, data: jax.lax.map(lambda m: one(m, data), members))
  values = np.stack(program(members, arrays), axis=-1).tolist()
  names = ("ratio", "rounding", "distance", "distance_rounding")
  return [
    {
      "measure": LINEARIZATION,
      **net._asdict(),
      "seed": seed,
      **dict(zip(names, row, strict=True)),
      "diverged": not all(map(math.isfinite, row)),
    }
    for seed, row in zip(seeds, values, strict=True)
  ]


def gradients(config: Config, block: str, dataset: Dataset) -> list[Record]:
  """A record per seed: the cosine of delta h in neighbouring blocks at initialization."""
  model = config.untrained(block)
  images, labels = (a[: config.probe_images] for a in (dataset.x, dataset.y))

  def loss(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  init = jax.jit(lambda key: dmup.init(model, key, images)[0])
  records = []
  for seed in range(config.seeds):
    params = init(jax.random.key(seed))
    (found,) = gradient_diversity(loss, model, params, images).values()
    own = {"block": block, "depth": model.depth, "seed": seed}
    values = {"cosine": found.mean, "standard_error": found.standard_error}
    records.append({"measure": GRADIENTS, **own, **values, "theory": theory(model, block)})
  return records


def theory(model: dmup.ResidualMLP, block: str) -> float:
  """The cosine of wide nets: that of the limit, and delta x turning in each block."""
  _, decorrelated, square = BLOCKS[block]
  multiplier = model.block_multiplier * model.parametrization.branch_multiplier(model.depth)
  return decorrelated / math.sqrt(1 + multiplier**2 * square)
