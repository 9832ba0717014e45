"""Seals: every damage is seen, and only what is superseded is removed."""

import json
import os
import zlib

import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.files import checksum, list_files
from flax_depthmup.seals import SealedSteps


def write_step(directory, step, files=5, size=300):
  for index in range(files):
    path = directory / str(step) / ("deep/er" if index % 2 else ".") / f"{index}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes((step + index + i) % 256 for i in range(size * index)))


@pytest.fixture
def steps(tmp_path):
  steps = SealedSteps(tmp_path)
  steps.make()
  return steps


def sealed_step(tmp_path, steps, step, loss=None, **kwargs):
  write_step(tmp_path, step)
  steps.seal(step, loss, **kwargs)


def test_a_whole_step_has_no_fault(tmp_path, steps):
  sealed_step(tmp_path, steps, 3)
  assert steps.fault(3) == ""
  assert (steps.all(), steps.sealed()) == ([3], [3])
  assert list_files(tmp_path / "3") == [
    *("0.bin", "2.bin", "4.bin", "deep/er/1.bin", "deep/er/3.bin")
  ]


def test_a_checksum_is_that_of_the_whole_file(tmp_path):
  content = os.urandom(2_500_000)
  (tmp_path / "x").write_bytes(content)
  assert checksum(tmp_path / "x") == [len(content), zlib.crc32(content)]


def test_every_bit_of_a_file_counts(tmp_path, steps):
  sealed_step(tmp_path, steps, 3)
  path = tmp_path / "3" / "deep/er/1.bin"
  content = path.read_bytes()
  for position in range(0, len(content), 7):
    for bit in range(8):
      changed = bytearray(content)
      changed[position] ^= 1 << bit
      path.write_bytes(changed)
      assert "deep/er/1.bin has CRC-32" in steps.fault(3)
  path.write_bytes(content)
  assert steps.fault(3) == ""


def test_a_fault_names_the_file_and_what_differs(tmp_path, steps):
  sealed_step(tmp_path, steps, 3)
  path = tmp_path / "3" / "4.bin"
  path.write_bytes(path.read_bytes()[:7])
  assert steps.fault(3) == "4.bin has 7 bytes, 1200 were written"
  path.unlink()
  assert steps.fault(3) == "4.bin is missing"
  path.mkdir()
  assert steps.fault(3) == "4.bin cannot be read: Is a directory"


def test_a_missing_seal_and_a_missing_folder(tmp_path, steps):
  write_step(tmp_path, 3)
  assert steps.fault(3) == "its seal is missing (its writing was interrupted)"
  steps.seal(3)
  for path in (tmp_path / "3").rglob("*.bin"):
    path.unlink()
  os.renames(tmp_path / "3", tmp_path / "elsewhere")
  assert steps.fault(3) == "its folder is gone"
  assert steps.all() == [3]


def test_every_byte_of_a_seal_counts(tmp_path, steps):
  sealed_step(tmp_path, steps, 3, loss=0.5)
  path = tmp_path / "seals" / "3-0-of-1.json"
  content = path.read_bytes()
  for position in range(len(content)):
    changed = bytearray(content)
    changed[position] ^= 1
    path.write_bytes(changed)
    assert steps.fault(3) or json.loads(changed) == json.loads(content)
    if steps.fault(3):
      assert steps.best() is None
  path.write_bytes(content[:-3])
  assert "seal 3-0-of-1.json is damaged" in steps.fault(3)
  path.rename(tmp_path / "seals" / "4-0-of-1.json")
  (tmp_path / "3").rename(tmp_path / "4")
  (tmp_path / "seals" / "4-0-of-1.json").write_bytes(content)
  assert "damaged (of step 3)" in steps.fault(4)


@pytest.mark.parametrize("readers", [1, 2, 3, 7])
def test_processes_share_the_files(readers, tmp_path, steps):
  write_step(tmp_path, 3)
  for process in range(3):
    assert steps.sealed() == []
    assert "seal is missing" in steps.fault(3)
    steps.seal(3, None, process, 3)
  assert steps.sealed() == [3]

  def faults():
    return [fault for r in range(readers) if (fault := steps.fault(3, r, readers))]

  assert faults() == []
  for name in list_files(tmp_path / "3"):
    content = (tmp_path / "3" / name).read_bytes()
    (tmp_path / "3" / name).write_bytes(content + b"x")
    assert faults() == [f"{name} has {len(content) + 1} bytes, {len(content)} were written"]
    (tmp_path / "3" / name).write_bytes(content)


def test_processes_that_saw_other_files_seal_nothing(tmp_path, steps):
  write_step(tmp_path, 3, files=4)
  steps.seal(3, None, 0, 2)
  write_step(tmp_path, 3, files=5)
  steps.seal(3, None, 1, 2)
  assert steps.fault(3) == "its seal speaks of 3 files, 5 were written"


def test_the_newest_and_the_best_stay(tmp_path, steps):
  losses = {1: 0.9, 2: 0.1, 3: None, 4: 0.1, 5: 0.5, 6: None, 7: None}
  for step, loss in losses.items():
    sealed_step(tmp_path, steps, step, loss)
  assert steps.best() == 4
  steps.prune(keep=2)
  assert steps.all() == steps.sealed() == [4, 6, 7]


def test_pruning_counts_sealed_steps_only(tmp_path, steps):
  for step in (1, 2):
    sealed_step(tmp_path, steps, step)
  write_step(tmp_path, 3)
  steps.prune(keep=1)
  assert steps.all() == [2, 3]
  steps.remove(2)
  steps.prune(keep=1)
  assert steps.all() == [3]


def test_what_a_kill_left_is_removed(tmp_path, steps):
  sealed_step(tmp_path, steps, 1)
  (tmp_path / "2.orbax-checkpoint-tmp-17" / "state").mkdir(parents=True)
  (tmp_path / "2.orbax-checkpoint-tmp-17" / "state" / "half").write_text("x")
  (tmp_path / "seals" / "1-0-of-1.json.tmp").write_text("half")
  SealedSteps(tmp_path).make()
  assert steps.all() == [1]
  assert steps.fault(1) == ""
  assert {path.name for path in tmp_path.iterdir()} == {"1", "seals"}


def test_steps_without_the_folder_of_seals_are_refused(tmp_path):
  write_step(tmp_path, 300)
  with pytest.raises(DepthMupError, match="holds step 300 but no folder seals; bring"):
    SealedSteps(tmp_path).make()


def test_other_names_are_no_steps(tmp_path, steps):
  for name in ("007", "best", "1.5", "notes", "٣"):
    (tmp_path / name).mkdir()
  (tmp_path / "seals" / "README").write_text("")
  assert steps.all() == []
