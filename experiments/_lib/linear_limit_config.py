"""The flags of linear_limit, resolved."""

import dataclasses

from absl import flags

from experiments._lib import (
  data,
  transfer_config,  # noqa: F401 (its flags depths and seeds)
)
from experiments._lib import flags as reading
from flax_depthmup import DepthMupError

flags.DEFINE_list("times", None, "Steps of SGD after which features are compared.")

#: Shared flags that mean nothing here.
_FOREIGN = (
  "base_width base_depth optimizer activation block_depth pre_nonlinearity norm steps "
  "train_boundary axis head_dim sequence_length patch rules mesh eps weight_decay window "
  "parametrizations log2_lrs log2_multipliers width"
)

#: Parts of the depth at which the figures look.
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    widths, depth: of the finite nets.
    depths: of the nets of infinite width.
    times: steps after which features are compared.
  """

  dataset: str
  data_dir: str | None
  widths: tuple[int, ...]
  depth: int
  depths: tuple[int, ...]
  times: tuple[int, ...]
  seeds: int
  batch_size: int
  log2_lr: float
  block_multiplier: float

  def __post_init__(self):
    reading.positive(self.block_multiplier, "block_multiplier")
    for name in ("seeds", "batch_size", "depth"):
      reading.positive(getattr(self, name), name)
    data.check_name(self.dataset, self.data_dir)
    if not -30 <= self.log2_lr <= 30:
      raise DepthMupError(f"--log2_lr={self.log2_lr}: expected -30 to 30")
    for name, depths in (("depth", (self.depth,)), ("depths", self.depths)):
      odd = [depth for depth in depths if depth % 4]
      if odd:
        raise DepthMupError(
          f"--{name}: {odd[0]} is no multiple of 4; features are compared at quarters of "
          "the depth"
        )

  def title(self) -> str:
    """Of the figures."""
    step = f"batch {self.batch_size}, eta 2^{self.log2_lr:g}"
    return f"Linear residual nets, Depth-μP, {self.dataset}, SGD, {step}"


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("linear_limit", _FOREIGN.split())

  def sizes(flag: str, otherwise: str) -> tuple[int, ...]:
    return reading.integers(reading.default(f[flag].value, otherwise.split()), flag)

  return Config(
    dataset=f.dataset or "digits",
    data_dir=f.data_dir,
    widths=sizes("widths", "64 128 256 512 1024 2048"),
    depth=reading.default(f.depth, 64),
    depths=sizes("depths", "16 32 64 128 256 512"),
    times=sizes("times", "1 5 10"),
    seeds=reading.default(f.seeds, 20),
    batch_size=reading.default(f.batch_size, 4),
    log2_lr=reading.default(f.log2_lr, -1.0),
    block_multiplier=reading.default(f.block_multiplier, 1.0),
  )
