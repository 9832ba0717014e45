"""The records of linear_limit: nets of finite width, and the limit at each depth."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib import data, finite_residual
from experiments._lib.limit_slopes import rms
from experiments._lib.linear_limit_config import POSITIONS, Config
from flax_depthmup.limits import ResidualTraining, infinite_depth, linear_residual

Record = dict[str, Any]


class Batches(NamedTuple):
  """What the nets are trained on: x [T, B, d_in] of norm one on average, y [T, B]."""

  x: np.ndarray
  y: np.ndarray


def batches(config: Config, dataset: data.Dataset) -> Batches:
  """The first T + 1 batches of the first epoch; the last is only looked at."""
  steps, batch = config.times[-1] + 1, config.batch_size
  order = data.epoch_order(0, len(dataset.x), steps * batch)
  x = dataset.x[order] / np.sqrt(dataset.x.shape[1])
  return Batches(x.reshape(steps, batch, -1), dataset.y[order].reshape(steps, batch))


def mean_cross_entropy(f: jax.Array, y: jax.Array) -> jax.Array:
  """Its derivative in the outputs f [B, 10], with labels y [B]."""
  wanted = jax.nn.one_hot(y, data.CLASSES, dtype=f.dtype)
  return (jax.nn.softmax(f) - wanted) / len(f)


def of_net(
  config: Config, width: int, seed: int, given: Batches, outputs: np.ndarray
) -> list[Record]:
  """The records of one finite net.

  Args:
    config: of the run.
    width: n.
    seed: of the initialization.
    given: what it is trained on.
    outputs: [T + 1, B, 10] at infinite width.
  """
  depth, a = config.depth, config.block_multiplier
  layers = tuple(int(p * depth) for p in POSITIONS)
  run = finite_residual.train(
    jax.random.key(seed),
    jnp.asarray(given.x, jnp.float32),
    jnp.asarray(given.y),
    a * depth**-0.5,
    2.0**config.log2_lr * a * depth**-0.5,
    width=width,
    depth=depth,
    phi=None,
    loss_derivative=mean_cross_entropy,
    d_out=data.CLASSES,
    layers=layers,
  )
  own = {"net": "finite", "width": width, "depth": depth, "seed": seed}
  own["output_deviation"] = rms(np.asarray(run.outputs, float) - outputs)
  return _records(own, np.asarray(run.kernel, float), config)


class Limit:
  """Infinite width at any depth; each depth is solved once."""

  def __init__(self, config: Config, given: Batches):
    self._config, self._given = config, given
    self._found: dict[int, ResidualTraining] = {}

  def solve(self, depth: int) -> ResidualTraining:
    """The run at this depth, in float64."""
    if depth not in self._found:
      with jax.enable_x64(True):
        found = linear_residual(
          self._given.x,
          self._given.y,
          depth=depth,
          loss_derivative=mean_cross_entropy,
          d_out=data.CLASSES,
          learning_rate=2.0**self._config.log2_lr,
          branch_multiplier=self._config.block_multiplier,
        )
      self._found[depth] = jax.tree.map(np.asarray, found)
    return self._found[depth]

  def records(self) -> list[Record]:
    """Those of infinite width at each depth, and of infinite depth."""
    c, records = self._config, []
    for depth in sorted({*c.depths, c.depth}):
      layers = [int(p * depth) for p in POSITIONS]
      own = {"net": "infinite width", "width": None, "depth": depth, "seed": None}
      records += _records(own, self.solve(depth).forward_kernel[layers], c)
    # From the three deepest where they double, else from runs of their own.
    deep = infinite_depth(self.solve, depth=max(c.depths[-1] // 16, 1) * 4)
    own = {"net": "infinite", "width": None, "depth": None, "seed": None}
    found = _records(own, deep.forward_kernel.value, c)
    for record in found:
      record["rms_error"] = deep.forward_kernel.error / (2 * record["rms"])  # of the root
    return records + found


def _records(own: Record, kernel: np.ndarray, config: Config) -> list[Record]:
  """rms of the features by time and position, over neurons and samples of the batch."""
  squares = np.diagonal(kernel, axis1=1, axis2=2)
  by_step = squares.reshape(len(POSITIONS), -1, config.batch_size).mean(-1)
  return [
    {**own, "time": t, "position": p, "rms": float(value**0.5)}
    for t in config.times
    for p, value in zip(POSITIONS, by_step[:, t], strict=True)
  ]
