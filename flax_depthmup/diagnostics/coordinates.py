"""Coordinates: the sizes of activations and of their changes, module by module.

Layer: jax, flax, optax.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.errors import InvalidRngError

from flax_depthmup.checks import check_size, is_number
from flax_depthmup.diagnostics.branches import Path, check_module
from flax_depthmup.diagnostics.module_outputs import (
  branch_moves,
  module_outputs,
  own_branch,
  places_of,
)
from flax_depthmup.diagnostics.plain_net import PlainNet
from flax_depthmup.errors import DepthMupError
from flax_depthmup.metadata import abstract_init, init
from flax_depthmup.paths import path_name

Stats = dict[str, jax.Array]  # l1, l2, mean, std


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
  """How the nets of a coordinate check are trained: on one batch, over and over.

  Attributes:
    inputs: of the model's `__call__`, one array or a tuple of arrays.
    loss: from the model's outputs to a scalar.
    optimizer: (scales, learning rate) -> optax transformation; the rate is traced.
    lr: the learning rate; large, but not so large that training diverges.
    steps: of training; 30 or more also show what sets in late.
    seeds: of the initialization.
    times: steps after which coordinates are taken; None: 0, 1, 3, 10, 30, ... and
      `steps`.
    eps: that the optimizer adds to the size of the gradients; None: it has none.
    name: of the optimizer, for the records.
  """

  inputs: Any
  loss: Callable[[Any], jax.Array]
  optimizer: Callable[[Any, jax.Array], optax.GradientTransformation]
  lr: float
  steps: int = 10
  seeds: Sequence[int] = (0, 1, 2, 3, 4)
  times: Sequence[int] | None = None
  eps: float | None = None
  name: str = "adam"

  def __post_init__(self):
    check_size(self.steps, "steps")
    if not is_number(self.lr) or self.lr <= 0:
      raise DepthMupError(f"lr={self.lr!r}: expected a positive number")
    if self.eps is not None and not (is_number(self.eps) and self.eps > 0):
      raise DepthMupError(f"eps={self.eps!r}: expected a positive number, or None")
    for field in ("loss", "optimizer"):
      if not callable(getattr(self, field)):
        found = getattr(self, field)
        raise DepthMupError(f"{field}={found!r} is no function; see Training")
    seeds = _whole(self.seeds)
    if not seeds or len(set(seeds)) != len(seeds):
      raise DepthMupError(f"seeds={self.seeds!r}: expected distinct whole numbers")
    times = (0,) if self.times is None else _whole(self.times)
    if not times or min(times) < 0 or max(times) > self.steps:
      raise DepthMupError(
        f"times={self.times!r}: expected whole numbers from 0 to steps={self.steps}"
      )

  @property
  def moments(self) -> tuple[int, ...]:
    """The steps after which coordinates are taken, 0 among them."""
    if self.times is not None:
      return tuple(sorted({0, *self.times}))
    growing = itertools.takewhile(lambda t: t < self.steps, _ones_and_threes())
    return (0, *growing, self.steps)

  @property
  def arguments(self) -> tuple[Any, ...]:
    """The inputs as the arguments of a call."""
    return self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)


def _whole(values: Any) -> list[int]:
  """Whole numbers of a sequence; none where it is none, or holds anything else."""
  values = list(values) if isinstance(values, Iterable) else []
  fine = all(isinstance(v, Integral) and not isinstance(v, bool) for v in values)
  return [int(v) for v in values] if fine else []


def _ones_and_threes() -> Iterator[int]:
  return (m * 10**e for e in itertools.count() for m in (1, 3))


class Probe:
  """One architecture at one size, compiled: it trains, and is looked at.

  Attributes:
    model: the linen module.
    scales: of its parameters.
    zones: name of a module -> its zone, in the order of the calls; see `Place`.
  """

  def __init__(self, model: nn.Module | PlainNet, training: Training):
    """Reads the scales; compiles at the first call.

    Raises:
      DepthMupError: a parameter carries no annotation, the net has no residual branch
        or draws random numbers, the loss gives no scalar, the optimizer is none.
    """
    args, self._training = training.arguments, training
    if isinstance(model, PlainNet):
      self.model, self._branch_of = model.model, model.branch_of
      self._places = places_of(self.model, args, self._branch_of)
      self._parameters, self.scales = model.parameters, model.scales
      params = model.parameters(jax.random.key(training.seeds[0]))
    else:
      check_module(model)
      self.model, self._branch_of = model, own_branch
      self._places = places_of(model, args)
      self._parameters = jax.jit(lambda key: init(model, key, *args)[0])
      params, self.scales = abstract_init(model, jax.random.key(0), *args)
    self._check(params)
    self.zones = {place.name: place.zone for place in self._places.values()}
    self._begin = jax.jit(self._optimizer_state)
    self._advance = jax.jit(self._train)
    self._observe = jax.jit(self._look)

  def _check(self, params: Any) -> None:
    """Raises `DepthMupError` for a loss or an optimizer that is none."""
    try:
      loss = jax.eval_shape(self._loss, params)
    except InvalidRngError:
      raise DepthMupError(
        f"{type(self.model).__name__} draws random numbers (dropout?); coordinates "
        "compare passes, so give a net without, by its rate or deterministic=True"
      ) from None
    shape = getattr(loss, "shape", None)
    if shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
      raise DepthMupError(
        f"loss gives {loss}; expected one real number, such as the mean over the batch"
      )
    try:
      tx = self._training.optimizer(self.scales, jnp.float32(self._training.lr))
    except TypeError as error:
      raise DepthMupError(
        f"optimizer cannot be called with (scales, learning rate): {error}"
      ) from error
    if not isinstance(tx, optax.GradientTransformation):
      raise DepthMupError(
        f"optimizer gives {type(tx).__name__}; expected an optax.GradientTransformation"
      )

  def scaled_gradient(self, seed: int) -> float:
    """Median over trainable parameters of rms(gradient factor * gradient) at init."""
    params = self._parameters(jax.random.key(seed))
    grads = jax.jit(jax.grad(self._loss))(params)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(self.scales), strict=True)
    sizes = [s.gradient_factor * float(_rms(g)) for g, s in pairs if s.trainable]
    return float(np.median(sizes))

  def observe(self, seed: int, loss_scale: float) -> Iterator[tuple[int, str, str, Stats]]:
    """(t, quantity, module, statistics) at every moment of one training run."""
    how = self._training
    start = self._parameters(jax.random.key(seed))
    params, state, done = start, self._begin(start, how.lr), 0
    for t in how.moments:
      params, state = self._advance(params, state, how.lr, loss_scale, t - done)
      done = t
      found = jax.device_get(self._observe(params, start))
      for quantity, modules in found.items():
        if t or quantity == "value":
          for module, stats in modules.items():
            yield t, quantity, module, stats

  def _optimizer_state(self, params: Any, lr: jax.Array) -> Any:
    return self._training.optimizer(self.scales, lr).init(params)

  def _loss(self, params: Any) -> jax.Array:
    out = self.model.apply({"params": params}, *self._training.arguments)
    return self._training.loss(out)

  def _train(self, params, state, lr, loss_scale, count):
    tx = self._training.optimizer(self.scales, lr)

    def step(_, carry):
      params, state = carry
      grads = jax.grad(lambda p: loss_scale * self._loss(p))(params)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, count, step, (params, state))

  def _named(self, found: dict[Path, list[jax.Array]]) -> dict[str, jax.Array]:
    """By the name of the place, all entries in one row."""
    rows: dict[str, list[jax.Array]] = {}
    for path, arrays in found.items():
      if path in self._places:
        rows.setdefault(self._places[path].name, []).extend(x.ravel() for x in arrays)
    return {name: jnp.concatenate(xs) for name, xs in rows.items()}

  def _parameter_name(self, name: str) -> str:
    """A parameter by the place of its module: one name for the blocks of a loop."""
    *path, own = name.split("/")
    place = self._places.get(tuple(path)) if path else None
    return name if place is None else f"{place.name}/{own}"

  def _look(self, params: Any, start: Any) -> dict[str, dict[str, Stats]]:
    args = self._training.arguments
    now, then = (self._named(module_outputs(self.model, p, args)) for p in (params, start))
    both = jax.tree.map(_relative_change, params, start)
    moved: dict[str, list[jax.Array]] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(both):
      moved.setdefault(self._parameter_name(path_name(path)), []).append(x.ravel())
    quantities = {
      "value": now,
      "change": {name: now[name] - then[name] for name in now},
      "branch": self._named(branch_moves(self.model, params, start, args, self._branch_of)),
      "parameter": {name: jnp.concatenate(xs) for name, xs in moved.items()},
    }
    return {
      quantity: {name: _statistics(x) for name, x in modules.items()}
      for quantity, modules in quantities.items()
    }


def _rms(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


def _relative_change(now: jax.Array, then: jax.Array) -> jax.Array:
  """(W_t - W_0) / rms(W_0); zero for a parameter that starts at zero."""
  size = _rms(then)
  return jnp.where(size > 0, (now - then) / jnp.where(size > 0, size, 1), 0)


def _statistics(x: jax.Array) -> Stats:
  x = x.astype(jnp.float32)
  return {"l1": jnp.abs(x).mean(), "l2": _rms(x), "mean": x.mean(), "std": x.std()}
