"""flax_depthmup: Depth-muP and its whole class of parametrizations, for JAX."""

__version__ = "0.1.0"

from flax_depthmup.adapt import ModelAxes
from flax_depthmup.adapt import ParameterAxes
from flax_depthmup.adapt import PlacedByHand
from flax_depthmup.adapt import axes_from_shapes
from flax_depthmup.adapt import init_laws
from flax_depthmup.adapt import parametrization_from_axes
from flax_depthmup.adapt import placed_by_hand
from flax_depthmup.adapt import rescale_init
from flax_depthmup.adapt import scales_from_axes
from flax_depthmup.axes import Axes
from flax_depthmup.axes import Axis
from flax_depthmup.axes import Kind
from flax_depthmup.axes import Role
from flax_depthmup.classify import Regime
from flax_depthmup.classify import classify
from flax_depthmup.decoding import generate
from flax_depthmup.description import describe
from flax_depthmup.diagnostics import fit_optimum
from flax_depthmup.diagnostics import transfer_verdict
from flax_depthmup.errors import DepthMupError
from flax_depthmup.forward_multipliers import multiplied
from flax_depthmup.initializers import normal
from flax_depthmup.initializers import with_axes
from flax_depthmup.convolution import Conv
from flax_depthmup.layers import Dense
from flax_depthmup.layers import Embed
from flax_depthmup.layers import Readout
from flax_depthmup.layers import mean_subtraction
from flax_depthmup.metadata import abstract_init
from flax_depthmup.metadata import init
from flax_depthmup.metadata import scales_of
from flax_depthmup.models.residual_mlp import ResidualMLP
from flax_depthmup.models.resnet import ResNet
from flax_depthmup.models.transformer import Transformer
from flax_depthmup.models.transformer import axis_sizes
from flax_depthmup.multiplier_probe import check_multipliers
from flax_depthmup.optimizers import Decay
from flax_depthmup.optimizers import adam
from flax_depthmup.optimizers import adamw
from flax_depthmup.optimizers import muon
from flax_depthmup.optimizers import sgd
from flax_depthmup.parametrizations import AdamWSettings
from flax_depthmup.parametrizations import EPS_BRANCHES
from flax_depthmup.parametrizations import EPS_COMPLETE_DP
from flax_depthmup.parametrizations import EPS_CONSTANT
from flax_depthmup.parametrizations import EPS_EVERYWHERE
from flax_depthmup.parametrizations import EPS_HIDDEN
from flax_depthmup.parametrizations import EpsRule
from flax_depthmup.parametrizations import Parametrization
from flax_depthmup.parametrizations import STANDARD
from flax_depthmup.parametrizations import TABLE_3
from flax_depthmup.parametrizations import TABLE_8
from flax_depthmup.parametrizations import TABLE_9
from flax_depthmup.parametrizations import U_MUP
from flax_depthmup.parametrizations import WidthRule
from flax_depthmup.parametrizations import complete_d_p
from flax_depthmup.parametrizations import complete_p
from flax_depthmup.parametrizations import complete_p_eleuther
from flax_depthmup.parametrizations import complete_p_paper
from flax_depthmup.parametrizations import depth_mup
from flax_depthmup.parametrizations import depthwise
from flax_depthmup.parametrizations import megatron_depth_mup
from flax_depthmup.parametrizations import mini_cpm
from flax_depthmup.parametrizations import mup
from flax_depthmup.parametrizations import mup_package
from flax_depthmup.parametrizations import ode
from flax_depthmup.parametrizations import standard
from flax_depthmup.parametrizations import u_mup
from flax_depthmup.recommendation import recommend
from flax_depthmup.residual import Residual
from flax_depthmup.residual import ResidualStack
from flax_depthmup.scales import Scales
from flax_depthmup.scales import resolve
from flax_depthmup.sharding import DEFAULT_RULES
from flax_depthmup.sharding import MESH_AXES
from flax_depthmup.sharding import Rules
from flax_depthmup.sharding import batch_sharding
from flax_depthmup.sharding import make_mesh
from flax_depthmup.sharding import make_rules
from flax_depthmup.sharding import on_mesh
from flax_depthmup.sharding import optimizer_shardings
from flax_depthmup.sharding import param_shardings
from flax_depthmup.sweep_program import Member
from flax_depthmup.sweeps import ChunkDone
from flax_depthmup.sweeps import SweepResult
from flax_depthmup.sweeps import run_sweep
from flax_depthmup.transforms import scale_by_parametrization
from flax_depthmup.transforms import scales_as_dict
from flax_depthmup.transforms import trainable
from flax_depthmup.families import ENTRYWISE
from flax_depthmup.families import FACTORED
from flax_depthmup.families import FROBENIUS
from flax_depthmup.families import Family
from flax_depthmup.families import MUON
from flax_depthmup.families import MUON_JORDAN
from flax_depthmup.families import MUON_MOONSHOT
from flax_depthmup.families import MUON_SPECTRAL
from flax_depthmup.families import RELATIVE
from flax_depthmup.families import SHAMPOO
from flax_depthmup.weight_decay import add_decayed_weights

__all__ = [
  "AdamWSettings",
  "Axes",
  "Axis",
  "ChunkDone",
  "Conv",
  "DEFAULT_RULES",
  "Decay",
  "Dense",
  "DepthMupError",
  "ENTRYWISE",
  "EPS_BRANCHES",
  "EPS_COMPLETE_DP",
  "EPS_CONSTANT",
  "EPS_EVERYWHERE",
  "EPS_HIDDEN",
  "Embed",
  "EpsRule",
  "FACTORED",
  "FROBENIUS",
  "Family",
  "Kind",
  "MESH_AXES",
  "MUON",
  "MUON_JORDAN",
  "MUON_MOONSHOT",
  "MUON_SPECTRAL",
  "Member",
  "ModelAxes",
  "ParameterAxes",
  "Parametrization",
  "PlacedByHand",
  "RELATIVE",
  "Readout",
  "Regime",
  "ResNet",
  "Residual",
  "ResidualMLP",
  "ResidualStack",
  "Role",
  "Rules",
  "SHAMPOO",
  "STANDARD",
  "Scales",
  "SweepResult",
  "TABLE_3",
  "TABLE_8",
  "TABLE_9",
  "Transformer",
  "U_MUP",
  "WidthRule",
  "abstract_init",
  "adam",
  "adamw",
  "add_decayed_weights",
  "axes_from_shapes",
  "axis_sizes",
  "batch_sharding",
  "check_multipliers",
  "classify",
  "complete_d_p",
  "complete_p",
  "complete_p_eleuther",
  "complete_p_paper",
  "depth_mup",
  "depthwise",
  "describe",
  "fit_optimum",
  "generate",
  "init",
  "init_laws",
  "make_mesh",
  "make_rules",
  "mean_subtraction",
  "megatron_depth_mup",
  "mini_cpm",
  "multiplied",
  "muon",
  "mup",
  "mup_package",
  "normal",
  "ode",
  "on_mesh",
  "optimizer_shardings",
  "param_shardings",
  "parametrization_from_axes",
  "placed_by_hand",
  "recommend",
  "rescale_init",
  "resolve",
  "run_sweep",
  "scale_by_parametrization",
  "scales_as_dict",
  "scales_from_axes",
  "scales_of",
  "sgd",
  "standard",
  "trainable",
  "transfer_verdict",
  "u_mup",
  "with_axes",
]
