"""The named points of the class.

With m_N the width ratio, m_L = L / base depth, hidden weights inside branches:

| preset             | (alpha, gamma) | branch     | Adam update       | SGD update          | width    |
|--------------------|----------------|------------|-------------------|---------------------|----------|
| `standard`         | (0, 0)         | 1          | 1                 | 1                   | standard |
| `mup`              | (0, 0)         | 1          | 1/m_N             | 1                   | table 8  |
| `depth_mup`        | (1/2, 1/2)     | m_L^-1/2   | m_N^-1 m_L^-1/2   | 1                   | table 3  |
| `ode`              | (1, 0)         | 1/m_L      | 1/m_N             | m_L                 | table 3  |
| `complete_p`       | (1, 0)         | 1/m_L      | 1/m_N             | m_L                 | table 8  |
| `depthwise(a, g)`  | (a, g)         | m_L^-a     | m_N^-1 m_L^-g     | m_L^(a-g)           | table 3  |

All coincide with standard parametrization at the base width and depth. Which
one to take: with one weight matrix a branch, `depth_mup` is the only stable and
faithful point with the maximal feature diversity (Tensor Programs VI); with two
or more (transformers) it linearizes each block and `complete_p` (Dey et al.,
arXiv 2505.01618) keeps the nonlinear terms. Megatron-LM calls `complete_p`
"depth_mup".

Layer: standard library only.
"""

from collections.abc import Mapping
from fractions import Fraction

from flax_depthmup.exponents import Exponent, as_exponent
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.width_rules import (
  STANDARD,
  TABLE_3,
  TABLE_8,
  WidthRule,
)

BaseWidth = int | Mapping[str, int]
_HALF = Fraction(1, 2)


def standard(*, base_width: BaseWidth, base_depth: int) -> Parametrization:
  """Standard parametrization: variance 1/fan_in, nothing else scales.

  The base sizes only fix where a width- or depth-dependent default would have
  been tuned: a given `base_std` is the std at the base width.
  """
  return Parametrization(
    name="standard",
    alpha=0,
    gamma=0,
    width_rule=STANDARD,
    base_width=base_width,
    base_depth=base_depth,
  )


def mup(
  *, base_width: BaseWidth, base_depth: int, width_rule: WidthRule = TABLE_8
) -> Parametrization:
  """muP in width, nothing in depth (Tensor Programs V; the mup package is Table 8).

  Adam's eps is divided by the gradient factor, as Definition 6.1 of Tensor
  Programs VI and CompleteP say and the mup package does not.
  """
  return Parametrization(
    name="mup",
    alpha=0,
    gamma=0,
    width_rule=width_rule,
    base_width=base_width,
    base_depth=base_depth,
  )


def depth_mup(
  *, base_width: BaseWidth, base_depth: int, width_rule: WidthRule = TABLE_3
) -> Parametrization:
  """Depth-muP, alpha = gamma = 1/2 (Tensor Programs VI, section 3)."""
  return Parametrization(
    name="depth_mup",
    alpha=_HALF,
    gamma=_HALF,
    width_rule=width_rule,
    base_width=base_width,
    base_depth=base_depth,
  )


def ode(
  *, base_width: BaseWidth, base_depth: int, width_rule: WidthRule = TABLE_3
) -> Parametrization:
  """The ODE scaling, alpha = 1, gamma = 0: no feature diversity at block depth 1."""
  return Parametrization(
    name="ode",
    alpha=1,
    gamma=0,
    width_rule=width_rule,
    base_width=base_width,
    base_depth=base_depth,
  )


def complete_p(
  *,
  base_width: BaseWidth,
  base_depth: int,
  alpha: Exponent = 1,
  width_rule: WidthRule = TABLE_8,
) -> Parametrization:
  """CompleteP (Dey et al., arXiv 2505.01618, Table 1): gamma = 1 - alpha.

  alpha = 1 is CompleteP, alpha = 1/2 their Depth-muP column. The readout
  carries the multiplier 1/m_N (Table 8). Two of their rows live elsewhere: the
  weight decay m_N * lambda is `adamw`'s decay="width_compensated"; the
  attention scale 1/d_head belongs to the model. eps follows the size of the
  gradient for every parameter (embedding, readout: 1/m_N), so any optimizer may be
  used; `complete_p_paper` and `complete_p_eleuther` have the eps of the paper's table
  and of the authors' code, for Adam alone.
  """
  alpha = as_exponent(alpha, "alpha")
  return Parametrization(
    name="complete_p",
    alpha=alpha,
    gamma=1 - alpha,
    width_rule=width_rule,
    base_width=base_width,
    base_depth=base_depth,
  )


def depthwise(
  *,
  alpha: Exponent,
  gamma: Exponent,
  base_width: BaseWidth,
  base_depth: int,
  width_rule: WidthRule = TABLE_3,
) -> Parametrization:
  """Any other point of the class; `classify(alpha, gamma)` says what it does."""
  alpha, gamma = as_exponent(alpha, "alpha"), as_exponent(gamma, "gamma")
  return Parametrization(
    name=f"{alpha}:{gamma}",
    alpha=alpha,
    gamma=gamma,
    width_rule=width_rule,
    base_width=base_width,
    base_depth=base_depth,
  )
