"""First-order MAML of linear nets of one hidden layer, of finite and of infinite width.

Tensor Programs IV (arXiv 2011.14522), the experiments on Omniglot. One program for all
widths: the limit is a net of width d + d_out (`infinite_linear_net`). After inner steps on
support images X_s the input weights are u + a X_s with a [h, S], so that a task never holds
a matrix of the size of u: features at X are X u^T + (X X_s^T) a^T + alpha beta.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments._lib.omniglot_learning import (
  BLOCK,
  Settings,
  accuracy,
  loss_derivative,
  split,
)
from flax_depthmup.limits import (
  LinearNet,
  finite_linear_net,
  infinite_linear_net,
  linear_update,
)


class _Task(NamedTuple):
  """What a task needs of its images.

  Attributes:
    support: [S, h] features of the support images, without bias.
    query: [Q, h] likewise.
    support_gram: [S, S] inner products of the images.
    query_gram: [Q, S].
  """

  support: Any
  query: Any
  support_gram: Any
  query_gram: Any


class _Adapted(NamedTuple):
  """A net after inner steps: its input weights are u + a X_s."""

  a: Any
  v: Any
  bias: Any


@dataclasses.dataclass(frozen=True)
class LinearLearner:
  """A linear net that is meta-trained.

  Attributes:
    width: None for the limit.
    sigma_u: of the initialization, as in `finite_linear_net`.
    sigma_v: likewise.
    bias_multiplier: alpha.
    meta_lr: learning rate of meta-steps.
    settings: of the tasks.
  """

  width: int | None
  sigma_u: float
  sigma_v: float
  bias_multiplier: float
  meta_lr: float
  settings: Settings

  def init(self, seed: int, images: Any) -> LinearNet:
    """The net before training."""
    sizes = (images.shape[1], self.settings.ways, self.sigma_u, self.sigma_v)
    if self.width is None:
      return infinite_linear_net(*sizes)
    return finite_linear_net(jax.random.key(seed), self.width, *sizes)

  def meta_step(self, net: LinearNet, images: Any, tasks: Any) -> tuple[LinearNet, Any]:
    """One meta-step: the sum of the tasks' gradients at their adapted nets, clipped.

    Args:
      net: before.
      images: [N, d] pixels.
      tasks: [T, ways, shots + queries] rows of images.

    Returns:
      The net after, and the accuracy on the queries before it.
    """
    s = self.settings
    support, query = (images[rows] for rows in split(tasks, s.shots))

    def each(x_s: Any, x_q: Any, h_s: Any, h_q: Any) -> Any:
      task = _Task(h_s, h_q, x_s @ x_s.T, x_q @ x_s.T)
      adapted = self._adapt(net, task, s.inner_steps)
      features, outputs = self._query(adapted, task)
      chi = loss_derivative(outputs, s.ways)
      back = chi @ adapted.v
      own = (chi.T @ features, self.bias_multiplier * back.sum(axis=0))
      return back, own, accuracy(outputs, s.ways)

    features = support @ net.u.T, query @ net.u.T
    back, (v, bias), right = jax.vmap(each)(support, query, *features)
    gradient = LinearNet(
      u=jnp.einsum("tqh,tqd->hd", back, query), v=v.sum(axis=0), bias=bias.sum(axis=0)
    )
    moved = linear_update(net, gradient, lr=self.meta_lr, clip=s.meta_clip)
    return moved, right.mean()

  def evaluate(
    self, net: LinearNet, trained_on: Any, images: Any, tasks: Any, inner_steps: Any
  ) -> Any:
    """Accuracies [T] on the queries of tasks [T, ways, shots + queries], rows of images."""
    del trained_on  # the net holds all of it
    features = images @ net.u.T

    def one(rows: Any) -> Any:
      support, query = split(rows, self.settings.shots)
      x_s, x_q = images[support], images[query]
      task = _Task(features[support], features[query], x_s @ x_s.T, x_q @ x_s.T)
      adapted = self._adapt(net, task, inner_steps)
      return accuracy(self._query(adapted, task)[1], self.settings.ways)

    return jax.lax.map(one, tasks, batch_size=BLOCK)

  def _adapt(self, net: LinearNet, task: _Task, steps: Any) -> _Adapted:
    """Inner steps of gradient descent on the support images, not clipped."""
    s = self.settings

    def step(_: Any, state: _Adapted) -> _Adapted:
      features = self._features(state, task.support, task.support_gram)
      chi = loss_derivative(features @ state.v.T, s.ways)
      back = chi @ state.v
      return _Adapted(
        a=state.a - s.inner_lr * back.T,
        v=state.v - s.inner_lr * (chi.T @ features),
        bias=state.bias - s.inner_lr * self.bias_multiplier * back.sum(axis=0),
      )

    nothing = jnp.zeros((net.u.shape[0], task.support.shape[0]))
    start = _Adapted(nothing, net.v, net.bias)
    return jax.lax.fori_loop(0, steps, step, start)

  def _query(self, adapted: _Adapted, task: _Task) -> tuple[Any, Any]:
    """Features [Q, h] and outputs [Q, ways] at the queries."""
    features = self._features(adapted, task.query, task.query_gram)
    return features, features @ adapted.v.T

  def _features(self, adapted: _Adapted, base: Any, gram: Any) -> Any:
    return base + gram @ adapted.a.T + self.bias_multiplier * adapted.bias[None, :]
