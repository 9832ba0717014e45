"""A parametrization as data: two exponents, a width rule and the base sizes.

Layer: standard library only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_depthmup.axes import Axes, Kind, Role, infinite, kind_of
from flax_depthmup.checks import check_size
from flax_depthmup.classify import Regime, classify
from flax_depthmup.errors import DepthMupError
from flax_depthmup.exponents import Exponent, as_exponent
from flax_depthmup.parametrizations.eps_rules import EpsRule
from flax_depthmup.parametrizations.width_rules import Row, WidthRule

#: The axis that a single number as `base_width` speaks of.
WIDTH_AXIS = "embed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parametrization:
  """One point of the class, anchored at the base net where hyperparameters are tuned.

  With L0 the base depth, a block of a stack of depth L has its branch
  multiplied by (L/L0)^(-alpha), the gradients of the parameters inside
  multiplied by (L/L0)^alpha before the optimizer's Q, and their updates by
  (L/L0)^(-gamma) after it (Tensor Programs VI, section 3 and Definition 6.1).
  Parameters outside branches get no depth factor. The width rule acts on all.

  Attributes:
    name: shown in messages and results.
    alpha: exponent of the branch multiplier.
    gamma: exponent of the update inside branches.
    width_rule: one of `TABLE_3`, `TABLE_8`, `TABLE_9`, `STANDARD`.
    base_width: size of the axis named "embed" in the base net; or a mapping
      from axis name to base size where axes scale apart. With a mapping an axis
      that is absent is finite; with one number a width axis of another name is
      an error, because its base size cannot be known.
    base_depth: number of blocks of the base net.
    eps_rule: None: the gradient factor divides eps, as Definition 6.1 says. A preset
      that was published for Adam alone has its own rule, which then makes up the
      gradient factor; see `eps_rules`.
  """

  name: str
  alpha: Exponent
  gamma: Exponent
  width_rule: WidthRule
  base_width: int | Mapping[str, int] | tuple[tuple[str, int], ...]
  base_depth: int
  eps_rule: EpsRule | None = None

  def __post_init__(self):
    set_field = object.__setattr__  # the class is frozen once made
    set_field(self, "alpha", as_exponent(self.alpha, "alpha"))
    set_field(self, "gamma", as_exponent(self.gamma, "gamma"))
    if not isinstance(self.width_rule, WidthRule):
      raise DepthMupError(
        f"width_rule={self.width_rule!r} is no WidthRule; use TABLE_3, TABLE_8, "
        "TABLE_9 or STANDARD"
      )
    if not isinstance(self.eps_rule, EpsRule | None):
      raise DepthMupError(f"eps_rule={self.eps_rule!r} is no EpsRule; use None")
    check_size(self.base_depth, "base_depth")
    set_field(self, "base_depth", int(self.base_depth))
    if isinstance(self.base_width, Mapping | tuple):
      set_field(self, "base_width", _named_sizes(self.base_width))
    else:
      check_size(self.base_width, "base_width")
      set_field(self, "base_width", int(self.base_width))

  @property
  def base_sizes(self) -> dict[str, int]:
    """Axis name -> size in the base net."""
    if isinstance(self.base_width, int):
      return {WIDTH_AXIS: self.base_width}
    return dict(self.base_width)

  @property
  def regime(self) -> Regime:
    """What this point does as depth grows; see `classify`."""
    return classify(self.alpha, self.gamma)

  def depth_ratio(self, depth: int) -> float:
    """L / L0."""
    check_size(depth, "depth")
    return depth / self.base_depth

  def branch_multiplier(self, depth: int) -> float:
    """(L/L0)^(-alpha), the multiplier of every branch of a stack of `depth` blocks."""
    return self.depth_ratio(depth) ** -float(self.alpha)

  def kind(self, axes: Axes) -> Kind:
    """The kind of a parameter with these axes.

    Raises:
      DepthMupError: `base_width` is one number and an axis has another name.
    """
    if isinstance(self.base_width, int):
      for axis in axes.axes:
        known = axis.finite or axis.role is Role.STACKED or axis.name == WIDTH_AXIS
        if not known:
          raise DepthMupError(
            f'axis "{axis.name}" of "{axes}" has no base size: base_width='
            f'{self.base_width} speaks of "{WIDTH_AXIS}" alone; pass base_width='
            f'{{"{WIDTH_AXIS}": {self.base_width}, "{axis.name}": its size in the base '
            f'net}}, or write "({axis.name})" if it does not grow'
          )
    return kind_of(axes, self.base_sizes)

  def row(self, axes: Axes) -> Row:
    """The row of the width rule for a parameter with these axes."""
    return self.width_rule[self.kind(axes)]

  def base_shape(self, axes: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the parameter has in the base net; stacked axes as they are."""
    sizes = self.base_sizes
    return tuple(
      sizes[axis.name] if infinite(axis, sizes) else n
      for n, axis in zip(shape, axes.axes, strict=True)
    )

  def as_dict(self) -> dict[str, Any]:
    """A description that JSON can hold; exponents as exact texts."""
    return {
      "name": self.name,
      "alpha": str(self.alpha),
      "gamma": str(self.gamma),
      "width_rule": self.width_rule.name,
      "base_width": self.base_sizes,
      "base_depth": self.base_depth,
      "eps_rule": self.eps_rule and self.eps_rule.name,
    }


def check_parametrization(value: Any) -> None:
  """Raises `DepthMupError` unless `value` is a `Parametrization`."""
  if not isinstance(value, Parametrization):
    raise DepthMupError(
      f"parametrization={value!r} is no Parametrization; make one with "
      "dmup.depth_mup(base_width=, base_depth=) or another preset"
    )


def _named_sizes(sizes: Any) -> tuple[tuple[str, int], ...]:
  """A mapping from axis name to base size, hashable."""
  try:
    sizes = dict(sizes)
  except (TypeError, ValueError):
    sizes = {}
  if not sizes or not all(isinstance(name, str) for name in sizes):
    raise DepthMupError(
      f"base_width={sizes!r}: expected one size, or a mapping from axis names to sizes "
      'with at least one, such as {"embed": 256, "mlp": 1024}'
    )
  for name, size in sizes.items():
    check_size(size, f"base_width[{name!r}]")
  return tuple(sorted((name, int(size)) for name, size in sizes.items()))
