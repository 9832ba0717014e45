"""Descriptions as tables: their width, their words, what rich makes of names."""

import io
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup.description import describe
from flax_depthmup.description_table import factor

ROOT = pathlib.Path(__file__).parents[1]
KEY = jax.random.key(0)
X = jax.ShapeDtypeStruct((2, 8), jnp.float32)
P = dmup.depth_mup(base_width=16, base_depth=2)
MLP = dmup.ResidualMLP(64, 8, 10, P, block_depth=2)


@pytest.fixture(scope="module")
def mlp():
  return dmup.abstract_init(MLP, KEY, X)


def test_the_table_is_as_wide_as_the_terminal(mlp, monkeypatch):
  monkeypatch.setenv("COLUMNS", "95")
  text = str(describe(*mlp, MLP, X))
  assert max(map(len, text.splitlines())) <= 95
  assert "\x1b" not in text
  rows = [line.split() for line in text.splitlines() if " hidden " in line]
  assert rows[0][-7:] == ["yes", "0.125", "1", "1/8", "1", "1/8", "3"]  # none is cut
  assert "axes" not in text.splitlines()[0]
  monkeypatch.setenv("COLUMNS", "20")  # the terminal breaks lines; nothing is lost
  narrow = [line.split() for line in str(describe(*mlp, MLP, X)).splitlines()]
  assert [row[-7:] for row in narrow if "hidden" in row] == [row[-7:] for row in rows]
  monkeypatch.setenv("COLUMNS", "140")
  assert "axes" in str(describe(*mlp, MLP, X)).splitlines()[0]


def test_rich_renders_it_with_brackets_in_names():
  from rich.console import Console

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return dmup.Readout(3, P, axes="embed -> (outputs)", name="r[bold]")(x)

  description = describe(*dmup.abstract_init(Net(), KEY, X))
  console = Console(width=200, record=True, file=io.StringIO())
  console.print(description)
  assert "r[bold]/kernel" in console.export_text()


@pytest.mark.parametrize(
  ("value", "words"),
  [(0.25, "1/4"), (1, "1"), (0.7071, "0.7071"), (1 / 3, "1/3"), (8, "8"), (0, "0")],
)
def test_factors_in_words(value, words):
  assert factor(value) == words


def test_rich_is_imported_when_a_table_is_drawn():
  for name in ("description", "description_table"):
    source = (ROOT / "flax_depthmup" / f"{name}.py").read_text()
    assert not re.search(r"^(import|from) rich", source, re.M)
