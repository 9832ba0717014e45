"""Models made of the library's layers."""

from flax_depthmup.models.residual_mlp import ResidualMLP

__all__ = ["ResidualMLP"]
