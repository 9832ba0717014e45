"""The numbers one parameter receives, and how they follow from its axes.

Layer: standard library only.
"""

import dataclasses
import math
from typing import Any

from flax_depthmup.axes import Axes, Kind, Role
from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.parametrizations.width_rules import Powers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scales:
  """What a parametrization does to one parameter, relative to the base net.

  At the base width and depth every factor is exactly 1 and `init_std` is that
  of standard parametrization. A `Scales` is a leaf to jax's tree functions.

  Attributes:
    kind: input, hidden, output, vector or scalar.
    axes: the annotation, written "stacked | in -> out".
    axis_names: the names alone, one per axis of the shape, in its order.
    roles: in, out or stacked, one per axis of the shape, in its order.
    shape: the shape these scales were resolved for.
    base_shape: the shape in the base net; stacked and finite axes as they are.
    init_std: standard deviation of the initialization; with `with_axes`, that
      of an initializer of gain 1. Biases and gains, which start at a constant,
      are multiplied by it (1 except under Table 9).
    std_factor: `init_std` over that of the base net.
    multiplier: of the parameter in the forward pass; applied by our layers.
    gradient_factor: n^d (L/L0)^delta with delta = alpha: multiplies the
      gradient on its way into the optimizer's Q.
    width_update_factor: n^(-c).
    depth_update_factor: (L/L0)^(-gamma), 1 outside residual branches.
    trainable: False where the layer is frozen; its updates are zero.
    adam_only: the gradient factor only says how eps scales, as in a preset that was
      published for Adam alone; no optimizer that is linear in the gradient may use it.
  """

  kind: Kind
  axes: str
  axis_names: tuple[str, ...]
  roles: tuple[str, ...]
  shape: tuple[int, ...]
  base_shape: tuple[int, ...]
  init_std: float
  std_factor: float
  multiplier: float
  gradient_factor: float
  width_update_factor: float
  depth_update_factor: float
  trainable: bool = True
  adam_only: bool = False

  @property
  def update_factor(self) -> float:
    """n^(-c) (L/L0)^(-gamma), multiplies the output of Q; 0 where frozen."""
    return self.width_update_factor * self.depth_update_factor * self.trainable

  def fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) at `shape`: that of the parameter, or `base_shape`."""

    def size(role: Role) -> int:
      return math.prod(n for n, r in zip(shape, self.roles, strict=True) if r == role.value)

    return size(Role.IN), size(Role.OUT)

  def as_dict(self) -> dict[str, Any]:
    """A description that JSON can hold."""
    fields = dataclasses.asdict(self) | {"kind": self.kind.value}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def resolve(
  axes: str | Axes,
  shape: tuple[int, ...],
  parametrization: Parametrization,
  *,
  depth: int | None = None,
  net_depth: int | None = None,
  base_std: float | None = None,
  trainable: bool = True,
  folded: bool = False,
) -> Scales:
  """The scales of one parameter.

  Args:
    axes: which axes are in, out, stacked: "embed -> mlp"; see `Axes`.
    shape: of the parameter, one entry per axis; stacked axes do not count.
    parametrization: the rule and the base sizes.
    depth: number of blocks L of the stack whose branch the parameter is in;
      None outside of residual branches.
    net_depth: L, outside of residual branches too; for an `eps_rule` that wants it
      there.
    base_std: standard deviation in the base net. None: 1/sqrt(fan_in) there.
    trainable: False for a frozen layer.
    folded: True gives the equal form without a forward multiplier, for layers
      that apply none: the multiplier is taken into std, gradient and update
      (the abc-symmetry, Tensor Programs IVb, section 2), so every trajectory
      stays the same.

  Raises:
    DepthMupError: `parametrization` is none, axes and shape disagree, an axis
      has no base size, a size is not positive, `net_depth` is wanted and missing.
  """
  axes, p, base = _checked(axes, shape, parametrization)
  row, (m_in, m_out) = p.row(axes), _width_ratios(axes, shape, base)
  m_depth = 1.0 if depth is None else p.depth_ratio(depth)

  def power(exponents: Powers) -> float:
    return m_in ** float(exponents[0]) * m_out ** float(exponents[1])

  multiplier = power(row.multiplier)
  fold = multiplier if folded else 1.0
  if p.eps_rule is None:
    gradient_factor = power(row.gradient) * m_depth ** float(p.alpha)
  else:
    gradient_factor = 1 / _eps_factor(p, axes, m_in, m_out, depth, net_depth)
  return Scales(
    kind=p.kind(axes),
    axes=str(axes),
    axis_names=tuple(axis.name for axis in axes.axes),
    roles=tuple(axis.role.value for axis in axes.axes),
    shape=tuple(shape),
    base_shape=base,
    init_std=initial_std(axes, shape, p, base_std=base_std, folded=folded),
    std_factor=power(row.std) * fold,
    multiplier=multiplier / fold,
    gradient_factor=gradient_factor * fold,
    width_update_factor=power(row.update) * fold,
    depth_update_factor=m_depth ** -float(p.gamma),
    trainable=trainable,
    adam_only=p.eps_rule is not None,
  )


def forward_multiplier(
  axes: str | Axes, shape: tuple[int, ...], parametrization: Parametrization
) -> float:
  """The multiplier of one parameter in the forward pass; see `resolve`."""
  axes, p, base = _checked(axes, shape, parametrization)
  m_in, m_out = _width_ratios(axes, shape, base)
  powers = p.row(axes).multiplier
  return m_in ** float(powers[0]) * m_out ** float(powers[1])


def initial_std(
  axes: str | Axes,
  shape: tuple[int, ...],
  parametrization: Parametrization,
  *,
  base_std: float | None = None,
  folded: bool = False,
) -> float:
  """The standard deviation one parameter starts with; see `resolve`."""
  axes, p, base = _checked(axes, shape, parametrization)
  m_in, m_out = _width_ratios(axes, shape, base)
  if base_std is None:
    base_std = 1 / math.sqrt(axes.sizes(Role.IN, base))
  else:
    check_nonnegative(base_std, "base_std")
  powers = p.row(axes).std
  std = base_std * m_in ** float(powers[0]) * m_out ** float(powers[1])
  return std * forward_multiplier(axes, shape, p) if folded else std


def _checked(
  axes: str | Axes, shape: tuple[int, ...], parametrization: Parametrization
) -> tuple[Axes, Parametrization, tuple[int, ...]]:
  """The axes, the parametrization and the base shape, of things that are such."""
  check_parametrization(parametrization)
  axes = Axes.parse(axes)
  axes.check_shape(shape)
  for size in shape:
    check_size(size, f'a size of shape {tuple(shape)} for axes "{axes}"')
  return axes, parametrization, parametrization.base_shape(axes, shape)


def _width_ratios(
  axes: Axes, shape: tuple[int, ...], base: tuple[int, ...]
) -> tuple[float, float]:
  """(m_in, m_out): fan-in and fan-out over those of the base net."""
  return (
    axes.sizes(Role.IN, shape) / axes.sizes(Role.IN, base),
    axes.sizes(Role.OUT, shape) / axes.sizes(Role.OUT, base),
  )


def _eps_factor(
  p: Parametrization,
  axes: Axes,
  m_in: float,
  m_out: float,
  depth: int | None,
  net_depth: int | None,
) -> float:
  """What the eps rule of a preset multiplies eps by."""
  assert p.eps_rule is not None  # asked for only where the preset has one
  kind, inside = p.kind(axes), depth is not None
  m_width = {Kind.SCALAR: 1.0, Kind.OUTPUT: m_in}.get(kind, m_out)
  factor = 1 / m_width if p.eps_rule.by_width(kind, inside) else 1.0
  if not p.eps_rule.by_depth(kind, inside):
    return factor
  depth = net_depth if depth is None else depth
  if depth is None:
    raise DepthMupError(
      f'{p.name} scales eps of "{axes}" by the depth of the net, which is not known '
      "outside of its residual branches; give net_depth="
    )
  return factor * p.depth_ratio(depth) ** -float(p.alpha)
