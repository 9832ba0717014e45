"""The kernel that drives an abc-parametrization in the kernel regime.

Tensor Programs IV (arXiv 2011.14522), the kernel regime: where r > 0,

  f_(t+1)(z) = f_t(z) - eta K(z, xi_t) chi_t,    chi_t = dLoss/df at the example of step t,

with K fixed at initialization. With the duals D, P of `limits.duals`, the covariance of
x^l, q_l = D(q_(l-1)), q_0 = xi^T z, and p_l = P(q_(l-1)),

  S_m = q_m p_(m+1) .. p_L                    what training W^(m+1) alone contributes
  K = [D = 1] S_L + [A + r = 1] sum of S_(l-1) over the layers l <= L with r_l = r

(A, D, r_l as in `limits.abc_classify`): layers whose r_l is above r move the features too
little to be seen. NTP and UP_r, r > 0, have the full NTK; SP with rate eta/n all but the
first layer; a point with A + r > 1 has S_L alone, the NNGP kernel. Each of these four was
found in finite tanh nets (L = 2, n = 2048, 64 seeds, three steps) within 1.6 standard
errors, of 0.3 to 0.7 percent. At finite n, what the limit drops is still there: layers of
r_l > r at n^(r - r_l), and all of the body at n^(1 - A - r). Layer: numpy, scipy.
"""

from typing import Any

import numpy as np

from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.abc import AbcParametrization
from flax_depthmup.limits.abc_classify import classify_abc
from flax_depthmup.limits.duals import Activation, duals


def kernel_regime_kernel(
  parametrization: AbcParametrization, k0: Any, activation: Activation
) -> np.ndarray:
  """K between k inputs, [k, k] in float64, of any stable nontrivial point with r > 0.

  Where A = 1/2 the output at initialization is a Gaussian process of covariance S_L, so
  it is f_t - f_0 that compares with a finite net.

  Args:
    parametrization: the point, of L hidden layers.
    k0: [k, k] Gram matrix xi^T z of the inputs. There is no 1/d: entries of the first
      layer have variance 1, as in the paper, so h^1 has the covariance k0.
    activation: phi: relu, abs or identity in closed form, or a smooth vectorized
      function such as numpy.tanh, by quadrature.

  Raises:
    DepthMupError: the point is not in the kernel regime, k0 is no covariance, or the
      activation is not among those.
  """
  if not isinstance(parametrization, AbcParametrization):
    raise DepthMupError(
      f"parametrization={parametrization!r}: expected an AbcParametrization, such as "
      "abc_ntp(2)"
    )
  point = parametrization
  regime = classify_abc(point.a, point.b, point.c)
  if regime.name != "kernel":
    why = f" ({'; '.join(regime.failures)})" if regime.failures else ""
    raise DepthMupError(
      f"the point a={_text(point.a)}, b={_text(point.b)}, c={point.c} is "
      f"{regime.name}{why}, with r = {regime.r}: expected one in the kernel regime, "
      "stable and nontrivial with r > 0"
    )
  body = regime.maximally_initialized_readout
  # The NTK of the layers so far, counting those that move the features most.
  q, kernel = np.asarray(k0), np.zeros(())
  for r_l in regime.r_l:
    now = duals(q, activation)
    seen = q if body and r_l == regime.r else 0.0
    q, kernel = now.phi, (kernel + seen) * now.derivative
  return kernel + q if regime.maximally_updated[-1] else kernel


def _text(exponents: tuple) -> str:
  return "(" + ", ".join(str(value) for value in exponents) + ")"
