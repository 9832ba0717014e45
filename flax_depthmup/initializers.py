"""Initializers that annotate what they make. Layer: flax, mathematics."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flax_depthmup.axes import Axes, Kind, Role, infinite
from flax_depthmup.errors import DepthMupError
from flax_depthmup.metadata import Annotated
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.parametrizations.width_rules import STANDARD
from flax_depthmup.scales import initial_std

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
    std = initial_std(axes, shape, parametrization, base_std=base_std, folded=folded)
    value = jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)
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
  the base width it is untouched. An initializer that scales otherwise is
  refused: one of fixed std such as 0.02, and that of `nn.Embed`, whose std
  falls with width. Use `normal(axes, parametrization, base_std=0.02)` there.

  Args:
    init: any initializer (key, shape, dtype) -> array or `nn.Partitioned` array.
    axes: of the parameter.
    parametrization: the rule and base sizes.
    trainable: False to freeze the parameter.
    folded: see `normal`.

  Raises:
    DepthMupError: when called, if `init` is not standard.
  """
  axes = Axes.parse(axes)
  check_parametrization(parametrization)
  if not callable(init):
    raise DepthMupError(f"init={init!r} is no initializer; give one such as lecun_normal()")

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
    std = initial_std(axes, shape, p, folded=folded)
    ratio = std / initial_std(axes, shape, plain)
    _check_standard(init, axes, p)
    value = init(key, shape, *args, **kwargs)
    value = jax.tree.map(lambda x: x * jnp.asarray(ratio, x.dtype), value)
    return Annotated(value, axes, p, trainable=trainable, folded=folded)

  return wrapped


def _check_standard(init: Initializer, axes: Axes, p: Parametrization) -> None:
  """Draws at two widths and raises unless the std goes as 1/sqrt(fan_in).

  At least 1,024 values a draw: the ratio is known to 3 %, the tolerance is 15 %.
  """
  wide = [axis for axis in axes.axes if infinite(axis, p.base_sizes)]
  if p.kind(axes) in (Kind.VECTOR, Kind.SCALAR):
    return
  width = 128 if len(wide) <= 2 else 16

  def std(width: int) -> float:
    shape = tuple(width if axis in wide else 8 for axis in axes.axes)
    with jax.ensure_compile_time_eval():
      return float(jnp.std(jax.tree.leaves(init(jax.random.key(0), shape, jnp.float32))[0]))

  small, large = std(width), std(4 * width)
  standard = 0.5 ** sum(axis.role is Role.IN for axis in wide)
  if small and abs(large / small / standard - 1) > 0.15:
    raise DepthMupError(
      f'with_axes: the initializer for "{axes}" changes its std by {large / small:.2f} '
      f"when the width grows four times, standard is {standard:g}; use "
      f'dmup.normal("{axes}", parametrization, base_std=its std in the base net)'
    )
