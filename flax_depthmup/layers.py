"""Layers that know their axes: the only place forward multipliers are applied.

Layer: flax, mathematics; no optax.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.axes import Axes, Role
from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.forward_multipliers import multiplied_by_rule
from flax_depthmup.initializers import normal, with_axes
from flax_depthmup.parametrizations.base import Parametrization


class Dense(nn.Module):
  """A linear map y = multiplier * (x W) + b, with W ~ N(0, init_std^2).

  Attributes:
    features: size of the output, or one size per out axis.
    axes: of the kernel, "embed -> mlp"; the in axes are the last axes of x.
    parametrization: the rule and base sizes.
    use_bias: adds b, zero at the start, of the kernel's out axes.
    base_std: std of W in the base net; None: 1/sqrt(fan_in) there. 0 starts at
      zero.
    trainable: False freezes the layer: no gradient, no update.
    dtype: of the computation; None: as x and W promote.
    param_dtype: of the parameters.
  """

  features: int | Sequence[int]
  axes: str
  parametrization: Parametrization
  use_bias: bool = False
  base_std: float | None = None
  trainable: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x of shape [..., *in sizes] to [..., *out sizes].

    Raises:
      DepthMupError: the axes do not fit the shape of x or `features`, or one is
        stacked: `ResidualStack` and `nn.vmap` stack, a layer does not.
    """
    axes, p = Axes.parse(self.axes), self.parametrization
    out = tuple(self.features) if isinstance(self.features, Sequence) else (self.features,)
    for size in out:
      check_size(size, "features")
    n_in = sum(axis.role is Role.IN for axis in axes.axes)
    n_out = sum(axis.role is Role.OUT for axis in axes.axes)
    stacked = n_in + n_out < len(axes.axes)
    if stacked or not 0 < n_in <= x.ndim or n_out != len(out):
      raise DepthMupError(
        f'Dense: axes "{axes}" do not fit an input of shape {x.shape} and '
        f"features={self.features}; name one in axis per trailing axis of the input "
        "that is summed over, one out axis per feature size, and no stacked axis"
      )
    shape = x.shape[-n_in:] + out
    draw = normal(axes, p, folded=False, base_std=self.base_std, trainable=self.trainable)
    kernel = self.param("kernel", draw, shape, self.param_dtype)
    bias = None
    if self.use_bias:
      names = Axes(tuple(axis for axis in axes.axes if axis.role is Role.OUT))
      zeros = with_axes(
        nn.initializers.zeros, names, p, folded=False, trainable=self.trainable
      )
      bias = self.param("bias", zeros, out, self.param_dtype)
    if not self.trainable:
      kernel, bias = jax.lax.stop_gradient((kernel, bias))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    contracted = tuple(range(x.ndim - n_in, x.ndim)), tuple(range(n_in))
    y = jax.lax.dot_general(x, kernel, (contracted, ((), ())))
    y = multiplied_by_rule(self, y, "kernel", axes, shape, p)
    if bias is None:
      return y
    bias = multiplied_by_rule(self, bias, "bias", names, out, p)
    return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


class Embed(nn.Module):
  """A table lookup: an input layer, so its std does not depend on width.

  Attributes:
    num_embeddings: size of the vocabulary, a finite axis.
    features: size of the output.
    parametrization: the rule and base sizes.
    axes: of the table.
    base_std: std of the table.
    trainable, dtype, param_dtype: as in `Dense`.
  """

  num_embeddings: int
  features: int
  parametrization: Parametrization
  axes: str = "(vocab) -> embed"
  base_std: float = 1.0
  trainable: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self) -> None:
    """Makes the table."""
    check_size(self.num_embeddings, "num_embeddings")
    check_size(self.features, "features")
    p, shape = self.parametrization, (self.num_embeddings, self.features)
    draw = normal(
      self.axes, p, folded=False, base_std=self.base_std, trainable=self.trainable
    )
    self.embedding = self.param("embedding", draw, shape, self.param_dtype)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps integer tokens of shape [...] to [..., features].

    Raises:
      DepthMupError: the tokens are not integers.
    """
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise DepthMupError(
        f"Embed: tokens have dtype {tokens.dtype}; expected integers in "
        f"[0, {self.num_embeddings})"
      )
    (table,) = nn.dtypes.promote_dtype(self._table(), dtype=self.dtype)
    axes, shape = Axes.parse(self.axes), table.shape
    # Rows are whole where they are looked up, so that batches stay where they are.
    table = nn.with_logical_constraint(table, (axes.axes[0].name, None))
    rows = jnp.take(table, tokens, axis=0)
    return multiplied_by_rule(self, rows, "embedding", axes, shape, self.parametrization)

  def attend(self, x: jax.Array) -> jax.Array:
    """Maps x of shape [..., features] to [..., num_embeddings]: a tied readout.

    With the forward multiplier of a readout; its init and updates stay those of
    the embedding, which is right under width rules where the two agree (Table 8,
    Table 9).
    """
    x, table = nn.dtypes.promote_dtype(x, self._table(), dtype=self.dtype)
    ins, outs = Axes.parse(self.axes).axes
    swapped = Axes(
      (
        dataclasses.replace(outs, role=Role.IN),
        dataclasses.replace(ins, role=Role.OUT),
      )
    )
    shape = table.shape[::-1]
    y = x @ table.T
    return multiplied_by_rule(self, y, "attend", swapped, shape, self.parametrization)

  def _table(self) -> jax.Array:
    return self.embedding if self.trainable else jax.lax.stop_gradient(self.embedding)


class Readout(nn.Module):
  """The last linear map, from an infinite axis to a finite one.

  Attributes:
    features: number of outputs.
    parametrization: the rule and base sizes.
    axes: of the kernel.
    use_bias, base_std, trainable, dtype, param_dtype: as in `Dense`;
      base_std=0 starts at zero, as Tensor Programs V recommends.
  """

  features: int
  parametrization: Parametrization
  axes: str = "embed -> (outputs)"
  use_bias: bool = False
  base_std: float | None = None
  trainable: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32

  def setup(self) -> None:
    """Makes the inner layer, with its parameters as this one's own."""
    self.dense = Dense(
      self.features,
      self.axes,
      self.parametrization,
      use_bias=self.use_bias,
      base_std=self.base_std,
      trainable=self.trainable,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    nn.share_scope(self, self.dense)  # the path is readout/kernel

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x of shape [..., width] to [..., features]."""
    return self.dense(x)


def mean_subtraction(x: jax.Array) -> jax.Array:
  """MS(x) = x - mean(x) over the last axis (TP-VI, section 3).

  Without it a nonlinearity that is not odd adds its positive mean at every
  block, which dominates the dynamics in depth.
  """
  return x - jnp.mean(x, axis=-1, keepdims=True)
