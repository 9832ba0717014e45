"""The flags of omniglot_maml, resolved."""

import dataclasses
import math
import re
from typing import NamedTuple

from absl import flags

from experiments._lib import flags as reading
from experiments._lib import transfer_config  # noqa: F401 (its flags widths and seeds)
from experiments._lib.omniglot_archives import DRAWINGS
from experiments._lib.omniglot_kernels import KernelLearner
from experiments._lib.omniglot_learning import Settings
from experiments._lib.omniglot_linear import LinearLearner
from experiments._lib.omniglot_tuned import KERNELS, linear
from flax_depthmup import DepthMupError

_SET = "Archives without .zip, or ARCHIVE/ALPHABET, for "
_TRAIN = flags.DEFINE_list("train_sets", ["images_background_small1"], f"{_SET}training.")
_VALIDATION = flags.DEFINE_list(
  "validation_sets", [], f"{_SET}choosing the best state; without, the last is tested."
)
_TEST = flags.DEFINE_list(
  "test_sets",
  [
    f"images_background_small2/{alphabet}"
    for alphabet in ("Japanese_(katakana)", "Sanskrit", "Tagalog")
  ],
  f"{_SET}test.",
)
_BASELINES = flags.DEFINE_list(
  "baselines",
  ["relu_nngp", "relu_ntk", "linear_kernel"],
  "Kernels to compare with; empty for none.",
)
_BASELINE_STEPS = flags.DEFINE_integer("baseline_steps", 500, "Their meta-steps.")
_WAYS = flags.DEFINE_integer("ways", 5, "Classes of a task.")
_SHOTS = flags.DEFINE_integer("shots", 1, "Support images of a class.")
_QUERIES = flags.DEFINE_integer("queries", 1, "Query images of a class.")
_INNER_LR = flags.DEFINE_float("inner_lr", 0.4, "Learning rate within a task.")
_INNER_STEPS = flags.DEFINE_integer("inner_steps", 1, "Steps within a task, in training.")
_TEST_INNER_STEPS = flags.DEFINE_integer("test_inner_steps", 20, "Likewise, in the test.")
_TEST_TASKS = flags.DEFINE_integer("test_tasks", 1600, "Tasks of the test.")
_VALIDATION_TASKS = flags.DEFINE_integer("validation_tasks", 3200, "Of a validation.")
_META_CLIP = flags.DEFINE_float("meta_clip", 0.5, "Bound on the meta-gradient's norm.")
_META_LR = flags.DEFINE_float(
  "meta_lr", None, "Of linear nets of all widths; else the paper's for each width."
)
_SIGMA_U = flags.DEFINE_float("init_sigma_u", None, "Of input weights; likewise.")
_SIGMA_V = flags.DEFINE_float("init_sigma_v", None, "Of output weights; likewise.")
_BIAS = flags.DEFINE_float("bias_multiplier", None, "Of hidden biases; likewise.")

NAME = "omniglot_maml"
#: Shared flags that mean nothing here.
_FOREIGN = (
  "dataset width depth base_width base_depth optimizer log2_lr eps weight_decay activation "
  "block_depth pre_nonlinearity norm block_multiplier train_boundary head_dim "
  "sequence_length patch rules mesh parametrizations depths log2_lrs log2_multipliers "
  "window axis"
)


