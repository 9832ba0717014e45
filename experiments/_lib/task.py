"""Training one net on labels or next tokens, as the sweep engine wants it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib.data import Dataset, epoch_order


def _muon() -> optax.GradientTransformation:
  """Muon with updates as large as Adam's, so that one rate serves both (Kimi)."""

  def as_large(u: jax.Array, _: Any) -> jax.Array:
    return u * 0.2 * max(u.shape) ** 0.5

  return optax.chain(optax.contrib.scale_by_muon(), optax.stateless(as_large))


def _adafactor() -> optax.GradientTransformation:
  return optax.chain(
    optax.scale_by_factored_rms(),
    optax.clip_by_block_rms(1.0),
    optax.scale_by_param_block_rms(),
  )


#: Q of Definition 6.1, without its learning rate, and its family.
OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], Any]] = {
  "adam": (optax.scale_by_adam, None),
  "sgd": (optax.identity, None),
  "momentum": (functools.partial(optax.trace, decay=0.9), None),
  "adagrad": (optax.scale_by_rss, None),
  "lion": (optax.scale_by_lion, None),
  "rmsprop": (optax.scale_by_rms, None),
  "adafactor": (_adafactor, dmup.RELATIVE),
  "muon": (_muon, dmup.MUON_MOONSHOT),  # of hidden matrices; Adam of the rest
}


def scaled_direction(
  name: str, scales: Any, **hyperparameters: float
) -> optax.GradientTransformation:
  """An optimizer of `OPTIMIZERS` under the parametrization, without its learning rate."""
  make, family = OPTIMIZERS[name]
  q = dmup.scale_by_parametrization(make(**hyperparameters), scales, family=family)
  if name != "muon":
    return q
  labels = jax.tree.map(
    lambda s: "muon" if s.kind is dmup.Kind.HIDDEN else "adam",
    scales,
    is_leaf=lambda node: isinstance(node, dmup.Scales),
  )
  adam = dmup.scale_by_parametrization(optax.scale_by_adam(), scales)
  return optax.partition({"muon": q, "adam": adam}, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """One architecture and how it is trained.

  Attributes:
    model: gives logits; its block multiplier is replaced by each member's.
    optimizer: a name of `OPTIMIZERS`.
    batch_size: examples a step.
  """

  model: nn.Module
  optimizer: str
  batch_size: int

  def data(self, dataset: Dataset, seeds: tuple[int, ...], steps: int) -> dict[str, Any]:
    """What `init` and `step` take as their data: examples and their order by seed."""
    length = steps * self.batch_size
    order = [epoch_order(seed, len(dataset.x), length) for seed in seeds]
    return {
      "x": dataset.x,
      "y": dataset.y,
      "seeds": np.asarray(seeds, np.int32),
      "order": np.stack(order),
    }

  def init(self, member: dmup.Member, data: Any) -> Any:
    """(parameters, optimizer state) of a member with `seed`, `lr`, `block_multiplier`."""
    key = jax.random.key(member["seed"])
    params = dmup.init(self.model, key, data["x"][:1])[0]
    return params, self._optimizer(data, member["lr"]).init(params)

  def step(self, state: Any, member: dmup.Member, t: jax.Array, data: Any) -> Any:
    """One step on batch t of the member's seed; gives (state, mean log-loss)."""
    params, opt_state = state
    model = self.model.clone(block_multiplier=member["block_multiplier"])
    row = jnp.argmax(data["seeds"] == member["seed"])
    start = (row, t * self.batch_size)
    batch = jax.lax.dynamic_slice(data["order"], start, (1, self.batch_size))[0]
    x, y = data["x"][batch], data["y"][batch]

    def loss_of(params):
      logits = model.apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    tx = self._optimizer(data, member["lr"])
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  def state_specs(
    self, data: Any, mesh: jax.sharding.Mesh, rules: dmup.Rules
  ) -> Callable[[Any], Any]:
    """Where the state of a member lies on a mesh, for `run_sweep`."""

    def specs(state: Any) -> Any:
      scales = _scales(self.model, data["x"].shape[1:], data["x"].dtype)
      params = dmup.param_shardings(scales, mesh, rules)
      tx = self._optimizer(data, jnp.float32(0))
      return params, dmup.optimizer_shardings(tx, state[0], params, mesh)

    return specs

  def _optimizer(self, data: Any, lr: jax.Array) -> optax.GradientTransformation:
    scales = _scales(self.model, data["x"].shape[1:], data["x"].dtype)
    q = scaled_direction(self.optimizer, scales)
    return optax.chain(q, optax.scale_by_learning_rate(lr))


@functools.lru_cache(maxsize=4)
def _scales(model: nn.Module, shape: tuple[int, ...], dtype: Any) -> Any:
  """The scales of a net; a sweep asks for them again and again."""
  example = jax.ShapeDtypeStruct((1, *shape), dtype)
  return dmup.abstract_init(model, jax.random.key(0), example)[1]
