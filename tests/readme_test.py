"""Every Python block of the README runs, in order, as written."""

import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def run_blocks(page):
  blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
  names: dict = {}
  for block in blocks:
    exec(block, names)
  return len(blocks), names


def test_python_blocks_run(capsys):
  count, names = run_blocks("README.md")
  assert count == 6
  assert "redundant (ODE)" in capsys.readouterr().out
  scanned = names["stack"].apply({"params": names["block_params"]}, np.ones((8, 128)))
  assert np.isfinite(scanned).all()
  assert np.isfinite(names["logits"]).all()
  assert names["by_hand"].branch == 2**-0.5
  assert names["text"].shape == (8, 8)
  assert names["check"].passed is not False
  assert {s.probe for s in names["check"].slopes} == {"training", "eps", "decay"}
  assert names["deep"].outputs.error < 0.05


def test_no_placeholder_is_left():
  for name in ("README.md", "experiments/README.md", "docs/limits.md"):
    left = re.findall(
      r"\b(?:LL|LD|LC|OM)(?:MIN|NUM|CMD)\b|MEASURED_\w+", (ROOT / name).read_text()
    )
    assert not left, f"{name}: {left}"


def test_what_it_links_to_is_there():
  for name in ("README.md", "experiments/README.md", "docs/limits.md"):
    text = (ROOT / name).read_text()
    for path in re.findall(
      r"\]\(([^)h][^)]*)\)|`(tests/\w+\.py|flax_depthmup/[\w/]+\.py)`", text
    ):
      found = (ROOT / name).parent / path[0] if path[0] else ROOT / path[1]
      assert found.exists(), path
