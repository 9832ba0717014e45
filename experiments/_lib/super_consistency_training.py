"""Training nets on one batch, their sharpness measured on the way."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import flax_depthmup as dmup
from experiments._lib.data import Dataset, epoch_order
from experiments._lib.super_consistency_config import Config, Net
from flax_depthmup.diagnostics import adam_preconditioner, sgd_preconditioner, sharpness

#: Hessian-vector products of a measurement.
_LANCZOS = 16

Record = dict[str, Any]


class Training:
  """One architecture, compiled once for all its seeds."""

  def __init__(self, config: Config, net: Net, dataset: Dataset):
    """Takes the first `batch_size` images of one fixed shuffle."""
    chosen = epoch_order(0, len(dataset.x), config.batch_size)
    self._data = dataset.x[chosen], dataset.y[chosen]
    self._config, self._net = config, net
    self._model = config.model(net)
    example = jax.ShapeDtypeStruct((1, dataset.x.shape[1]), dataset.x.dtype)
    self._scales = dmup.abstract_init(self._model, jax.random.key(0), example)[1]
    self._tx = self._optimizer()
    self._init = jax.jit(self._start)
    self._train = jax.jit(self._chunk, donate_argnums=0)
    self._measure = jax.jit(self._measured)

  def records(self, seed: int, on_chunk: Callable[[], None]) -> list[Record]:
    """Trains one net; a record per measurement, null from where it diverged on.

    Args:
      seed: of the initial weights.
      on_chunk: called after each `measure_every` steps; may raise to stop.
    """
    c = self._config
    data = jax.device_put(self._data)
    state, found, diverged = self._init(seed, data), [], False
    for step in range(0, c.steps + 1, c.measure_every):
      if step and not diverged:
        state = self._train(state, data)
      if c.optimizer == "adam" and not step:
        continue  # it divides by nothing yet
      if not diverged:
        values = [float(v) for v in self._measure(state, data)]
        diverged = not all(map(math.isfinite, values))
      found.append(self._record(seed, step, *([math.nan] * 3 if diverged else values)))
      if step:
        on_chunk()
    return found

  def _record(
    self, seed: int, step: int, loss: float, value: float, residual: float
  ) -> Record:
    p = self._model.parametrization
    return {
      "parametrization": self._net.variant,
      "alpha": float(p.alpha),
      "gamma": float(p.gamma),
      "block_depth": self._model.block_depth,
      "width": self._net.width,
      "depth": self._net.depth,
      "seed": seed,
      "step": step,
      "loss": loss,
      "sharpness": value,
      "residual": residual,
      "relative": value / self._config.threshold,
      "diverged": not np.isfinite(loss),
    }

  def _optimizer(self) -> optax.GradientTransformation:
    c = self._config
    return (dmup.adam if c.optimizer == "adam" else dmup.sgd)(c.lr, self._scales)

  def _start(self, seed: jax.Array, data: Any) -> Any:
    params = dmup.init(self._model, jax.random.key(seed), data[0][:1])[0]
    return params, self._tx.init(params)

  def _loss(self, params: Any, data: Any) -> jax.Array:
    logits = self._model.apply({"params": params}, data[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()

  def _chunk(self, state: Any, data: Any) -> Any:
    """`measure_every` steps."""

    def step(state: Any, _: None) -> tuple[Any, None]:
      params, opt_state = state
      grads = jax.grad(self._loss)(params, data)
      updates, opt_state = self._tx.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, state, length=self._config.measure_every)[0]

  def _measured(self, state: Any, data: Any) -> tuple[jax.Array, ...]:
    """Loss, sharpness of what the optimizer sees, and its residual."""
    params, opt_state = state
    if self._config.optimizer == "adam":
      d = adam_preconditioner(self._scales, opt_state)
    else:
      d = sgd_preconditioner(self._scales)
    found = sharpness(
      lambda params: self._loss(params, data),
      params,
      jax.random.key(0),
      preconditioner=d,
      steps=_LANCZOS,
    )
    return self._loss(params, data), found.values[0], found.residuals[0]
