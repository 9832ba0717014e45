"""Initializers that annotate what they make. Layer: flax, mathematics."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flax_depthmup.axes import Axes
from flax_depthmup.metadata import Annotated
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.width_rules import STANDARD
from flax_depthmup.scales import resolve

Initializer = Callable[..., Any]


def normal(
  axes: str | Axes,
  parametrization: Parametrization,
  *,
  base_std: float | None = None,
  trainable: bool = True,
  folded: bool = True,
) -> Initializer:
  """Draws N(0, init_std^2) and annotates.

  Args:
    axes: of the parameter, as "embed -> mlp"; see `Axes`.
    parametrization: the rule and base sizes.
    base_std: std in the base net; None: 1/sqrt(fan_in) there.
    trainable: False to freeze the parameter.
    folded: the layer applies no forward multiplier, so it is folded into the
      other factors; True for any layer but ours. See `resolve`.

  Returns:
    An initializer (key, shape, dtype) -> `Annotated` array, for `self.param` or
    any linen layer.
  """
  axes = Axes.parse(axes)

  def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Annotated:
    s = resolve(axes, shape, parametrization, base_std=base_std, folded=folded)
    value = jax.random.normal(key, shape, dtype) * jnp.asarray(s.init_std, dtype)
    return Annotated(
      value,
      axes,
      parametrization,
      base_std=base_std,
      trainable=trainable,
      folded=folded,
    )

  return draw


def with_axes(
  init: Initializer,
  axes: str | Axes,
  parametrization: Parametrization,
  *,
  trainable: bool = True,
  folded: bool = True,
) -> Initializer:
  """Annotates what a standard initializer makes, and scales it to the parametrization.

  `init` must be standard at the size it is called with: variance proportional
  to 1/fan_in (`lecun_normal`, `he_normal`, ...) for matrices, a constant for
  biases and gains. Its value is multiplied by the ratio of the two stds, so at
  the base width it is untouched. For a std that does not depend on fan_in, such
  as 0.02, use `normal(axes, parametrization, base_std=0.02)`.

  Args:
    init: any initializer (key, shape, dtype) -> array or `nn.Partitioned` array.
    axes: of the parameter.
    parametrization: the rule and base sizes.
    trainable: False to freeze the parameter.
    folded: see `normal`.
  """
  axes = Axes.parse(axes)

  @functools.wraps(init)
  def wrapped(key: jax.Array, shape: tuple[int, ...], *args: Any, **kwargs: Any):
    p = parametrization
    plain = Parametrization(
      name="standard",
      alpha=0,
      gamma=0,
      width_rule=STANDARD,
      base_width=p.base_width,
      base_depth=p.base_depth,
    )
    std = resolve(axes, shape, p, folded=folded).init_std
    ratio = std / resolve(axes, shape, plain).init_std
    value = init(key, shape, *args, **kwargs)
    value = jax.tree.map(lambda x: x * jnp.asarray(ratio, x.dtype), value)
    return Annotated(value, axes, p, trainable=trainable, folded=folded)

  return wrapped
