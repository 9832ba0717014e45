"""First-order MAML in a kernel: the baselines of Tensor Programs IV on Omniglot.

As `omniglot_linear`, with functions in place of nets (`flax_depthmup.limits`, kernel
expansions). Each meta-step adds a pair for every query image of its tasks; images come
again, so one coefficient for each training image is all that there is to keep. The
meta-gradient is clipped by its norm in the space of the kernel.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

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
  KernelExpansion,
  accumulate,
  expansion_outputs,
  rkhs_norm,
)

#: Images at which a function is evaluated at a time, for the kernel's memory.
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class KernelLearner:
  """A function, zero at first, that is meta-trained.

  Attributes:
    kernel: (x [A, d], z [B, d]) -> [A, B], which functions.
    meta_lr: learning rate of meta-steps.
    settings: of the tasks.
  """

  kernel: Callable
  meta_lr: float
  settings: Settings

  def init(self, seed: int, images: Any) -> Any:
    """Coefficients [N, ways] of the training images."""
    del seed
    return jnp.zeros((images.shape[0], self.settings.ways))

  def meta_step(self, q: Any, images: Any, tasks: Any) -> tuple[Any, Any]:
    """As `LinearLearner.meta_step`."""
    s = self.settings
    support, query = split(tasks, s.shots)
    base = [self._outputs(q, images, images[rows]) for rows in (support, query)]

    def each(x_s: Any, x_q: Any, f_s: Any, f_q: Any) -> Any:
      outputs = self._adapted(x_s, x_q, f_s, f_q, s.inner_steps)
      return loss_derivative(outputs, s.ways), accuracy(outputs, s.ways)

    chi, right = jax.vmap(each)(images[support], images[query], *base)
    rows, chi = query.reshape(-1), chi.reshape(-1, s.ways)
    norm = rkhs_norm(self.kernel, images[rows], chi)
    rho = s.meta_clip / jnp.maximum(norm, s.meta_clip)
    moved = accumulate(_expansion(q, images), rows, -self.meta_lr * rho * chi)
    return moved.coefficients, right.mean()

  def evaluate(
    self, q: Any, trained_on: Any, images: Any, tasks: Any, inner_steps: Any
  ) -> Any:
    """As `LinearLearner.evaluate`; the coefficients q are those of `trained_on`."""
    expansion = _expansion(q, trained_on)
    base = jax.lax.map(
      lambda x: expansion_outputs(self.kernel, expansion, x[None, :])[0],
      images,
      batch_size=_ROWS,
    )

    def one(rows: Any) -> Any:
      support, query = split(rows, self.settings.shots)
      images_of = images[support], images[query]
      outputs = self._adapted(*images_of, base[support], base[query], inner_steps)
      return accuracy(outputs, self.settings.ways)

    return jax.lax.map(one, tasks, batch_size=BLOCK)

  def _outputs(self, q: Any, images: Any, x: Any) -> Any:
    """f at inputs [T, B, d]."""
    flat = x.reshape(-1, x.shape[-1])
    return expansion_outputs(self.kernel, _expansion(q, images), flat).reshape(
      *x.shape[:-1], -1
    )

  def _adapted(self, x_s: Any, x_q: Any, f_s: Any, f_q: Any, steps: Any) -> Any:
    """Outputs at the queries after inner steps, which push pairs of support images."""
    s = self.settings
    gram = self.kernel(x_s, x_s)

    def step(_: Any, pushed: Any) -> Any:
      chi = loss_derivative(f_s + gram @ pushed, s.ways)
      return pushed - s.inner_lr * chi

    pushed = jax.lax.fori_loop(0, steps, step, jnp.zeros_like(f_s))
    return f_q + self.kernel(x_q, x_s) @ pushed


def _expansion(q: Any, images: Any) -> KernelExpansion:
  return KernelExpansion(images, q, jnp.asarray(images.shape[0], jnp.int32))
