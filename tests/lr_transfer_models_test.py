"""lr_transfer with the other nets, growing along every axis, at toy size."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import lr_transfer
from experiments._lib import transfer_config
from flax_depthmup import DepthMupError

TOY = {
  "parametrizations": ["complete_p"],
  "width": 16,
  "base_width": 16,
  "base_depth": 2,
  "depths": ["2", "4"],
  "log2_lrs": "-10:-6:2",
  "seeds": 2,
  "steps": 6,
  "window": 3,
  "batch_size": 8,
  "chunk": 6,
}
NETS = {
  "resnet": {"model": "resnet", "patch": 4},
  "transformer": {"model": "transformer", "head_dim": 8, "sequence_length": 16},
}
AXES = {
  "depth": ({}, [(16, 2), (16, 4)], "depth"),
  "width": ({"widths": ["16", "32"], "depth": 2}, [(16, 2), (32, 2)], "width"),
  "joint": ({"widths": ["16", "32"]}, [(16, 2), (32, 4)], "depth"),
}


def flags_of(net, values):
  """--width goes with --axis=depth alone."""
  one_width = values.get("axis", "depth") == "depth"
  return TOY | NETS[net] | ({} if one_width else {"width": None}) | values


def run(workdir, net, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **flags_of(net, values)):
    lr_transfer.main([])


def records(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
  ("model", "axis"),
  [
    ("resnet", "depth"),
    *(
      pytest.param(model, axis, marks=pytest.mark.slow)
      for model, axis in (
        ("resnet", "width"),
        ("resnet", "joint"),
        ("transformer", "joint"),
      )
    ),
  ],
)
def test_a_net_grows_along_an_axis(tmp_path, model, axis):
  values, sizes, column = AXES[axis]
  run(tmp_path, model, axis=axis, **values)
  found = records(tmp_path)
  assert len(found) == 2 * 3 * 2
  assert sorted({(r["width"], r["depth"]) for r in found}) == sizes
  assert all(np.isfinite(r["loss"]) and not r["diverged"] for r in found)
  guess = np.log(256 if model == "transformer" else 10)
  assert min(r["loss"] for r in found) < guess
  verdict = json.loads((tmp_path / "summary.json").read_text())["transfer"]["complete_p"]
  grown = [size[("width", "depth").index(column)] for size in sizes]
  assert list(verdict["best_loss"]) == [str(n) for n in grown]
  assert f"of {column}" in verdict["reason"] or f"{column} " in verdict["reason"]
  assert (tmp_path / "lr_transfer.png").read_bytes()[:4] == b"\x89PNG"


def net_of(net, width, depth, **values):
  with flagsaver.flagsaver(**flags_of(net, values)):
    return transfer_config.from_flags().net("complete_p", width, depth, vocab=256)


def test_the_transformer_of_the_flags():
  joint = {"axis": "joint", "widths": ["16", "32"]}
  net = net_of("transformer", 32, 4, **joint)
  own = {"embed": 32, "mlp": 128, "heads": 4, "kv_heads": 4, "head_dim": 8}
  base = {"embed": 16, "mlp": 64, "heads": 2, "kv_heads": 2, "head_dim": 8}
  assert (net.depth, net.sizes) == (4, own)
  assert dict(net.parametrization.base_sizes) == base
  assert net.parametrization.base_depth == 2
  net = net_of("transformer", 32, 4, **joint, base_width=None, base_depth=None)
  assert dict(net.parametrization.base_sizes) == base  # the narrowest
  assert net.parametrization.base_depth == 4


def test_the_resnet_of_the_flags():
  net = net_of("resnet", 16, 4, block_depth=2, activation="abs", train_boundary=True)
  assert (net.width, net.depth, net.patch, net.outputs) == (16, 4, 4, 10)
  assert (net.block_depth, net.activation, net.train_boundary) == (2, "abs", True)
  assert net.parametrization.base_sizes["embed"] == 16
  assert net.parametrization.base_depth == 2


@pytest.mark.parametrize(
  ("net", "values", "words"),
  [
    ("resnet", {"dataset": "text"}, "--dataset=text with --model=resnet"),
    (
      "resnet",
      {"model": "mlp", "dataset": "text", "patch": None},
      "--dataset=text with --model=mlp",
    ),
    ("transformer", {"dataset": "digits"}, "--dataset=digits with --model=transformer"),
    ("resnet", {"axis": "joint", "widths": ["16"]}, "1 --widths and 2 --depths"),
    ("resnet", {"axis": "joint"}, "--axis=joint needs --widths"),
    ("transformer", {"axis": "width"}, "--axis=width needs --widths"),
    ("transformer", {"widths": ["16", "32"]}, "--widths with --axis=depth"),
    ("transformer", {"head_dim": 6}, "--head_dim=6 does not divide the width 16"),
    (
      "transformer",
      {"axis": "width", "widths": ["16", "20"]},
      "--head_dim=8 does not divide the width 20",
    ),
    ("transformer", {"base_width": 12}, "--head_dim=8 does not divide the width 12"),
    ("transformer", {"head_dim": 0}, "--head_dim=0"),
    ("transformer", {"rules": "vocab:"}, "--rules=vocab:: lr_transfer without --mesh"),
    ("transformer", {"sequence_length": 0}, "--sequence_length=0"),
    ("transformer", {"norm": "batch"}, "norm='batch'"),
    ("resnet", {"patch": 0}, "patch=0"),
    ("resnet", {"axis": "width", "widths": ["16", "0"]}, "--widths='16,0'"),
  ],
)
def test_wrong_combinations(tmp_path, net, values, words):
  with pytest.raises(DepthMupError, match=words):
    run(tmp_path / "w", net, **values)
  assert not (tmp_path / "w").exists()


def test_patches_that_do_not_divide_the_image(tmp_path):
  with pytest.raises(DepthMupError, match="patch=3 and stages=1 need a height and width"):
    run(tmp_path, "resnet", patch=3)


@pytest.mark.slow
def test_a_sweep_on_a_mesh_is_the_same(tmp_path):
  """Members along one axis, each of them split along two others."""
  fields = {"parametrizations": ["complete_p"], "seeds": 1, "depths": ["2"]}
  run(tmp_path / "plain", "transformer", **fields)
  run(
    tmp_path / "mesh",
    "transformer",
    mesh="sweep:2,fsdp:2,model:2",
    rules="vocab:",
    **fields,
  )
  losses = [[r["loss"] for r in records(tmp_path / d)] for d in ("plain", "mesh")]
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
