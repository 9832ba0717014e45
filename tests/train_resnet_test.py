"""Training a ResNet at toy size: what it writes, continued, sharded, every flag wrong."""

import json
import pathlib

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import train_resnet
from experiments._lib.training import Run
from flax_depthmup import DepthMupError

CIFAR = pathlib.Path(__file__).parents[2] / "shared" / "data" / "cifar10"
TOY = {
  "width": 8,
  "depth": 2,
  "patch": 4,
  "batch_size": 16,
  "steps": 12,
  "lr": 0.01,
  "log_every": 1,
  "eval_every": 4,
  "eval_batches": 3,
  "save_every": 4,
  "mesh": "model:-1",  # nothing is split
}
#: What differs between two runs of the same steps.
CLOCKED = ("images_per_second", "model_flop_utilization")


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    train_resnet.main([])


def records(workdir, split):
  lines = (workdir / "results.jsonl").read_text().splitlines()
  found = [r for r in map(json.loads, lines) if r["split"] == split]
  return [{k: v for k, v in r.items() if k not in CLOCKED} for r in found]


def losses(workdir, split="train"):
  return np.array([r["loss"] for r in records(workdir, split)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  workdir = tmp_path_factory.mktemp("whole")
  run(workdir)
  return workdir


def test_a_run_writes_what_it_promises(whole, capsys):
  train, validation = (records(whole, split) for split in ("train", "validation"))
  assert [r["step"] for r in train] == list(range(1, 13))
  assert [r["step"] for r in validation] == [4, 8, 12]
  assert set(train[0]) == {
    "step",
    "split",
    "loss",
    "accuracy",
    "gradient_norm",
    "learning_rate",
  }
  assert set(validation[0]) == {"step", "split", "loss", "accuracy"}
  images = [r["accuracy"] * 48 for r in validation]  # three batches of 16
  np.testing.assert_allclose(images, np.round(images), atol=1e-4)
  config = json.loads((whole / "config.json").read_text())
  assert (config["dataset"], config["parametrization"]) == ("digits", "depth_mup")
  assert (config["base_width"], config["base_depth"]) == (8, 2)
  assert (config["net"]["width"], config["net"]["patch"]) == (8, 4)
  summary = json.loads((whole / "summary.json").read_text())
  assert summary == {"steps": 12, "validation_loss": validation[-1]["loss"]}
  assert (whole / "loss.png").read_bytes()[:4] == b"\x89PNG"
  run(whole)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: net"):
    run(whole, kernel_size=1)


def test_the_net_learns(whole):
  assert losses(whole, "validation")[-1] < 0.9 * losses(whole)[0]
  accuracy = [r["accuracy"] for r in records(whole, "validation")]
  assert accuracy[-1] > 0.25  # guessing gives 0.1


def test_an_interrupted_run_is_bitwise_the_same(whole, tmp_path, monkeypatch):
  save = Run._save

  def interrupt(self, step, loss):
    save(self, step, loss)
    if step == 8:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Run, "_save", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path)
  assert len(losses(tmp_path)) == 8
  run(tmp_path)
  for split in ("train", "validation"):
    assert records(tmp_path, split) == records(whole, split)
  assert (tmp_path / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def test_a_sharded_run_is_the_same(whole, tmp_path):
  run(tmp_path, mesh="data:-1,fsdp:2")
  for split in ("train", "validation"):
    np.testing.assert_allclose(losses(tmp_path, split), losses(whole, split), rtol=1e-3)


@pytest.mark.slow
def test_the_net_of_the_flags(tmp_path):
  run(
    tmp_path,
    steps=2,
    stages=2,
    block_depth=2,
    kernel_size=1,
    patch=2,
    stem_kernel_size=3,
    base_width=4,
    base_depth=2,
    depth=3,
    parametrization="complete_p",
    activation="abs",
    pre_nonlinearity=True,
    norm="rms_norm",
    block_multiplier=0.5,
    train_boundary=False,
    remat=True,
    dtype="bfloat16",
    accumulate=2,
  )
  assert np.isfinite(losses(tmp_path)).all()
  with flagsaver.flagsaver(**(TOY | {"stages": 2, "depth": 3, "base_width": 4})):
    model = train_resnet.config_from_flags().model()
  assert (model.stages, model.depth, model.outputs) == (2, 3, 10)
  assert model.parametrization.base_sizes["embed"] == 4
  assert model.parametrization.base_depth == 3


BAD = {
  "workdir": (None, "--workdir is missing"),
  "dataset": ("imagenet", "--dataset=imagenet: expected one of digits"),
  "parametrization": ("depth-mup", "'depth-mup' is unknown; expected standard"),
  "width": (-3, "--width=-3"),
  "depth": (0, "--depth=0"),
  "base_width": (0, "base_width=0"),
  "base_depth": (0, "base_depth=0"),
  "stages": (3, "stages=3 of depth=2"),
  "block_depth": (0, "block_depth=0"),
  "kernel_size": (0, "kernel_size=0"),
  "patch": (0, "patch=0"),
  "stem_kernel_size": (3, "stem_kernel_size=3 is below patch=4"),
  "activation": ("swish", "activation='swish'"),
  "norm": ("batch", "norm='batch'"),
  "block_multiplier": (float("nan"), "--block_multiplier=nan"),
  "steps": (0, "--steps=0"),
  "batch_size": (0, "--batch_size=0"),
  "lr": (-1.0, "--lr=-1.0"),
  "warmup": (13, "--warmup=13"),
  "clip": (-1.0, "--clip=-1.0"),
  "accumulate": (0, "--accumulate=0"),
  "log_every": (0, "--log_every=0"),
  "eval_every": (0, "--eval_every=0"),
  "eval_batches": (0, "--eval_batches=0"),
  "save_every": (0, "--save_every=0"),
  "keep": (0, "--keep=0"),
  "profile": ("9", "--profile='9'"),
  "peak_tflops": (0.0, "--peak_tflops=0"),
  "optimizer": ("sgd", "--optimizer=sgd: train_resnet has none"),
  "head_dim": (8, "--head_dim=8: train_resnet has none"),
  "sequence_length": (8, "--sequence_length=8: train_resnet has none"),
}


@pytest.mark.parametrize("flag", BAD)
def test_every_flag_with_a_wrong_value(tmp_path, flag):
  value, words = BAD[flag]
  values = {"workdir": str(tmp_path / "w")} | TOY | {flag: value}
  with flagsaver.flagsaver(**values), pytest.raises(DepthMupError, match=words):
    train_resnet.main([])
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"dataset": "mnist"}, "--dataset=mnist is read from its official files"),
    ({"dataset": "cifar10", "data_dir": "/nowhere"}, "has no data_batch_1.bin"),
    ({"patch": 3}, "patch=3 and stages=1 need a height and width that 3 divides"),
    ({"stages": 3, "depth": 3}, "take a smaller patch or fewer stages"),
    ({"mesh": "data:3"}, "mesh data:3 needs 3 devices"),
    ({"mesh": "rows:2"}, 'unknown axis "rows"'),
    ({"mesh": "data:-1", "batch_size": 18}, "batch_size=18 is no multiple"),
    ({"mesh": "fsdp:-1", "width": 6}, 'its axis "embed" has size 6'),
    ({"rules": "embed:rows"}, "'rows' is no axis"),
    ({"batch_size": 10, "accumulate": 4}, "--batch_size=10 is no multiple of --accumu"),
    ({"batch_size": 400}, "the test part of digits holds 359 examples"),
  ],
)
def test_other_wrong_values(tmp_path, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path, **values)


@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10 files beside the checkout")
def test_on_cifar10(tmp_path):
  run(tmp_path, dataset="cifar10", data_dir=str(CIFAR), patch=8, stages=2, steps=2)
  assert np.isfinite(losses(tmp_path)).all()
