"""Models that are not ours: their axes from two sizes, their scales, their start.

Layer: jax, flax, mathematics.
"""

from flax_depthmup.adapt.model_axes import ModelAxes
from flax_depthmup.adapt.model_axes import ParameterAxes
from flax_depthmup.adapt.rescale import init_laws
from flax_depthmup.adapt.rescale import rescale_init
from flax_depthmup.adapt.resolved import PlacedByHand
from flax_depthmup.adapt.resolved import parametrization_from_axes
from flax_depthmup.adapt.resolved import placed_by_hand
from flax_depthmup.adapt.resolved import scales_from_axes
from flax_depthmup.adapt.shapes import axes_from_shapes

__all__ = [
  "ModelAxes",
  "ParameterAxes",
  "PlacedByHand",
  "axes_from_shapes",
  "init_laws",
  "parametrization_from_axes",
  "placed_by_hand",
  "rescale_init",
  "scales_from_axes",
]
