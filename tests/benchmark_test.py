"""The benchmark at toy size: the keys it promises.

No time is asserted here; what does not depend on the clock is.
"""

import json

import pytest

from experiments import benchmark
from flax_depthmup import DepthMupError

TOY = benchmark.Settings(
  width=16, depth=4, members=2, steps=8, depths=(8, 64), repeats=4, compilations=1
)


def test_summary(tmp_path, capsys):
  benchmark.run(TOY, str(tmp_path))
  summary = json.loads((tmp_path / "summary.json").read_text())
  for key in ("sweep_speedup", "transformation_overhead", "compile_ratio_1024_over_8"):
    assert summary[key] > 0
  memory = summary["peak_memory"]
  assert memory["64"]["remat"] < 0.7 * memory["64"]["plain"]
  assert memory["8"]["plain"] < memory["64"]["plain"]
  benchmark.run(TOY, str(tmp_path))
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds a run with width=16"):
    benchmark.run(benchmark.Settings(), str(tmp_path))


def test_without_a_workdir():
  with pytest.raises(DepthMupError, match="--workdir is missing"):
    benchmark.run(TOY, None)
