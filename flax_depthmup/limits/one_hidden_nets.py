"""Neurons that stand for a net of one hidden layer, of finite or infinite width.

The weights U and n V of a net of one hidden layer in muP (Tensor Programs IV, arXiv
2011.14522) are n independent draws of a neuron,

  u in R^d from N(0, sigma_u^2 I)      v in R^d_out from N(0, sigma_v^2 I)

and in the limit outputs are expectations over one (`flax_depthmup.limits.one_hidden`). A
net here is a list of neurons with weights that sum to 1 for the expectation:

  random_net      n draws, weights 1/n: the net of width n itself
  sobol_net       quasi-random draws, for any d and d_out
  quadrature_net  products of Gauss-Hermite nodes, for d + d_out up to about 4. m nodes an
                  axis are exact while f is a polynomial of degree at most 2 m - 1 in each
                  initial value: with phi = identity for ever and m = 2. Else they
                  lose digits as u and v become steep functions of their initial values

Errors of f over 20 steps with tanh, d = d_out = 1, batches of one input of norm 1, targets
of size 1, sigma_u = sigma_v = 1, against a grid of more than a million nodes:

                eta   16 nodes  32 nodes  64 nodes  128 nodes  2^14 Sobol  2^16 Sobol
                0.3   3e-3      1e-3      1.6e-4    5e-5       9e-5        2e-5
                1.0   2.5e-2    1.4e-2    6e-3      1.7e-3     9e-5        3e-5

so that quadrature is for polynomials and slow or short training, Sobol for the rest.

Layer: numpy, scipy.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.limits.batches import real_array

#: Neurons and nodes of a quadrature beyond which it is the wrong tool.
_MOST_NEURONS, _MOST_NODES = 10**7, 160
#: How far from 1 weights may sum to.
_WEIGHTS = 1e-6


class OneHiddenNet(NamedTuple):
  """Neurons of a net, in float64.

  Attributes:
    u: [n, d] input weights.
    v: [n, d_out] n times the output weights.
    weights: [n] of the neurons in the expectation; their sum is 1.
  """

  u: np.ndarray
  v: np.ndarray
  weights: np.ndarray


def quadrature_net(
  d: int, d_out: int, nodes: int, sigma_u: float = 1.0, sigma_v: float = 1.0
) -> OneHiddenNet:
  """The limit at initialization, on nodes^(d + d_out) Gauss-Hermite nodes.

  Args:
    d: number of inputs.
    d_out: number of outputs.
    nodes: nodes an axis, up to 160.
    sigma_u: standard deviation of the input weights.
    sigma_v: that of n times the output weights.

  Raises:
    DepthMupError: an argument is not this, or the nodes are more than ten million.
  """
  _check(d, d_out, sigma_u, sigma_v)
  check_size(nodes, "nodes")
  if nodes > _MOST_NODES or nodes ** (d + d_out) > _MOST_NEURONS:
    raise DepthMupError(
      f"nodes={nodes} with d + d_out = {d + d_out}: expected at most {_MOST_NODES} nodes "
      f"and {_MOST_NEURONS} products of them; give fewer, or use sobol_net"
    )
  x, w = np.polynomial.hermite_e.hermegauss(nodes)
  axes = d + d_out
  points = np.stack(np.meshgrid(*[x] * axes, indexing="ij"), -1).reshape(-1, axes)
  weights = functools.reduce(np.multiply.outer, [w / w.sum()] * axes).ravel()
  return OneHiddenNet(sigma_u * points[:, :d], sigma_v * points[:, d:], weights)


def sobol_net(
  d: int,
  d_out: int,
  neurons: int,
  sigma_u: float = 1.0,
  sigma_v: float = 1.0,
  *,
  seed: int = 0,
) -> OneHiddenNet:
  """The limit at initialization, on scrambled Sobol points made Gaussian.

  Args:
    d: number of inputs.
    d_out: number of outputs.
    neurons: a power of two, without which the points are not balanced.
    sigma_u: standard deviation of the input weights.
    sigma_v: that of n times the output weights.
    seed: of the scrambling. Several seeds show the error.

  Raises:
    DepthMupError: an argument is not this.
  """
  _check(d, d_out, sigma_u, sigma_v)
  check_size(neurons, "neurons")
  _check_seed(seed)
  if neurons & (neurons - 1) or neurons > _MOST_NEURONS:
    raise DepthMupError(f"neurons={neurons}: expected a power of two up to {_MOST_NEURONS}")
  if d + d_out > qmc.Sobol.MAXDIM:
    raise DepthMupError(
      f"d + d_out = {d + d_out}: Sobol points have at most {qmc.Sobol.MAXDIM} axes; use "
      "random_net"
    )
  sobol = qmc.Sobol(d + d_out, rng=np.random.default_rng(seed))
  # Points are multiples of 2^-30 and can be 0: the middles of their cells cannot.
  points = ndtri(sobol.random(neurons) * (1 - 2.0**-30) + 2.0**-31)
  weights = np.full(neurons, 1 / neurons)
  return OneHiddenNet(sigma_u * points[:, :d], sigma_v * points[:, d:], weights)


def random_net(
  d: int,
  d_out: int,
  width: int,
  sigma_u: float = 1.0,
  sigma_v: float = 1.0,
  *,
  seed: int = 0,
) -> OneHiddenNet:
  """A net of finite width in muP at initialization.

  Args:
    d: number of inputs.
    d_out: number of outputs.
    width: n.
    sigma_u: standard deviation of the input weights.
    sigma_v: that of n times the output weights.
    seed: of the random numbers.

  Raises:
    DepthMupError: an argument is not this.
  """
  _check(d, d_out, sigma_u, sigma_v)
  check_size(width, "width")
  _check_seed(seed)
  points = np.random.default_rng(seed).standard_normal((width, d + d_out))
  weights = np.full(width, 1 / width)
  return OneHiddenNet(sigma_u * points[:, :d], sigma_v * points[:, d:], weights)


def check_one_hidden_net(net: Any) -> OneHiddenNet:
  """The net with its numbers in float64.

  Raises:
    DepthMupError: it is no `OneHiddenNet` of fitting shapes, holds numbers that are not
      finite, or weights that do not sum to 1.
  """
  if not isinstance(net, OneHiddenNet):
    raise DepthMupError(
      f"net: found {type(net).__name__}, expected OneHiddenNet, as sobol_net makes"
    )
  u, v, weights = map(real_array, net)
  if (
    u is None
    or v is None
    or weights is None
    or u.ndim != 2
    or v.ndim != 2
    or not (weights.shape == u.shape[:1] == v.shape[:1])
  ):
    shapes = ", ".join(str(np.shape(each)) for each in net)
    raise DepthMupError(
      f"net of u, v, weights of shapes {shapes}: expected numbers [n, d], [n, d_out], [n]"
    )
  for name, values in zip(OneHiddenNet._fields, (u, v, weights), strict=True):
    if not np.isfinite(values).all():
      raise DepthMupError(f"net: {name} is not finite everywhere; give finite numbers")
  # Many weights of float32 miss 1 by rounding.
  if abs(weights.sum() - 1) > _WEIGHTS:
    raise DepthMupError(
      f"net: weights sum to {weights.sum():.6g}, expected 1; divide them by their sum"
    )
  return OneHiddenNet(u, v, weights)


def _check(d: Any, d_out: Any, sigma_u: Any, sigma_v: Any) -> None:
  check_size(d, "d")
  check_size(d_out, "d_out")
  check_nonnegative(sigma_u, "sigma_u")
  check_nonnegative(sigma_v, "sigma_v")


def _check_seed(seed: Any) -> None:
  if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
    raise DepthMupError(f"seed={seed!r}: expected a whole number of at least 0")
