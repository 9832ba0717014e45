"""The readers of official files: shapes, and every way a file can be wrong."""

import gzip
import pathlib
import struct

import numpy as np
import pytest

from experiments._lib.data import epoch_order, load, load_splits
from flax_depthmup import DepthMupError

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


def test_digits():
  d = load("digits", None)
  assert (d.x.shape, d.x.dtype, d.y.dtype) == ((1797, 64), "f4", "i4")
  assert d.x.mean() == pytest.approx(0, abs=1e-4)
  assert d.x.std() == pytest.approx(1, abs=1e-4)


def write_mnist(folder, images=None, labels=None, zipped=True, part="train"):
  images = (
    np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4) if images is None else images
  )
  labels = np.array([0, 9, 4], np.uint8) if labels is None else labels
  for name, array in (("images-idx3", images), ("labels-idx1", labels)):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path = folder / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
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
  write_mnist(tmp_path, images=np.zeros((0, 4, 4), np.uint8), labels=np.zeros(0, np.uint8))
  with pytest.raises(DepthMupError, match="0 training images but 0 labels"):
    load("mnist", str(tmp_path))
  write_mnist(tmp_path)
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
  for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
    records = rng.integers(0, 256, (per_file, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    (folder / f"{name}.bin").write_bytes(records.tobytes())
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


def test_the_last_fifth_of_digits_is_for_testing():
  s, whole = load_splits("digits", None), load("digits", None)
  assert (len(s.train.x), len(s.test.x)) == (1438, 359)
  assert np.concatenate([s.train.y, s.test.y]).tolist() == whole.y.tolist()
  assert s.train.x.mean() == pytest.approx(0, abs=1e-4)
  assert s.train.x.std() == pytest.approx(1, abs=1e-4)
  # Both by the training part, so together they are an affine map of the whole.
  slope, offset = np.polyfit(whole.x[:1438].ravel(), s.train.x.ravel(), 1)
  np.testing.assert_allclose(s.test.x, slope * whole.x[1438:] + offset, atol=1e-4)
  assert abs(s.test.x.mean()) > 1e-3


def test_the_test_part_of_mnist(tmp_path):
  write_mnist(tmp_path)
  with pytest.raises(DepthMupError, match="has no t10k-images-idx3-ubyte"):
    load_splits("mnist", str(tmp_path))
  images = np.full((2, 4, 4), 47, np.uint8)
  labels = np.array([7, 1], np.uint8)
  write_mnist(tmp_path, images, labels, part="t10k")
  s = load_splits("mnist", str(tmp_path))
  np.testing.assert_array_equal(s.train.x, load("mnist", str(tmp_path)).x)
  np.testing.assert_allclose(s.test.x, s.train.x.max(), rtol=1e-6)  # 47 is the brightest
  assert s.test.y.tolist() == [7, 1]
  write_mnist(tmp_path, np.zeros((2, 5, 4), np.uint8), labels, part="t10k")
  with pytest.raises(DepthMupError, match=r"\(1, 4, 4\) but test images of shape \(1, 5"):
    load_splits("mnist", str(tmp_path))
  write_mnist(tmp_path, images, labels[:1], part="t10k")
  with pytest.raises(DepthMupError, match="2 test images but 1 labels"):
    load_splits("mnist", str(tmp_path))


def test_the_test_part_of_cifar10(tmp_path):
  write_cifar(tmp_path)
  s = load_splits("cifar10", str(tmp_path))
  np.testing.assert_array_equal(s.train.x, load("cifar10", str(tmp_path)).x)
  raw = np.fromfile(tmp_path / "test_batch.bin", np.uint8).reshape(4, 3073)
  assert s.test.y.tolist() == raw[:, 0].tolist()
  first = np.fromfile(tmp_path / "data_batch_1.bin", np.uint8).reshape(4, 3073)
  for channel in range(3):  # the map from bytes is that of the training part
    own = slice(1024 * channel, 1024 * (channel + 1))
    slope, offset = np.polyfit(first[0, 1:][own], s.train.x[0, own], 1)
    expected = slope * raw[:, 1:][:, own] + offset
    np.testing.assert_allclose(s.test.x[:, own], expected, atol=1e-4)
  (tmp_path / "test_batch.bin").unlink()
  with pytest.raises(DepthMupError, match=r"has no test_batch.bin"):
    load_splits("cifar10", str(tmp_path))


def test_the_fingerprint_is_of_both_parts(tmp_path):
  write_cifar(tmp_path)
  found = {load_splits("cifar10", str(tmp_path)).fingerprint}
  assert load_splits("cifar10", str(tmp_path)).fingerprint in found
  for name in ("data_batch_2.bin", "test_batch.bin"):
    content = bytearray((tmp_path / name).read_bytes())
    content[100] ^= 1
    (tmp_path / name).write_bytes(content)
    found.add(load_splits("cifar10", str(tmp_path)).fingerprint)
  assert len(found) == 3


def test_images_have_their_channels_last(tmp_path):
  d = load("cifar10", str(write_cifar(tmp_path)))
  assert d.images().x.shape == (20, 32, 32, 3)
  assert d.images().x[7, 5, 3, 1] == d.x[7, 1024 + 5 * 32 + 3]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout")
def test_the_real_files():
  for name, train, test, size in (
    ("cifar10", 5085, 1017, 3072),
    ("mnist", 3678, 10_000, 784),
  ):
    folder = str(SHARED / name)
    assert load(name, folder).x.shape == (train, size)
    s = load_splits(name, folder)
    assert (s.train.x.shape, s.test.x.shape) == ((train, size), (test, size))
    # Drawn alike: the test part is nearly standardized too, and has every label.
    assert abs(s.test.x.mean()) < 0.05
    assert s.test.x.std() == pytest.approx(1, abs=0.05)
    assert set(s.test.y) == set(range(10))


def test_order_is_one_shuffle_after_another():
  order = epoch_order(seed=3, examples=7, length=20)
  assert sorted(order[:7]) == list(range(7)) == sorted(order[7:14])
  assert order[:7].tolist() != order[7:14].tolist()
  assert len(order) == 20
  np.testing.assert_array_equal(order[:10], epoch_order(3, 7, 10))
  assert order.tolist() != epoch_order(4, 7, 20).tolist()
