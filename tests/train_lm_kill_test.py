"""Training killed, stopped and damaged: the loss curve is that of an undisturbed run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 400
FLAGS = (
  f"--steps={STEPS} --width=32 --head_dim=16 --depth=2 --base_width=16 --base_depth=1 "
  "--sequence_length=16 --batch_size=4 --log_every=1 --save_every=7 --eval_every=50 "
  "--eval_batches=2"
).split()
#: What differs between two runs of the same steps.
CLOCKED = ("tokens_per_second", "model_flop_utilization")


def start(workdir, *flags):
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.train_lm", f"--workdir={workdir}", *FLAGS, *flags],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(workdir, *flags):
  process = start(workdir, *flags)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  return out, err


def curve(workdir):
  """Records without what depends on the clock."""
  lines = (workdir / "results.jsonl").read_text().splitlines()
  return [{k: v for k, v in json.loads(x).items() if k not in CLOCKED} for x in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed")
  finish(workdir)
  records = curve(workdir)
  assert [r["step"] for r in records if r["split"] == "train"] == list(range(1, STEPS + 1))
  assert records[0]["loss"] > records[-1]["loss"]
  return records


def steps_done(workdir):
  path = workdir / "results.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


def disturb(workdir, number, seed, signum):
  """Sends the signal at random moments after training has gone on; counts them."""
  moments, sent = random.Random(seed), 0
  while sent < number:
    before, process = steps_done(workdir), start(workdir)
    begin = time.monotonic()
    while steps_done(workdir) <= before and process.poll() is None:
      assert time.monotonic() - begin < 120
      time.sleep(0.005)
    time.sleep(moments.uniform(0.0, 0.5))
    if process.poll() is not None:
      break
    process.send_signal(signum)
    process.communicate(timeout=120)
    sent += 1
    if signum == signal.SIGTERM:
      assert process.returncode == 0
  return sent


@pytest.mark.parametrize(
  ("number", "signum"),
  [
    (1, signal.SIGKILL),
    pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(10, signal.SIGKILL, marks=pytest.mark.slow),
    pytest.param(5, signal.SIGTERM, marks=pytest.mark.slow),
  ],
)
def test_an_interrupted_run_has_the_same_curve(undisturbed, tmp_path, number, signum):
  sent = disturb(tmp_path, number, seed=0, signum=signum)
  assert sent == number, "the run ended before all signals were sent"
  finish(tmp_path)
  assert curve(tmp_path) == undisturbed
