"""--describe on every entry point: the tables, and nothing computed or written."""

import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from absl.testing import flagsaver

import flax_depthmup as dmup
from experiments._lib import described

ROOT = pathlib.Path(__file__).parents[1]
ENTRIES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem[0] != "_")
#: Entry point -> labels of the tables it prints at default flags.
NETS = {
  "architectures": ["abs, 4 layers", "abs, 32 layers", "relu, 4 layers", "relu, 32 layers"],
  "benchmark": ["core, width 256, depth 64", "transformer, width 128, depth 8"],
  "commutativity": ["scaled_net, width 64, depth 16", "scaled_net, width 64, depth 256"],
  "coordinate_check": ["depth_mup, width 64, depth 8", "depth_mup, width 64, depth 64"],
  "feature_diversity": [
    f"{name}, width 64, depth {depth}"
    for name in ("depth_mup", "ode")
    for depth in (32, 128)
  ],
  "heat_map": ["depth_mup, width 64, depth 2", "depth_mup, width 64, depth 32"],
  "linearization": [
    f"{name}, block depth {k}, width 64, depth {depth}"
    for name in ("depth_mup", "ode", "0.5:0")
    for k in (1, 2)
    for depth in (4, 64)
  ],
  "lr_transfer": [
    f"{name}, width 64, depth {depth}"
    for name in ("depth_mup", "0.5:0", "standard")
    for depth in (4, 64)
  ],
  "multiplier_transfer": [
    f"{name}, width 64, depth {depth}"
    for name in ("depth_mup", "standard")
    for depth in (4, 32)
  ],
  "proxy_tuning": ["complete_p, width 64, depth 4", "complete_p, width 256, depth 32"],
  "super_consistency": [
    f"{name}, width {width}, depth 4"
    for name in ("depth_mup", "ntk")
    for width in (32, 256)
  ],
  "train_lm": ["complete_p, width 128, depth 4"],
  "train_resnet": ["depth_mup, width 32, depth 8"],
}
WITHOUT = [
  *("limit_convergence", "linear_limit", "omniglot_maml", "prepare_text", "report"),
  "word2vec",
]


def printed(entry, monkeypatch, tmp_path, capsys, **values):
  """What --describe prints; fails if it draws parameters or writes anything."""

  def drawn(*args, **kwargs):
    raise AssertionError("parameters were drawn")

  monkeypatch.setattr(dmup, "init", drawn)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "200")
  main = importlib.import_module(f"experiments.{entry}").main
  with flagsaver.flagsaver(describe=True, workdir=str(tmp_path / "work"), **values):
    main([])
  assert list(tmp_path.iterdir()) == []
  return capsys.readouterr().out


def test_every_entry_point_is_here():
  assert sorted([*NETS, *WITHOUT]) == ENTRIES


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_asks_for_the_flag_before_it_touches_its_folder(entry):
  source = (ROOT / "experiments" / f"{entry}.py").read_text()
  main = source[source.index("def main(") :]
  asked = main.index("described.stops")
  for touch in ("Workdir(", "from_flags()) as", "data.load", ".train(", "write(", "run("):
    assert touch not in main[:asked], f"{entry} has {touch} before --describe"


@pytest.mark.parametrize("entry", NETS)
def test_the_nets_are_described(entry, monkeypatch, tmp_path, capsys):
  out = printed(entry, monkeypatch, tmp_path, capsys)
  tables = re.findall(r"^(\S.*)\n\n *parameter +shape +axes", out, re.M)
  assert tables == NETS[entry]
  assert out.count("\nbranches\n") == len(tables)
  assert len(re.findall(r"^\S+kernel.* hidden +yes ", out, re.M)) >= len(tables)
  last = out.strip().splitlines()[-1]
  assert last.startswith(f"{entry}: the ")
  assert last.endswith("Nothing was computed or written.")


@pytest.mark.parametrize("entry", WITHOUT)
def test_what_has_no_scales_says_so(entry, monkeypatch, tmp_path, capsys):
  out = printed(entry, monkeypatch, tmp_path, capsys)
  assert out.startswith(f"{entry} has no net with scales to describe: it")
  assert out.count("\n") == 1


def test_the_numbers_are_those_of_the_net_that_would_be_trained(
  monkeypatch, tmp_path, capsys
):
  values = {"parametrizations": ["complete_p"], "depths": ["4", "16"], "base_depth": 2}
  values |= {"model": "transformer", "width": 64, "base_width": 32}
  out = printed("lr_transfer", monkeypatch, tmp_path, capsys, **values)
  rows = [line.split() for line in out.splitlines() if "mlp/up/kernel" in line]
  # std 1/sqrt(64), multiplier, Adam, SGD (L/L0), eps 1/(2 L/L0)
  assert [row[-6:-1] for row in rows] == [
    ["0.125", "1", "1/2", "2", "1/4"],
    ["0.125", "1", "1/2", "8", "1/16"],
  ]
  assert "layers/mlp: FeedForward, 16 blocks, multiplied by 1/8" in out
  assert "(257, 64)" in out  # the bytes


def test_data_are_not_wanted(monkeypatch, tmp_path, capsys):
  values = {"dataset": "cifar10", "data_dir": str(tmp_path / "nowhere")}
  out = printed("train_resnet", monkeypatch, tmp_path, capsys, **values)
  assert "(2, 2, 3, 32)" in out  # three channels


def test_without_the_net_family_commutativity_has_nothing_to_describe(
  monkeypatch, tmp_path, capsys
):
  out = printed("commutativity", monkeypatch, tmp_path, capsys, families=["mlp"])
  assert out.startswith("commutativity has no net with scales to describe: without")


def test_prepared_tokens_tell_the_vocabulary(monkeypatch, tmp_path, capsys):
  class Index:
    tokenizer = {"vocab_size": 1000}  # noqa: RUF012

  monkeypatch.setattr(described, "read_index", lambda folder: Index())
  out = printed("train_lm", monkeypatch, tmp_path, capsys, data_dir="tokens")
  assert "(1024, 128)" in out  # filled up to a multiple of 128


def test_without_the_flag_nothing_stops(capsys):
  def nets():
    raise AssertionError("nets were made")

  assert not described.stops("entry", nets, "none")
  assert not described.stops_without("entry", "nothing")
  assert capsys.readouterr().out == ""


def test_other_processes_are_quiet(monkeypatch, capsys):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  p = dmup.depth_mup(base_width=4, base_depth=1)
  x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
  net = described.Described("net", dmup.ResidualMLP(4, 1, 2, p), x)
  with flagsaver.flagsaver(describe=True):
    assert described.stops("entry", lambda: [net], "one")
  assert capsys.readouterr().out == ""
