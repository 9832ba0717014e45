"""Fluctuations of log q, q = <Y_L, Y_L>/n, in a net of width n with relu.

MLP: the matrix of the next layer sees only |relu(Y)|, so log q is a sum of independent
terms, exactly

  log q = sum over L layers of log(2/n sum_i relu(g_i)^2)  +  log(1/n sum_i g_i^2)

with standard normal g; for wide nets N(-5L/(2n) - 1/n, 5L/n + 2/n).

Residual nets: given Y, the rows of W relu(Y) are independent Gaussians of one variance,
so the neurons are independent Brownian motions B_i, all read at one random time,

  Y_l,i = B_i(tau_l),  tau_0 = 1,  tau_l = tau_(l-1) + alpha^2 S(tau_(l-1)),
  S(s) = 1/n sum_i relu(B_i(s))^2,  q = Q(tau_L),  Q(s) = 1/n sum_i B_i(s)^2,

exactly. To first order in 1/n around tau_l = (1 + alpha^2/2)^l, with b = alpha^2/(1 +
alpha^2/2), c_k = (1 + alpha^2/2)^(-k/2) the correlation of B over k layers, and

  S2(c) = E relu(u)^2 relu(v)^2 = (3 c sqrt(1-c^2) + (pi - arccos c)(1 + 2c^2))/(2 pi)
  H(c) = E sgn(u) relu(v)^2 = (arcsin c + c sqrt(1-c^2))/pi,

  n var log q = b^2 sum_(l,m<L) (S2(c_|l-m|) - 1/4)  +  2 b sum_(k=1..L) c_k^2  +  2
  n (E log q - L log(1 + alpha^2/2)) = b^2 sum_(m<l<L) (1/4 + H/2 - S2)(c_(l-m))
                                     - (5/8) b^2 L  -  b sum_(k=1..L) c_k^2  -  1.

The three terms of the variance: gates (which neurons are positive persists over
layers), branch, input layer. With alpha = L^(-1/2) both stay finite as L grows, so the
spread is of order n^(-1/2) whatever L/n; with alpha = 1 both grow like L/n. Unscaled
nets of width 16 spread further than this first order says: where few neurons are positive
the branch is small, and the net stays there. Derived here, and held to Monte Carlo by
tests/commutativity_draws_test.py.
"""

import math

import numpy as np
from scipy.special import digamma, polygamma
from scipy.stats import binom


def log_norm(family: str, width: int, depth: int) -> tuple[float, float]:
  """Mean and standard deviation of log q at <Y_0, Y_0>/n = 1 in expectation."""
  if family == "mlp":
    return _mlp(width, depth)
  return _residual(width, depth, 1.0 if family == "unscaled" else 1 / depth)


def _mlp(n: int, depth: int) -> tuple[float, float]:
  """Of nets of which anything is left: some neuron is positive in every layer."""
  positive = np.arange(1, n + 1)
  weight = binom.pmf(positive, n, 0.5) / (1 - 0.5**n)
  # log of chi-squared with K degrees of freedom: digamma(K/2) + log 2, trigamma(K/2).
  means = digamma(positive / 2) + math.log(4 / n)
  mean = float(weight @ means)
  variance = float(weight @ (polygamma(1, positive / 2) + (means - mean) ** 2))
  last = float(digamma(n / 2)) + math.log(2 / n), float(polygamma(1, n / 2))
  return depth * mean + last[0], math.sqrt(depth * variance + last[1])


def _residual(n: int, depth: int, alpha2: float) -> tuple[float, float]:
  factor = 1 + alpha2 / 2
  b, lags = alpha2 / factor, np.arange(1, depth + 1)
  c = factor ** (-lags / 2)
  pairs = (depth - lags) @ (_squares(c) - 0.25)
  drift = (depth - lags) @ (0.25 + _signs(c) / 2 - _squares(c))
  branch = b * np.sum(c**2)
  variance = b**2 * (1.25 * depth + 2 * pairs) + 2 * branch + 2
  mean = b**2 * (drift - 0.625 * depth) - branch - 1
  return depth * math.log(factor) + float(mean) / n, math.sqrt(float(variance) / n)


def _squares(c: np.ndarray) -> np.ndarray:
  turned = (math.pi - np.arccos(c)) * (1 + 2 * c**2)
  return (3 * c * np.sqrt(1 - c**2) + turned) / (2 * math.pi)


def _signs(c: np.ndarray) -> np.ndarray:
  return (np.arcsin(c) + c * np.sqrt(1 - c**2)) / math.pi
