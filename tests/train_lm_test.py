"""Training a language model at toy size: what it writes, refuses, and goes on from."""

import json
import shutil

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import train_lm
from experiments._lib.stopping import StopSignal
from flax_depthmup import DepthMupError

TOY = {
  "steps": 12,
  "width": 32,
  "head_dim": 16,
  "depth": 2,
  "base_width": 16,
  "base_depth": 1,
  "sequence_length": 16,
  "batch_size": 8,
  "log_every": 1,
  "save_every": 4,
  "eval_every": 6,
  "eval_batches": 2,
}


@pytest.fixture(autouse=True)
def devices(monkeypatch):
  """Two devices; a test may ask for more."""
  everything = jax.devices()

  def use(count):
    monkeypatch.setattr(jax, "devices", lambda *_: everything[:count])

  use(2)
  return use


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
  from experiments._lib import packing

  folder = tmp_path_factory.mktemp("tokens")
  packing.prepare(folder)
  return str(folder)


@pytest.fixture
def run(tokens):
  def go(workdir, **values):
    fields = {"workdir": str(workdir), "data_dir": tokens} | TOY | values
    with flagsaver.flagsaver(**fields):
      train_lm.main([])

  return go


def curve(workdir, split="train"):
  lines = (workdir / "results.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  return {r["step"]: r["loss"] for r in records if r["split"] == split}


def stop_after(monkeypatch, step):
  monkeypatch.setattr(StopSignal, "asked", lambda _, now: now == step)


def test_a_run_writes_what_it_promises(run, tmp_path, capsys):
  run(tmp_path, weight_decay=0.1)
  assert [*curve(tmp_path)] == [*range(1, 13)]
  assert [*curve(tmp_path, "validation")] == [6, 12]
  assert curve(tmp_path)[12] < curve(tmp_path)[1]
  first = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
  assert set(first) == {
    "step",
    "split",
    "loss",
    "gradient_norm",
    "learning_rate",
    "tokens_per_second",
    "model_flop_utilization",
  }
  assert first["model_flop_utilization"] is None  # nobody knows this device's peak
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary == {"steps": 12, "validation_loss": curve(tmp_path, "validation")[12]}
  assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
  assert "validation loss after 12 steps" in capsys.readouterr().out
  run(tmp_path, weight_decay=0.1)
  assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
  "step", [4, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 7))]
)
def test_a_stopped_run_goes_on_as_if_it_had_not(run, tmp_path, monkeypatch, capsys, step):
  run(tmp_path / "whole")
  with monkeypatch.context() as patch:
    stop_after(patch, step)
    run(tmp_path / "cut")
  assert "stopped and saved" in capsys.readouterr().out
  assert [*curve(tmp_path / "cut")] == [*range(1, step + 1)]
  run(tmp_path / "cut")
  for split in ("train", "validation"):
    assert curve(tmp_path / "cut", split) == curve(tmp_path / "whole", split)


@pytest.mark.slow
def test_it_goes_on_on_another_mesh(run, tmp_path, monkeypatch, devices):
  run(tmp_path / "whole")
  devices(4)
  with monkeypatch.context() as patch:
    stop_after(patch, 5)
    run(tmp_path / "cut", mesh="fsdp:2,model:2")
  devices(1)
  run(tmp_path / "cut")
  whole, cut = curve(tmp_path / "whole"), curve(tmp_path / "cut")
  np.testing.assert_allclose([*cut.values()], [*whole.values()], rtol=2e-4)
  assert [*cut] == [*whole]


def newest(workdir):
  steps = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
  return workdir / "checkpoints" / str(max(steps))


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(bytes(content))


@pytest.mark.parametrize(
  "damage",
  [
    flip,
    *(
      pytest.param(d, marks=pytest.mark.slow)
      for d in (truncate, lambda path: path.unlink())
    ),
  ],
)
def test_a_damaged_checkpoint_costs_steps_but_no_truth(run, tmp_path, monkeypatch, damage):
  run(tmp_path / "whole")
  with monkeypatch.context() as patch:
    stop_after(patch, 10)
    run(tmp_path / "cut")
  files = [p for p in newest(tmp_path / "cut").rglob("*") if p.is_file()]
  damage(max(files, key=lambda p: p.stat().st_size))
  words = "checkpoint of step 10 .* is passed over.*going on from step 8"
  with pytest.warns(UserWarning, match=words):
    run(tmp_path / "cut")
  assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
  assert (tmp_path / "cut" / "checkpoints" / "10.damaged").is_dir()  # nothing is deleted


