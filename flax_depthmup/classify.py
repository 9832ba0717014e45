"""What a point (alpha, gamma) of the class does when depth goes to infinity.

Tensor Programs VI (arXiv 2310.02244), section 7 and its classification theorem;
block depth 1, limits taken width first, then depth. Layer: standard library.
"""

import dataclasses
from fractions import Fraction

from flax_depthmup.exponents import Exponent, as_exponent

_HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regime:
  """The depth limit of one (alpha, gamma).

  Attributes:
    alpha, gamma: exponents of the branch multiplier and of the update.
    stable_at_init: features stay Theta(1) at initialization: alpha >= 1/2.
    stable_in_training: ... and during training: also alpha + gamma >= 1.
    nontrivial: the output moves in training: alpha + gamma <= 1.
    faithful: stable, nontrivial, and the inputs of the nonlinearity stay
      Theta(1): alpha in [1/2, 1].
    feature_learning: stable and nontrivial, so the features move by Theta(1).
    layerwise_linear: faithful, and each block may be linearized in its own
      update without changing the limit: alpha in [1/2, 1).
    feature_diversity: the exponent kappa in ||x^((s+e)L) - x^(sL)|| ~
      e^(1-kappa): 1/2 at alpha = 1/2, 0 on the rest of the faithful segment,
      None elsewhere.
    name: the regime in one line.
  """

  alpha: Fraction
  gamma: Fraction
  stable_at_init: bool
  stable_in_training: bool
  nontrivial: bool
  faithful: bool
  feature_learning: bool
  layerwise_linear: bool
  feature_diversity: float | None
  name: str


def classify(alpha: Exponent, gamma: Exponent) -> Regime:
  """Classifies the parametrization with branch multiplier L^-alpha and update L^-gamma.

  | region                              | name                              |
  |-------------------------------------|-----------------------------------|
  | alpha < 1/2                         | unstable at initialization        |
  | alpha >= 1/2, alpha + gamma < 1     | unstable in training              |
  | alpha >= 1/2, alpha + gamma > 1     | trivial (does not move)           |
  | alpha = gamma = 1/2                 | Depth-muP                         |
  | 1/2 < alpha < 1, alpha + gamma = 1  | redundant                         |
  | alpha = 1, gamma = 0                | redundant (ODE)                   |
  | alpha > 1, alpha + gamma = 1        | unfaithful                        |

  Args:
    alpha: exponent of the branch multiplier; a number, a `Fraction` or a text
      such as "1/2".
    gamma: exponent of the update inside branches.

  For alpha < 1/2 the theory ends at the unstable initialization; `nontrivial` is
  then read off the same inequality, and the rest is False.

  Boundaries are exact for fractions; a float within 1e-9 of a fraction of
  denominator at most 1000 counts as that fraction (`exponents.TOLERANCE`).

  Raises:
    DepthMupError: an exponent is not a finite number.
  """
  alpha, gamma = as_exponent(alpha, "alpha"), as_exponent(gamma, "gamma")
  stable_at_init = alpha >= _HALF
  stable = stable_at_init and alpha + gamma >= 1
  nontrivial = alpha + gamma <= 1
  learning = stable and nontrivial
  faithful = learning and alpha <= 1
  return Regime(
    alpha=alpha,
    gamma=gamma,
    stable_at_init=stable_at_init,
    stable_in_training=stable,
    nontrivial=nontrivial,
    faithful=faithful,
    feature_learning=learning,
    layerwise_linear=faithful and alpha < 1,
    feature_diversity=(0.5 if alpha == _HALF else 0.0) if faithful else None,
    name=_name(alpha, gamma),
  )


def _name(alpha: Fraction, gamma: Fraction) -> str:
  if alpha < _HALF:
    return "unstable at initialization"
  if alpha + gamma < 1:
    return "unstable in training"
  if alpha + gamma > 1:
    return "trivial (does not move)"
  if alpha == _HALF:
    return "Depth-muP"
  if alpha < 1:
    return "redundant"
  return "redundant (ODE)" if alpha == 1 else "unfaithful"
