"""Every Python block of the README runs, in order, as written."""

import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def test_python_blocks_run(capsys):
  blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
  assert len(blocks) == 4
  names: dict = {}
  for block in blocks:
    exec(block, names)
  assert "redundant (ODE)" in capsys.readouterr().out
  scanned = names["stack"].apply({"params": names["block_params"]}, np.ones((8, 128)))
  assert np.isfinite(scanned).all()
  assert np.isfinite(names["logits"]).all()
  assert names["text"].shape == (8, 8)
  assert names["check"].passed is not False
  assert {s.probe for s in names["check"].slopes} == {"training", "eps", "decay"}


def test_what_it_links_to_is_there():
  for name in ("README.md", "experiments/README.md"):
    text = (ROOT / name).read_text()
    for path in re.findall(
      r"\]\(([^)h][^)]*)\)|`(tests/\w+\.py|flax_depthmup/[\w/]+\.py)`", text
    ):
      assert (ROOT / (path[0] or path[1])).exists(), path
