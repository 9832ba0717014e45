"""The benchmark's main at toy size: the keys it promises, and its flags wrong.

No time is asserted here; what does not depend on the clock is.
"""

import json

import pytest
from absl.testing import flagsaver

from experiments import benchmark
from flax_depthmup import DepthMupError

TOY = {
  "width": 16,
  "depth": 4,
  "members": 2,
  "steps": 8,
  "depths": ["8", "64"],
  "repeats": 4,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    benchmark.main([])


def test_summary(tmp_path, capsys):
  run(tmp_path)
  summary = json.loads((tmp_path / "summary.json").read_text())
  for key in ("sweep_speedup", "transformation_overhead", "compile_ratio_1024_over_8"):
    assert summary[key] > 0
  memory = summary["peak_memory"]
  assert memory["64"]["remat"] < 0.7 * memory["64"]["plain"]
  assert memory["8"]["plain"] < memory["64"]["plain"]
  run(tmp_path)
  assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flag", "value"),
  [("width", 0), ("depth", -1), ("members", 0), ("steps", 7), ("repeats", 0)],
)
def test_wrong_flags(tmp_path, flag, value):
  with pytest.raises(DepthMupError, match=f"--{flag}={value}"):
    run(tmp_path / "w", **{flag: value})


def test_other_wrong_flags(tmp_path):
  with pytest.raises(DepthMupError, match="--depths='8,8'"):
    run(tmp_path / "w", depths=["8", "8"])
  with pytest.raises(DepthMupError, match="--workdir is missing"):
    run("")
