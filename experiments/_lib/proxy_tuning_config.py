"""What proxy_tuning is made of: its flags, its nets, and the draws of its trials."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from absl import flags

import flax_depthmup as dmup
from experiments._lib import flags as reading
from experiments._lib.throughput import transformer_flops
from flax_depthmup import DepthMupError

#: As train_lm has it: the vocabulary is filled up to a multiple of this.
_VOCAB_MULTIPLE = 128
#: Shared flags that mean nothing here.
_FOREIGN = (
  *("dataset", "optimizer", "log2_lr", "eps", "weight_decay", "activation", "norm"),
  *("block_depth", "block_multiplier", "pre_nonlinearity", "train_boundary", "patch"),
)

flags.DEFINE_integer("trials", 64, "Random draws of the hyperparameters for the proxy.")
flags.DEFINE_integer("direct", 6, "Random draws trained in the large net.")
flags.DEFINE_string(
  "neighbours",
  "-2:2:1",
  "Octaves of the learning rate around the transferred one, to find the large net's best.",
)
flags.DEFINE_integer("target_seeds", 2, "Seeds of the transferred net: 0, 1, ...")
flags.DEFINE_string("log2_lr_range", "-10:-4", "Of the draws: low:high.")
flags.DEFINE_string("log2_multiplier_range", "-3:3", "Likewise, of the block multiplier.")
flags.DEFINE_string("log2_decay_range", "-5:1", "Likewise, of the weight decay.")


class Values(NamedTuple):
  """The hyperparameters of a trial, as logarithms to base 2.

  Attributes:
    log2_lr: of the peak learning rate of the base net.
    log2_multiplier: of the block multiplier at base depth.
    log2_decay: of the weight decay, of matrices.
  """

  log2_lr: float
  log2_multiplier: float
  log2_decay: float


class Member(NamedTuple):
  """One training of a net: what it is called, its hyperparameters, its seed."""

  group: str
  values: Values
  seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    width, depth: of the large net.
    base_width, base_depth: of the proxy, the base net of the parametrization.
    ranges: (low, high) of each of `Values`, for the draws.
    eval_batches: held-out batches that the losses are measured on.
  """

  width: int
  depth: int
  base_width: int
  base_depth: int
  head_dim: int
  sequence_length: int
  batch_size: int
  steps: int
  trials: int
  direct: int
  neighbours: tuple[float, ...]
  target_seeds: int
  draw_seed: int
  ranges: tuple[tuple[float, float], ...]
  data_dir: str | None
  eval_batches: int = 20

  def __post_init__(self):
    positive = "head_dim sequence_length batch_size trials direct target_seeds"
    for name in positive.split():
      reading.positive(getattr(self, name), name)
    if self.steps < 10:
      raise DepthMupError(f"--steps={self.steps}: expected at least 10")
    if not 0 <= self.draw_seed < 2**31:
      raise DepthMupError(f"--draw_seed={self.draw_seed}: expected 0 to 2^31 - 1")
    if 0 not in self.neighbours:
      raise DepthMupError(
        f"--neighbours={self.neighbours}: the transferred rate itself is missing; give a "
        "grid that holds 0, such as -2:2:1"
      )
    for name, width in (("width", self.width), ("base_width", self.base_width)):
      reading.positive(width, name)
      if width % self.head_dim:
        raise DepthMupError(
          f"--head_dim={self.head_dim} does not divide --{name}={width}; give one that "
          "divides both widths"
        )
    for proxy in (True, False):
      self.net("complete_p", proxy, vocab=256)  # names a wrong value of the net

  def net(self, name: str, proxy: bool, vocab: int) -> dmup.Transformer:
    """The proxy, or the large net, under a preset: the net of train_lm."""
    width, depth = self.width, self.depth
    if proxy:
      width, depth = self.base_width, self.base_depth
    base = dmup.axis_sizes(width=self.base_width, heads=self.base_width // self.head_dim)
    return dmup.Transformer(
      width=width,
      depth=depth,
      vocab=-(-vocab // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE,
      heads=width // self.head_dim,
      parametrization=reading.parametrization(name, base, self.base_depth),
    )

  def flops(self, model: dmup.Transformer) -> float:
    """Operations of one training run, without its evaluation."""
    tokens = self.steps * self.batch_size * self.sequence_length
    return tokens * transformer_flops(model, self.sequence_length)

  def described(self) -> dict[str, Any]:
    """What config.json holds; the shards may lie elsewhere, their content is compared."""
    fields = dataclasses.asdict(self)
    del fields["data_dir"]
    return fields

  def title(self) -> str:
    """Of the figure."""
    return (
      f"proxy: width {self.base_width}, {self.base_depth} layers; large net: width "
      f"{self.width}, {self.depth} layers; {self.steps} steps of {self.batch_size} x "
      f"{self.sequence_length} tokens"
    )

  def draws(self, group: str) -> list[Member]:
    """Independent draws, uniform in the logarithms: "proxy" or "direct"."""
    stream, count = {"proxy": (0, self.trials), "direct": (1, self.direct)}[group]
    rng = np.random.default_rng((self.draw_seed, stream))
    low, high = np.array(self.ranges).T
    # To 2^-10 of an octave: what is printed is what was trained.
    table = np.round(rng.uniform(low, high, (count, len(low))) * 1024) / 1024
    return [Member(group, Values(*map(float, row)), 0) for row in table]

  def command(self, values: Values) -> str:
    """The command that trains the large net with these hyperparameters."""
    given = {
      "workdir": "DIR",
      **({} if self.data_dir is None else {"data_dir": self.data_dir}),
      **{name: getattr(self, name) for name in ("width", "depth")},
      **{name: getattr(self, name) for name in ("base_width", "base_depth", "head_dim")},
      **{name: getattr(self, name) for name in ("sequence_length", "batch_size")},
      **{name: getattr(self, name) for name in ("steps", "eval_batches")},
      "lr": f"{2**values.log2_lr:.6g}",
      "block_multiplier": f"{2**values.log2_multiplier:.6g}",
      "weight_decay": f"{2**values.log2_decay:.6g}",
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    return " ".join(["python -m experiments.train_lm", *words])


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("proxy_tuning", _FOREIGN)
  if f.mesh is None:
    reading.refuse("proxy_tuning without --mesh", ("rules",))
  given: dict[str, Any] = {
    "width": reading.default(f.width, 256),
    "depth": reading.default(f.depth, 32),
    "base_width": reading.default(f.base_width, 64),
    "base_depth": reading.default(f.base_depth, 4),
    "head_dim": reading.default(f.head_dim, 32),
    "sequence_length": reading.default(f.sequence_length, 64),
    "batch_size": reading.default(f.batch_size, 8),
    "steps": reading.default(f.steps, 200),
  }
  own = ("trials", "direct", "target_seeds", "draw_seed", "data_dir")
  names = ("log2_lr_range", "log2_multiplier_range", "log2_decay_range")
  return Config(
    **given,
    **{name: f[name].value for name in own},
    neighbours=reading.grid(f.neighbours, "neighbours"),
    ranges=tuple(_range(f[name].value, name) for name in names),
  )


def _range(text: str, flag: str) -> tuple[float, float]:
  """The two ends of "low:high"."""
  try:
    low, high = (float(part) for part in text.split(":"))
  except ValueError:
    low = high = math.nan
  if not (-64 <= low < high <= 64):
    raise DepthMupError(
      f"--{flag}={text!r}: expected low:high, logarithms to base 2 between -64 and 64 in "
      "this order, such as -10:-4"
    )
  return low, high
