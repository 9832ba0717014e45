"""Two processes on loopback train as one, and hand their run over."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = [
  *("--width=32", "--head_dim=16", "--depth=2", "--base_width=16", "--base_depth=1"),
  *("--steps=16", "--sequence_length=16", "--batch_size=8", "--log_every=1"),
  *("--save_every=8", "--eval_every=8", "--eval_batches=2"),
]


def start(workdir, devices, *flags):
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.train_lm", f"--workdir={workdir}", *FLAGS, *flags],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(workdir, *flags):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  cluster = ["--distributed", f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  return [start(workdir, 2, *cluster, f"--process_id={i}", *flags) for i in range(2)]


def finish(*processes):
  for process in processes:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
  return out, err


def curve(workdir):
  lines = (workdir / "results.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  return [r["step"] for r in records], [r["loss"] for r in records]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("one")
  finish(start(workdir, 4, "--mesh=data:2,model:2"))
  return curve(workdir)


def check_same(workdir, expected):
  assert curve(workdir)[0] == expected[0]
  np.testing.assert_allclose(curve(workdir)[1], expected[1], rtol=2e-4)


def test_two_processes_equal_one(tmp_path, one_process):
  finish(*start_two(tmp_path, "--mesh=data:2,model:2"))
  check_same(tmp_path, one_process)


def test_sigterm_to_one_of_two_saves_and_one_process_goes_on(tmp_path, one_process):
  processes = start_two(tmp_path, "--mesh=fsdp:4", "--steps=100000", "--schedule=constant")
  results = tmp_path / "results.jsonl"
  begin = time.monotonic()
  while not results.exists() or results.read_bytes().count(b"\n") < 3:
    assert time.monotonic() - begin < 200
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGTERM)
  finish(*processes)
  steps = curve(tmp_path)[0]
  saved = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
  assert max(map(int, saved)) == steps[-1] < 100000
