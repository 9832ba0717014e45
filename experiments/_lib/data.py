"""Training sets in memory: images from their official files, windows of text."""

import dataclasses
import gzip
import hashlib
import pathlib
import struct
import zlib

import numpy as np

from experiments._lib.shards import open_shards
from flax_depthmup import DepthMupError

_MOST_TOKENS = 2**26
#: Labels of every set here.
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A training set in memory.

  Attributes:
    x: [examples, features] float32, of mean 0 and variance 1 (over the whole
      set for grey images, per channel for colour); of text, [examples, length]
      int32 tokens.
    y: [examples] int32 labels, 0 to 9; of text, the next token of each in x.
    shape: of an image before its pixels were laid in a row, (channels, height,
      width); None for text.
    vocab: number of different tokens; None for images.
  """

  x: np.ndarray
  y: np.ndarray
  shape: tuple[int, int, int] | None = None
  vocab: int | None = None

  def images(self) -> "Dataset":
    """The same with x of shape [examples, height, width, channels]."""
    x = self.x.reshape(-1, *self.shape).transpose(0, 2, 3, 1)
    return dataclasses.replace(self, x=np.ascontiguousarray(x))


def text(folder: str | pathlib.Path, length: int) -> Dataset:
  """Windows of `length` tokens of the training split of packed token shards.

  At most 2^26 tokens, taken evenly from all of it: a sweep holds its data in memory.

  Raises:
    DepthMupError: see `open_shards`; no window fits.
  """
  shards = open_shards(folder, "train")
  windows = shards.windows(length)
  count = min(len(windows), max(_MOST_TOKENS // length, 1))
  chosen = np.arange(count) * len(windows) // count
  tokens = np.stack([windows[i] for i in chosen])
  return Dataset(tokens[:, :-1], tokens[:, 1:], vocab=shards.vocab_size)


@dataclasses.dataclass(frozen=True)
class Splits:
  """A training and a test part.

  Attributes:
    train: standardized with its own mean and variance.
    test: of images of the same shape, standardized with those of the training part.
    fingerprint: of both, as they were read.
  """

  train: Dataset
  test: Dataset
  fingerprint: str


def check_name(name: str, data_dir: str | None) -> None:
  """Raises `DepthMupError` unless it names a set of images, and a folder if needed."""
  if name not in DATASETS:
    raise DepthMupError(f"--dataset={name}: expected one of {', '.join(DATASETS)}")
  if name != "digits" and data_dir is None:
    raise DepthMupError(
      f"--dataset={name} is read from its official files: give their folder with --data_dir"
    )


def load(name: str, data_dir: str | None) -> Dataset:
  """The training part of "mnist" or "cifar10", or all of "digits".

  Args:
    name: digits comes with scikit-learn; the others are read from `data_dir`.
    data_dir: folder of the official files: train-images-idx3-ubyte and
      train-labels-idx1-ubyte, with or without .gz, for mnist;
      data_batch_1.bin .. data_batch_5.bin, or the folder
      cifar-10-batches-bin that holds them, for cifar10.

  Raises:
    DepthMupError: unknown name, a file is missing, truncated or of another kind.
  """
  check_name(name, data_dir)
  if name == "digits":
    x, y = _digits()
  else:
    x, y = DATASETS[name](pathlib.Path(data_dir), "train")
  return _standardized(x, y, x)


def load_splits(name: str, data_dir: str | None) -> Splits:
  """Training and test part.

  Args:
    name: of digits, the last fifth is for testing.
    data_dir: as for `load`, with t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
      or test_batch.bin, besides.

  Raises:
    DepthMupError: as for `load`, or the images of the two have different shapes.
  """
  check_name(name, data_dir)
  if name == "digits":
    x, y = _digits()
    cut = len(x) - len(x) // 5
    train, test = (x[:cut], y[:cut]), (x[cut:], y[cut:])
  else:
    train, test = (DATASETS[name](pathlib.Path(data_dir), part) for part in _PARTS)
  shapes = [x.shape[1:] for x, _ in (train, test)]
  if shapes[0] != shapes[1]:
    raise DepthMupError(
      f"{data_dir} holds training images of shape {shapes[0]} but test images of shape "
      f"{shapes[1]}; give the files of one set"
    )
  digest = hashlib.sha256(repr([x.shape for x, _ in (train, test)]).encode())
  for array in (*train, *test):
    digest.update(np.ascontiguousarray(array))
  return Splits(
    *(_standardized(*part, by=train[0]) for part in (train, test)), digest.hexdigest()
  )


def epoch_order(seed: int, examples: int, length: int) -> np.ndarray:
  """The order of the data: one shuffle after another, cut to `length` indices.

  A function of (seed, position) alone. [length] int32.
  """
  epochs = range(-(-length // examples))
  shuffles = [np.random.default_rng((seed, e)).permutation(examples) for e in epochs]
  return np.concatenate(shuffles)[:length].astype(np.int32)


#: Images [examples, channels, height, width] and labels [examples], bytes.
_Part = tuple[np.ndarray, np.ndarray]

#: Part of a set -> what messages call it.
_PARTS = {"train": "training", "test": "test"}


def _digits() -> _Part:
  from sklearn.datasets import load_digits

  x, y = load_digits(return_X_y=True)
  return x.astype(np.uint8).reshape(-1, 1, 8, 8), y.astype(np.uint8)


def _mnist(folder: pathlib.Path, part: str) -> _Part:
  prefix = {"train": "train", "test": "t10k"}[part]
  x = _idx(folder, f"{prefix}-images-idx3-ubyte", 3)
  y = _idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
  if len(x) != len(y) or not len(x):
    raise DepthMupError(
      f"{folder} holds {len(x)} {_PARTS[part]} images but {len(y)} labels; give the two "
      "files of one set, which is not empty"
    )
  _check_labels(y, folder)
  return x[:, None], y


def _idx(folder: pathlib.Path, name: str, dims: int) -> np.ndarray:
  """An IDX file of unsigned bytes, gzipped or not."""
  paths = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
  if not paths:
    raise DepthMupError(f"{folder} has no {name} or {name}.gz; point --data_dir at them")
  try:
    raw = paths[0].read_bytes()
    content = gzip.decompress(raw) if paths[0].suffix == ".gz" else raw
  except (EOFError, OSError, zlib.error):
    raise DepthMupError(f"{paths[0]} is no whole gzip file; download it again") from None
  header = 4 + 4 * dims
  if len(content) < header or content[:4] != bytes([0, 0, 8, dims]):
    raise DepthMupError(f"{paths[0]} is no IDX file of {dims}-dimensional bytes")
  shape = struct.unpack(f">{dims}I", content[4:header])
  found, expected = len(content) - header, int(np.prod(shape))
  if found != expected:
    raise DepthMupError(
      f"{paths[0]} has {found} bytes of data, its header promises {expected}: it is "
      "truncated or damaged; download it again"
    )
  return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


_CIFAR_RECORD = 1 + 3 * 32 * 32


def _cifar10(folder: pathlib.Path, part: str) -> _Part:
  inner = folder / "cifar-10-batches-bin"
  folder = inner if inner.is_dir() else folder
  names = [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
  records = []
  for name in names:
    path = folder / f"{name}.bin"
    if not path.is_file():
      raise DepthMupError(
        f"{folder} has no {path.name}; point --data_dir at the unpacked binary version "
        "of CIFAR-10"
      )
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(content) or len(content) % _CIFAR_RECORD:
      raise DepthMupError(
        f"{path} has {len(content)} bytes, no positive multiple of {_CIFAR_RECORD}: it "
        "is truncated or not the binary version of CIFAR-10"
      )
    records.append(content.reshape(-1, _CIFAR_RECORD))
  table = np.concatenate(records)
  _check_labels(table[:, 0], folder)
  return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0]


def _check_labels(y: np.ndarray, folder: pathlib.Path) -> None:
  if y.max() >= CLASSES:
    raise DepthMupError(f"{folder} holds the label {y.max()}; expected 0 to 9")


def _standardized(x: np.ndarray, y: np.ndarray, by: np.ndarray) -> Dataset:
  """Images with the mean and deviation that `by` has, channel by channel, removed."""
  by = by.astype(np.float32)
  mean, std = (f(by, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
  flat = ((x.astype(np.float32) - mean) / std).reshape(len(x), -1)
  return Dataset(flat, y.astype(np.int32), x.shape[1:])


#: Name -> reader of a part; digits are no files.
DATASETS = {"digits": None, "mnist": _mnist, "cifar10": _cifar10}
