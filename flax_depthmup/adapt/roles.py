"""Which axes of a parameter are in and out, from its name and from what grows.

Layer: standard library, mathematics.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from flax_depthmup.axes import Axes, Axis, Role
from flax_depthmup.errors import DepthMupError

Layout = Literal["in_out", "out_in"]
Shape = tuple[int, ...]

#: What is added to an activation or multiplies it entry by entry, whatever its rank.
_VECTORS = re.compile(
  "(bias|scale|gain|gamma|beta|offset|shift)$|^[bg]$", flags=re.IGNORECASE
)
#: What has one entry for each token, position or class, none of which is a width.
_TABLES = re.compile(
  "emb|wte|wpe|vocab|tok|lm_head|logits|classifier|readout", flags=re.IGNORECASE
)
#: What may be a matrix that reads an infinite axis out.
_KERNELS = ("kernel", "w", "weight")
_PROJECTIONS = ("query", "key", "value", "out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlabelled:
  """A parameter whose axes are to be found.

  Attributes:
    name: its path, for messages.
    parts: the names along the path.
    shape: in the base net, without a stacked axis of layers.
    grows: whether each axis is infinite.
    siblings: names beside its module; an attention of Flax shows by them.
    branch: it is inside a residual branch.
    layout: order of the axes of a matrix.
  """

  name: str
  parts: tuple[str, ...]
  shape: Shape
  grows: tuple[bool, ...]
  siblings: frozenset[str]
  branch: bool
  layout: Layout


def infer_axes(p: Unlabelled) -> tuple[Axes, str]:
  """The axes of one parameter, and why they are these.

  Infinite axes are named w64 by their size in the base net, finite ones f10, those of
  the heads of an attention heads4 and head_dim16.

  Raises:
    DepthMupError: what grows, the rank and the name leave more than one reading.
  """
  rank, wide = len(p.shape), [i for i, grows in enumerate(p.grows) if grows]
  if rank < 2 or _VECTORS.search(p.parts[-1]):
    return _axes(p, ins=()), "a vector" if wide else "a vector that does not grow"
  if not wide:
    return _axes(p, ins=_inputs(p)), "no axis grows"
  projection = _projection(p)
  if projection is not None:
    return projection
  if len(p.parts) > 1 and "conv" in p.parts[-2].lower():
    axes = _axes(p, ins=_inputs(p))
    _refuse_inner_output(p, axes)
    return axes, "a convolution"
  if len(wide) > 2 or (rank > 2 and (len(wide) == 2 or wide[0] != rank - 1)):
    raise _refusal(p, f"{len(wide)} of its {rank} axes grow, and their roles do not follow")
  if len(wide) == 2:
    if _TABLES.search("/".join(p.parts[-2:])):
      raise _refusal(
        p,
        "by its name a readout or an embedding whose number of entries grows: give base "
        "and target equally many tokens, positions or classes, unless they are widths",
      )
    return _axes(p, ins=_inputs(p)), "both axes grow"
  return _one_wide(p, wide[0])


def _one_wide(p: Unlabelled, wide: int) -> tuple[Axes, str]:
  """A matrix with one infinite axis, or an array whose last axis is the infinite one."""
  rank = len(p.shape)
  if p.layout == "out_in":
    if rank > 2:
      raise _refusal(p, "one of its axes grows, and their roles do not follow")
    if wide == 1:
      raise _refusal(p, "in this layout a readout and an embedding have one shape")
    return _axes(p, ins=(1,)), "its out axis alone grows"
  if wide == rank - 1:
    return _axes(p, ins=tuple(range(rank - 1))), "its last axis alone grows"
  if p.parts[-1] not in _KERNELS:
    raise _refusal(p, "its first axis alone grows, and it is not named as a matrix")
  axes = _axes(p, ins=(0,))
  _refuse_inner_output(p, axes)
  return axes, "its first axis alone grows: a readout"


def _refuse_inner_output(p: Unlabelled, axes: Axes) -> None:
  """A branch rarely has a readout; a fixed inner width is another thing."""
  outs = [axis for axis in axes.axes if axis.role is Role.OUT]
  if p.branch and all(axis.finite for axis in outs):
    raise _refusal(
      p,
      "in a residual branch it maps what grows to what does not: either a readout, such as "
      'a router ("embed -> (experts)"), or an inner width that happens to be fixed '
      '("embed -> kv", with no parentheses)',
    )


def _projection(p: Unlabelled) -> tuple[Axes, str] | None:
  """A kernel of Flax's attention; None: it is none.

  The heads count as infinite though they do not grow, as kv_heads of a grouped query
  attention: a fixed inner width, no readout.
  """
  if len(p.parts) < 2 or p.parts[-1] != "kernel" or len(p.shape) != 3:
    return None
  if p.parts[-2] not in _PROJECTIONS or not p.siblings.issuperset(_PROJECTIONS):
    return None
  if p.parts[-2] == "out":
    heads, head_dim, embed = p.shape
    text = f"heads{heads} head_dim{head_dim} -> w{embed}"
  else:
    embed, heads, head_dim = p.shape
    text = f"w{embed} -> heads{heads} head_dim{head_dim}"
  return Axes.parse(text), "a projection of an attention"


def _inputs(p: Unlabelled) -> tuple[int, ...]:
  """The in axes of a matrix or a convolution by the layout."""
  rank = len(p.shape)
  return tuple(range(rank - 1)) if p.layout == "in_out" else tuple(range(1, rank))


def _axes(p: Unlabelled, ins: Sequence[int]) -> Axes:
  return Axes(
    tuple(
      Axis(f"{'w' if grows else 'f'}{n}", Role.IN if i in ins else Role.OUT, not grows)
      for i, (n, grows) in enumerate(zip(p.shape, p.grows, strict=True))
    )
  )


def _refusal(p: Unlabelled, why: str) -> DepthMupError:
  shown = ", ".join(
    f"{n}{' (grows)' if grows else ''}" for n, grows in zip(p.shape, p.grows, strict=True)
  )
  return DepthMupError(
    f"parameter {p.name} with axes [{shown}] in the base net: {why}; say what they are by "
    f'overrides={{"{p.name}": "..."}}, such as "embed -> heads head_dim", '
    '"experts | embed -> mlp", "(kh) (kw) embed -> embed" of a convolution, '
    '"embed -> (classes)" or "-> heads head_dim" of a bias or gain, or by stacked= if the '
    "first one counts layers"
  )


def read_override(
  text: str | Axes, shape: Shape, grows: Sequence[bool], name: str, layout: Layout
) -> Axes:
  """The axes that a user gave, in the order of the shape.

  The text says what goes in and out; in the layout "out_in" a matrix lies the other way
  round, a table with a finite axis whichever way agrees with what grows.

  Raises:
    DepthMupError: the number of axes is another, or one in parentheses grows.
  """
  axes = Axes.parse(text)
  axes.check_shape(shape)
  turned = sorted(axes.axes, key=lambda a: (a.role is not Role.STACKED, a.role is Role.IN))
  orders = [axes] if layout == "in_out" else [Axes(tuple(turned)), axes]
  for order in orders:
    if not any(a.finite and g for a, g in zip(order.axes, grows, strict=True)):
      return order
  wrong = next(a.name for a, g in zip(orders[0].axes, grows, strict=True) if a.finite and g)
  raise DepthMupError(
    f'overrides: "{axes}" for {name} says that the axis "({wrong})" stays finite, but it '
    f"grows from the shape {tuple(shape)} of the base net; give base and target equally "
    "many classes, tokens or experts (a readout or a router whose outputs grow in number "
    "is beyond the theory), or drop the parentheses if it is a width"
  )
