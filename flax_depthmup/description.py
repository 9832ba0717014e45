"""What a parametrization does to every parameter of a net, in numbers and in words.

Layer: jax, flax, `branch_survey`; rich when a table is drawn.
"""

import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flax_depthmup.description_table as description_table
from flax_depthmup.branch_survey import Branch, Survey, survey
from flax_depthmup.errors import DepthMupError
from flax_depthmup.families import Family
from flax_depthmup.scales import Scales
from flax_depthmup.transforms import named_leaves, scales_as_dict

#: Standard errors of a standard deviation that count as chance.
_CHANCE = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterDescription:
  """One parameter. Factors are relative to the base net, where each is 1.

  Attributes:
    parameter: its name in the tree.
    shape, axes, kind, trainable: of its `Scales`.
    branch: path of the residual branch it is in; "" for none, None where no model was
      given, for `Scales` do not say it.
    init_std: standard deviation of its initialization at gain 1.
    measured_std: root mean square of its entries; None for shapes without values.
    differs: `measured_std` is off `init_std` by more than 5 standard errors of normal
      draws; None where it was not compared: shapes alone, or no axis is summed over, as
      of biases and gains, which start at a constant.
    multiplier: of the parameter in the forward pass.
    adam_update: what multiplies Adam's learning rate, and that of every entrywise
      optimizer whose update does not follow the size of gradients (Lion, RMSprop).
    sgd_update: what multiplies the learning rate of SGD, momentum or not; None under a
      parametrization for Adam alone.
    eps_factor: what multiplies Adam's eps.
    family_update, family_eps: the same two of an optimizer of the `family` that was
      asked for; None without one, and for what the family does not take.
    width_update, depth_update: the two parts of `adam_update`; a frozen one has neither.
    why: the same in words.
  """

  parameter: str
  shape: tuple[int, ...]
  axes: str
  kind: str
  trainable: bool
  branch: str | None
  init_std: float
  measured_std: float | None
  differs: bool | None
  multiplier: float
  adam_update: float
  sgd_update: float | None
  eps_factor: float
  family_update: float | None
  family_eps: float | None
  width_update: float
  depth_update: float
  why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
  """Every parameter of a net, as `describe` gives it; print it for a table.

  Attributes:
    parameters: in the order of the tree.
    branches: the residual branches and their multipliers; None where no model was
      given.
    family: name of the family of optimizers that was asked for, or None.
  """

  parameters: tuple[ParameterDescription, ...]
  branches: tuple[Branch, ...] | None
  family: str | None

  def as_dict(self) -> dict[str, Any]:
    """For JSON: "parameters", a record each, "branches" and "family"."""
    records = [dataclasses.asdict(p) | {"shape": [*p.shape]} for p in self.parameters]
    return {
      "parameters": records,
      "branches": None if self.branches is None else [*map(_record, self.branches)],
      "family": self.family,
    }

  def as_json(self, indent: int | None = 1) -> str:
    """The same as text; numbers that are not finite become null."""
    return json.dumps(_finite(self.as_dict()), indent=indent, allow_nan=False)

  def __str__(self) -> str:
    return description_table.text(self)

  def __rich_console__(self, console: Any, options: Any) -> Any:
    yield description_table.table(self, options.max_width)


def describe(
  params: Any,
  scales: Any,
  model: nn.Module | None = None,
  *inputs: Any,
  family: Family | None = None,
) -> Description:
  """Every parameter with its kind, factors and why, as a table or as JSON.

      print(dmup.describe(params, scales))
      print(dmup.describe(params, scales, model, x))   # and the branches
      dmup.describe(params, scales).as_json()

  Parameters that differ in the numbers of their names alone are one row of the table;
  the records are one per parameter. Not in it, for nothing of it is in `Scales`: weight
  decay, the attention scale, and multipliers that a model applies by itself.

  Args:
    params: arrays, whose standard deviations are then measured, or shapes
      (`abstract_init`).
    scales: the tree of `Scales` beside them.
    model: tells which parameters are inside of residual branches, and the multipliers
      of these.
    *inputs: of the model's `__call__`; shapes are enough.
    family: of an optimizer that acts on whole matrices, as `dmup.MUON`: shows its
      factors beside Adam's and SGD's.

  Raises:
    DepthMupError: the trees differ, naming the first parameter that does; the scales
      are not those of the model; `family` is none.
  """
  if not isinstance(family, Family | None):
    raise DepthMupError(
      f"family={family!r} is no Family; give one of flax_depthmup.families, as dmup.MUON"
    )
  scales_as_dict(scales)  # names what is no Scales
  table, leaves = dict(named_leaves(scales)), dict(named_leaves(params))
  _check_same(leaves, table)
  found = None
  if model is not None:
    found = survey(model, *inputs)
    _check_model(table, found)
  elif inputs:
    raise DepthMupError("describe: inputs without a model; give both, or neither")
  measured = _measured(leaves)
  rows = [_row(name, s, measured.get(name), found, family) for name, s in table.items()]
  return Description(
    parameters=tuple(rows),
    branches=None if found is None else found.branches,
    family=None if family is None else family.name,
  )


def _row(
  name: str,
  s: Scales,
  measured: float | None,
  found: Survey | None,
  family: Family | None,
) -> ParameterDescription:
  branch: str | None = None
  if found is not None:
    inside = found.branch_of(name)
    branch = inside.path if inside is not None else ""
  sgd = s.update_factor * s.gradient_factor
  family_update, family_eps = _of_family(s, family)
  return ParameterDescription(
    parameter=name,
    shape=s.shape,
    axes=s.axes,
    kind=s.kind.value,
    trainable=s.trainable,
    branch=branch,
    init_std=s.init_std,
    measured_std=measured,
    differs=_differs(s, measured),
    multiplier=s.multiplier,
    adam_update=s.update_factor,
    sgd_update=None if s.adam_only else sgd,
    eps_factor=1 / s.gradient_factor,
    family_update=family_update,
    family_eps=family_eps,
    width_update=s.width_update_factor,
    depth_update=s.depth_update_factor,
    why=_why(s),
  )


