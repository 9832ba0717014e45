"""Descriptions as tables: width, words, names, and the columns that a family adds."""

import dataclasses
import io
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup.description import describe
from flax_depthmup.description_table import factor
from flax_depthmup.transforms import named_leaves

ROOT = pathlib.Path(__file__).parents[1]
KEY = jax.random.key(0)
X = jax.ShapeDtypeStruct((2, 8), jnp.float32)
P = dmup.depth_mup(base_width=16, base_depth=2)
MLP = dmup.ResidualMLP(64, 8, 10, P, block_depth=2)
BASE = dmup.axis_sizes(width=16, heads=2)
LM = dmup.Transformer(64, 32, 50, 8, dmup.complete_p(base_width=BASE, base_depth=2))


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


def test_the_columns_of_a_family_are_not_cut(mlp, monkeypatch):
  monkeypatch.setenv("COLUMNS", "20")
  text = str(describe(*mlp, MLP, X, family=dmup.MUON_MOONSHOT))
  assert text.splitlines()[0].split()[-5:] == ["eps", "MUON_MOONSHOT", "its", "eps", "why"]
  (row,) = [line.split() for line in text.splitlines() if " hidden " in line]
  assert row[-9:] == ["yes", "0.125", "1", "1/8", "1", "1/8", "1/4", "1/2", "3"]


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


# A family ------------------------------------------------------------------------


FAMILIES = [dmup.MUON, dmup.MUON_MOONSHOT, dmup.SHAMPOO, dmup.RELATIVE, dmup.ENTRYWISE]


@pytest.fixture(scope="module")
def lm():
  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  return dmup.abstract_init(LM, KEY, tokens)


def by_name(description):
  return {p.parameter: p for p in description.parameters}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_factors_of_a_family_are_those_that_are_applied(lm, family):
  """Of Q = 1, which multiplies by the factor of the gradient and that of the update."""
  description = describe(*lm, family=family)
  assert description.family == json.loads(description.as_json())["family"] == family.name
  for name, row in by_name(description).items():
    s = dict(named_leaves(lm[1]))[name]
    if family.matrices_only and row.kind == "vector":
      assert (row.family_update, row.family_eps) == (None, None)
      continue
    gradient = {"w": np.ones(s.shape, np.float32)}
    free = dataclasses.replace(family, matrices_only=False)
    tx = dmup.scale_by_parametrization(optax.identity(), {"w": s}, family=free)
    update = tx.update(gradient, tx.init(gradient))[0]["w"]
    assert row.family_update / row.family_eps == pytest.approx(float(update.max()))


def test_muon_moves_hidden_matrices_at_every_width_alike(lm):
  """Width ratio 4, CompleteP: a rate of 1 where Adam's is 1/4 (arXiv 2603.00541)."""
  rows = by_name(describe(*lm, family=dmup.MUON))
  up = rows["layers/mlp/up/kernel"]
  assert (up.adam_update, up.family_update) == (pytest.approx(0.25), pytest.approx(1))
  assert up.family_eps == pytest.approx(4 * up.eps_factor)  # the norm of the gradient
  assert rows["readout/kernel"].family_update == pytest.approx(2)  # m^1/2
  text = str(describe(*lm, family=dmup.MUON))
  head = text.splitlines()[0].split()
  assert head[-6:] == ["SGD", "eps", "MUON", "its", "eps", "why"]
  (gain,) = [line.split() for line in text.splitlines() if line.startswith("norm/scale")]
  assert gain[-3:-1] == ["-", "-"]
  assert "MUON: on the learning rate of such an optimizer" in text
  plain = describe(*lm)
  assert {p.family_update for p in plain.parameters} == {plain.family} == {None}
  assert "MUON" not in str(plain)
  assert "of whole matrices have other factors" in str(plain)


def test_a_family_that_is_none_is_refused(mlp):
  with pytest.raises(dmup.DepthMupError, match="family='muon' is no Family; give one of"):
    describe(*mlp, family="muon")
