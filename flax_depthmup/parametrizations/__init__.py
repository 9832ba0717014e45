"""Parametrizations as data; see `presets`, `published` and `width_rules` for the tables."""

from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.batch_and_duration import AdamWSettings
from flax_depthmup.parametrizations.eps_rules import EPS_BRANCHES
from flax_depthmup.parametrizations.eps_rules import EPS_COMPLETE_DP
from flax_depthmup.parametrizations.eps_rules import EPS_CONSTANT
from flax_depthmup.parametrizations.eps_rules import EPS_EVERYWHERE
from flax_depthmup.parametrizations.eps_rules import EPS_HIDDEN
from flax_depthmup.parametrizations.eps_rules import EpsRule
from flax_depthmup.parametrizations.presets import complete_p
from flax_depthmup.parametrizations.presets import depth_mup
from flax_depthmup.parametrizations.presets import depthwise
from flax_depthmup.parametrizations.presets import mup
from flax_depthmup.parametrizations.presets import ode
from flax_depthmup.parametrizations.presets import standard
from flax_depthmup.parametrizations.published import complete_d_p
from flax_depthmup.parametrizations.published import complete_p_eleuther
from flax_depthmup.parametrizations.published import complete_p_paper
from flax_depthmup.parametrizations.published import megatron_depth_mup
from flax_depthmup.parametrizations.published import mini_cpm
from flax_depthmup.parametrizations.published import mup_package
from flax_depthmup.parametrizations.published import u_mup
from flax_depthmup.parametrizations.width_rules import STANDARD
from flax_depthmup.parametrizations.width_rules import TABLE_3
from flax_depthmup.parametrizations.width_rules import TABLE_8
from flax_depthmup.parametrizations.width_rules import TABLE_9
from flax_depthmup.parametrizations.width_rules import U_MUP
from flax_depthmup.parametrizations.width_rules import WidthRule

__all__ = [
  "AdamWSettings",
  "EPS_BRANCHES",
  "EPS_COMPLETE_DP",
  "EPS_CONSTANT",
  "EPS_EVERYWHERE",
  "EPS_HIDDEN",
  "EpsRule",
  "Parametrization",
  "STANDARD",
  "TABLE_3",
  "TABLE_8",
  "TABLE_9",
  "U_MUP",
  "WidthRule",
  "complete_d_p",
  "complete_p",
  "complete_p_eleuther",
  "complete_p_paper",
  "depth_mup",
  "depthwise",
  "megatron_depth_mup",
  "mini_cpm",
  "mup",
  "mup_package",
  "ode",
  "standard",
  "u_mup",
]
