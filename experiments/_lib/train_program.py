"""The compiled programs of a training run: init, step, evaluation, all on a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

import flax_depthmup as dmup
from flax_depthmup import DepthMupError

#: (params, batch) -> (metrics to average over examples, the first of them the loss).
Loss = Callable[[Any, Any], dict[str, jax.Array]]


class Program:
  """A training run as pure functions of a state.

  The state is a dict: params, opt_state, step (int32) and key, the run's random
  key, from which the parameters were drawn.

  Attributes:
    scales: the tree of `Scales` of the parameters.
    batch_place: the sharding of a batch.
  """

  def __init__(
    self,
    *,
    model: nn.Module,
    example: Any,
    loss: Loss,
    optimizer: Callable[[Any], optax.GradientTransformation],
    rate: optax.Schedule,
    mesh: Mesh,
    rules: dmup.Rules,
    batch_size: int,
    accumulate: int = 1,
  ):
    """Resolves scales and places; compiles nothing yet.

    Args:
      model: its parameters are annotated.
      example: the input of an example, with a leading axis of 1; only its shape
        matters.
      loss: gives the "loss" to minimize, and what else is to be reported.
      optimizer: from the tree of `Scales` to the whole optimizer.
      rate: its learning rate by step, to be reported.
      mesh: the devices.
      rules: where everything lies on them.
      batch_size: examples of a step.
      accumulate: the gradient is averaged over so many parts of the batch, one
        after another, so that memory holds the activations of one part.

    Raises:
      DepthMupError: a part of the batch, or a parameter, cannot be split evenly.
    """
    if batch_size % accumulate:
      raise DepthMupError(
        f"--batch_size={batch_size} is no multiple of --accumulate={accumulate}; each "
        "part needs as many examples"
      )
    self._model, self._example, self._loss, self._rate = model, example, loss, rate
    self._mesh, self._rules, self._accumulate = mesh, rules, accumulate
    abstract, self.scales = dmup.abstract_init(model, jax.random.key(0), example)
    self._tx = optimizer(self.scales)
    _check_use(mesh, rules, self.scales)
    params = dmup.param_shardings(self.scales, mesh, rules)
    whole = NamedSharding(mesh, jax.P())
    self._places = {
      "params": params,
      "opt_state": dmup.optimizer_shardings(self._tx, abstract, params, mesh),
      "step": whole,
      "key": whole,
    }
    dmup.batch_sharding(mesh, batch_size // accumulate, rules)  # names a part too small
    self.batch_place = dmup.batch_sharding(mesh, batch_size, rules)
    self._compiled_step = jax.jit(
      self._step,
      in_shardings=(self._places, self.batch_place),
      out_shardings=(self._places, whole),
      donate_argnums=0,
    )
    self._compiled_loss = jax.jit(
      loss, in_shardings=(params, self.batch_place), out_shardings=whole
    )

  def init(self, seed: int) -> dict[str, Any]:
    """The first state; every device makes its own part of it and no more."""
    with dmup.on_mesh(self._mesh, self._rules):
      return jax.jit(self._init, out_shardings=self._places, static_argnums=0)(seed)

  def abstract_state(self) -> dict[str, Any]:
    """Shapes and places of the state, to restore it to."""
    shapes = jax.eval_shape(lambda: self._init(0))
    return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes,
      self._places,
    )

  def step(self, state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
    """(state, batch) -> (state, metrics); the state given is consumed."""
    with dmup.on_mesh(self._mesh, self._rules):
      return self._compiled_step(state, batch)

  def evaluate(self, state: Any, batch: Any) -> dict[str, jax.Array]:
    """The metrics of a batch."""
    with dmup.on_mesh(self._mesh, self._rules):
      return self._compiled_loss(state["params"], batch)

  def _init(self, seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    params = dmup.init(self._model, key, self._example)[0]
    step = jnp.zeros((), jnp.int32)
    return {"params": params, "opt_state": self._tx.init(params), "step": step, "key": key}

  def _step(self, state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
    grads, metrics = self._gradient(state["params"], batch)
    updates, opt_state = self._tx.update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    metrics["gradient_norm"] = optax.tree.norm(grads)
    metrics["learning_rate"] = jnp.asarray(self._rate(state["step"]), jnp.float32)
    new = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
    return new | {"key": state["key"]}, metrics

  def _gradient(self, params: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
    def loss(params, batch):
      metrics = self._loss(params, batch)
      return metrics["loss"], metrics

    gradient = jax.grad(loss, has_aux=True)
    if self._accumulate == 1:
      return gradient(params, batch)
    count = self._accumulate

    def split(x):  # every device keeps rows of its own in each part
      x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
      return nn.with_logical_constraint(x, (None, "batch"))

    def add(total, part):
      return jax.tree.map(lambda a, b: a + b / count, total, gradient(params, part)), None

    parts = jax.tree.map(split, batch)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def _check_use(mesh: Mesh, rules: dmup.Rules, scales: Any) -> None:
  """Raises `DepthMupError` for devices that would repeat others, or a rule of no axis."""
  if mesh.shape["sweep"] > 1:
    raise DepthMupError(
      f"--mesh with sweep:{mesh.shape['sweep']}: one run has no members, its devices would "
      "all do the same; split them along data, fsdp or model"
    )
  leaves = jax.tree.leaves(scales, is_leaf=lambda s: isinstance(s, dmup.Scales))
  names = {"batch", "length"}.union(*(s.axis_names for s in leaves))
  for name in set(rules) - set(dmup.DEFAULT_RULES) - names:
    raise DepthMupError(
      f'--rules: no array has the axis "{name}"; the axes are {", ".join(sorted(names))}'
    )
