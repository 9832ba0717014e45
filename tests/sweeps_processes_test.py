"""The sweep engine on two processes of two devices, against one process of four."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.sweeps_mesh_test import HEALTHY, STEPS, mesh_of, sweep

ROOT = pathlib.Path(__file__).parents[1]

SCRIPT = """
import os, pathlib, signal, sys
import jax
import numpy as np

process, port, out, act = sys.argv[1:]
process, out = int(process), pathlib.Path(out)
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)

from flax_depthmup import DepthMupError
from tests.sweeps_mesh_test import STEPS, mesh_of, sweep

own = mesh_of(sweep=2, fsdp=2)  # each lane is one process
names, types = own.axis_names, own.axis_types
shared = jax.sharding.Mesh(own.devices.swapaxes(0, 2), names, axis_types=types)

def told(mesh, **fields):
  try:
    sweep(mesh, **fields)
  except DepthMupError as error:
    return str(error)

def kill_after_two(done):
  reports.append(done)
  if len(reports) == 2:
    os.kill(os.getpid(), signal.SIGKILL)

reports = []
def run(name, mesh, **fields):
  result = sweep(mesh, **fields)
  first = reports[0].losses.shape[1] if reports else 0
  path = out / f"{name}-{process}.npz"
  np.savez(path, losses=result.losses, diverged=result.diverged, first=first)

if act == "whole":
  run("own", own)
  run("shared", shared)
  errors = [
    told(None),
    told(mesh_of(sweep=2) if process == 0 else own),
    told(own, steps=STEPS + process),
    told(own, directory=out / f"{process}"),
    told(own, directory=out / "file"),
  ]
  (out / f"errors-{process}").write_text("\\n".join(map(str, errors)))
  sweep(shared, directory=out / "kept", save_seconds=0.0, on_chunk=kill_after_two)
else:
  run("resumed", shared, directory=out / "kept", on_chunk=reports.append)
  assert told(shared, directory=out / "kept", steps=STEPS + 1).count("holds another sweep")
"""


def two_processes(out, act):
  """Runs the script in two processes; gives how they ended."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, str(i), port, out, act], env=environment, cwd=ROOT
    )
    for i in range(2)
  ]
  try:
    return [process.wait(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """What both processes leave, killed in the middle of a sweep and run again."""
  out = tmp_path_factory.mktemp("processes")
  (out / "file").write_text("")
  killed = two_processes(out, "whole")
  assert any(killed)
  (out / "left").write_text("\n".join(p.name for p in (out / "kept").iterdir()))
  assert two_processes(out, "resume") == [0, 0]
  return out


@pytest.fixture(scope="module")
def alone():
  return sweep(mesh_of(sweep=2, fsdp=2))


@pytest.mark.parametrize("name", ["own", "shared", "resumed"])
def test_both_processes_get_what_one_would(name, folder, alone):
  for process in range(2):
    with np.load(folder / f"{name}-{process}.npz") as found:
      np.testing.assert_allclose(found["losses"][HEALTHY], alone.losses[HEALTHY], rtol=1e-4)
      np.testing.assert_array_equal(found["diverged"], alone.diverged)


def test_killed_and_resumed_bitwise(folder):
  assert {"state", "running.npz"} <= {*(folder / "left").read_text().split()}
  for process in range(2):
    with (
      np.load(folder / f"resumed-{process}.npz") as resumed,
      np.load(folder / f"shared-{process}.npz") as whole,
    ):
      np.testing.assert_array_equal(resumed["losses"], whole["losses"])
      assert resumed["first"] == 10  # went on from the saved state
  assert not (folder / "kept" / "state").exists()


def test_what_they_leave_is_for_any_number_of_processes(folder, alone):
  reports = []
  again = sweep(
    mesh_of(sweep=8), directory=folder / "kept", on_chunk=reports.append, per_device=1
  )
  assert all(done.wave_done for done in reports)
  np.testing.assert_allclose(again.losses[HEALTHY], alone.losses[HEALTHY], rtol=1e-4)


def test_errors_come_to_all(folder):
  for process in range(2):
    no_mesh, few, steps, directory, file = (
      (folder / f"errors-{process}").read_text().split("\n")
    )
    assert "2 processes run one sweep without a mesh: give one over all devices" in no_mesh
    assert "mesh" in few
    assert f"in process 0 steps is {STEPS}, process 1 has {STEPS + 1}" in steps
    assert "in process 0 directory is" in directory
    assert "file cannot be made" in file
  assert jax.process_count() == 1
