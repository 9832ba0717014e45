"""Parametrizations as data; see `presets` and `width_rules` for the tables."""

from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.presets import complete_p
from flax_depthmup.parametrizations.presets import depth_mup
from flax_depthmup.parametrizations.presets import depthwise
from flax_depthmup.parametrizations.presets import mup
from flax_depthmup.parametrizations.presets import ode
from flax_depthmup.parametrizations.presets import standard
from flax_depthmup.parametrizations.width_rules import STANDARD
from flax_depthmup.parametrizations.width_rules import TABLE_3
from flax_depthmup.parametrizations.width_rules import TABLE_8
from flax_depthmup.parametrizations.width_rules import TABLE_9
from flax_depthmup.parametrizations.width_rules import WidthRule

__all__ = [
  "STANDARD",
  "TABLE_3",
  "TABLE_8",
  "TABLE_9",
  "Parametrization",
  "WidthRule",
  "complete_p",
  "depth_mup",
  "depthwise",
  "mup",
  "ode",
  "standard",
]
