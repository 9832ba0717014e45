"""Instruments: what a user measures on their own runs."""

from flax_depthmup.diagnostics.optimum import Optimum
from flax_depthmup.diagnostics.optimum import fit_optimum
from flax_depthmup.diagnostics.transfer import transfer_verdict

__all__ = ["Optimum", "fit_optimum", "transfer_verdict"]
