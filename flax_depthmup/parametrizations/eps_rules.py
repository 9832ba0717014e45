"""How presets that were published for Adam alone scale its eps.

The class itself needs no such rule: the gradient factor of Definition 6.1 (Tensor
Programs VI) divides eps for every parameter. The authors of these presets wrote their
own, which disagree:

  | eps times         | matrices in blocks | gains there | embedding | readout, final norm |
  |-------------------|--------------------|-------------|-----------|---------------------|
  | EPS_CONSTANT      | 1                  | 1           | 1         | 1                   |
  | EPS_BRANCHES      | 1/(m_N m_L^alpha)  | the same    | 1         | 1                   |
  | EPS_EVERYWHERE    | 1/(m_N m_L^alpha)  | the same    | the same  | the same            |
  | EPS_COMPLETE_DP   | 1/(m_N m_L^alpha)  | the same    | 1/m_N     | 1                   |
  | EPS_HIDDEN        | 1/(m_N m_L^alpha)  | 1           | 1         | 1                   |

m_N is the width ratio of the parameter: of its input for a readout, else of its output.
A gain of a finite axis (the norm of queries and keys) has m_N = 1.

Layer: standard library only.
"""

import dataclasses

from flax_depthmup.axes import Kind

_Group = tuple[Kind, bool]  # of a parameter: its kind, and whether it is in a branch
_ALL = frozenset((kind, inside) for kind in Kind for inside in (True, False))
_BRANCHES = frozenset((kind, True) for kind in Kind)


@dataclasses.dataclass(frozen=True)
class EpsRule:
  """Which groups of parameters have eps divided by m_N, and which by m_L^alpha."""

  name: str
  width: frozenset[_Group]
  depth: frozenset[_Group]

  def by_width(self, kind: Kind, inside: bool) -> bool:
    """Whether eps of this kind, inside a branch or outside, is divided by m_N."""
    return (kind, inside) in self.width

  def by_depth(self, kind: Kind, inside: bool) -> bool:
    """Whether it is divided by m_L^alpha."""
    return (kind, inside) in self.depth


EPS_CONSTANT = EpsRule("constant", frozenset(), frozenset())
EPS_BRANCHES = EpsRule("branches", _BRANCHES, _BRANCHES)
EPS_EVERYWHERE = EpsRule("everywhere", _ALL, _ALL)
EPS_COMPLETE_DP = EpsRule("complete_d_p", _BRANCHES | {(Kind.INPUT, False)}, _BRANCHES)
EPS_HIDDEN = EpsRule(
  "hidden", frozenset({(Kind.HIDDEN, True)}), frozenset({(Kind.HIDDEN, True)})
)
