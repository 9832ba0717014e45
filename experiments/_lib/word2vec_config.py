"""The flags of word2vec, resolved."""

import dataclasses
import hashlib
import math
import os
import pathlib

import jax
from absl import flags

from experiments._lib import flags as reading
from experiments._lib import transfer_config  # noqa: F401 (its flags widths and seeds)
from experiments._lib.word2vec_sampler import BLOCK, Sampling
from flax_depthmup import DepthMupError

_TEXT = flags.DEFINE_string(
  "text", None, "text8, fil9 or any text, also .gz or .zip; none: a synthetic one."
)
_QUESTIONS = flags.DEFINE_string("questions", None, "The file questions-words.txt.")
_CLEAN = flags.DEFINE_boolean(
  "clean", True, "Lower-case, and take all but a-z for space; else leave words as they are."
)
_MIN_COUNT = flags.DEFINE_integer(
  "min_count", None, "Rarer words are dropped; default 5, as for text8 (10 for fil9)."
)
_MAX_VOCABULARY = flags.DEFINE_integer(
  "max_vocabulary", None, "Only the most frequent words, the end of a line included."
)
_WINDOW = flags.DEFINE_integer("context_window", None, "Largest radius; default 8.")
_SUBSAMPLE = flags.DEFINE_float(
  "subsample", None, "Threshold of sub-sampling; default 1e-4; 0: none."
)
_NEGATIVES = flags.DEFINE_integer("negatives", None, "Per position; default 25.")
_SINGLE_TARGET = flags.DEFINE_boolean(
  "single_target",
  False,
  "One target a position, the centre with probability 1/21, else any other word (the "
  "paper's text), not the centre and --negatives by count^0.75 (its code).",
)
_INFINITE = flags.DEFINE_boolean("infinite", True, "Train the infinite-width limit too.")
_EPOCHS = flags.DEFINE_integer(
  "text_epochs", None, "Passes through the text; default 15, as for text8 (5 for fil9)."
)
_LR = flags.DEFINE_float("cbow_lr", None, "Learning rate at the start; default 0.05.")
_LAZY_DECAY = flags.DEFINE_boolean(
  "lazy_decay",
  True,
  "Weight decay of the rows a step visits (the code); else of all rows (the paper's "
  "pseudo-code), which costs a pass over both matrices a step.",
)
_SEQUENTIAL = flags.DEFINE_boolean(
  "sequential", False, "Positions one after another: exact, and slow."
)
_READOUT_SIGMA = flags.DEFINE_float(
  "readout_sigma",
  0.0,
  "sigma_v of the output embeddings: 0 (the code), 1 (the paper's text), for which the "
  "limit has 2|V| columns.",
)
_UNIFORM = flags.DEFINE_boolean(
  "uniform_embeddings",
  True,
  "Input embeddings uniform on +-sqrt(3/n) (the code); else Gaussian (the paper's text).",
)
_MEMORY_GIB = flags.DEFINE_float(
  "embedding_memory_gib", None, "What a cell may take; default: the device's memory."
)
#: Shared flags that mean nothing here.
_FOREIGN = "dataset data_dir width depth base_width base_depth steps optimizer log2_lr eps"
_FOREIGN += " activation block_depth pre_nonlinearity norm block_multiplier depths window"
_FOREIGN += " train_boundary head_dim sequence_length patch rules mesh parametrizations"
_FOREIGN += " log2_lrs log2_multipliers axis"

#: What stands for a width in records: the limit of muP, and that of the kernel regime.
LIMIT, KERNEL = "limit", "kernel"

