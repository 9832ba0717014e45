"""Image classification sets, from their official files or embedded."""

import dataclasses
import gzip
import pathlib
import struct
import zlib

import numpy as np

from flax_depthmup import DepthMupError

#: Labels of every set here.
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A training set in memory.

  Attributes:
    x: [examples, features] float32, of mean 0 and variance 1 (over the whole
      set for grey images, per channel for colour).
    y: [examples] int32 labels, 0 to 9.
  """

  x: np.ndarray
  y: np.ndarray


def load(name: str, data_dir: str | None) -> Dataset:
  """The training part of "digits", "mnist" or "cifar10".

  Args:
    name: digits comes with scikit-learn; the others are read from `data_dir`.
    data_dir: folder of the official files: train-images-idx3-ubyte and
      train-labels-idx1-ubyte, with or without .gz, for mnist;
      data_batch_1.bin .. data_batch_5.bin, or the folder
      cifar-10-batches-bin that holds them, for cifar10.

  Raises:
    DepthMupError: unknown name, a file is missing, truncated or of another kind.
  """
  if name not in DATASETS:
    raise DepthMupError(f"--dataset={name}: expected one of {', '.join(DATASETS)}")
  if name == "digits":
    return _digits()
  if data_dir is None:
    raise DepthMupError(
      f"--dataset={name} is read from its official files: give their folder with --data_dir"
    )
  return DATASETS[name](pathlib.Path(data_dir))


def epoch_order(seed: int, examples: int, length: int) -> np.ndarray:
  """The order of the data: one shuffle after another, cut to `length` indices.

  A function of (seed, position) alone. [length] int32.
  """
  epochs = range(-(-length // examples))
  shuffles = [np.random.default_rng((seed, e)).permutation(examples) for e in epochs]
  return np.concatenate(shuffles)[:length].astype(np.int32)


def _digits() -> Dataset:
  from sklearn.datasets import load_digits

  x, y = load_digits(return_X_y=True)
  return Dataset(_standardized(x, axis=None), y.astype(np.int32))


def _mnist(folder: pathlib.Path) -> Dataset:
  x = _idx(folder, "train-images-idx3-ubyte", 3)
  y = _idx(folder, "train-labels-idx1-ubyte", 1)
  if len(x) != len(y):
    raise DepthMupError(
      f"{folder} holds {len(x)} training images but {len(y)} labels; give the two "
      "files of one set"
    )
  return Dataset(_standardized(x, None).reshape(len(x), -1), _labels(y, folder))


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


def _cifar10(folder: pathlib.Path) -> Dataset:
  inner = folder / "cifar-10-batches-bin"
  folder = inner if inner.is_dir() else folder
  records = []
  for i in range(1, 6):
    path = folder / f"data_batch_{i}.bin"
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
  images = table[:, 1:].reshape(-1, 3, 32, 32)
  x = _standardized(images, axis=(0, 2, 3)).reshape(len(images), -1)
  return Dataset(x, _labels(table[:, 0], folder))


def _labels(y: np.ndarray, folder: pathlib.Path) -> np.ndarray:
  if y.max() > 9:
    raise DepthMupError(f"{folder} holds the label {y.max()}; expected 0 to 9")
  return y.astype(np.int32)


def _standardized(x: np.ndarray, axis: tuple[int, ...] | None) -> np.ndarray:
  x = x.astype(np.float32)
  mean, std = (f(x, axis=axis, keepdims=True) for f in (np.mean, np.std))
  return (x - mean) / std


DATASETS = {"digits": None, "mnist": _mnist, "cifar10": _cifar10}
