"""Instruments: what a user measures on their own runs.

On any linen model built of our blocks: `coordinate_check`, `residual_stream`,
`gradient_diversity`, `layerwise_linearization`. On any model that gives a function or an
array: `feature_diversity`, `linearization_distance`, `sharpness`, `lanczos`,
`neural_covariance`. On anyone's table of results: `judge_coordinates`,
`transfer_verdict`, `fit_optimum`, `fit_valley`, `fit_power_law`.
"""

from flax_depthmup.diagnostics.coordinate_check import coordinate_check
from flax_depthmup.diagnostics.coordinate_check import coordinate_rows
from flax_depthmup.diagnostics.coordinate_check import loss_scales
from flax_depthmup.diagnostics.coordinate_check import sizes_of
from flax_depthmup.diagnostics.coordinate_figure import draw_coordinates
from flax_depthmup.diagnostics.coordinate_verdict import CoordinateCheck
from flax_depthmup.diagnostics.coordinate_verdict import Slope
from flax_depthmup.diagnostics.coordinate_verdict import judge_coordinates
from flax_depthmup.diagnostics.coordinates import Training
from flax_depthmup.diagnostics.covariance import DrawSummary
from flax_depthmup.diagnostics.covariance import neural_covariance
from flax_depthmup.diagnostics.covariance import summarize_draws
from flax_depthmup.diagnostics.feature_diversity import FeatureDiversity
from flax_depthmup.diagnostics.feature_diversity import feature_diversity
from flax_depthmup.diagnostics.gradients import GradientDiversity
from flax_depthmup.diagnostics.gradients import gradient_diversity
from flax_depthmup.diagnostics.lanczos import Ritz
from flax_depthmup.diagnostics.lanczos import lanczos
from flax_depthmup.diagnostics.linearization import Linearization
from flax_depthmup.diagnostics.linearization import layerwise_linearization
from flax_depthmup.diagnostics.linearization import linearization_distance
from flax_depthmup.diagnostics.optimum import Optimum
from flax_depthmup.diagnostics.optimum import fit_optimum
from flax_depthmup.diagnostics.plain_net import PlainNet
from flax_depthmup.diagnostics.power_law import fit_power_law
from flax_depthmup.diagnostics.sharpness import adam_preconditioner
from flax_depthmup.diagnostics.sharpness import adam_threshold
from flax_depthmup.diagnostics.sharpness import descent_threshold
from flax_depthmup.diagnostics.sharpness import sgd_preconditioner
from flax_depthmup.diagnostics.sharpness import sharpness
from flax_depthmup.diagnostics.streams import residual_stream
from flax_depthmup.diagnostics.transfer import transfer_verdict
from flax_depthmup.diagnostics.valley import Valley
from flax_depthmup.diagnostics.valley import fit_valley

__all__ = [
  "CoordinateCheck",
  "DrawSummary",
  "FeatureDiversity",
  "GradientDiversity",
  "Linearization",
  "Optimum",
  "PlainNet",
  "Ritz",
  "Slope",
  "Training",
  "Valley",
  "adam_preconditioner",
  "adam_threshold",
  "coordinate_check",
  "coordinate_rows",
  "descent_threshold",
  "draw_coordinates",
  "feature_diversity",
  "fit_optimum",
  "fit_power_law",
  "fit_valley",
  "gradient_diversity",
  "judge_coordinates",
  "lanczos",
  "layerwise_linearization",
  "linearization_distance",
  "loss_scales",
  "neural_covariance",
  "residual_stream",
  "sgd_preconditioner",
  "sharpness",
  "sizes_of",
  "summarize_draws",
  "transfer_verdict",
]
