"""Damage, full disks and kills: seen, told, and never restored from."""

import itertools
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from flax_depthmup import DepthMupError
from flax_depthmup.checkpoint import Checkpoints, abstract
from flax_depthmup.files import list_files
from flax_depthmup.orbax_steps import OrbaxSteps
from tests.checkpoint_runs import bits, reopened, saved_run, state_at

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run with steps 100 and 200; to be copied, not changed."""
  return saved_run(tmp_path_factory.mktemp("run"))


# Damage --------------------------------------------------------------------------


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(position):
  def damage(path):
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)

  return damage


@pytest.mark.parametrize(
  "damage",
  [
    pytest.param(truncate, id="truncate"),
    pytest.param(pathlib.Path.unlink, id="delete"),
    pytest.param(flip(0.0), id="flip the first byte"),
    pytest.param(flip(0.37), id="flip a byte"),
    pytest.param(flip(1.0), id="flip the last byte"),
  ],
)
def test_damage_of_any_file_is_seen_and_the_step_before_used(damage, run, tmp_path):
  names = [*list_files(run / "200"), "../seals/200-0-of-1.json"]
  assert len(names) > 10
  for index, name in enumerate(names):
    copy = tmp_path / str(index)
    shutil.copytree(run, copy)
    damage(copy / "200" / name)
    words = name if name in list_files(run / "200") else "seal"
    with pytest.warns(UserWarning, match="step 200 .*passed over.* from step 100") as told:
      step, state, _ = reopened(copy)
    assert words in str(told[0].message)
    assert step == 100
    assert bits(state) == bits(state_at(100))
    assert not (copy / "200").exists()


def test_after_falling_back_the_bad_step_is_saved_again(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  (tmp_path / "200" / "_CHECKPOINT_METADATA").write_text("x")
  checkpoints = Checkpoints(tmp_path, keep=2, asynchronous=True)
  with pytest.warns(UserWarning, match="_CHECKPOINT_METADATA has 1 bytes"):
    assert checkpoints.latest(abstract(state_at(0)))[0] == 100
  checkpoints.save(200, state_at(200), {"again": True})
  checkpoints.close()
  step, state, note = reopened(tmp_path, identity=None)
  assert (step, note) == (200, {"again": True})
  assert bits(state) == bits(state_at(200))


def test_a_folder_that_is_gone(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / "200")
  with pytest.warns(UserWarning, match="its folder is gone; going on from step 100"):
    assert reopened(tmp_path)[0] == 100
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert reopened(tmp_path)[0] == 100


def test_half_written_steps_do_not_disturb(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  shutil.copytree(run / "200", tmp_path / "300.orbax-checkpoint-tmp")
  (tmp_path / "300.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()
  assert reopened(tmp_path)[0] == 200
  assert not list(tmp_path.glob("*tmp*"))


def test_no_checkpoint_that_can_be_read_is_an_error_and_nothing_is_deleted(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  for step in (100, 200):
    flip(0.5)(tmp_path / str(step) / "state" / "_METADATA")
  before = list_files(tmp_path)
  with pytest.raises(DepthMupError, match=r"none can be read \(step 200: .*step 100: .*;"):
    reopened(tmp_path)
  assert list_files(tmp_path) == before


def test_a_run_killed_in_its_first_save_starts_from_scratch(run, tmp_path):
  shutil.copytree(run / "100", tmp_path / "100")
  (tmp_path / "seals").mkdir()
  with pytest.warns(UserWarning, match="seal is missing .* starting from scratch"):
    assert reopened(tmp_path) is None
  assert not (tmp_path / "100").exists()


def test_what_orbax_cannot_restore_is_passed_over(run, tmp_path, monkeypatch):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  read = OrbaxSteps.state

  def state(self, step, wanted):
    if step == 200:
      raise ValueError("no such codec\nmany lines")
    return read(self, step, wanted)

  monkeypatch.setattr(OrbaxSteps, "state", state)
  with pytest.warns(
    UserWarning, match="cannot restore it: ValueError: no such codec; going"
  ):
    assert reopened(tmp_path)[0] == 100


def test_running_out_of_memory_costs_no_checkpoint(run, tmp_path, monkeypatch):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)

  def state(self, step, wanted):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

  monkeypatch.setattr(OrbaxSteps, "state", state)
  with pytest.raises(jax.errors.JaxRuntimeError):
    reopened(tmp_path)
  monkeypatch.undo()
  assert reopened(tmp_path)[0] == 200


# What cannot be written ----------------------------------------------------------


def test_a_place_that_cannot_be_written_to_is_refused_at_once(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    DepthMupError, match="file/run cannot be written to: .*; give another"
  ):
    Checkpoints(tmp_path / "file" / "run")


def test_a_place_that_became_read_only_is_refused_at_once(run, tmp_path, monkeypatch):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)

  def open_only_to_read(path, mode="r", **kwargs):
    if "w" in mode:
      raise PermissionError(13, "Permission denied")
    return original(path, mode, **kwargs)

  path_type = type(epath.Path(tmp_path))
  original = path_type.open
  monkeypatch.setattr(path_type, "open", open_only_to_read)
  with pytest.raises(DepthMupError, match="cannot be written to: Permission denied; give"):
    Checkpoints(tmp_path)


@pytest.mark.parametrize("method", ["poll", "wait", "save", "close", "at once"])
def test_a_full_disk_is_told_at_the_next_call_and_costs_nothing_else(method, tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2, asynchronous=method != "at once")
  small = {"x": jnp.zeros(10)}
  large = {"x": jax.random.normal(jax.random.key(0), (200_000,))}
  checkpoints.save(1, small, {})
  checkpoints.wait()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  words = f"step 2 in {tmp_path} could not be written: .*; make that place writable"

  def until_it_raises():
    while True:
      checkpoints.poll()
      time.sleep(0.001)

  def save_then(call):
    checkpoints.save(2, large, {})
    call()

  call = {
    "poll": until_it_raises,
    "wait": checkpoints.wait,
    "save": lambda: checkpoints.save(3, small, {}),
    "close": checkpoints.close,
    "at once": lambda: pytest.fail("the save itself should raise"),
  }[method]
  try:
    with pytest.raises(DepthMupError, match=words):
      save_then(call)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  if method != "close":
    checkpoints.save(2, large, {})
    checkpoints.close()
  step, state, _ = Checkpoints(tmp_path, keep=2).latest(
    abstract(small if method == "close" else large)
  )
  assert step == (1 if method == "close" else 2)
  assert bits(state) == bits(small if method == "close" else large)
  assert not list(tmp_path.glob("*tmp*"))


def donated():
  x = jnp.zeros(3)
  x.delete()
  return x


@pytest.mark.parametrize(
  ("state", "note", "words"),
  [
    ({"step": 3}, {}, "state: step is 3, expected an array; give"),
    ({}, {}, "state is {}, which holds no array"),
    ({"x": donated()}, {}, "state: x was donated or deleted; save what the step gave"),
    ({"x": jnp.zeros(1)}, {"f": {1, 2}}, "the note of step 5 cannot be written as JSON"),
  ],
)
def test_what_cannot_be_saved_is_named(state, note, words, tmp_path):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(DepthMupError, match=words):
    checkpoints.save(5, state, note)
  checkpoints.save(5, {"x": jnp.zeros(1)}, {})
  assert checkpoints.steps() == [5]
  checkpoints.close()


# Killed --------------------------------------------------------------------------

#: Saves in several directories in turn, so that one kill hits each in another phase.
TRAIN = """
import pathlib, sys
import jax, jax.numpy as jnp
sys.path.insert(0, {root!r})
jax.config.update("jax_num_cpu_devices", 4)
from flax_depthmup.checkpoint import Checkpoints
from tests.checkpoint_runs import state_at
runs = [Checkpoints(d, 1 + i % 2, asynchronous=True) for i, d in enumerate(sys.argv[1:])]
print("ready", flush=True)
step = 0
while True:
  step += 1
  for run in runs:
    run.poll()
    run.save(step, state_at(step), {{"position": step}}, validation_loss=abs(step - 3.5))
  if step == 2:
    print("saving", flush=True)
"""


def test_a_killed_run_goes_on_from_a_state_that_was_saved_whole(tmp_path):
  folders = [[tmp_path / f"{p}-{d}" for d in range(3)] for p in range(2)]
  program = TRAIN.format(root=str(ROOT))
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", program, *map(str, group)], stdout=subprocess.PIPE
    )
    for group in folders
  ]
  moments = random.Random(0)
  for process in processes:
    assert process.stdout.readline() == b"ready\n"
    assert process.stdout.readline() == b"saving\n"
    time.sleep(moments.uniform(0.1, 0.6))
    process.kill()
    process.wait()
    process.stdout.close()
  for folder in itertools.chain(*folders):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      checkpoints = Checkpoints(folder, keep=2)
      step, state, note = checkpoints.latest(abstract(state_at(0)))
    assert note == {"position": step}
    assert bits(state) == bits(state_at(step))
    checkpoints.save(step + 1, state_at(step + 1), {})
    checkpoints.close()
