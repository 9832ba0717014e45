"""What is seen of the branches of a net."""

import jax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup.branch_survey import survey
from tests.survey_nets import TOKENS, Loop, Own, P, Scanned, X, transformer


def test_the_survey_tells_the_branches():
  found = survey(Loop(("nw", "nww")), X)
  assert [(b.path, b.module, b.depth) for b in found.branches] == [
    ("b0", "Branch", 2),
    ("b1", "Branch", 2),
  ]
  assert found.branches[1].matrices == ("Dense_0/kernel", "Dense_1/kernel")
  assert found.branches[0].norms == {"head"}
  assert found.branch_of("b1/Dense_0/kernel") is found.branches[1]
  assert found.branch_of("b10/kernel") is None


def test_matrices_side_by_side_count_each():
  gated = survey(transformer(gated=True), TOKENS)
  assert [len(b.matrices) for b in gated.branches] == [4, 3]
  assert [b.norms for b in gated.branches] == [{"head"}, {"head"}]


@pytest.mark.parametrize(
  ("order", "norms"),
  [("w", set()), ("nw", {"head"}), ("wn", {"end"}), ("wnw", {"inside"}), ("nwn", None)],
)
def test_norms_have_places(order, norms):
  (branch,) = survey(Loop((order,)), X).branches
  assert branch.norms == ({"head", "end"} if norms is None else norms)


def test_the_order_of_matrices_of_its_own_is_not_known():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return dmup.Residual(Own(), 2, P)(x)

  (branch,) = survey(Net(), X).branches
  assert branch.norms is None
  assert branch.matrices == ("w",)


@pytest.mark.parametrize(
  ("model", "post"),
  [
    (Loop(("w", "w"), after=True), True),
    (Loop(("w", "w")), False),
    (Loop(("w",), after=True), False),  # one block: its norm is the last one
    (Scanned(True), True),
    (Scanned(False), False),
  ],
)
def test_norms_on_the_stream_are_seen(model, post):
  assert survey(model, X).norm_on_stream is post


def test_multipliers_and_ties():
  found = survey(transformer(tied=True, block_multiplier=3.0), TOKENS)
  assert found.tied == ("embed",)
  assert [b.multiplier for b in found.branches] == [1.5, 1.5]  # 3 / (4/2)
  assert survey(transformer(), TOKENS).tied == ()


def test_stages_are_branches_of_the_whole_depth():
  net = dmup.ResNet(8, 4, 3, P, stages=2)
  found = survey(net, jax.ShapeDtypeStruct((1, 8, 8, 1), "float32"))
  assert [(b.path, b.depth) for b in found.branches] == [
    ("stage_0/block", 4),
    ("stage_1/block", 4),
  ]
  assert not found.norm_on_stream


def test_nothing_is_computed():
  """The net takes 4 TB."""
  net = dmup.ResidualMLP(2**17, 64, 3, dmup.depth_mup(base_width=8, base_depth=2))
  found = survey(net.clone(remat=True), X)
  assert found.params["stack"]["block"]["dense_0"]["kernel"].shape == (64, 2**17, 2**17)
  assert [b.path for b in found.branches] == ["stack/block"]
