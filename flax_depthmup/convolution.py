"""The convolution beside `Dense`: one kernel for all positions of an image.

Layer: flax, mathematics; no optax.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_depthmup.axes import Axes, Role, infinite
from flax_depthmup.checks import check_size
from flax_depthmup.errors import DepthMupError
from flax_depthmup.forward_multipliers import multiplied_by_rule
from flax_depthmup.initializers import normal, with_axes
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization


class Conv(nn.Module):
  """y = multiplier * (x convolved with W) + b, with W ~ N(0, init_std^2).

  Zero padding keeps the image's size, up to the strides ("SAME"). The window is
  finite: it counts in the fan-in, kh * kw * channels, and never in a width ratio,
  so a window of another size is another base net.

  Attributes:
    features: channels of the output.
    axes: of the kernel, "(kh) (kw) embed -> embed"; that of a first layer is
      "(kh) (kw) (channels) -> embed".
    parametrization: the rule and base sizes.
    kernel_size: of the window, one number or (height, width).
    strides: steps between the windows, one number or (height, width).
    use_bias: adds b, zero at the start, of the kernel's out axis.
    base_std: std of W in the base net; None: 1/sqrt(fan_in) there. 0 starts at
      zero.
    trainable: False freezes the layer: no gradient, no update.
    dtype: of the computation; None: as x and W promote.
    param_dtype: of the parameters.
  """

  features: int
  axes: str
  parametrization: Parametrization
  kernel_size: int | tuple[int, int] = 3
  strides: int | tuple[int, int] = 1
  use_bias: bool = False
  base_std: float | None = None
  trainable: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x of shape [batch, height, width, channels] to [..., features].

    Height and width are divided by the strides, rounded up.

    Raises:
      DepthMupError: x has no such shape, a size is no positive number, or the
        axes are not two finite ones of the window, one in, one out.
    """
    axes, p = Axes.parse(self.axes), self.parametrization
    _check_axes(axes, p)
    check_size(self.features, "features")
    window = _pair(self.kernel_size, "kernel_size")
    strides = _pair(self.strides, "strides")
    if x.ndim != 4:
      raise DepthMupError(
        f"Conv: the input has shape {x.shape}; expected [batch, height, width, "
        "channels], so reshape it"
      )
    shape = (*window, x.shape[-1], self.features)
    draw = normal(axes, p, folded=False, base_std=self.base_std, trainable=self.trainable)
    kernel = self.param("kernel", draw, shape, self.param_dtype)
    bias, names = None, Axes(axes.axes[-1:])
    if self.use_bias:
      zeros = with_axes(
        nn.initializers.zeros, names, p, folded=False, trainable=self.trainable
      )
      bias = self.param("bias", zeros, shape[-1:], self.param_dtype)
    if not self.trainable:
      kernel, bias = jax.lax.stop_gradient((kernel, bias))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = jax.lax.conv_general_dilated(
      x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = multiplied_by_rule(self, y, "kernel", axes, shape, p)
    if bias is None:
      return y
    bias = multiplied_by_rule(self, bias, "bias", names, bias.shape, p)
    return y + bias[None, None, None]


def _pair(size: int | tuple[int, int], name: str) -> tuple[int, int]:
  """(height, width) of a window or its strides."""
  pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
  if len(pair) != 2:
    raise DepthMupError(f"{name}={size!r}: expected one number or (height, width)")
  for n in pair:
    check_size(n, name)
  return pair


def _check_axes(axes: Axes, p: Parametrization) -> None:
  """Raises `DepthMupError` unless the axes are those of a kernel [kh, kw, in, out]."""
  check_parametrization(p)
  roles = [axis.role for axis in axes.axes]
  sizes = p.base_sizes
  if roles != [Role.IN] * 3 + [Role.OUT] or any(infinite(a, sizes) for a in axes.axes[:2]):
    raise DepthMupError(
      f'Conv: axes "{axes}" are not those of a kernel of shape [kh, kw, in, out]; write '
      '"(kh) (kw) embed -> embed", the two of the window finite, and no stacked axis'
    )
