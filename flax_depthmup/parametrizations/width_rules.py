"""Width rules: muP in its three published forms, and the standard one, as data.

Tensor Programs V (arXiv 2203.03466), Tables 3, 8 and 9. Exponents are of the
ratios to the base net, m_in = fan_in / base fan_in and m_out likewise. Each row
below gives, for one kind of parameter, the powers of (m_in, m_out) in

  std         of the initialization (times its value in the base net)
  multiplier  of the parameter in the forward pass
  update      n^(-c): of the output of the optimizer Q
  gradient    n^d: of the gradient on its way into Q

so that plain SGD moves a parameter with update * gradient, which is the papers'
SGD row, and Adam with update, which is their Adam row. `gradient` divides
Adam's eps. Trading a multiplier theta for std, update and gradient / theta
changes no trajectory, so the three muP tables are one parametrization.

  | Table 3    | input, vector | hidden        | output        |
  |------------|---------------|---------------|---------------|
  | init var   | 1             | 1/m_in        | 1/m_in^2      |
  | multiplier | 1             | 1             | 1             |
  | update     | 1             | 1/m_in        | 1/m_in        |
  | gradient   | m_out         | m_out         | 1             |

  | Table 8    | input, vector | hidden        | output        |
  |------------|---------------|---------------|---------------|
  | init var   | 1             | 1/m_in        | 1             |
  | multiplier | 1             | 1             | 1/m_in        |
  | update     | 1             | 1/m_in        | 1             |
  | gradient   | m_out         | m_out         | m_in          |

  | Table 9    | input, vector | hidden        | output        |
  |------------|---------------|---------------|---------------|
  | init var   | 1/m_out       | 1/m_in        | 1/m_in        |
  | multiplier | sqrt(m_out)   | 1             | 1/sqrt(m_in)  |
  | update     | 1/sqrt(m_out) | 1/m_in        | 1/sqrt(m_in)  |
  | gradient   | sqrt(m_out)   | m_out         | sqrt(m_in)    |

A rule that is no muP: unit scaling (u-muP, arXiv 2407.17465, Table 2), whose input
row is its new one for embeddings; its gradients enter Adam as they are:

  | u-muP      | input          | vector | hidden       | output |
  |------------|----------------|--------|--------------|--------|
  | init var   | 1              | 1      | 1            | 1      |
  | multiplier | 1              | 1      | 1/sqrt(m_in) | 1/m_in |
  | update     | 1/sqrt(m_out)  | 1      | 1/sqrt(m_in) | 1      |

Any other: `WidthRule.from_exponents`. Layer: standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction

from flax_depthmup.axes import Kind
from flax_depthmup.errors import DepthMupError
from flax_depthmup.exponents import Exponent, as_exponent

_HALF = Fraction(1, 2)
Powers = tuple[Fraction | int, Fraction | int]  # of m_in, of m_out


@dataclasses.dataclass(frozen=True)
class Row:
  """Powers of (m_in, m_out) for one kind of parameter; see the module."""

  std: Powers = (0, 0)
  multiplier: Powers = (0, 0)
  update: Powers = (0, 0)
  gradient: Powers = (0, 0)


@dataclasses.dataclass(frozen=True)
class WidthRule:
  """A table: one `Row` per kind of parameter. Scalars never scale."""

  name: str
  rows: tuple[tuple[Kind, Row], ...]

  def __getitem__(self, kind: Kind) -> Row:
    return dict(self.rows)[kind]

  @classmethod
  def from_exponents(
    cls,
    name: str,
    *,
    input: Sequence[Exponent],
    hidden: Sequence[Exponent],
    output: Sequence[Exponent],
  ) -> WidthRule:
    """The rule with exponents (a, b, c, d) of the width n for each kind of matrix.

    A parameter is n^-a w in the forward pass, w ~ N(0, n^-2b), its gradient is
    multiplied by n^d on its way into Q and its update by n^-c (the
    abcd-parametrization of Tensor Programs IVb, arXiv 2308.01814; without d that of
    Tensor Programs IV and of Everett et al., arXiv 2407.05872). n is the ratio of
    the fan-out for input matrices, biases and gains, of the fan-in for the others,
    and of the fan-out for d of hidden ones. Biases and gains are as the input.

    Args:
      name: shown in records.
      input: (a, b, c, d) of finite -> infinite.
      hidden: of infinite -> infinite; standard has (0, 1/2, 0, 0).
      output: of infinite -> finite.

    Raises:
      DepthMupError: there are not four numbers.
    """
    rows = {}
    for kind, given in (("input", input), ("hidden", hidden), ("output", output)):
      if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 4:
        raise DepthMupError(
          f"{kind}={given!r}: expected four exponents (a, b, c, d): of the multiplier "
          "n^-a, the std n^-b, the update n^-c and the gradient n^d"
        )
      a, b, c, d = (
        as_exponent(x, f"{kind}: {n}") for x, n in zip(given, "abcd", strict=True)
      )
      place, at_out = (_of_out if kind == "input" else _of_in), kind != "output"
      rows[Kind(kind)] = Row(
        std=place(-b),
        multiplier=place(-a),
        update=place(-c),
        gradient=_of_out(d) if at_out else _of_in(d),
      )
    return _rule(name, {**rows, Kind.VECTOR: rows[Kind.INPUT]})


def _of_in(power: Fraction) -> Powers:
  return power, 0


def _of_out(power: Fraction) -> Powers:
  return 0, power


def _rule(name: str, rows: Mapping[Kind, Row]) -> WidthRule:
  return WidthRule(name, tuple({**rows, Kind.SCALAR: Row()}.items()))


_HIDDEN = Row(std=(-_HALF, 0), update=(-1, 0), gradient=(0, 1))

STANDARD = _rule(
  "standard",
  {
    Kind.INPUT: Row(),
    Kind.VECTOR: Row(),
    Kind.HIDDEN: Row(std=(-_HALF, 0)),
    Kind.OUTPUT: Row(std=(-_HALF, 0)),
  },
)

TABLE_3 = _rule(
  "table 3",
  {
    Kind.INPUT: Row(gradient=(0, 1)),
    Kind.VECTOR: Row(gradient=(0, 1)),
    Kind.HIDDEN: _HIDDEN,
    Kind.OUTPUT: Row(std=(-1, 0), update=(-1, 0)),
  },
)

TABLE_8 = _rule(
  "table 8",
  {
    Kind.INPUT: Row(gradient=(0, 1)),
    Kind.VECTOR: Row(gradient=(0, 1)),
    Kind.HIDDEN: _HIDDEN,
    Kind.OUTPUT: Row(multiplier=(-1, 0), gradient=(1, 0)),
  },
)

_WIDE_9 = Row(
  std=(0, -_HALF), multiplier=(0, _HALF), update=(0, -_HALF), gradient=(0, _HALF)
)

TABLE_9 = _rule(
  "table 9",
  {
    Kind.INPUT: _WIDE_9,
    Kind.VECTOR: _WIDE_9,
    Kind.HIDDEN: _HIDDEN,
    Kind.OUTPUT: Row(
      std=(-_HALF, 0), multiplier=(-_HALF, 0), update=(-_HALF, 0), gradient=(_HALF, 0)
    ),
  },
)

U_MUP = _rule(
  "u-mup",
  {
    Kind.INPUT: Row(update=(0, -_HALF)),
    Kind.VECTOR: Row(),
    Kind.HIDDEN: Row(multiplier=(-_HALF, 0), update=(-_HALF, 0)),
    Kind.OUTPUT: Row(multiplier=(-1, 0)),
  },
)
