"""From the axes of a model that is not ours to its `Scales`, and to what is left to do.

Layer: jax, mathematics, `model_axes`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from flax_depthmup.adapt.model_axes import ModelAxes, ParameterAxes
from flax_depthmup.axes import Axes, Kind, Role
from flax_depthmup.errors import DepthMupError
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.width_rules import STANDARD
from flax_depthmup.scales import Scales, forward_multiplier, resolve

Preset = Callable[..., Parametrization]


def parametrization_from_axes(axes: ModelAxes, preset: Preset) -> Parametrization:
  """The preset at the base sizes of a model.

  Args:
    axes: as `axes_from_shapes` gives them.
    preset: such as `dmup.complete_p`, called with base_width= and base_depth=; other
      arguments by functools.partial.

  Raises:
    DepthMupError: the preset cannot be called so, or one tensor is to be embedding and
      readout where these start differently.
  """
  if not isinstance(axes, ModelAxes):
    raise DepthMupError(f"axes={axes!r}: expected those of dmup.axes_from_shapes")
  if not callable(preset):
    raise DepthMupError(
      f"preset={preset!r}: expected a function of base_width= and base_depth=, such as "
      "dmup.complete_p itself, which is called with the sizes of the base tree"
    )
  try:
    p = preset(base_width=axes.base_sizes, base_depth=axes.base_depth)
  except TypeError as error:
    raise DepthMupError(
      f"preset {getattr(preset, '__name__', preset)!r} cannot be called with base_width= "
      f"and base_depth=: {error}; bind its other arguments by functools.partial"
    ) from error
  if not isinstance(p, Parametrization):
    raise DepthMupError(f"preset gives {p!r}, which is no Parametrization")
  if axes.tied:
    _check_tied(p, axes.tied[0])
  return p


def _check_tied(p: Parametrization, name: str) -> None:
  """One tensor can be embedding and readout only where both start and move alike."""
  ins, outs = p.width_rule[Kind.INPUT], p.width_rule[Kind.OUTPUT]
  fields = "std", "update", "gradient"
  same = all(getattr(ins, f) == getattr(outs, f)[::-1] for f in fields)
  if not same and p.width_rule != STANDARD:
    raise DepthMupError(
      f"{name} is tied, but under {p.width_rule.name} of {p.name} an embedding starts with "
      "another std than a readout; take functools.partial(preset, "
      "width_rule=dmup.TABLE_8), or untie them"
    )


def scales_from_axes(axes: ModelAxes, preset: Preset, *, folded: bool = True) -> Any:
  """The tree of `Scales` of a model whose axes were found.

  Args:
    axes: as `axes_from_shapes` gives them.
    preset: see `parametrization_from_axes`.
    folded: True: forward multipliers of parameters are folded into std, gradient and
      update, so that the model needs none (no trajectory changes; see `resolve`). False:
      each stays in `multiplier`, and the model must apply it; see `placed_by_hand`.

  Returns:
    A tree like the target, with `Scales` in the place of the arrays.

  Raises:
    DepthMupError: see `parametrization_from_axes`.
  """
  p = parametrization_from_axes(axes, preset)
  return jax.tree.map(lambda x: _scales(x, axes, p, folded), axes.tree)


def _scales(x: ParameterAxes, axes: ModelAxes, p: Parametrization, folded: bool) -> Scales:
  return resolve(
    x.axes,
    x.shape,
    p,
    depth=axes.depth if x.branch else None,
    net_depth=axes.depth,
    folded=folded,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedByHand:
  """The forward multipliers that a model must apply itself; print it to read them.

  Attributes:
    branch: (L/L0)^(-alpha), of the output of every residual branch before it is added;
      1 for a net without. One depth is used for all, of every tower and stack.
    parameters: name -> multiplier of what is linear in this parameter: of the logits for
      a readout. Empty where all are folded.
    tied: name of a tied embedding -> multiplier of the logits.
    attention: sqrt(base head_dim / head_dim), of the logits beside the 1/sqrt(head_dim)
      of a standard attention, which makes 1/head_dim of it and is 1 in the base net
      (Tensor Programs V, Definition 4.1). None where the shapes show no head_dim.
  """

  branch: float
  parameters: dict[str, float]
  tied: dict[str, float]
  attention: float | None

  def __str__(self) -> str:
    lines = [
      f"every residual branch: multiply its output by {self.branch:g}; one depth is used "
      "for all"
    ]
    lines += [f"{n}: multiply its output by {x:g}" for n, x in self.parameters.items()]
    lines += [f"{n} as readout: multiply the logits by {x:g}" for n, x in self.tied.items()]
    if not self.parameters and not self.tied:
      lines.append("readout: no multiplier, it is folded into std and update")
    if self.attention is None:
      factor = "sqrt(base head_dim / head_dim), which the shapes do not show"
    else:
      factor = f"{self.attention:g}"
    lines.append(
      f"attention, if any: multiply the logits by {factor}, beside 1/sqrt(head_dim)"
    )
    return "\n".join(lines)


def placed_by_hand(axes: ModelAxes, preset: Preset, *, folded: bool = True) -> PlacedByHand:
  """The forward multipliers that no optimizer and no initialization can replace.

  Args:
    axes: as `axes_from_shapes` gives them.
    preset: see `parametrization_from_axes`.
    folded: as in `scales_from_axes`.

  Raises:
    DepthMupError: see `parametrization_from_axes`; or heads of several ratios.
  """
  p = parametrization_from_axes(axes, preset)
  scales = {x.name: _scales(x, axes, p, folded) for x in axes.parameters}
  kept = {
    x.name: scales[x.name].multiplier
    for x in axes.parameters
    if not folded and any(p.row(x.axes).multiplier)
  }
  tied = {
    x.name: _tied_multiplier(x, p, folded) for x in axes.parameters if x.name in axes.tied
  }
  inside = any(x.branch for x in axes.parameters)
  return PlacedByHand(
    branch=p.branch_multiplier(axes.depth) if inside else 1.0,
    parameters=kept,
    tied=tied,
    attention=_attention(axes),
  )


def _tied_multiplier(x: ParameterAxes, p: Parametrization, folded: bool) -> float:
  """Of the logits; over that which was folded into the table."""
  turned = {Role.IN: Role.OUT, Role.OUT: Role.IN}
  swapped = Axes(tuple(dataclasses.replace(a, role=turned[a.role]) for a in x.axes.axes))
  own = forward_multiplier(x.axes, x.shape, p) if folded else 1.0
  return forward_multiplier(swapped, x.shape, p) / own


def _attention(axes: ModelAxes) -> float | None:
  """sqrt(base head_dim / head_dim); None where no axis has such a name."""
  found = {
    math.sqrt(base / n)
    for x in axes.parameters
    for a, base, n in zip(x.axes.axes, x.base_shape, x.shape, strict=True)
    if a.name.startswith("head_dim")
  }
  if len(found) > 1:
    raise DepthMupError(
      f"head_dim grows by different ratios, with factors {sorted(found)} of the logits; "
      "scale the heads of all attentions alike"
    )
  return found.pop() if found else None
