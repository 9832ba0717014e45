"""What an abc-parametrization does when width goes to infinity.

Tensor Programs IV (arXiv 2011.14522), the Dynamical Dichotomy and its corollaries, for
L hidden layers, phi tanh or a smooth relu, SGD, any fixed number of steps. In the
notation of `limits.abc`, with A = a_(L+1) + b_(L+1) and D = 2 a_(L+1) + c,

  r_l = min(A, D) + c - 1 + 2 a_l + [l = 1],   r = min over l <= L of r_l:

W^l alone moves the last features by n^(-r_l) a coordinate. The limit is

  stable              iff  a_1 + b_1 = 0, a_l + b_l = 1/2 for 2 <= l <= L, A >= 1/2
                           (initialization), r >= 0 (features), D >= 1 and A + r >= 1
                           (logits);
  nontrivial          iff  it is stable and D = 1 or A + r = 1;
  feature learning    iff  it is nontrivial and r = 0;
  a kernel regime     iff  it is nontrivial and r > 0 (kernel: `kernel_regime_kernel`).

Slopes of finite tanh nets (L = 2, widths 256 to 2048, 50 seeds, two steps) are within
0.01 of these for the features and f, and within the 0.05 that 50 seeds scatter for f_0.
Layer: standard library only.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

from flax_depthmup.exponents import Exponent
from flax_depthmup.limits.abc import AbcParametrization

_HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbcRegime:
  """The infinite-width limit of one (a, b, c).

  Slopes are exponents of n: a quantity of slope s is Theta(n^s). None where the theory
  says nothing: of an unstable point only the output at initialization has one, and that
  where the hidden layers are stable then.

  Attributes:
    parametrization: the point.
    canonical: its key modulo the symmetry, `AbcParametrization.canonical`.
    r: see the module; the last features move by n^(-r).
    r_l: [L] the same of each W^l alone.
    stable_at_init: activations are Theta(1) and f is O(1) at initialization.
    stable_features: r >= 0.
    stable_logits: D >= 1 and A + r >= 1.
    failures: the conditions of stability that fail, in words and numbers.
    stable: none fails.
    nontrivial: stable, and f moves by Theta(1).
    name: "unstable", "trivial", "feature learning" or "kernel".
    nngp: a kernel regime whose readout alone contributes, the Gaussian process limit.
    learned_layers: [L] stable, and x^l moves by Theta(1); then so do those after it. A
      trivial point can have these: its features follow an error that never shrinks.
    maximally_updated: [L + 1] r_l = 0, and D = 1 for the readout.
    maximally_initialized_readout: A + r = 1.
    feature_slopes: [L] of the movement of x^l, -min over m <= l of r_m.
    initial_output_slope: of |f_0|, 1/2 - A.
    output_slope: of |f_t - f_0|, max(1 - D, 1 - A - r).
    c_min: the least c with which a and b are stable; None where none is.
    max_learning_rate_exponent: the largest p for which eta n^p in place of eta is
      stable, c - c_min; negative where this point is not stable.
  """

  parametrization: AbcParametrization
  canonical: tuple[tuple[Fraction, Fraction], ...]
  r: Fraction
  r_l: tuple[Fraction, ...]
  stable_at_init: bool
  stable_features: bool
  stable_logits: bool
  failures: tuple[str, ...]
  stable: bool
  nontrivial: bool
  name: str
  nngp: bool
  learned_layers: tuple[bool, ...]
  maximally_updated: tuple[bool, ...]
  maximally_initialized_readout: bool
  feature_slopes: tuple[Fraction, ...] | None
  initial_output_slope: Fraction | None
  output_slope: Fraction | None
  c_min: Fraction | None
  max_learning_rate_exponent: Fraction | None


def classify_abc(a: Sequence[Exponent], b: Sequence[Exponent], c: Exponent) -> AbcRegime:
  """Classifies W^l = n^(-a_l) w^l, w^l ~ N(0, n^(-2 b_l)), learning rate eta n^(-c).

  Args:
    a: a_1 .. a_(L+1); numbers, fractions or texts such as "1/2", as in `classify`.
    b: b_1 .. b_(L+1).
    c: exponent of the learning rate.

  Of a preset or another `AbcParametrization` p: `classify_abc(p.a, p.b, p.c)`. Boundaries
  are exact, as in `classify`.

  Raises:
    DepthMupError: a and b are no sequences of one length of at least 2, or an entry is
      no exponent.
  """
  point = AbcParametrization(a, b, c)
  readout, step = point.a[-1] + point.b[-1], 2 * point.a[-1] + point.c  # A and D
  r_l = tuple(min(readout, step) + point.c - 1 + gain for gain in _gains(point))
  r = min(r_l)
  at_init = _failures_at_init(point)
  features = [f"r = {r} is below 0: the features blow up"] if r < 0 else []
  logits = _failures_of_logits(step, readout + r)
  failures = (*at_init, *features, *logits)
  stable = not failures
  nontrivial = stable and 1 in (step, readout + r)
  slopes = tuple(-min(r_l[: i + 1]) for i in range(len(r_l)))
  c_min = None if at_init else _least_stable_c(point)
  return AbcRegime(
    parametrization=point,
    canonical=point.canonical(),
    r=r,
    r_l=r_l,
    stable_at_init=not at_init,
    stable_features=not features,
    stable_logits=not logits,
    failures=failures,
    stable=stable,
    nontrivial=nontrivial,
    name=_name(stable, nontrivial, r),
    nngp=nontrivial and r > 0 and readout + r > 1,
    learned_layers=tuple(stable and slope == 0 for slope in slopes),
    maximally_updated=(*(value == 0 for value in r_l), step == 1),
    maximally_initialized_readout=readout + r == 1,
    feature_slopes=slopes if stable else None,
    initial_output_slope=None if _unequal_layers(point) else _HALF - readout,
    output_slope=max(1 - step, 1 - readout - r) if stable else None,
    c_min=c_min,
    max_learning_rate_exponent=None if c_min is None else point.c - c_min,
  )


def _gains(point: AbcParametrization) -> list[Fraction]:
  """[L] 2 a_l + [l = 1]."""
  return [2 * a + (i == 0) for i, a in enumerate(point.a[:-1])]


def _unequal_layers(point: AbcParametrization) -> list[str]:
  """The layers up to L whose activations are not Theta(1) at initialization."""
  wrong = []
  for i, (total, _) in enumerate(point.canonical()[:-1], 1):
    wanted = Fraction(0) if i == 1 else _HALF
    if total != wanted:
      wrong.append(f"a_{i} + b_{i} = {total} is not {wanted}: activations at init")
  return wrong


def _failures_at_init(point: AbcParametrization) -> list[str]:
  last, (readout, _) = len(point.a), point.canonical()[-1]
  if readout >= _HALF:
    return _unequal_layers(point)
  found = f"a_{last} + b_{last} = {readout} is below 1/2: logits at init"
  return [*_unequal_layers(point), found]


def _failures_of_logits(step: Fraction, moved: Fraction) -> list[str]:
  failures = []
  if step < 1:
    failures.append(f"2 a + c = {step} of the readout is below 1: logits by its updates")
  if moved < 1:
    failures.append(f"a + b + r = {moved} of the readout is below 1: logits by features")
  return failures


def _least_stable_c(point: AbcParametrization) -> Fraction:
  """The least c with D >= 1 and r >= max(0, 1 - A); all three grow with c."""
  a, gain = point.a[-1], min(_gains(point))
  readout = a + point.b[-1]
  # r = min(A + c, 2 a_(L+1) + 2 c) - 1 + gain has to reach this bound in both terms.
  bound = max(Fraction(0), 1 - readout) + 1 - gain
  return max(1 - 2 * a, bound - readout, (bound - 2 * a) / 2)


def _name(stable: bool, nontrivial: bool, r: Fraction) -> str:
  if not stable:
    return "unstable"
  if not nontrivial:
    return "trivial"
  return "kernel" if r > 0 else "feature learning"
