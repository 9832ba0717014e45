"""A convolutional residual net for images. Layer: flax, mathematics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flax_depthmup.checks import check_size
from flax_depthmup.convolution import Conv
from flax_depthmup.errors import DepthMupError
from flax_depthmup.layers import Readout
from flax_depthmup.models.residual_mlp import Activation, branch, check_branch
from flax_depthmup.parametrizations.base import Parametrization, check_parametrization
from flax_depthmup.residual import ResidualStack


class ResNet(nn.Module):
  """x0 = U * xi;  x_l = x_(l-1) + a (L/L0)^(-alpha) G phi(W_l * x_(l-1));  f = V^T x_L.

  The net of Tensor Programs VI (arXiv 2310.02244), section 3, with convolutions
  (*) in place of matrices, and x_L averaged over its positions before the readout.
  No biases. G subtracts the mean over the channels of each position.

  The stem cuts the image into patches; the blocks follow in `stages` of one width,
  with 2x2 average pooling between them. All blocks count in the one depth L,
  whatever stage they are in. The stages take even shares, the first ones the
  remainder: compare depths that `stages` divides, so that the shares stay the same.

  There is no batch normalization. Its statistics are state besides the parameters
  and tie the images of a batch together; on the scaled branch it would divide
  (L/L0)^(-alpha) out again; and with that factor and the initialization no block
  needs it to stay stable in depth. `norm` acts on the input of a branch, within
  one position. There is none before the readout: the scale of x_L reaches f.

  Attributes:
    width: n, the channels of every x_l; the axis "embed".
    depth: L, the number of blocks of all stages together.
    outputs: size of f.
    parametrization: the rule and base sizes; its base depth counts all stages.
    stages: how many; each but the first halves height and width.
    block_depth: k, the number of convolutions in a branch.
    kernel_size: of the square window of the convolutions in branches.
    patch: stride of the stem.
    stem_kernel_size: of the square window of the stem; None: the patch. The 3x3
      stem of small-image nets is patch=1, stem_kernel_size=3.
    activation: phi: relu, abs, tanh, gelu, identity, or a callable.
    pre_nonlinearity: False: phi(W * x), the paper's choice; True: W * phi(x).
    mean_subtraction: apply G after every phi. Leave on unless phi is odd or the
      branch starts with a norm.
    norm: of the input of each branch, over channels, without gains: layer_norm,
      rms_norm or None.
    block_multiplier: a, the branch multiplier at base depth; a number or a traced
      scalar.
    train_boundary: False freezes U and V.
    remat: recompute blocks in the backward pass.
    dtype: of the computation; None: that of the parameters, float32.
  """

  width: int
  depth: int
  outputs: int
  parametrization: Parametrization
  stages: int = 1
  block_depth: int = 1
  kernel_size: int = 3
  patch: int = 4
  stem_kernel_size: int | None = None
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
    sizes = ("width", "depth", "outputs", "stages", "block_depth", "kernel_size", "patch")
    for name in sizes:
      check_size(getattr(self, name), name)
    if self.stages > self.depth:
      raise DepthMupError(
        f"stages={self.stages} of depth={self.depth} blocks: a stage has at least one "
        "block, so take fewer stages or more blocks"
      )
    if self.stem_kernel_size is not None:
      check_size(self.stem_kernel_size, "stem_kernel_size")
      if self.stem_kernel_size < self.patch:
        raise DepthMupError(
          f"stem_kernel_size={self.stem_kernel_size} is below patch={self.patch}, which "
          "would skip pixels; take a window of at least the patch"
        )
    check_branch(self.activation, self.norm)

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps images of shape [batch, height, width, channels] to [batch, outputs].

    Raises:
      DepthMupError: the images are not floats of four axes, or patches and stages
        do not divide their height and width.
    """
    _check_images(images, self.patch, self.stages)
    p = self.parametrization
    x = Conv(
      self.width,
      "(kh) (kw) (channels) -> embed",
      p,
      kernel_size=self.patch if self.stem_kernel_size is None else self.stem_kernel_size,
      strides=self.patch,
      dtype=self.dtype,
      trainable=self.train_boundary,
      name="stem",
    )(images)
    block = functools.partial(
      ConvBlock,
      p,
      self.block_depth,
      self.kernel_size,
      self.activation,
      self.pre_nonlinearity,
      self.mean_subtraction,
      self.norm,
      self.dtype,
    )
    share, rest = divmod(self.depth, self.stages)
    for stage in range(self.stages):
      x = nn.avg_pool(x, (2, 2), (2, 2)) if stage else x
      blocks = ResidualStack(
        block,
        share + (stage < rest),
        p,
        self.block_multiplier,
        self.remat,
        total_depth=self.depth,
        name=f"stage_{stage}",
      )
      x = blocks(x)
    readout = Readout(
      self.outputs, p, dtype=self.dtype, trainable=self.train_boundary, name="readout"
    )
    return readout(x.mean((1, 2)))


class ConvBlock(nn.Module):
  """One branch: k times G phi(W * x), or W * G phi(x); see `ResNet`."""

  parametrization: Parametrization
  block_depth: int = 1
  kernel_size: int = 3
  activation: Activation = "relu"
  pre_nonlinearity: bool = False
  mean_subtraction: bool = True
  norm: str | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x of shape [batch, height, width, channels] to the same shape."""
    channels = x.shape[-1]

    def layer(i: int) -> nn.Module:
      return Conv(
        channels,
        "(kh) (kw) embed -> embed",
        self.parametrization,
        kernel_size=self.kernel_size,
        dtype=self.dtype,
        name=f"conv_{i}",
      )

    return branch(self, layer, x)


def _check_images(images: Any, patch: int, stages: int) -> None:
  """Raises `DepthMupError` unless these are images that the net can take."""
  if not isinstance(images, jax.Array | np.ndarray) or images.ndim != 4:
    found = getattr(images, "shape", type(images).__name__)
    raise DepthMupError(
      f"ResNet: the images are {found}; expected an array [batch, height, width, "
      "channels], a batch of one image too"
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise DepthMupError(
      f"ResNet: the images have dtype {images.dtype}; expected floats, of mean 0 and "
      "variance 1 at best: convert and normalize them"
    )
  unit = patch * 2 ** (stages - 1)
  if any(n == 0 or n % unit for n in images.shape[1:3]) or images.shape[3] == 0:
    raise DepthMupError(
      f"ResNet: the images have shape {images.shape}, but patch={patch} and "
      f"stages={stages} need a height and width that {unit} divides and a channel; "
      "crop or pad the images, or take a smaller patch or fewer stages"
    )
