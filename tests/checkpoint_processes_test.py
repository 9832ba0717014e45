"""Checkpoints of two processes, on loopback: saved together, restored by any number."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from flax_depthmup.checkpoint import Checkpoints, abstract
from flax_depthmup.files import list_files
from tests.checkpoint_runs import mesh_of

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import json, sys, warnings
import jax
process, port, task, *folders = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
from flax_depthmup import DepthMupError
from flax_depthmup.checkpoint import Checkpoints, abstract
from flax_depthmup.processes import raise_together
from tests.checkpoint_processes_test import shards_equal, state_at
from tests.checkpoint_runs import mesh_of

mesh = mesh_of(2, 2)
told = {"processes": jax.process_count()}
if task == "save":
  run = Checkpoints(folders[0], keep=2, asynchronous=True)
  told["empty"] = run.latest(abstract(state_at(0, mesh))) is None
  for step in (1, 2, 3):
    run.save(step, state_at(step, mesh), {"position": step}, {1: 0.5}.get(step))
    run.poll()
  run.close()
else:
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run = Checkpoints(folders[0], keep=2, asynchronous=True)
    step, state, _ = run.latest(abstract(state_at(0, mesh)))
  told["fallen_back_to"] = step
  told["warning"] = [str(w.message) for w in caught if "passed over" in str(w.message)]
  told["equal"] = shards_equal(state, state_at(step, mesh))
  told["best"] = run.best_step()
  run.save(3, state_at(33, mesh), {})
  run.close()
  other = Checkpoints(folders[1])
  step, state, _ = other.latest(abstract(state_at(0, mesh)))
  told["from_one"] = step, shards_equal(state, state_at(step, mesh))
  other.close()
  try:
    raise_together(DepthMupError("no space") if process == "1" else None)
  except DepthMupError as error:
    told["error"] = str(error)
print("told", json.dumps(told), flush=True)
"""


def values_at(step):
  w = np.random.default_rng(step).normal(size=(8, 12)).astype(np.float32)
  return {"w": w, "b": w[:3].copy(), "step": np.int32(step)}


def state_at(step, mesh):
  """Every process makes its own shards, as training does."""

  def place(x):
    spec = jax.P(*mesh.axis_names) if x.shape == (8, 12) else jax.P()
    sharding = jax.sharding.NamedSharding(mesh, spec)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  arrays = jax.tree.map(place, values_at(step))
  key = jax.random.fold_in(jax.random.key(0), step)
  data = np.asarray(jax.random.key_data(key))
  return arrays | {"key": jax.random.wrap_key_data(place(data))}


def shards_equal(a, b):
  def raw(x):
    key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    x = jax.random.key_data(x) if key else x
    return [(str(s.index), np.asarray(s.data).tobytes()) for s in x.addressable_shards]

  return jax.tree.map(raw, a) == jax.tree.map(raw, b)


def run_two(*args):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  children = [
    subprocess.Popen(
      [sys.executable, "-c", PROGRAM, str(process), str(port), *map(str, args)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  told = []
  for child in children:
    try:
      out, errors = child.communicate(timeout=120)
    finally:
      child.kill()
    lines = [line for line in out.splitlines() if line.startswith("told ")]
    assert lines, errors[-3000:]
    told.append(json.loads(lines[-1].removeprefix("told ")))
  return told


def restored(directory, mesh):
  checkpoints = Checkpoints(directory, keep=2)
  step, state, note = checkpoints.latest(abstract(state_at(0, mesh)))
  checkpoints.close()
  return step, state, note


def test_two_processes_save_together_and_any_number_goes_on(tmp_path):
  two, one = tmp_path / "two", tmp_path / "one"
  assert run_two("save", two) == [{"processes": 2, "empty": True}] * 2

  assert sorted(path.name for path in (two / "seals").iterdir()) == [
    f"{step}-{process}-of-2.json" for step in (1, 2, 3) for process in (0, 1)
  ]  # the two newest, and the best
  for shape in [(4,), (2, 2), (1,)]:
    step, state, note = restored(two, mesh_of(*shape))
    assert (step, note) == (3, {"position": 3})
    for name, value in values_at(3).items():
      assert np.asarray(state[name]).tobytes() == value.tobytes()

  checkpoints = Checkpoints(one)
  checkpoints.save(7, state_at(7, mesh_of(4)), {})
  checkpoints.close()
  damaged = list_files(two / "3")[-1 if len(list_files(two / "3")) % 2 == 0 else -2]
  (two / "3" / damaged).write_bytes(b"x")  # in the share of the second process

  told = run_two("resume", two, one)
  for process, answer in enumerate(told):
    assert answer["fallen_back_to"] == 2
    assert len(answer["warning"]) == 1
    assert f"{damaged} has 1 bytes" in answer["warning"][0]
    assert answer["equal"]
    assert answer["best"] == 1
    assert answer["from_one"] == [7, True]
    assert answer["error"] == ("no space" if process else "process 1: no space")
  step, state, _ = restored(two, mesh_of(2))
  assert step == 3
  assert np.asarray(state["w"]).tobytes() == values_at(33)["w"].tobytes()
  assert sorted(p.name for p in two.iterdir()) == ["1", "2", "3", "3.damaged", "seals"]


@pytest.mark.parametrize("part", [0, 1])
def test_a_step_that_one_process_has_not_sealed_does_not_count(part, tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step in (1, 2):
    checkpoints.save(step, state_at(step, mesh_of(2)), {})
  checkpoints.close()
  seals = tmp_path / "seals"
  (seals / "2-0-of-1.json").rename(seals / f"2-{part}-of-2.json")
  with pytest.warns(UserWarning, match=f"part {1 - part} of 2 of its seal is missing"):
    assert restored(tmp_path, mesh_of(2))[0] == 1
