"""Hyperparameters that Tensor Programs IV (arXiv 2011.14522) found best on Omniglot."""

import math
from collections.abc import Callable
from typing import NamedTuple

from flax_depthmup.limits import linear_kernel, relu_nngp, relu_ntk


class Tuned(NamedTuple):
  """Of a linear net, chosen by validation."""

  meta_lr: float
  sigma_u: float
  sigma_v: float
  bias_multiplier: float


class TunedKernel(NamedTuple):
  """Likewise of a kernel."""

  meta_lr: float
  kernel: Callable


#: log2 of the width -> its own; the limit has those of the widest.
_LINEAR = {
  1: Tuned(meta_lr=0.05, sigma_u=0.5, sigma_v=0.5, bias_multiplier=2.0),
  3: Tuned(meta_lr=0.1, sigma_u=0.5, sigma_v=0.25, bias_multiplier=1.0),
  5: Tuned(meta_lr=0.4, sigma_u=1.0, sigma_v=0.125, bias_multiplier=0.5),
  7: Tuned(meta_lr=0.1, sigma_u=1.0, sigma_v=0.125, bias_multiplier=1.0),
  9: Tuned(meta_lr=0.1, sigma_u=1.0, sigma_v=0.03125, bias_multiplier=1.0),
}
#: Name -> kernel. The linear kernel's rate is not stated in the paper; it is that of the
#: others.
KERNELS = {
  "relu_nngp": TunedKernel(0.05, relu_nngp(sigma_u=1.0, sigma_b=1.0)),
  "relu_ntk": TunedKernel(0.05, relu_ntk(sigma_u=0.25, sigma_v=1.0, sigma_b=1.0)),
  "linear_kernel": TunedKernel(0.05, linear_kernel),
}


def linear(width: int | None) -> Tuned:
  """Of the nearest width that the paper has; None is the limit."""
  if width is None:
    return _LINEAR[max(_LINEAR)]
  log2 = math.log2(width)
  return _LINEAR[min(_LINEAR, key=lambda known: abs(known - log2))]
