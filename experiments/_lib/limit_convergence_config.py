"""The flags of limit_convergence, resolved."""

import dataclasses

from absl import flags

from experiments._lib import (
  flags as reading,
)
from experiments._lib import (
  transfer_config,  # noqa: F401 (its flags widths, depths and seeds)
)
from experiments._lib.limit_convergence_cases import CASES
from flax_depthmup import DepthMupError

flags.DEFINE_list("limits", None, f"Of {', '.join(CASES)}; default: all.")

#: Shared flags that mean nothing here.
_FOREIGN = (
  "dataset data_dir width depth base_width base_depth optimizer activation block_depth "
  "pre_nonlinearity norm steps batch_size log2_lr block_multiplier train_boundary "
  "head_dim sequence_length patch rules mesh eps weight_decay window parametrizations "
  "log2_lrs log2_multipliers axis"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    limits: names of cases.
    widths: of the nets of every case; None: each its own.
    seeds: nets of each width; likewise.
    depths: of infinite width.
  """

  limits: tuple[str, ...]
  widths: tuple[int, ...] | None
  seeds: int | None
  depths: tuple[int, ...]

  def __post_init__(self):
    unknown = [name for name in self.limits if name not in CASES]
    if unknown or not self.limits or len(set(self.limits)) != len(self.limits):
      raise DepthMupError(
        f"--limits={','.join(self.limits)!r}: expected distinct names of {', '.join(CASES)}"
      )
    if self.widths is not None and self.widths[0] < 2:
      raise DepthMupError("--widths holds 1: expected at least 2")
    odd = [depth for depth in self.depths if depth % 2]
    if odd:
      raise DepthMupError(
        f"--depths: {odd[0]} is odd; kernels are compared in the middle of the depth too"
      )

  def of_case(self, name: str) -> tuple[tuple[int, ...], int]:
    """Widths of a case's finite nets, none where it has none, and seeds."""
    case = CASES[name]
    if case.nets is None:
      return (), 0
    return self.widths or case.widths, self.seeds or case.seeds


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("limit_convergence", _FOREIGN.split())
  if f.seeds is not None:
    reading.positive(f.seeds, "seeds")
  depths = reading.default(f.depths, ["16", "32", "64", "128", "256", "512"])
  return Config(
    limits=tuple(reading.default(f.limits, [*CASES])),
    widths=None if f.widths is None else reading.integers(f.widths, "widths"),
    seeds=f.seeds,
    depths=reading.integers(depths, "depths"),
  )
