"""The readers of official files: shapes, and every way a file can be wrong."""

import gzip
import pathlib
import struct

import numpy as np
import pytest

from experiments._lib.data import epoch_order, load
from flax_depthmup import DepthMupError

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


def test_digits():
  d = load("digits", None)
  assert (d.x.shape, d.x.dtype, d.y.dtype) == ((1797, 64), "f4", "i4")
  assert d.x.mean() == pytest.approx(0, abs=1e-4)
  assert d.x.std() == pytest.approx(1, abs=1e-4)


def write_mnist(folder, images=None, labels=None, zipped=True):
  images = (
    np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4) if images is None else images
  )
  labels = np.array([0, 9, 4], np.uint8) if labels is None else labels
  for name, array in (("images-idx3", images), ("labels-idx1", labels)):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path = folder / f"train-{name}-ubyte{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(content) if zipped else content)
  return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path, zipped):
  d = load("mnist", str(write_mnist(tmp_path, zipped=zipped)))
  assert d.x.shape == (3, 16)
  assert d.y.tolist() == [0, 9, 4]
  np.testing.assert_allclose(np.diff(d.x.ravel()), np.diff(d.x.ravel())[0], rtol=1e-4)


def test_wrong_mnist_files(tmp_path):
  with pytest.raises(DepthMupError, match="has no train-images"):
    load("mnist", str(tmp_path))
  write_mnist(tmp_path, labels=np.array([1], np.uint8))
  with pytest.raises(DepthMupError, match="3 training images but 1 labels"):
    load("mnist", str(tmp_path))
  write_mnist(tmp_path, labels=np.array([1, 2, 77], np.uint8))
  with pytest.raises(DepthMupError, match="the label 77"):
    load("mnist", str(tmp_path))
  path = tmp_path / "train-images-idx3-ubyte.gz"
  whole = path.read_bytes()
  path.write_bytes(whole[:-12])
  with pytest.raises(DepthMupError, match="no whole gzip file"):
    load("mnist", str(tmp_path))
  path.write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
  with pytest.raises(DepthMupError, match="43 bytes of data, its header promises 48"):
    load("mnist", str(tmp_path))
  path.write_bytes(gzip.compress(b"hello"))
  with pytest.raises(DepthMupError, match="no IDX file"):
    load("mnist", str(tmp_path))


def write_cifar(folder, per_file=4):
  rng = np.random.default_rng(0)
  for i in range(1, 6):
    records = rng.integers(0, 256, (per_file, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    (folder / f"data_batch_{i}.bin").write_bytes(records.tobytes())
  return folder


def test_cifar10(tmp_path):
  inner = tmp_path / "cifar-10-batches-bin"
  inner.mkdir()
  write_cifar(inner)
  d = load("cifar10", str(tmp_path))
  assert d.x.shape == (20, 3072)
  np.testing.assert_array_equal(d.x, load("cifar10", str(inner)).x)
  channels = d.x.reshape(20, 3, -1)
  np.testing.assert_allclose(channels.mean((0, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(channels.std((0, 2)), 1, rtol=1e-4)


def test_wrong_cifar10_files(tmp_path):
  write_cifar(tmp_path)
  path = tmp_path / "data_batch_3.bin"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(DepthMupError, match=r"data_batch_3.bin has 12291 bytes"):
    load("cifar10", str(tmp_path))
  path.write_bytes(b"")
  with pytest.raises(DepthMupError, match="has 0 bytes"):
    load("cifar10", str(tmp_path))
  path.unlink()
  with pytest.raises(DepthMupError, match="has no data_batch_3.bin"):
    load("cifar10", str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout")
def test_the_real_files():
  assert load("cifar10", str(SHARED / "cifar10")).x.shape == (5085, 3072)
  assert load("mnist", str(SHARED / "mnist")).x.shape == (3678, 784)


def test_order_is_one_shuffle_after_another():
  order = epoch_order(seed=3, examples=7, length=20)
  assert sorted(order[:7]) == list(range(7)) == sorted(order[7:14])
  assert order[:7].tolist() != order[7:14].tolist()
  assert len(order) == 20
  np.testing.assert_array_equal(order[:10], epoch_order(3, 7, 10))
  assert order.tolist() != epoch_order(4, 7, 20).tolist()
