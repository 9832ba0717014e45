"""The limit_convergence experiment: its nets, its claims and its main at toy size."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import limit_convergence
from experiments._lib import limit_convergence_mlp
from experiments._lib.limit_convergence_cases import CASES
from experiments._lib.limit_convergence_verdict import claims
from experiments._lib.limit_slopes import rms
from flax_depthmup import DepthMupError

# Nets ----------------------------------------------------------------------------------

FAST = ("one_hidden", "deep_linear", "ntp_kernel")
OTHERS = [name for name, case in CASES.items() if case.nets and name not in FAST]


def fall(name, narrow, wide, seeds):
  nets = CASES[name].nets
  return rms(nets(narrow, seeds)) / rms(nets(wide, seeds))


@pytest.mark.parametrize("name", FAST)
def test_four_times_the_width_halves_the_deviation(name):
  """The ratio scatters by 0.2 over sets of 60 seeds; without a limit it is 1."""
  assert 1.4 < fall(name, 32, 128, 60) < 2.9


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_so_do_those_of_all_other_limits(name):
  assert 1.4 < fall(name, 32, 128, 40) < 2.9


def test_nets_are_nowhere_near_a_wrong_kernel(monkeypatch):
  """A kernel of twice the size: then width does not help."""
  true = limit_convergence_mlp.kernel_regime_kernel
  monkeypatch.setattr(
    limit_convergence_mlp, "kernel_regime_kernel", lambda *args: 2.0 * true(*args)
  )
  assert fall("ntp_kernel", 64, 256, 30) < 1.2


def test_every_limit_has_nets_or_depths_and_five_doublings():
  for case in CASES.values():
    assert case.nets is not None or case.depths is not None
    if case.nets is not None:
      assert case.widths[-1] >= 32 * case.widths[0]
      assert case.seeds >= 40


def test_depths_of_infinite_width():
  found = CASES["residual_kernels"].depths()
  gaps = [rms(found.at(depth) - found.limit) for depth in (16, 32, 64)]
  np.testing.assert_allclose(np.diff(np.log2(gaps)), -1, atol=0.1)


# Claims --------------------------------------------------------------------------------


def records(law, sizes=(16, 32, 64, 128, 256, 512), axis="width", seeds=60, error=0.0):
  rng, rows = np.random.default_rng(0), []
  for size in sizes:
    row = {"axis": axis, "case": "ode", "size": size}
    if axis == "depth":
      rows.append({**row, "deviation": law(size), "error": error})
    else:
      spread = law(size) * np.abs(rng.normal(1, 0.2, seeds))
      rows.append({**row, "deviations": spread.tolist(), "mean": 0.0})
  return rows


def seen(rows):
  (found,) = claims(rows).values()
  assert {"claim", "measured", "seen", "reason"} == set(found)
  json.dumps(found, allow_nan=False)
  return found["seen"], found["reason"]


def test_claims_over_width():
  assert seen(records(lambda n: n**-0.5))[0] is True
  assert seen(records(lambda n: n**-0.25))[0] is False
  assert seen(records(lambda n: 1 / n))[0] is False
  assert seen(records(lambda n: n**-0.5 + 0.05))[0] is not True  # a limit elsewhere
  assert seen(records(lambda n: n**-0.5, seeds=1)) == (
    None,
    "fewer than three widths, or one seed",
  )
  answer, reason = seen(records(lambda n: n**-0.5, sizes=(16, 32, 64, 256)))
  assert answer is None
  assert "from 16 to 256 only, less than five doublings" in reason


def test_claims_over_depth():
  def depth(law, **fields):
    return seen(records(law, axis="depth", **fields))[0]

  assert depth(lambda n: 1 / n) is True
  assert depth(lambda n: n**-0.5) is False
  assert depth(lambda n: n**-2.0) is False
  assert depth(lambda n: 1 / n, error=0.01) is None  # only two are beyond the error
  assert depth(lambda n: 1 / n, error=1e-3) is None  # and not 512: four doublings


# The entry point -----------------------------------------------------------------------

TOY = {
  "limits": ["one_hidden", "residual_kernels"],
  "widths": ["8", "16", "32"],
  "depths": ["4", "8", "16"],
  "seeds": 4,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    limit_convergence.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  rows = lines(tmp_path)
  assert [(r["axis"], r["case"], r["size"]) for r in rows] == [
    *(("width", "one_hidden", n) for n in (8, 16, 32)),
    *(("width", "residual_kernels", n) for n in (8, 16, 32)),
    *(("depth", "residual_kernels", depth) for depth in (4, 8, 16)),
  ]
  assert all(len(r["deviations"]) == 4 for r in rows if r["axis"] == "width")
  for axis in ("width", "depth"):
    assert (tmp_path / f"limit_convergence_{axis}.png").read_bytes()[:4] == b"\x89PNG"
  found = json.loads((tmp_path / "summary.json").read_text())["limit_convergence"]
  assert [*found] == [
    "width: one_hidden",
    "width: residual_kernels",
    "depth: residual_kernels",
  ]
  assert {c["seen"] for c in found.values()} == {None}
  told = capsys.readouterr().out
  assert "cannot tell: nets reach the limit as n^(-1/2): one hidden, tanh" in told
  assert "less than five doublings" in told
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: seeds is 4, this run has 5"):
    run(tmp_path, seeds=5)


def test_a_limit_without_nets(tmp_path, monkeypatch):
  """One figure only."""
  case = CASES["tanh_ode"]
  found = CASES["residual_kernels"].depths
  monkeypatch.setitem(CASES, "tanh_ode", type(case)(words=case.words, depths=found))
  run(tmp_path, limits=["tanh_ode"])
  assert {r["axis"] for r in lines(tmp_path)} == {"depth"}
  assert [p.name for p in tmp_path.glob("*.png")] == ["limit_convergence_depth.png"]


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  toy = {"limits": ["one_hidden", "deep_linear"]}
  run(tmp_path / "whole", **toy)
  whole, count = limit_convergence.over_width, 0

  def interrupt(*args):
    nonlocal count
    count += 1
    if count == 5:
      raise KeyboardInterrupt
    return whole(*args)

  with monkeypatch.context() as patch:
    patch.setattr(limit_convergence, "over_width", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut", **toy)
  assert len(lines(tmp_path / "cut")) == 4
  again = []

  def note(*args):
    again.append(args[:2])
    return whole(*args)

  monkeypatch.setattr(limit_convergence, "over_width", note)
  run(tmp_path / "cut", **toy)
  assert again == [("deep_linear", 16), ("deep_linear", 32)]
  for name in ("results.jsonl", "summary.json"):
    made = [(tmp_path / d / name).read_bytes() for d in ("whole", "cut")]
    assert made[0] == made[1]


def test_diverging_nets_are_named(tmp_path, monkeypatch):
  case = CASES["one_hidden"]
  nets = {"words": case.words, "nets": lambda width, seeds: np.full((seeds, 2), np.nan)}
  monkeypatch.setitem(CASES, "one_hidden", type(case)(**nets))
  with pytest.raises(DepthMupError, match="nets of one_hidden, width 8, diverge"):
    run(tmp_path, limits=["one_hidden"])


BAD = [
  ({"workdir": None}, "--workdir is missing"),
  ({"limits": ["one_hidden", "resnet"]}, "--limits='one_hidden,resnet'"),
  ({"limits": []}, "--limits=''"),
  ({"limits": ["word2vec", "word2vec"]}, "expected distinct names"),
  ({"widths": ["x"]}, "--widths='x'"),
  ({"widths": ["1", "2"]}, "--widths holds 1"),
  ({"depths": ["4", "4"]}, "--depths='4,4'"),
  ({"depths": ["4", "5"]}, "--depths: 5 is odd"),
  ({"seeds": 0}, "--seeds=0: expected a positive number"),
  ({"width": 64}, "--width=64: limit_convergence has none"),
  ({"mesh": "data:-1"}, "--mesh=data:-1: limit_convergence has none"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=lambda v: str(v)[:30])
def test_wrong_flags(tmp_path, values, words):
  with (
    flagsaver.flagsaver(**({"workdir": str(tmp_path / "w")} | TOY | values)),
    pytest.raises(DepthMupError, match=words),
  ):
    limit_convergence.main([])
  assert not (tmp_path / "w").exists()


def test_a_damaged_file_of_results(tmp_path):
  run(tmp_path, limits=["one_hidden"])
  (tmp_path / "summary.json").unlink()
  (tmp_path / "results.jsonl").write_text("{")
  with pytest.raises(DepthMupError, match=r"results.jsonl is damaged"):
    run(tmp_path, limits=["one_hidden"])
