"""The sweep engine, killed."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

SCRIPT = """
import sys, time
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from tests import sweeps_test as here

out, directory = sys.argv[1:]
def slowly(done):
  time.sleep(0.02)  # so that a kill falls into every phase
result = here.run_sweep(
  here.init, here.step, here.MEMBERS, here.DATA, steps=1500, chunk=25,
  directory=directory, save_seconds=0.0, on_chunk=slowly,
)
np.save(out, result.losses)
"""


@pytest.mark.parametrize("number", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_the_result_is_bitwise_the_same(tmp_path, number):
  """SIGKILL at random moments (seed 0), then to the end."""

  def start(name):
    command = [sys.executable, "-c", SCRIPT, tmp_path / f"{name}.npy", tmp_path / name]
    root = pathlib.Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, cwd=root)

  assert start("whole").wait() == 0
  moments, kills = random.Random(0), 0
  while kills < number:
    process = start("killed")
    # Wait for training to go on, so that each kill has something to interrupt.
    mark, begin = progress(tmp_path / "killed"), time.monotonic()
    while process.poll() is None and time.monotonic() - begin < 60:
      if progress(tmp_path / "killed") != mark:
        break
      time.sleep(0.01)
    time.sleep(moments.uniform(0.0, 0.8))
    assert process.poll() is None, "the sweep ended before its last kill"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kills += 1
  assert start("killed").wait() == 0
  a, b = (np.load(tmp_path / f"{name}.npy") for name in ("whole", "killed"))
  np.testing.assert_array_equal(a, b)
  assert json.loads((tmp_path / "killed" / "sweep.json").read_text())["steps"] == 1500


def progress(directory: pathlib.Path) -> float:
  path = directory / "running.npz"
  return path.stat().st_mtime if path.exists() else 0.0
