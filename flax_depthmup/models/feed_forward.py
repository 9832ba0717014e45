"""The MLP of a transformer's layer. Layer: flax, mathematics."""

from typing import Any

import jax
from flax import linen as nn

from flax_depthmup.layers import Dense
from flax_depthmup.models.residual_mlp import ACTIVATIONS
from flax_depthmup.parametrizations.base import Parametrization


class FeedForward(nn.Module):
  """W phi(W_u x), or gated W (phi(W_g x) * W_u x), behind a norm of its input.

  Attributes:
    features: size of the hidden layer, the axis "mlp".
    parametrization: the rule and base sizes.
    norm: a module for the input; None: the input as it is.
    activation: phi, a name of `ResidualMLP`.
    gated: the second form.
    use_bias: of the linear maps.
    dtype: of the computation.
  """

  features: int
  parametrization: Parametrization
  norm: nn.Module | None = None
  activation: str = "gelu"
  gated: bool = False
  use_bias: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [batch, length, width] to the same shape."""
    width, phi = x.shape[-1], ACTIVATIONS[self.activation]
    x = x if self.norm is None else self.norm(x)

    def dense(name: str, features: int, axes: str) -> Dense:
      return Dense(
        features,
        axes,
        self.parametrization,
        use_bias=self.use_bias,
        dtype=self.dtype,
        name=name,
      )

    h = dense("up", self.features, "embed -> mlp")(x)
    gate = dense("gate", self.features, "embed -> mlp")(x) if self.gated else None
    h = phi(h) if gate is None else phi(gate) * h
    h = nn.with_logical_constraint(h, ("batch", "length", "mlp"))
    return dense("down", width, "mlp -> embed")(h)
