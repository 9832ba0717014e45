"""Axis annotations: which axes of a parameter are in, out or merely stacked.

Everything else follows from this one annotation: fan-in and fan-out, the kind
of the parameter, its initialization and its factors. Layer: standard library.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping, Sequence

from flax_depthmup.errors import DepthMupError


class Role(enum.Enum):
  """What an axis does in the map that its parameter belongs to."""

  IN = "in"  # summed over
  OUT = "out"  # produced
  STACKED = "stacked"  # a batch of parameters: layers, heads of a tower, ...


class Kind(enum.Enum):
  """How many of a parameter's axes grow with width (TP-V, appendix B).

  INPUT   finite -> infinite   embeddings, first layer
  HIDDEN  infinite -> infinite
  OUTPUT  infinite -> finite   readout
  VECTOR  -> infinite          biases and gains of a wide layer
  SCALAR  no infinite axis     a learnt temperature, a finite bias
  """

  INPUT = "input"
  HIDDEN = "hidden"
  OUTPUT = "output"
  VECTOR = "vector"
  SCALAR = "scalar"


@dataclasses.dataclass(frozen=True)
class Axis:
  """One axis: its name, its role, and whether it stays finite.

  A finite axis (pixels, classes, vocabulary) never scales; it is written in
  parentheses.
  """

  name: str
  role: Role
  finite: bool = False

  def __str__(self) -> str:
    return f"({self.name})" if self.finite else self.name


_AXIS = re.compile(r"\(?[A-Za-z_]\w*\)?$")


@dataclasses.dataclass(frozen=True)
class Axes:
  """The axes of one parameter, in the order of its shape.

  The written form is ``"stacked | in -> out"``:

      "embed -> mlp"                a hidden matrix, shape [embed, mlp]
      "(inputs) -> embed"           a first layer; inputs is a finite axis
      "embed -> (classes)"          a readout
      "-> embed"                    a bias or a gain
      "(kh) (kw) embed -> embed"    a convolution
      "layers | embed -> embed"     a stack of hidden matrices
      "->"                          a scalar

  Attributes:
    axes: one `Axis` per axis of the parameter.
  """

  axes: tuple[Axis, ...]

  @classmethod
  def parse(cls, text: str | Axes) -> Axes:
    """Reads the written form; an `Axes` passes through.

    Raises:
      DepthMupError: the text is not of the form "stacked | in -> out".
    """
    if isinstance(text, Axes):
      return text
    remedy = 'write "in -> out", as in "embed -> mlp", "(inputs) -> embed", "-> embed"'
    if not isinstance(text, str) or text.count("->") != 1 or text.count("|") > 1:
      raise DepthMupError(f"axes {text!r} cannot be read; {remedy}")
    stacked, _, flow = text.rpartition("|")
    before, after = flow.split("->")
    axes = []
    for part, role in ((stacked, Role.STACKED), (before, Role.IN), (after, Role.OUT)):
      for word in part.split():
        finite = word.startswith("(")
        if not _AXIS.match(word) or finite != word.endswith(")"):
          raise DepthMupError(f"axes {text!r}: {word!r} is not an axis name; {remedy}")
        axes.append(Axis(word.strip("()"), role, finite))
    return cls(tuple(axes))

  def __str__(self) -> str:
    def names(role: Role) -> str:
      return " ".join(str(axis) for axis in self.axes if axis.role is role)

    stacked = f"{names(Role.STACKED)} | " if names(Role.STACKED) else ""
    return stacked + f"{names(Role.IN)} -> {names(Role.OUT)}".strip()

  def insert(self, index: int, name: str) -> Axes:
    """These axes with a stacked axis added at `index`."""
    new = Axis(name, Role.STACKED)
    return Axes((*self.axes[:index], new, *self.axes[index:]))

  def remove(self, index: int) -> Axes:
    """These axes without the one at `index`; undoes `insert`."""
    return Axes(self.axes[:index] + self.axes[index + 1 :])

  def sizes(self, role: Role, shape: Sequence[int]) -> int:
    """Product of the sizes of the axes of one role (1 when there are none)."""
    return math.prod(n for n, a in zip(shape, self.axes, strict=True) if a.role is role)

  def check_shape(self, shape: Sequence[int]) -> None:
    """Raises `DepthMupError` unless there is one axis name per axis of `shape`."""
    if not isinstance(shape, Sequence):
      raise DepthMupError(f'shape={shape!r} for axes "{self}": expected a tuple of sizes')
    if len(shape) != len(self.axes):
      raise DepthMupError(
        f'axes "{self}" name {len(self.axes)} axes but the parameter has shape '
        f"{tuple(shape)}; name every axis once, in the order of the shape"
      )


def kind_of(axes: Axes, base_sizes: Mapping[str, int]) -> Kind:
  """The kind of a parameter: an axis is infinite when it has a base size.

  Args:
    axes: the annotation.
    base_sizes: axis name -> size in the base net. Finite and stacked axes are
      not looked up.
  """
  wide_in, wide_out = (
    any(infinite(axis, base_sizes) and axis.role is role for axis in axes.axes)
    for role in (Role.IN, Role.OUT)
  )
  has_in = any(axis.role is Role.IN for axis in axes.axes)
  if wide_in:
    return Kind.HIDDEN if wide_out else Kind.OUTPUT
  if wide_out:
    return Kind.INPUT if has_in else Kind.VECTOR
  return Kind.SCALAR


def infinite(axis: Axis, base_sizes: Mapping[str, int]) -> bool:
  """Whether this axis grows with width."""
  return not axis.finite and axis.role is not Role.STACKED and axis.name in base_sizes
