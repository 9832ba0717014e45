"""A small user's net whose parts can be exchanged for mistaken ones, and its check."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup.diagnostics import CoordinateCheck, Training, coordinate_check

KEY = jax.random.key(0)
BASE = {"embed": 64}
#: Table 8 in width, Table 3 with depth.
P8 = dmup.complete_p(base_width=BASE, base_depth=1)
P3 = dmup.depth_mup(base_width=BASE, base_depth=1)
_DRAWN = np.random.default_rng(0)
X = jnp.asarray(_DRAWN.normal(size=(16, 8)), jnp.float32)
Y = jnp.asarray(_DRAWN.integers(0, 4, 16))
EPS = 1e-8


class Branch(nn.Module):
  """tanh(W x): one matrix, and no mean to subtract."""

  width: int
  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p = self.parametrization
    return jnp.tanh(dmup.Dense(self.width, "embed -> embed", p, name="dense")(x))


def first(width: int, p: dmup.Parametrization) -> nn.Module:
  return dmup.Dense(width, "(inputs) -> embed", p, name="first")


def branch(width: int, p: dmup.Parametrization) -> nn.Module:
  return Branch(width, p)


def readout(p: dmup.Parametrization, std: float = 2**-5) -> nn.Module:
  """Small at the start, so that logits are small at every width."""
  return dmup.Readout(4, p, "embed -> (classes)", base_std=std, name="readout")


class Net(nn.Module):
  """A residual net built of our layers; each of its parts may be another."""

  width: int
  depth: int
  parametrization: dmup.Parametrization
  first: Callable[..., nn.Module] = first
  branch: Callable[..., nn.Module] = branch
  readout: Callable[..., nn.Module] = readout

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p = self.parametrization
    x = self.first(self.width, p)(x)
    for _ in range(self.depth):
      x = dmup.Residual(self.branch(self.width, p), self.depth, p)(x)
    return self.readout(p)(x)


def drawn(model: nn.Module, *inputs: Any) -> tuple[Any, Any]:
  """Parameters of the right std, drawn by numpy, and scales: compiles nothing."""
  shapes, scales = dmup.abstract_init(model, KEY, *inputs)
  rng = np.random.default_rng(1)

  def draw(x: Any, s: dmup.Scales) -> np.ndarray:
    return rng.normal(0, s.init_std, x.shape).astype(np.float32)

  return jax.tree.map(draw, shapes, scales), scales


def differing(params: Any, scales: Any) -> set[str]:
  """Parameters whose std is not that of their scales."""
  return {p.parameter for p in dmup.describe(params, scales).parameters if p.differs}


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def tree(n: int, **more: Any) -> dict[str, Any]:
  """The shapes of a plain net of width n."""
  return {"in": {"kernel": shape(5, n)}, "head": {"kernel": shape(n, 3)}} | more


def adamw(scales: Any, lr: jax.Array) -> optax.GradientTransformation:
  return dmup.adamw(lr, scales, eps=EPS, weight_decay=0.1)


def loss(logits: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def check(
  p: dmup.Parametrization = P8,
  make_model: Callable[..., nn.Module] = Net,
  optimizer: Callable[..., optax.GradientTransformation] = adamw,
  *,
  inputs: jax.Array = X,
  widths: tuple[int, ...] = (64, 128, 256),
  depths: tuple[int, ...] = (1,),
  **fields: Any,
) -> CoordinateCheck:
  """The coordinate check of a user's net and optimizer, over width unless told.

  Compiled without most optimizations, in half the time.
  """
  training = Training(
    inputs=inputs,
    loss=loss,
    optimizer=optimizer,
    **{"lr": 2**-8, "steps": 3, "times": (3,)} | fields,
  )
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    return coordinate_check(
      functools.partial(make_model, parametrization=p),
      training,
      widths=widths,
      depths=depths,
      parametrization=p,
      tolerance=0.25,
    )
  finally:
    jax.config.update("jax_disable_most_optimizations", False)


def red(found: CoordinateCheck) -> set[tuple[str, str, str]]:
  """(probe, quantity, module) of what is not as predicted."""
  return {(s.probe, s.quantity, s.module) for s in found.failures}
