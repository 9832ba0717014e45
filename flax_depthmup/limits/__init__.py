"""Exact limits of infinite width and depth. Layer: jax, numpy and scipy, no flax."""

from flax_depthmup.limits.abc import AbcParametrization
from flax_depthmup.limits.abc import abc_mfp
from flax_depthmup.limits.abc import abc_mup
from flax_depthmup.limits.abc import abc_ntp
from flax_depthmup.limits.abc import abc_sp
from flax_depthmup.limits.abc import abc_up
from flax_depthmup.limits.abc import with_layer_rates
from flax_depthmup.limits.abc_classify import AbcRegime
from flax_depthmup.limits.abc_classify import classify_abc
from flax_depthmup.limits.abc_kernel import kernel_regime_kernel
from flax_depthmup.limits.cbow import CbowPositions
from flax_depthmup.limits.cbow import CbowStep
from flax_depthmup.limits.cbow import cbow_batched_step
from flax_depthmup.limits.cbow import cbow_sequential_step
from flax_depthmup.limits.cbow import finite_embeddings
from flax_depthmup.limits.cbow import infinite_embeddings
from flax_depthmup.limits.covariance import correlation
from flax_depthmup.limits.covariance import dual_covariance
from flax_depthmup.limits.covariance import mlp_covariance
from flax_depthmup.limits.covariance import residual_covariance
from flax_depthmup.limits.covariance import residual_covariance_limit
from flax_depthmup.limits.deep_linear import DeepLinearLimit
from flax_depthmup.limits.deep_linear import deep_linear_limit
from flax_depthmup.limits.duals import Duals
from flax_depthmup.limits.duals import dual_derivative_covariance
from flax_depthmup.limits.duals import duals
from flax_depthmup.limits.infinite_depth import DepthLimit
from flax_depthmup.limits.infinite_depth import Extrapolated
from flax_depthmup.limits.infinite_depth import infinite_depth
from flax_depthmup.limits.kernel_expansion import KernelExpansion
from flax_depthmup.limits.kernel_expansion import accumulate
from flax_depthmup.limits.kernel_expansion import empty_expansion
from flax_depthmup.limits.kernel_expansion import expansion_outputs
from flax_depthmup.limits.kernel_expansion import linear_kernel
from flax_depthmup.limits.kernel_expansion import pop
from flax_depthmup.limits.kernel_expansion import push
from flax_depthmup.limits.kernel_expansion import relu_nngp
from flax_depthmup.limits.kernel_expansion import relu_ntk
from flax_depthmup.limits.kernel_expansion import rkhs_norm
from flax_depthmup.limits.kernels import Kernels
from flax_depthmup.limits.kernels import mlp_ntk
from flax_depthmup.limits.kernels import residual_ntk
from flax_depthmup.limits.kernels import residual_ntk_limit
from flax_depthmup.limits.linear_net import LinearNet
from flax_depthmup.limits.linear_net import finite_linear_net
from flax_depthmup.limits.linear_net import infinite_linear_net
from flax_depthmup.limits.linear_net import linear_features
from flax_depthmup.limits.linear_net import linear_gradient
from flax_depthmup.limits.linear_net import linear_outputs
from flax_depthmup.limits.linear_net import linear_step
from flax_depthmup.limits.linear_net import linear_update
from flax_depthmup.limits.linear_net import sample_linear_net
from flax_depthmup.limits.linear_residual import linear_residual
from flax_depthmup.limits.nonlinear_ode import NonlinearOde
from flax_depthmup.limits.nonlinear_ode import nonlinear_ode
from flax_depthmup.limits.nonlinear_residual import nonlinear_residual
from flax_depthmup.limits.nonlinear_residual import residual_ode
from flax_depthmup.limits.one_hidden import OneHiddenTrajectory
from flax_depthmup.limits.one_hidden import one_hidden_kernel
from flax_depthmup.limits.one_hidden import one_hidden_limit
from flax_depthmup.limits.one_hidden import one_hidden_outputs
from flax_depthmup.limits.one_hidden import one_hidden_step
from flax_depthmup.limits.one_hidden_nets import OneHiddenNet
from flax_depthmup.limits.one_hidden_nets import quadrature_net
from flax_depthmup.limits.one_hidden_nets import random_net
from flax_depthmup.limits.one_hidden_nets import sobol_net
from flax_depthmup.limits.particles import ParticleLimit
from flax_depthmup.limits.particles import particle_limit
from flax_depthmup.limits.residual_training import ResidualTraining
from flax_depthmup.limits.residual_training import layer_coefficients

__all__ = [
  "AbcParametrization",
  "AbcRegime",
  "CbowPositions",
  "CbowStep",
  "DeepLinearLimit",
  "DepthLimit",
  "Duals",
  "Extrapolated",
  "KernelExpansion",
  "Kernels",
  "LinearNet",
  "NonlinearOde",
  "OneHiddenNet",
  "OneHiddenTrajectory",
  "ParticleLimit",
  "ResidualTraining",
  "abc_mfp",
  "abc_mup",
  "abc_ntp",
  "abc_sp",
  "abc_up",
  "accumulate",
  "cbow_batched_step",
  "cbow_sequential_step",
  "classify_abc",
  "correlation",
  "deep_linear_limit",
  "dual_covariance",
  "dual_derivative_covariance",
  "duals",
  "empty_expansion",
  "expansion_outputs",
  "finite_embeddings",
  "finite_linear_net",
  "infinite_depth",
  "infinite_embeddings",
  "infinite_linear_net",
  "kernel_regime_kernel",
  "layer_coefficients",
  "linear_features",
  "linear_gradient",
  "linear_kernel",
  "linear_outputs",
  "linear_residual",
  "linear_step",
  "linear_update",
  "mlp_covariance",
  "mlp_ntk",
  "nonlinear_ode",
  "nonlinear_residual",
  "one_hidden_kernel",
  "one_hidden_limit",
  "one_hidden_outputs",
  "one_hidden_step",
  "particle_limit",
  "pop",
  "push",
  "quadrature_net",
  "random_net",
  "relu_nngp",
  "relu_ntk",
  "residual_covariance",
  "residual_covariance_limit",
  "residual_ntk",
  "residual_ntk_limit",
  "residual_ode",
  "rkhs_norm",
  "sample_linear_net",
  "sobol_net",
  "with_layer_rates",
]
