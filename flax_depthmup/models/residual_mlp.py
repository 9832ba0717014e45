"""The residual MLP of Tensor Programs VI. Layer: flax, mathematics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.layers import Dense, Readout, mean_subtraction
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.residual import ResidualStack

Activation = str | Callable[[jax.Array], jax.Array]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "abs": jnp.abs,
  "tanh": jnp.tanh,
  "gelu": jax.nn.gelu,
  "identity": lambda x: x,
}

#: Normalizations of a block's input, without gains.
NORMS: dict[str, Callable[[], nn.Module]] = {
  "layer_norm": lambda: nn.LayerNorm(use_bias=False, use_scale=False),
  "rms_norm": lambda: nn.RMSNorm(use_scale=False),
}


class ResidualMLP(nn.Module):
  """x0 = U xi;  x_l = x_(l-1) + a (L/L0)^(-alpha) G phi(W_l x_(l-1));  f = V^T x_L.

  Tensor Programs VI (arXiv 2310.02244), section 3, with its variants. No
  biases. G is mean subtraction.

  Attributes:
    width: n, the size of every x_l; the axis "embed".
    depth: L, the number of blocks.
    outputs: size of f.
    parametrization: the rule and base sizes.
    block_depth: k, the number of weight matrices in a branch.
    activation: phi: relu, abs, tanh, gelu, identity, or a callable.
    pre_nonlinearity: False: phi(W x), the paper's choice; True: W phi(x).
    mean_subtraction: apply G after every phi. Leave on unless phi is odd or the
      branch starts with a norm.
    norm: of the input of each branch: layer_norm, rms_norm or None.
    block_multiplier: a, the branch multiplier at base depth. The paper's a
      multiplies 1/sqrt(L0) there: its a = 2 at L0 = 8 is 2/sqrt(8) here.
    train_boundary: False freezes U and V, as in the paper's experiments.
    remat: recompute blocks in the backward pass.
    dtype: of the computation; None: that of the parameters, float32.
  """

  width: int
  depth: int
  outputs: int
  parametrization: Parametrization
  block_depth: int = 1
  activation: Activation = "relu"
  pre_nonlinearity: bool = False
  mean_subtraction: bool = True
  norm: str | None = None
  block_multiplier: float | jax.Array = 1.0
  train_boundary: bool = True
  remat: bool = False
  dtype: Any = None

  def __post_init__(self):
    super().__post_init__()
    check_parametrization(self.parametrization)
    for name in ("width", "depth", "outputs", "block_depth"):
      check_size(getattr(self, name), name)
    check_branch(self.activation, self.norm)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps inputs of shape [..., features] to [..., outputs]."""
    p, trainable = self.parametrization, self.train_boundary
    x = Dense(
      self.width,
      "(inputs) -> embed",
      p,
      trainable=trainable,
      dtype=self.dtype,
      name="input",
    )(x)
    block = MLPBlock(
      p,
      self.block_depth,
      self.activation,
      self.pre_nonlinearity,
      self.mean_subtraction,
      self.norm,
      self.dtype,
      parent=None,
    )
    stack = ResidualStack(
      block, self.depth, p, self.block_multiplier, self.remat, name="stack"
    )
    readout = Readout(
      self.outputs, p, trainable=trainable, dtype=self.dtype, name="readout"
    )
    return readout(stack(x))


class MLPBlock(nn.Module):
  """One branch: k times G phi(W x), or W G phi(x); see `ResidualMLP`."""

  parametrization: Parametrization
  block_depth: int = 1
  activation: Activation = "relu"
  pre_nonlinearity: bool = False
  mean_subtraction: bool = True
  norm: str | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x of shape [..., width] to the same shape."""
    width, p = x.shape[-1], self.parametrization

    def layer(i: int) -> nn.Module:
      return Dense(width, "embed -> embed", p, dtype=self.dtype, name=f"dense_{i}")

    return branch(self, layer, x)


def branch(block: Any, layer: Callable[[int], nn.Module], x: jax.Array) -> jax.Array:
  """k times phi after a layer, or before it, behind the norm; for a block's fields.

  Args:
    block: has block_depth, activation, pre_nonlinearity, mean_subtraction and norm,
      as `ResidualMLP` explains them.
    layer: gives the i-th linear map.
    x: [..., width].
  """
  phi = block.activation
  phi = ACTIVATIONS[phi] if isinstance(phi, str) else phi

  def nonlinearity(h: jax.Array) -> jax.Array:
    return mean_subtraction(phi(h)) if block.mean_subtraction else phi(h)

  if block.norm is not None:
    x = NORMS[block.norm]()(x)
  for i in range(block.block_depth):
    x = nonlinearity(x) if block.pre_nonlinearity else x
    x = layer(i)(x)
    x = x if block.pre_nonlinearity else nonlinearity(x)
  return x


def check_branch(activation: Any, norm: Any) -> None:
  """Raises `DepthMupError` for an unknown activation or norm of a branch."""
  if not callable(activation) and activation not in tuple(ACTIVATIONS):
    raise DepthMupError(
      f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}, or a callable"
    )
  if norm is not None and norm not in tuple(NORMS):
    raise DepthMupError(f"norm={norm!r}: expected None or one of {', '.join(NORMS)}")
