"""Exact limits of infinite width and depth. Layer: numpy and scipy, no flax."""

from flax_depthmup.limits.covariance import correlation
from flax_depthmup.limits.covariance import dual_covariance
from flax_depthmup.limits.covariance import mlp_covariance
from flax_depthmup.limits.covariance import residual_covariance
from flax_depthmup.limits.covariance import residual_covariance_limit

__all__ = [
  "correlation",
  "dual_covariance",
  "mlp_covariance",
  "residual_covariance",
  "residual_covariance_limit",
]
