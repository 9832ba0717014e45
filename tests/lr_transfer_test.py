"""The experiment's main at toy size, continued, and with every flag wrong."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import lr_transfer
from experiments._lib import sweeps, transfer_config
from flax_depthmup import DepthMupError

ROOT = pathlib.Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "data" / "cifar10"
TOY = {
  "parametrizations": ["depth_mup", "1/2:0"],
  "depths": ["4", "8"],
  "log2_lrs": "-10:-6:1",
  "width": 16,
  "seeds": 2,
  "steps": 12,
  "window": 4,
  "batch_size": 16,
  "chunk": 6,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    lr_transfer.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  records = lines(tmp_path)
  assert len(records) == 2 * 2 * 5 * 2
  assert set(records[0]) == {
    "parametrization",
    "alpha",
    "gamma",
    "width",
    "depth",
    "log2_lr",
    "seed",
    "loss",
    "diverged",
  }
  assert {(r["parametrization"], r["alpha"], r["gamma"]) for r in records} == {
    ("depth_mup", 0.5, 0.5),
    ("1/2:0", 0.5, 0.0),
  }
  transfer = json.loads((tmp_path / "summary.json").read_text())["transfer"]
  assert set(transfer) == {"depth_mup", "1/2:0"}
  for key in ("optimum_log2_lr", "octaves_per_doubling", "ci95", "best_loss"):
    assert key in transfer["depth_mup"]
  assert (tmp_path / "lr_transfer.png").read_bytes()[:4] == b"\x89PNG"
  for v in transfer.values():
    assert {"regret_of_transfer", "transfers", "reason"} <= set(v)
  config = json.loads((tmp_path / "config.json").read_text())
  assert (config["base_width"], config["log2_lrs"]) == (16, [-10, -9, -8, -7, -6])
  assert "octaves" in capsys.readouterr().out
  # At base depth the two are the same net, trained the same.
  shallow = [
    [r["loss"] for r in records if r["depth"] == 4 and r["gamma"] == g] for g in (0, 0.5)
  ]
  assert shallow[0] == shallow[1]
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(
    DepthMupError, match="holds another run: steps is 12, this run has 13"
  ):
    run(tmp_path, steps=13)


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  run(tmp_path / "whole")
  count = 0
  record = sweeps.Sweeps._record

  def interrupt(*args):
    nonlocal count
    record(*args)
    count += 1
    if count == 5:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(sweeps.Sweeps, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut")
  assert 0 < len(lines(tmp_path / "cut")) < 40
  run(tmp_path / "cut")
  for name in ("results.jsonl", "summary.json"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "lion", "rmsprop"])
def test_every_optimizer_and_the_other_shapes_of_net(tmp_path, optimizer):
  fields = {"parametrizations": ["ode"], "depths": ["4"], "log2_lrs": "-9,-8", "seeds": 1}
  run(
    tmp_path,
    optimizer=optimizer,
    activation="abs",
    block_depth=2,
    pre_nonlinearity=True,
    norm="layer_norm",
    train_boundary=True,
    base_width=8,
    **fields,
  )
  assert all(np.isfinite(r["loss"]) for r in lines(tmp_path))


BAD = {
  "workdir": (None, "--workdir is missing"),
  "dataset": ("imagenet", "--dataset=imagenet: expected one of digits"),
  "parametrizations": (["depth-mup"], "'depth-mup' is unknown; expected standard"),
  "depths": (["4", "0"], "--depths='4,0'"),
  "base_depth": (0, "--base_depth=0"),
  "width": (-3, "--width=-3"),
  "base_width": (0, "--base_width=0"),
  "log2_lrs": ("-5:-13:0.5", "--log2_lrs='-5:-13:0.5' is no grid"),
  "seeds": (0, "--seeds=0"),
  "steps": (0, "--steps=0"),
  "batch_size": (0, "--batch_size=0"),
  "optimizer": ("adamw2", "--optimizer=adamw2: expected one of adam"),
  "activation": ("swish", "activation='swish'"),
  "block_depth": (0, "block_depth=0"),
  "norm": ("batch", "norm='batch'"),
  "block_multiplier": (float("nan"), "--block_multiplier=nan"),
  "window": (13, "--window=13 is longer than --steps=12"),
  "chunk": (0, "--chunk=0"),
}


@pytest.mark.parametrize("flag", BAD)
def test_every_flag_with_a_wrong_value(tmp_path, flag):
  value, words = BAD[flag]
  values = {"workdir": str(tmp_path / "w")} | TOY | {flag: value}
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    lr_transfer.main([])
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"log2_lr": -8.0}, "--log2_lr=-8.0: lr_transfer has none"),
    ({"log2_multipliers": "-1,0"}, "--log2_multipliers=-1,0: lr_transfer has none"),
    ({"parametrizations": ["0.5:x"]}, "gamma='x'"),
    ({"parametrizations": []}, "at least one"),
    ({"parametrizations": ["ode", "ode"]}, "distinct"),
    ({"depths": ["4", "4"]}, "--depths='4,4'"),
    ({"depths": ["four"]}, "--depths='four'"),
    ({"log2_lrs": "a,b"}, "--log2_lrs='a,b'"),
    ({"log2_lrs": "-8,-8"}, "repeated"),
    ({"log2_lrs": "inf"}, "infinite"),
    ({"log2_lrs": "-2000"}, "rates of float32"),
    ({"log2_lrs": "-13:-5:1e-9"}, "no grid"),
    ({"parametrizations": ["5000:0"]}, "alpha='5000' is beyond"),
    ({"parametrizations": ["1e400:0"]}, "alpha='1e400' is beyond"),
    ({"dataset": "mnist"}, "--data_dir"),
    ({"dataset": "cifar10", "data_dir": "/nowhere"}, "has no data_batch_1.bin"),
  ],
)
def test_other_wrong_values(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", **values)


def test_grids_include_the_stop():
  def read(text):
    with flagsaver.flagsaver(log2_lrs=text):
      return transfer_config.from_flags().log2_lrs

  assert read("-13:-5:0.5") == tuple(np.arange(-13, -4.9, 0.5))
  assert read("-1:1:0.1")[-1] == pytest.approx(1.0)
  assert read("-8,-9.5") == (-9.5, -8)


def command(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.lr_transfer", *arguments],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "error: --workdir is missing"),
    (["--workdir=w", "--activation=swish"], "error: activation='swish'"),
    (["--workdir=/proc"], "error: [Errno"),
    (["--workdir=w", "extra"], "error: unexpected argument 'extra'"),
    (["--workdir=w", "--steps=many"], "flag --steps=many: invalid literal"),
    (["--workdir=w", "--step=3"], "Unknown command line flag 'step'"),
  ],
)
def test_the_command_says_one_sentence_and_exits_with_1(arguments, words):
  done = command(*arguments)
  assert done.returncode == 1
  assert words in done.stderr
  assert "Traceback" not in done.stderr


def test_a_damaged_or_foreign_workdir(tmp_path):
  run(tmp_path)
  for name in ("summary.json", "config.json"):
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text("[]")
    with pytest.raises(DepthMupError, match=f"{name} is damaged"):
      run(tmp_path)
    (tmp_path / name).write_text(text)
  (tmp_path / "config.json").unlink()
  with pytest.raises(DepthMupError, match=r"holds summary.json but no config.json"):
    run(tmp_path)
  for name in ("summary.json", "results.jsonl"):
    (tmp_path / name).unlink()
  with pytest.raises(DepthMupError, match="holds another sweep: program"):
    run(tmp_path, activation="tanh")


def test_an_unwritable_workdir(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(DepthMupError, match="cannot be made"):
    run(tmp_path / "file" / "w")


@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10 files beside the checkout")
def test_on_cifar10(tmp_path):
  run(tmp_path, dataset="cifar10", data_dir=str(CIFAR))
  assert len(lines(tmp_path)) == 40


def test_flags_are_the_promised_ones():
  promised = (
    "dataset data_dir parametrizations depths base_depth width base_width log2_lrs seeds "
    "steps batch_size optimizer activation block_multiplier window train_boundary workdir"
  )
  assert set(promised.split(" ")) <= set(flags.FLAGS)
