"""Gradient descent in a kernel regime: functions as growing expansions in a kernel.

Tensor Programs IV (arXiv 2011.14522), the NNGP and NTK baselines of its experiments. A net
of one hidden layer of infinite width in the kernel regime, its output 0 at initialization,
is

  f(x) = sum over (z, q) of K(x, z) q           z [d] an input, q [d_out]

and a step of gradient descent with learning rate lr on inputs x_i with derivatives chi_i
of the loss in f(x_i) appends the pairs (x_i, -lr chi_i). The norm of its gradient is that
of the expansion of (x_i, chi_i) in the space of the kernel,

  G^2 = sum over i, j of (chi_i . chi_j) K(x_i, x_j)

Kernels, of hidden layer h = W x + b with W_ij from N(0, sigma_u^2), without 1/d, b_i from
N(0, sigma_b^2) not trained, and readout weights of variance sigma_v^2 over n:

  s(x) = sqrt(sigma_u^2 |x|^2 + sigma_b^2)
  c(x, z) = (sigma_u^2 x.z + sigma_b^2) / (s(x) s(z))
  NNGP(x, z) = s(x) s(z) k1(c)                      the readout alone is trained
  NTK(x, z) = NNGP(x, z) + sigma_v^2 (x.z) k0(c)    all weights are
  k0(c) = (pi - arccos c) / (2 pi)                  E relu'(u) relu'(v)
  k1(c) = (sqrt(1 - c^2) + (pi - arccos c) c) / (2 pi)    E relu(u) relu(v)

Where the activation is the identity and there are no biases, both are multiples of x.z:
gradient descent in `linear_kernel` is that of a net without a hidden layer.

In float32, k0 at equal inputs is good to about 1e-4, all else to 1e-6. An expansion has a
capacity fixed in advance, so that all of this can be jitted, scanned and vmapped. Where
the inputs are few and come again and again, `accumulate` keeps one pair for each.
Layer: jax.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_depthmup.checks import check_nonnegative, check_size
from flax_depthmup.errors import DepthMupError

#: (x [A, d], z [B, d]) -> K(x, z) [A, B]
Kernel = Callable[[Any, Any], jax.Array]


class KernelExpansion(NamedTuple):
  """f(x) = the sum over the first `count` pairs of K(x, z) q.

  Attributes:
    inputs: [capacity, d] z.
    coefficients: [capacity, d_out] q.
    count: how many pairs there are, an int32 scalar.
  """

  inputs: Any
  coefficients: Any
  count: Any


def relu_nngp(sigma_u: float, sigma_b: float) -> Kernel:
  """The kernel NNGP(x, z) of a relu net.

  Args:
    sigma_u: standard deviation of input weights.
    sigma_b: that of hidden biases.

  Raises:
    DepthMupError: one is negative or not finite.
  """
  _check_sigmas(sigma_u=sigma_u, sigma_b=sigma_b)

  def kernel(x: Any, z: Any) -> jax.Array:
    return _angles(x, z, sigma_u, sigma_b)[0]

  return kernel


def relu_ntk(sigma_u: float, sigma_v: float, sigma_b: float) -> Kernel:
  """The kernel NTK(x, z) of a relu net whose hidden biases are not trained.

  Args:
    sigma_u: standard deviation of input weights.
    sigma_v: that of readout weights, times sqrt(n).
    sigma_b: that of hidden biases.

  Raises:
    DepthMupError: one is negative or not finite.
  """
  _check_sigmas(sigma_u=sigma_u, sigma_v=sigma_v, sigma_b=sigma_b)

  def kernel(x: Any, z: Any) -> jax.Array:
    nngp, k0, inner = _angles(x, z, sigma_u, sigma_b)
    return nngp + sigma_v**2 * inner * k0

  return kernel


def linear_kernel(x: Any, z: Any) -> jax.Array:
  """x.z of inputs [A, d] and [B, d], as [A, B]."""
  return jnp.asarray(x) @ jnp.asarray(z).T


def empty_expansion(capacity: int, d: int, d_out: int) -> KernelExpansion:
  """f = 0, with room for `capacity` pairs of d and d_out numbers.

  Raises:
    DepthMupError: a size is no whole number of at least 1.
  """
  for name, size in (("capacity", capacity), ("d", d), ("d_out", d_out)):
    check_size(size, name)
  return KernelExpansion(
    inputs=jnp.zeros((capacity, d)),
    coefficients=jnp.zeros((capacity, d_out)),
    count=jnp.zeros((), jnp.int32),
  )


def expansion_outputs(kernel: Kernel, expansion: KernelExpansion, x: Any) -> jax.Array:
  """f(x) of inputs [B, d], as [B, d_out]; costs B capacity d, however few pairs.

  Raises:
    DepthMupError: x is not of shape [B, d].
  """
  x = _rows(x, expansion.inputs.shape[1], "x")
  kept = jnp.arange(expansion.inputs.shape[0]) < expansion.count
  q = jnp.where(kept[:, None], expansion.coefficients, 0.0)
  return kernel(x, expansion.inputs) @ q


def push(expansion: KernelExpansion, x: Any, q: Any) -> KernelExpansion:
  """The expansion and B further pairs.

  Args:
    expansion: is not changed.
    x: [B, d] inputs.
    q: [B, d_out] coefficients, -lr chi of a step of gradient descent.

  Returns:
    Where the capacity does not suffice, and the count is traced so that nothing can be
    raised, an expansion whose outputs are not a number.

  Raises:
    DepthMupError: the shapes do not fit, or the capacity does not suffice.
  """
  x = _rows(x, expansion.inputs.shape[1], "x")
  q = _rows(q, expansion.coefficients.shape[1], "q")
  capacity, added = expansion.inputs.shape[0], x.shape[0]
  if q.shape[0] != added:
    raise DepthMupError(f"x has {added} rows but q has {q.shape[0]}: give one q an input")
  count = expansion.count + added
  full = count > capacity
  if added > capacity or _is_true(full):
    raise DepthMupError(
      f"the expansion has room for {capacity} pairs, too few for {added} more; make it "
      "with a larger capacity"
    )
  start = (expansion.count, jnp.zeros((), jnp.int32))
  update = jax.lax.dynamic_update_slice
  pushed = KernelExpansion(
    inputs=update(expansion.inputs, x.astype(expansion.inputs.dtype), start),
    coefficients=update(
      expansion.coefficients, q.astype(expansion.coefficients.dtype), start
    ),
    count=count,
  )
  return _lost_where(full, pushed)


def accumulate(expansion: KernelExpansion, rows: Any, q: Any) -> KernelExpansion:
  """Adds to coefficients: the function that pushing those inputs once more gives.

  Args:
    expansion: is not changed.
    rows: [B] int32, which pairs; one may come several times.
    q: [B, d_out] what to add.

  Returns:
    Where a row is none of the expansion's, and the count is traced, an expansion whose
    outputs are not a number.

  Raises:
    DepthMupError: the shapes do not fit, or a row is none of the expansion's.
  """
  rows, q = jnp.asarray(rows), _rows(q, expansion.coefficients.shape[1], "q")
  if rows.shape != q.shape[:1] or not jnp.issubdtype(rows.dtype, jnp.integer):
    raise DepthMupError(
      f"rows of shape {rows.shape} and type {rows.dtype}: expected {q.shape[0]} integers, "
      "one for each row of q"
    )
  absent = jnp.any((rows < 0) | (rows >= expansion.count))
  if _is_true(absent):
    raise DepthMupError(
      f"rows={rows.tolist()}: expected rows of the {int(expansion.count)} pairs there are"
    )
  added = expansion.coefficients.at[rows].add(q.astype(expansion.coefficients.dtype))
  return _lost_where(absent, expansion._replace(coefficients=added))


def pop(expansion: KernelExpansion, number: int) -> KernelExpansion:
  """The expansion without the last `number` pairs, as before they were pushed.

  Returns:
    Where there are fewer, and the count is traced, one whose outputs are not a number.

  Raises:
    DepthMupError: number is no whole number of at least 1, or there are fewer pairs.
  """
  check_size(number, "number")
  empty = expansion.count < number
  if _is_true(empty):
    raise DepthMupError(
      f"the expansion has {int(expansion.count)} pairs, so {number} cannot be taken away"
    )
  return _lost_where(empty, expansion._replace(count=expansion.count - number))


def rkhs_norm(kernel: Kernel, x: Any, q: Any) -> jax.Array:
  """G, the norm of the expansion of inputs x [B, d] and coefficients q [B, d_out].

  Of q = chi it is the norm of the gradient, by which a step is clipped.

  Raises:
    DepthMupError: x and q are no matrices of one number of rows.
  """
  x, q = jnp.asarray(x), jnp.asarray(q)
  if x.ndim != 2 or q.ndim != 2 or x.shape[0] != q.shape[0]:
    raise DepthMupError(
      f"x of shape {x.shape} and q of shape {q.shape}: expected [B, d] and [B, d_out]"
    )
  # Rounding may leave the square of a norm of zero below zero.
  return _safe_sqrt(jnp.sum(q * (kernel(x, x) @ q)))


def _angles(
  x: Any, z: Any, sigma_u: float, sigma_b: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """NNGP(x, z), k0(c) and x.z, each [A, B]; gradients are finite at c = 1 and s = 0."""
  x, z = jnp.asarray(x), jnp.asarray(z)
  inner = x @ z.T
  norm_x, norm_z = (
    _safe_sqrt(sigma_u**2 * jnp.sum(a * a, axis=1) + sigma_b**2) for a in (x, z)
  )
  scale = norm_x[:, None] * norm_z[None, :]
  product = sigma_u**2 * inner + sigma_b**2
  c = jnp.where(scale > 0, product / jnp.where(scale > 0, scale, 1.0), 0.0)
  c = jnp.clip(c, -1.0, 1.0)
  sine = _safe_sqrt((1 - c) * (1 + c))
  # arccos c; unlike arccos, arctan2 keeps its digits and its gradient near c = 1.
  angle = jnp.arctan2(sine, c)
  k0 = (math.pi - angle) / (2 * math.pi)
  return scale * (sine / (2 * math.pi) + c * k0), k0, inner


def _safe_sqrt(square: Any) -> jax.Array:
  """The root, 0 with gradient 0 where the square is not positive."""
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _lost_where(lost: Any, expansion: KernelExpansion) -> KernelExpansion:
  """Outputs that are not a number where `lost`."""
  capacity = expansion.inputs.shape[0]
  return expansion._replace(
    coefficients=jnp.where(lost, jnp.nan, expansion.coefficients),
    count=jnp.where(lost, capacity, expansion.count),
  )


def _is_true(condition: Any) -> bool:
  """False also where it is traced, so not known yet."""
  return not isinstance(condition, jax.core.Tracer) and bool(condition)


def _rows(values: Any, columns: int, name: str) -> jax.Array:
  values = jnp.asarray(values)
  if values.ndim != 2 or values.shape[1] != columns:
    raise DepthMupError(
      f"{name} of shape {values.shape}: expected [B, {columns}], as the expansion has"
    )
  return values


def _check_sigmas(**sigmas: float) -> None:
  for name, sigma in sigmas.items():
    check_nonnegative(sigma, name)
