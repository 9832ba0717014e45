"""Expectations over pairs of Gaussians: quadrature in two dimensions, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.limits import dual_covariance
from flax_depthmup.limits.gaussian_duals import check_smooth, gaussian_duals

KERNEL = np.array([[1.3, 0.5, -0.9], [0.5, 0.6, 0.2], [-0.9, 0.2, 2.0]])


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def brute(f, g, k, centred):
  """E f(z) g(z') by 60 x 60 nodes for every pair; `centred` subtracts the product."""
  x, w = np.polynomial.hermite_e.hermegauss(60)
  w = w / w.sum()
  table = np.zeros((3, 3))
  for i in range(3):
    for j in range(3):
      z = np.sqrt(k[i, i]) * x[:, None] * np.ones(60)
      c = k[i, j] / k[i, i]
      rest = np.sqrt(max(k[j, j] - c * k[i, j], 0))
      other = c * z + rest * x[None, :]
      weights = w[:, None] * w[None, :]
      table[i, j] = (weights * np.asarray(f(z)) * np.asarray(g(other))).sum()
      if centred:
        table[i, j] -= (weights * f(z)).sum() * (weights * g(other)).sum()
  return table


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_smooth_expectations_are_those_of_quadrature(shift):
  found = gaussian_duals(lambda z: jnp.sin(z + shift))(jnp.asarray(KERNEL))
  f = [lambda z, k=k: np.sin(z + shift + k * np.pi / 2) for k in range(4)]
  for name, (a, b, centred) in {
    "branch": (0, 0, True),
    "slope": (1, 1, False),
    "curvature": (2, 2, False),
    "bend": (2, 0, True),
    "jerk": (3, 1, False),
  }.items():
    want = brute(f[a], f[b], KERNEL, centred)
    np.testing.assert_allclose(getattr(found, name), want, atol=1e-10, err_msg=name)


def test_tanh_is_accurate_to_some_millionths():
  found = gaussian_duals(jnp.tanh)(jnp.asarray(KERNEL))
  want = brute(np.tanh, np.tanh, KERNEL, True)
  np.testing.assert_allclose(found.branch, want, atol=5e-6)  # as the oracle is


@pytest.mark.parametrize("c", [-0.9, 0.5, 0.99])
def test_wide_gaussians_of_tanh(c):
  """At variance 10, where `check_smooth` still lets tanh pass; 2,401 nodes each way."""
  v, (x, w) = (
    10.0,
    (np.arange(-12, 12.001, 0.01), np.exp(-(np.arange(-12, 12.001, 0.01) ** 2) / 2)),
  )
  w = w / w.sum()
  t = np.tanh
  f = [t, lambda z: 1 - t(z) ** 2, lambda z: -2 * t(z) * (1 - t(z) ** 2)]
  found = gaussian_duals(jnp.tanh)(jnp.array([[v, c * v], [c * v, v]]))
  z = np.sqrt(v) * x
  # E f(z) g(z') over z' given z, by the same nodes.
  other = c * z[:, None] + np.sqrt(v * (1 - c * c)) * x[None, :]
  for name, k in (("branch", 0), ("slope", 1), ("curvature", 2)):
    want = w @ (f[k](z) * (f[k](other) @ w))
    assert float(getattr(found, name)[0, 1]) == pytest.approx(want, rel=1e-4), name


def test_gaussians_too_wide_for_the_terms_are_refused():
  check_smooth(jnp.tanh, 10.0)
  check_smooth(lambda z: 1.0 * z, 1e3)
  check_smooth(lambda z: z**2, 1e3)
  with pytest.raises(DepthMupError, match="not smooth enough on the scale of .* 16; scale"):
    check_smooth(jnp.tanh, 16.0)


@pytest.mark.parametrize("name", ["relu", "abs", "identity"])
def test_kinked_expectations_are_derivatives_of_the_covariance(name):
  """By Gaussian integration by parts, in differences of the closed form of E phi phi.

  d/dc E = E phi' phi', d/da E = E phi'' phi / 2 with a the first variance, and so on.
  """
  found = gaussian_duals(name)(jnp.asarray(KERNEL))
  step = 1e-4

  def product(a, b, c):
    k = np.array([[a, c], [c, b]])
    return dual_covariance(k, name, mean_subtraction=False)[0, 1]

  def mean(a):  # E phi, at deviation sqrt(a)
    kink = {"relu": 1.0, "abs": 2.0, "identity": 0.0}[name]
    return kink * np.sqrt(a / (2 * np.pi))

  for i in range(3):
    for j in range(3):
      if i == j:
        continue
      a, b, c = KERNEL[i, i], KERNEL[j, j], KERNEL[i, j]

      def by_c(a, b=b, c=c):
        return (product(a, b, c + step) - product(a, b, c - step)) / (2 * step)

      slope = by_c(a)
      second = (
        product(a, b, c + step) - 2 * product(a, b, c) + product(a, b, c - step)
      ) / step**2
      bend = 2 * (product(a + step, b, c) - product(a - step, b, c)) / (2 * step)
      bend -= 2 * (mean(a + step) - mean(a - step)) / (2 * step) * mean(b)
      jerk = 2 * (by_c(a + step) - by_c(a - step)) / (2 * step)
      for key, want in (
        ("slope", slope),
        ("curvature", second),
        ("bend", bend),
        ("jerk", jerk),
      ):
        got = float(getattr(found, key)[i, j])
        assert got == pytest.approx(want, abs=2e-6), (key, i, j)
  want = dual_covariance(KERNEL, name, mean_subtraction=True)
  np.testing.assert_allclose(found.branch, want, atol=1e-12)


def test_two_samples_that_are_one_have_finite_expectations():
  k = jnp.ones((2, 2)) * 1.7
  for field in gaussian_duals("abs")(k):
    assert np.isfinite(field).all()