def _of_family(s: Scales, family: Family | None) -> tuple[float | None, float | None]:
  """The factors of learning rate and eps that `scale_by_parametrization` applies."""
  if family is None or (family.matrices_only and not {"in", "out"} <= {*s.roles}):
    return None, None
  gradient, update = family.factors(s)
  return update, 1 / gradient


def _why(s: Scales) -> str:
  """The factors of a parameter in words; what is 1 is left out."""
  parts = [f"{s.kind.value}: {_grown(s)}"]
  for value, words in (
    (s.std_factor, "std of the base net times {}"),
    (s.multiplier, "multiplied by {} in the forward pass"),
  ):
    if not _is_one(value):
      parts.append(words.format(description_table.factor(value)))
  if not s.trainable:
    return "; ".join([*parts, "frozen, never updated"])
  by = ((s.width_update_factor, "width"), (s.depth_update_factor, "depth"))
  updates = [f"{description_table.factor(v)} by {n}" for v, n in by if not _is_one(v)]
  if updates:
    parts.append("update times " + " and ".join(updates))
  if not _is_one(s.gradient_factor):
    by_eps = description_table.factor(1 / s.gradient_factor)
    grown = description_table.factor(s.gradient_factor)
    only = "" if s.adam_only else f"gradient times {grown}, which is "
    parts.append(f"{only}eps times {by_eps}")
  if len(parts) == 1:
    parts.append("as in the base net")
  return "; ".join(parts)


def _grown(s: Scales) -> str:
  """The axes with their growth: "layers | embed x4 -> mlp x4"."""
  words: dict[str, list[str]] = {"stacked": [], "in": [], "out": []}
  names = zip(s.axis_names, s.roles, s.shape, s.base_shape, strict=True)
  for name, role, size, base in names:
    same = size == base
    words[role].append(name if same else f"{name} x{description_table.number(size / base)}")
  stacked = " ".join(words["stacked"])
  flow = f"{' '.join(words['in'])} -> {' '.join(words['out'])}".strip()
  return f"{stacked} | {flow}" if stacked else flow


def _is_one(value: float) -> bool:
  return math.isclose(value, 1.0, rel_tol=1e-9)


def _differs(s: Scales, measured: float | None) -> bool | None:
  """Whether the entries can hardly be normal draws of the std that the scales say."""
  if measured is None or "in" not in s.roles:
    return None
  # The relative standard error of a root mean square of m normal draws is 1/sqrt(2m).
  chance = _CHANCE * s.init_std / math.sqrt(2 * math.prod(s.shape))
  return not abs(measured - s.init_std) <= chance + 1e-6 * s.init_std


def _measured(leaves: dict[str, Any]) -> dict[str, float]:
  """Root mean square of the entries of every array; of shapes none."""

  found = {}
  for name, x in leaves.items():
    if isinstance(x, np.ndarray):
      found[name] = _rms(np, x)
    elif isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
      found[name] = _rms(jnp, x)
  return {name: float(value) for name, value in found.items()}


def _rms(xp: Any, x: Any) -> Any:
  """By numpy, or jax where that has the array; squares of tiny entries do not vanish."""
  x = x.astype(np.float32)
  largest = xp.maximum(xp.max(xp.abs(x)), np.finfo(np.float32).tiny)
  with np.errstate(invalid="ignore"):  # of infinite entries: not a number
    return largest * xp.sqrt(xp.mean(xp.square(x / largest)))


def _check_same(leaves: dict[str, Any], table: dict[str, Scales]) -> None:
  for name, s in table.items():
    if name not in leaves:
      raise DepthMupError(
        f"parameter {name} is in the scales but not in the tree of {len(leaves)} "
        "parameters; pass the parameters and the scales of the same dmup.init"
      )
    shape = getattr(leaves[name], "shape", None)
    if shape is None:
      raise DepthMupError(
        f"parameter {name} is a {type(leaves[name]).__name__}, expected an array or its "
        "shape; pass the first value of dmup.init"
      )
    if tuple(shape) != s.shape:
      raise DepthMupError(
        f"parameter {name} has shape {tuple(shape)} but its scales were resolved for "
        f"{s.shape}; pass the scales of this size's dmup.init"
      )
  for name in leaves:
    if name not in table:
      raise DepthMupError(
        f"parameter {name} has no scales, which are of {len(table)} other parameters; "
        "pass the parameters and the scales of the same dmup.init"
      )


def _check_model(table: dict[str, Scales], found: Survey) -> None:
  own = dict(named_leaves(found.scales))
  for name in [*table, *own]:
    if name not in table or name not in own or vars(own[name]) != vars(table[name]):
      raise DepthMupError(
        f"parameter {name}: its scales are not those of the model; pass the model that "
        "gave the parameters and the scales, and inputs of the same shape"
      )


def _record(branch: Branch) -> dict[str, Any]:
  return {
    "path": branch.path,
    "module": branch.module,
    "blocks": branch.depth,
    "multiplier": branch.multiplier,
    "matrices": [*branch.matrices],
    "parametrization": branch.parametrization.as_dict(),
  }


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(v) for key, v in value.items()}
  if isinstance(value, list):
    return [_finite(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
