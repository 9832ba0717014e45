"""The limits that limit_convergence looks at, by name."""

from experiments._lib import (
  limit_convergence_kernels,
  limit_convergence_mlp,
  limit_convergence_residual,
)
from experiments._lib.limit_convergence_case import Case

CASES: dict[str, Case] = {
  **limit_convergence_residual.cases(),
  **limit_convergence_mlp.cases(),
  **limit_convergence_kernels.cases(),
}