@pytest.mark.slow
def test_how_a_batch_is_cut_and_where_the_data_lie_may_change(
  run, tmp_path, monkeypatch, tokens
):
  with monkeypatch.context() as patch:
    stop_after(patch, 5)
    run(tmp_path)
  shutil.copytree(tokens, tmp_path / "moved")
  run(tmp_path, accumulate=2, data_dir=str(tmp_path / "moved"))
  assert [*curve(tmp_path)] == [*range(1, 13)]


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"parametrization": "depth_mup"}, "complete_p.?, this .*depth_mup"),
    pytest.param({"base_width": 32}, "embed.* 16, this .*32", marks=pytest.mark.slow),
    ({"depth": 4}, "depth.* 2, this .*4"),
    pytest.param({"lr": 0.5}, "lr.* 0.0039.*, this .*0.5", marks=pytest.mark.slow),
    ({"seed": 1}, "seed.* 0, this .*1"),
  ],
)
@pytest.mark.parametrize("keep_config", [True, False])
def test_another_run_is_refused(run, tmp_path, monkeypatch, values, words, keep_config):
  """By config.json, and by the checkpoint itself when that is gone."""
  stop_after(monkeypatch, 2)
  run(tmp_path, steps=3)
  if not keep_config:
    (tmp_path / "config.json").unlink()
    (tmp_path / "results.jsonl").unlink()
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path, steps=3, **values)


@pytest.mark.slow
def test_parts_of_a_batch_give_the_same_steps(run, tmp_path):
  run(tmp_path / "whole", steps=4)
  run(tmp_path / "parts", steps=4, accumulate=4)
  whole, parts = curve(tmp_path / "whole"), curve(tmp_path / "parts")
  np.testing.assert_allclose([*parts.values()], [*whole.values()], rtol=1e-5)


@pytest.mark.slow
def test_other_nets_and_the_options(run, tmp_path):
  run(
    tmp_path,
    steps=4,
    gated=True,
    tied=True,
    kv_heads=1,
    norm="layer_norm",
    use_bias=True,
    remat=True,
    dtype="bfloat16",
    schedule="wsd",
    tensorboard=True,
    profile="2:3",
    clip=0.0,
    peak_tflops=1.0,
  )
  assert list((tmp_path / "tensorboard").iterdir())
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  lines = (tmp_path / "results.jsonl").read_text().splitlines()
  assert json.loads(lines[1])["model_flop_utilization"] > 0


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_saved(run, tmp_path):
  fields = {"lr": 1e30, "schedule": "constant", "warmup": 0, "clip": 0.0, "save_every": 1}
  with pytest.raises(DepthMupError, match="of step .* training diverged"):
    run(tmp_path, **fields)
  steps = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
  assert all(int(step) < 4 for step in steps)


BAD = {
  "workdir": ("", "--workdir is missing"),
  "parametrization": ("dmup", "'dmup' is unknown"),
  "steps": (0, "--steps=0"),
  "batch_size": (0, "--batch_size=0"),
  "seed": (-1, "--seed=-1"),
  "optimizer": ("sgd", "--optimizer=sgd: train_lm has none"),
  "pre_nonlinearity": (True, "--pre_nonlinearity=True: train_lm has none"),
  "accumulate": (3, "--batch_size=8 is no multiple of --accumulate=3"),
  "width": (33, "--head_dim=16 does not divide the width 33"),
  "base_width": (8, "--head_dim=16 does not divide the width 8"),
  "head_dim": (0, "--head_dim=0"),
  "kv_heads": (3, "kv_heads=3 do not divide heads=2"),
  "depth": (0, "depth=0"),
  "norm": ("batch_norm", "norm='batch_norm'"),
  "sequence_length": (10**6, "window"),
  "data_dir": ("/nowhere", "/nowhere is no folder; make it with"),
  "lr": (-1.0, "--lr=-1.0"),
  "warmup": (13, "--warmup=13 and --decay=0 do not fit into --steps=12"),
  "decay": (3, "--decay=3: --schedule=cosine has none"),
  "clip": (-1.0, "--clip=-1.0"),
  "mesh": ("sweep:2", "--mesh with sweep:2: one run has no members"),
  "rules": ("embd:data", '--rules: no array has the axis "embd"'),
  "log_every": (0, "--log_every=0"),
  "eval_batches": (0, "--eval_batches=0"),
  "keep": (0, "--keep=0"),
  "profile": ("12:13", "--profile='12:13'"),
  "peak_tflops": (0.0, "--peak_tflops=0.0"),
  "weight_decay": (-1.0, "weight_decay=-1.0"),
}


@pytest.mark.parametrize("flag", BAD)
def test_every_flag_with_a_wrong_value(run, tmp_path, flag):
  value, words = BAD[flag]
  with pytest.raises(DepthMupError, match=words):
    run(**({"workdir": tmp_path / "w"} | {flag: value}))


def test_tied_with_table_3_is_refused(run, tmp_path):
  with pytest.raises(DepthMupError, match="tied=True with table 3"):
    run(tmp_path, tied=True, parametrization="depth_mup")
