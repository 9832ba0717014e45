"""flax_depthmup: Depth-muP and its whole class of parametrizations, for JAX."""

__version__ = "0.1.0"

from flax_depthmup.axes import Axes
from flax_depthmup.axes import Axis
from flax_depthmup.axes import Kind
from flax_depthmup.axes import Role
from flax_depthmup.classify import Regime
from flax_depthmup.classify import classify
from flax_depthmup.decoding import generate
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
from flax_depthmup.optimizers import sgd
from flax_depthmup.parametrizations import STANDARD
from flax_depthmup.parametrizations import TABLE_3
from flax_depthmup.parametrizations import TABLE_8
from flax_depthmup.parametrizations import TABLE_9
from flax_depthmup.parametrizations import Parametrization
from flax_depthmup.parametrizations import WidthRule
from flax_depthmup.parametrizations import complete_p
from flax_depthmup.parametrizations import depth_mup
from flax_depthmup.parametrizations import depthwise
from flax_depthmup.parametrizations import mup
from flax_depthmup.parametrizations import ode
from flax_depthmup.parametrizations import standard
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

__all__ = [
  "Axes",
  "Axis",
  "ChunkDone",
  "Conv",
  "DEFAULT_RULES",
  "Decay",
  "Dense",
  "DepthMupError",
  "Embed",
  "Kind",
  "MESH_AXES",
  "Member",
  "Parametrization",
  "Readout",
  "Regime",
  "Residual",
  "ResNet",
  "ResidualMLP",
  "ResidualStack",
  "Role",
  "Rules",
  "STANDARD",
  "Scales",
  "SweepResult",
  "TABLE_3",
  "TABLE_8",
  "TABLE_9",
  "Transformer",
  "WidthRule",
  "abstract_init",
  "adam",
  "adamw",
  "axis_sizes",
  "batch_sharding",
  "check_multipliers",
  "classify",
  "complete_p",
  "depth_mup",
  "depthwise",
  "fit_optimum",
  "generate",
  "init",
  "make_mesh",
  "make_rules",
  "mean_subtraction",
  "multiplied",
  "mup",
  "normal",
  "ode",
  "on_mesh",
  "optimizer_shardings",
  "param_shardings",
  "resolve",
  "run_sweep",
  "scale_by_parametrization",
  "scales_as_dict",
  "scales_of",
  "sgd",
  "standard",
  "trainable",
  "transfer_verdict",
  "with_axes",
]
