"""abc-parametrizations: every way of giving multipliers, variances and rates powers of n.

Tensor Programs IV (arXiv 2011.14522), abc-parametrizations.
An MLP of L hidden layers and width n,

  h^1 = W^1 xi,  x^l = phi(h^l),  h^(l+1) = W^(l+1) x^l,  f = W^(L+1) x^L,

without biases, trained by SGD, where

  W^l = n^(-a_l) w^l, and w^l is what is trained;
  w^l_ij ~ N(0, n^(-2 b_l)) at initialization;
  the learning rate of every w^l is eta n^(-c).

Input and output sizes do not grow. What W^l does depends only on its size at
initialization, n^(-a_l - b_l), and on its step, eta n^(-c - 2 a_l) dLoss/dW^l, so shifting
all (a_l, b_l, c) to (a_l + theta, b_l - theta, c - 2 theta) changes nothing: see `shift`
and `canonical`. The presets, with r as in `classify_abc`:

|                        | SP  | NTP | MFP (L = 1) | muP  | UP_r    |
|------------------------|-----|-----|-------------|------|---------|
| a_1                    | 0   | 0   | 0           | -1/2 | r - 1/2 |
| a_l, 2 <= l <= L       | 0   | 1/2 | none        | 0    | r       |
| a_(L+1)                | 0   | 1/2 | 1           | 1/2  | 1/2     |
| b_1                    | 0   | 0   | 0           | 1/2  | 1/2 - r |
| b_l, 2 <= l <= L       | 1/2 | 0   | none        | 1/2  | 1/2 - r |
| b_(L+1)                | 1/2 | 0   | 0           | 1/2  | 1/2 - r |
| c                      | 1   | 0   | -1          | 0    | 0       |
| r                      | 1/2 | 1/2 | 0           | 0    | r       |
| 2 a_(L+1) + c          | 1   | 1   | 1           | 1    | 1       |
| a_(L+1) + b_(L+1) + r  | 1   | 1   | 1           | 1    | 1       |

SP with the usual c = 0 is unstable; c = 1 is its least stable value. At L = 1 it has no
hidden matrix to move its features: r = 3/2, a Gaussian process (`classify_abc`). There
MFP is muP shifted by theta = 1/2. UP_0 is muP and UP_(1/2) is NTP. Layer: standard
library only.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.exponents import Exponent, as_exponent

_HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True)
class AbcParametrization:
  """One point (a, b, c); exponents become exact fractions, as in `classify`.

  Equality is that of the exponents. Two points train alike if and only if their
  `canonical` keys are equal.

  Attributes:
    a: a_1 .. a_(L+1), W^l = n^(-a_l) w^l.
    b: b_1 .. b_(L+1), the standard deviation of w^l is n^(-b_l).
    c: the learning rate is eta n^(-c).

  Raises:
    DepthMupError: a and b are no sequences of one length of at least 2, or an entry or
      c is no exponent.
  """

  a: tuple[Fraction, ...]
  b: tuple[Fraction, ...]
  c: Fraction

  if TYPE_CHECKING:  # what may be given is wider than what is kept

    def __init__(self, a: Sequence[Exponent], b: Sequence[Exponent], c: Exponent): ...

  def __post_init__(self):
    a, b = _exponents(self.a, "a"), _exponents(self.b, "b")
    if len(a) != len(b):
      raise DepthMupError(
        f"a has {len(a)} entries and b has {len(b)}: expected one of each per weight matrix"
      )
    object.__setattr__(self, "a", a)
    object.__setattr__(self, "b", b)
    object.__setattr__(self, "c", as_exponent(self.c, "c"))

  @property
  def hidden_layers(self) -> int:
    """L; there are L + 1 weight matrices."""
    return len(self.a) - 1

  def shift(self, theta: Exponent) -> "AbcParametrization":
    """(a_l + theta, b_l - theta, c - 2 theta): another name of the same training.

    Raises:
      DepthMupError: theta is no exponent, or an exponent leaves the range of those.
    """
    theta = as_exponent(theta, "theta")
    a = [value + theta for value in self.a]
    b = [value - theta for value in self.b]
    return AbcParametrization(a, b, self.c - 2 * theta)

  def canonical(self) -> tuple[tuple[Fraction, Fraction], ...]:
    """(a_l + b_l, c + 2 a_l) of every layer: the same for two points that train alike."""
    return tuple((a + b, self.c + 2 * a) for a, b in zip(self.a, self.b, strict=True))


def with_layer_rates(
  a: Sequence[Exponent], b: Sequence[Exponent], rates: Sequence[Exponent], c: Exponent = 0
) -> AbcParametrization:
  """The point of common rate eta n^(-c) that trains as rates eta n^(-rates_l) per layer.

  With theta_l = (rates_l - c)/2, layer l has (a_l + theta_l, b_l - theta_l).

  Args:
    a: exponents of the multipliers, one a weight matrix.
    b: exponents of the standard deviations.
    rates: exponents of the learning rates.
    c: the common exponent wanted; any gives the same training.

  Raises:
    DepthMupError: as `AbcParametrization`, or rates has another length.
  """
  point, rates = AbcParametrization(a, b, c), _exponents(rates, "rates")
  if len(rates) != len(point.a):
    raise DepthMupError(
      f"rates has {len(rates)} entries and a has {len(point.a)}: expected one per weight "
      "matrix"
    )
  thetas = [(rate - point.c) / 2 for rate in rates]
  return AbcParametrization(
    [value + theta for value, theta in zip(point.a, thetas, strict=True)],
    [value - theta for value, theta in zip(point.b, thetas, strict=True)],
    point.c,
  )


def abc_sp(hidden_layers: int, c: Exponent = 1) -> AbcParametrization:
  """Standard parametrization: variances 1/fan_in, no multipliers, rate eta n^(-c).

  Raises:
    DepthMupError: hidden_layers is no whole number of at least 1, or c no exponent.
  """
  check_size(hidden_layers, "hidden_layers")
  return AbcParametrization([0] * (hidden_layers + 1), [0] + [_HALF] * hidden_layers, c)


def abc_ntp(hidden_layers: int) -> AbcParametrization:
  """Neural tangent parametrization: entries N(0, 1), multipliers n^(-1/2).

  Raises:
    DepthMupError: hidden_layers is no whole number of at least 1.
  """
  check_size(hidden_layers, "hidden_layers")
  return AbcParametrization([0] + [_HALF] * hidden_layers, [0] * (hidden_layers + 1), 0)


def abc_mfp(hidden_layers: int = 1) -> AbcParametrization:
  """Mean field parametrization of one hidden layer: f = V x / n, rate eta n.

  Raises:
    DepthMupError: hidden_layers is not 1.
  """
  check_size(hidden_layers, "hidden_layers")
  if hidden_layers != 1:
    raise DepthMupError(
      f"hidden_layers={hidden_layers}: the mean field parametrization has one hidden "
      "layer; use abc_mup, which is the same point there and exists at every depth"
    )
  return AbcParametrization([0, 1], [0, 0], -1)


def abc_mup(hidden_layers: int) -> AbcParametrization:
  """Maximal update parametrization.

  Raises:
    DepthMupError: hidden_layers is no whole number of at least 1.
  """
  return abc_up(0, hidden_layers)


def abc_up(r: Exponent, hidden_layers: int) -> AbcParametrization:
  """Uniform parametrization UP_r: every layer moves the features by n^(-r).

  Tensor Programs IV, its appendix on uniform parametrizations.

  Args:
    r: in [0, 1/2]; 0 is muP, 1/2 is NTP.
    hidden_layers: L.

  Raises:
    DepthMupError: r is no exponent in [0, 1/2], or hidden_layers no whole number of at
      least 1.
  """
  check_size(hidden_layers, "hidden_layers")
  exact = as_exponent(r, "r")
  if not 0 <= exact <= _HALF:
    raise DepthMupError(f"r={r!r}: the uniform parametrizations have 0 <= r <= 1/2")
  a = [exact - _HALF] + [exact] * (hidden_layers - 1) + [_HALF]
  return AbcParametrization(a, [_HALF - exact] * (hidden_layers + 1), 0)


def _exponents(values: Any, name: str) -> tuple[Fraction, ...]:
  """At least two exponents, named name_1, name_2 and so on where one is wrong."""
  try:
    entries = None if isinstance(values, str | dict | set) else [*values]
  except TypeError:
    entries = None
  if entries is None or len(entries) < 2:
    raise DepthMupError(
      f"{name}={values!r}: expected a sequence of at least two exponents, one per weight "
      "matrix from the input to the output"
    )
  return tuple(as_exponent(v, f"{name}_{i}") for i, v in enumerate(entries, 1))
