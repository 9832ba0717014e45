"""flax_depthmup: Depth-muP and its whole class of parametrizations, for JAX."""

__version__ = "0.1.0"

from flax_depthmup.axes import Axes
from flax_depthmup.axes import Axis
from flax_depthmup.axes import Kind
from flax_depthmup.axes import Role
from flax_depthmup.classify import Regime
from flax_depthmup.classify import classify
from flax_depthmup.diagnostics import fit_optimum
from flax_depthmup.diagnostics import transfer_verdict
from flax_depthmup.errors import DepthMupError
from flax_depthmup.initializers import normal
from flax_depthmup.initializers import with_axes
from flax_depthmup.layers import Dense
from flax_depthmup.layers import Embed
from flax_depthmup.layers import Readout
from flax_depthmup.layers import mean_subtraction
from flax_depthmup.metadata import abstract_init
from flax_depthmup.metadata import init
from flax_depthmup.metadata import scales_of
from flax_depthmup.models.residual_mlp import ResidualMLP
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
from flax_depthmup.sweep_program import Member
from flax_depthmup.sweeps import ChunkDone
from flax_depthmup.sweeps import SweepResult
from flax_depthmup.sweeps import run_sweep
from flax_depthmup.transforms import scale_by_parametrization
from flax_depthmup.transforms import trainable

__all__ = [
  "Axes",
  "Axis",
  "ChunkDone",
  "Dense",
  "DepthMupError",
  "Embed",
  "Kind",
  "Member",
  "Parametrization",
  "Readout",
  "Regime",
  "Residual",
  "ResidualMLP",
  "ResidualStack",
  "Role",
  "STANDARD",
  "Scales",
  "SweepResult",
  "TABLE_3",
  "TABLE_8",
  "TABLE_9",
  "WidthRule",
  "abstract_init",
  "adam",
  "adamw",
  "classify",
  "complete_p",
  "depth_mup",
  "depthwise",
  "fit_optimum",
  "init",
  "mean_subtraction",
  "mup",
  "normal",
  "ode",
  "resolve",
  "run_sweep",
  "scale_by_parametrization",
  "scales_of",
  "sgd",
  "standard",
  "trainable",
  "transfer_verdict",
  "with_axes",
]