class Model(NamedTuple):
  """One that is meta-trained from every seed: "width", "limit", or a kernel's name."""

  name: str
  width: int | None = None

  def __str__(self) -> str:
    return self.name if self.width is None else f"{self.name} {self.width}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds. See the flags' own help.

  Attributes:
    batch_size: tasks of a meta-step.
  """

  data_dir: str
  train_sets: tuple[str, ...]
  validation_sets: tuple[str, ...]
  test_sets: tuple[str, ...]
  widths: tuple[int, ...]
  baselines: tuple[str, ...]
  seeds: int
  steps: int
  baseline_steps: int
  batch_size: int
  ways: int
  shots: int
  queries: int
  inner_lr: float
  inner_steps: int
  test_inner_steps: int
  test_tasks: int
  validation_tasks: int
  meta_clip: float
  meta_lr: float | None
  init_sigma_u: float | None
  init_sigma_v: float | None
  bias_multiplier: float | None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type in (int, float):
        reading.positive(getattr(self, field.name), field.name)
    if self.meta_lr is not None:
      reading.positive(self.meta_lr, "meta_lr")
    for name in ("init_sigma_u", "init_sigma_v", "bias_multiplier"):
      value = getattr(self, name)
      if value is not None and not (math.isfinite(value) and value >= 0):
        raise DepthMupError(f"--{name}={value}: expected a finite number of at least 0")
    if self.ways < 2:
      raise DepthMupError("--ways=1: with one class there is nothing to tell apart")
    if self.test_tasks < 2:
      raise DepthMupError("--test_tasks=1: one task tells no error; give two or more")
    if self.shots + self.queries > DRAWINGS:
      raise DepthMupError(
        f"--shots={self.shots} and --queries={self.queries}: a character has "
        f"{DRAWINGS} drawings, too few for both"
      )
    unknown = [name for name in self.baselines if name not in KERNELS]
    if unknown or len(set(self.baselines)) != len(self.baselines):
      raise DepthMupError(
        f"--baselines={','.join(self.baselines)!r}: expected distinct ones of "
        f"{', '.join(KERNELS)}"
      )

  def models(self) -> list[Model]:
    """Widths in order, the limit, the baselines."""
    finite = [Model("width", width) for width in self.widths]
    return [*finite, Model("limit"), *map(Model, self.baselines)]

  def meta_steps(self, model: Model) -> int:
    """How many a model takes."""
    return self.baseline_steps if model.name in KERNELS else self.steps

  def sets(self) -> dict[str, tuple[str, ...]]:
    """By part."""
    names = ("train", "validation", "test")
    return {part: getattr(self, f"{part}_sets") for part in names}

  def settings(self) -> Settings:
    """Of the tasks."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Settings)}
    return Settings(**fields)

  def learner(self, model: Model) -> LinearLearner | KernelLearner:
    """The program of a model, with the paper's hyperparameters where none are given."""
    if model.name in KERNELS:
      own = KERNELS[model.name]
      return KernelLearner(own.kernel, own.meta_lr, self.settings())
    given = {
      "meta_lr": self.meta_lr,
      "sigma_u": self.init_sigma_u,
      "sigma_v": self.init_sigma_v,
      "bias_multiplier": self.bias_multiplier,
    }
    tuned = linear(model.width)._asdict()
    tuned |= {k: v for k, v in given.items() if v is not None}
    return LinearLearner(model.width, **tuned, settings=self.settings())

  def title(self) -> str:
    """Of the figure."""
    task = f"{self.ways}-way {self.shots}-shot"
    return f"Omniglot, {task}, first-order MAML, {self.steps} meta-steps"


def from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse(NAME, _FOREIGN.split())
  if f["model"].present:  # it has a default
    raise DepthMupError(f"--model={f.model}: {NAME} has linear nets alone; leave it out")
  if f.data_dir is None:
    raise DepthMupError(
      "--data_dir is missing: give the folder of Omniglot's archives, such as "
      "images_background_small1.zip"
    )
  return Config(
    data_dir=f.data_dir,
    train_sets=_sets(_TRAIN),
    validation_sets=_sets(_VALIDATION, required=False),
    test_sets=_sets(_TEST),
    widths=reading.integers(
      reading.default(f.widths, ["2", "8", "32", "128", "512"]), "widths"
    ),
    baselines=tuple(_BASELINES.value),
    seeds=reading.default(f.seeds, 2),
    steps=reading.default(f.steps, 1500),
    baseline_steps=_BASELINE_STEPS.value,
    batch_size=reading.default(f.batch_size, 32),
    ways=_WAYS.value,
    shots=_SHOTS.value,
    queries=_QUERIES.value,
    inner_lr=_INNER_LR.value,
    inner_steps=_INNER_STEPS.value,
    test_inner_steps=_TEST_INNER_STEPS.value,
    test_tasks=_TEST_TASKS.value,
    validation_tasks=_VALIDATION_TASKS.value,
    meta_clip=_META_CLIP.value,
    meta_lr=_META_LR.value,
    init_sigma_u=_SIGMA_U.value,
    init_sigma_v=_SIGMA_V.value,
    bias_multiplier=_BIAS.value,
  )


def _sets(flag: flags.FlagHolder, required: bool = True) -> tuple[str, ...]:
  """Names of archives, or of alphabets in them, distinct."""
  sets = tuple(flag.value)
  good = all(re.fullmatch(r"[\w-]+(/[^/]+)?", name) for name in sets)
  if not good or len(set(sets)) != len(sets) or (required and not sets):
    raise DepthMupError(
      f"--{flag.name}={','.join(sets)!r}: expected distinct names of archives or of "
      "alphabets in them, such as images_background_small2/Sanskrit"
    )
  return sets