Cell = tuple[int | str, int]  # width, seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What config.json holds; see the flags' own help.

  Attributes:
    text_sha256: of the text's file, which may change under its name; None for the
      synthetic text.
    questions_sha256: likewise.
  """

  text: str | None
  text_sha256: str | None
  questions: str | None
  questions_sha256: str | None
  clean: bool
  min_count: int
  max_vocabulary: int | None
  sampling: Sampling
  widths: tuple[int, ...]
  infinite: bool
  seeds: int
  epochs: int
  lr: float
  weight_decay: float
  lazy_decay: bool
  batch_size: int
  sequential: bool
  readout_sigma: float
  uniform_embeddings: bool

  def cells(self) -> list[Cell]:
    """The limit of a seed first: finite nets are compared with it."""
    widths = [LIMIT, *self.widths] if self.infinite else [*self.widths]
    return [(width, seed) for seed in range(self.seeds) for width in widths]

  def columns(self, width: int | str, words: int) -> int:
    """Of the matrices of embeddings."""
    if width != LIMIT:
      return int(width)
    return 2 * words if self.readout_sigma else words

  def needed_bytes(self, width: int | str, words: int) -> int:
    """Of memory: two matrices in float32, and the rows of a batch and their changes."""
    s = self.sampling
    rows = 2 * s.window + (1 if s.single_target else 1 + s.negatives)
    touched = 0 if self.sequential else 2 * self.batch_size * rows
    return 4 * (2 * words + touched) * self.columns(width, words)

  def title(self, words: int) -> str:
    """Of the figures."""
    text = pathlib.Path(self.text).name if self.text else "synthetic text"
    seeds = f"{self.seeds} seed{'s' * (self.seeds > 1)}"
    passes = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
    return f"Word2Vec (CBOW) in μP, {text}, {words:,} words, {passes}, {seeds}"


def from_flags() -> Config:
  """The flags as a `Config`; defaults are the paper's for text8, or the demo's.

  Raises:
    DepthMupError: a value is wrong.
  """
  reading.refuse("word2vec", _FOREIGN.split())
  f, text = flags.FLAGS, _TEXT.value
  paper = text is not None
  if paper == (_QUESTIONS.value is None):
    raise DepthMupError(
      "--text needs --questions, the file questions-words.txt; the synthetic text, "
      "without both, has its own"
    )
  sampling = Sampling(
    window=_whole(_WINDOW, 8 if paper else 2),
    subsample=_number(_SUBSAMPLE, 1e-4 if paper else 0.0),
    negatives=_whole(_NEGATIVES, 25 if paper else 5),
    single_target=_SINGLE_TARGET.value,
  )
  widths = ["64", "256", "1024"]
  if not paper:
    widths = ["8", "32", "64", "128", "256", "512", "1024", "2048"]
  config = Config(
    text=text,
    text_sha256=_sha256(_TEXT),
    questions=_QUESTIONS.value,
    questions_sha256=_sha256(_QUESTIONS),
    clean=_CLEAN.value,
    min_count=_whole(_MIN_COUNT, 5 if paper else 1),
    max_vocabulary=None if _MAX_VOCABULARY.value is None else _whole(_MAX_VOCABULARY, 0),
    sampling=sampling,
    widths=reading.integers(reading.default(f.widths, widths), "widths"),
    infinite=_INFINITE.value,
    seeds=_whole(f["seeds"], 1 if paper else 4),
    epochs=_whole(_EPOCHS, 15 if paper else 6),
    lr=_number(_LR, 0.05 if paper else 0.3),
    weight_decay=_number(f["weight_decay"], 1e-3),
    lazy_decay=_LAZY_DECAY.value,
    batch_size=_whole(f["batch_size"], 64 if paper else 16),
    sequential=_SEQUENTIAL.value,
    readout_sigma=_number(_READOUT_SIGMA, 0.0),
    uniform_embeddings=_UNIFORM.value,
  )
  if min(config.widths) < 2:
    raise DepthMupError(
      f"--widths={min(config.widths)}: expected at least 2, as the figure shows "
      "embeddings in a plane"
    )
  reading.positive(config.lr, "cbow_lr")
  if config.batch_size > BLOCK:
    raise DepthMupError(f"--batch_size={config.batch_size}: expected at most {BLOCK}")
  if _MEMORY_GIB.value is not None:
    reading.positive(_MEMORY_GIB.value, "embedding_memory_gib")
  return config


def check_memory(config: Config, words: int) -> None:
  """Refuses what does not fit before it is begun.

  Args:
    config: of the run.
    words: |V|.

  Raises:
    DepthMupError: a cell needs more than the device has, or the device does not tell.
  """
  budget = _budget()
  for width in {width: None for width, _ in config.cells()}:
    needed = config.needed_bytes(width, words)
    if needed > budget:
      shape = f"{words:,} x {config.columns(width, words):,}"
      raise DepthMupError(
        f"width {width} needs {needed / 2**30:.3g} GiB of memory for two matrices "
        f"{shape} and a batch, and there are {budget / 2**30:.3g}; give a smaller "
        "--max_vocabulary, a larger --min_count, or leave the limit out: --infinite=false"
      )


def _budget() -> float:
  """Bytes a cell may take."""
  if _MEMORY_GIB.value is not None:
    return _MEMORY_GIB.value * 2**30
  device = jax.local_devices()[0]
  if device.platform == "cpu":
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  limit = (device.memory_stats() or {}).get("bytes_limit")
  if limit is None:
    raise DepthMupError(f"{device} does not tell its memory; give --embedding_memory_gib")
  return limit


def _sha256(flag: flags.FlagHolder) -> str | None:
  """Of the file that a flag names; read in parts, so it need not fit into memory."""
  if flag.value is None:
    return None
  try:
    with pathlib.Path(flag.value).open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    told = f"--{flag.name}={flag.value} cannot be read: {error.strerror}"
    raise DepthMupError(told) from None


def _whole(flag: flags.FlagHolder | flags.Flag, default: int) -> int:
  value = reading.default(flag.value, default)
  if value < 1:
    raise DepthMupError(f"--{flag.name}={value}: expected a whole number of at least 1")
  return value


def _number(flag: flags.FlagHolder | flags.Flag, default: float) -> float:
  value = reading.default(flag.value, default)
  if not (math.isfinite(value) and value >= 0):
    raise DepthMupError(f"--{flag.name}={value}: expected a finite number of at least 0")
  return value
