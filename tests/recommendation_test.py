"""recommend: what it sees of a net, what it says, and that its commands are real."""

import importlib
import re
import shlex

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import linen as nn

import flax_depthmup as dmup
from experiments._lib import coordinate_config, transfer_config
from flax_depthmup import DepthMupError
from flax_depthmup.recommendation import MATRICES, NORMS, recommend
from flax_depthmup.recommendation_commands import ENTRYWISE
from tests.survey_nets import TOKENS, Loop, Own, P, Scanned, X, dense, transformer


@pytest.mark.parametrize(
  ("model", "k", "norm"),
  [
    (dmup.ResidualMLP(16, 4, 3, P), 1, "none"),
    (dmup.ResidualMLP(16, 4, 3, P, block_depth=3, norm="rms_norm"), 3, "pre"),
    (Loop(("w", "w", "w")), 1, "none"),
    (Loop(("nw", "nww")), 2, "pre"),
    (Loop(("nwn", "nw")), 1, "end"),
    (Loop(("wn", "wn")), 1, "end"),
    (Loop(("wnw", "wnw")), 2, "none"),  # a norm between the matrices alone
    (Loop(("w", "w"), after=True), 1, "post"),
    (Loop(("w",), after=False), 1, "none"),
    (Scanned(True), 1, "post"),
    (Scanned(False), 1, "none"),
  ],
  ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_block_depth_and_norms_are_seen(model, k, norm):
  found = recommend(model, X)
  assert (found.block_depth, found.norm) == (k, norm)
  assert found.preset == ("depth_mup" if k == 1 else "complete_p")
  assert found.supported == (norm != "post")


def test_a_transformer_has_several_matrices_and_norms_at_the_heads():
  found = recommend(transformer(), TOKENS)
  assert (found.block_depth, found.norm, found.preset) == (4, "pre", "complete_p")
  assert (found.alpha, found.gamma) == ("1", "0")
  assert found.present == "complete_p (alpha = 1, gamma = 0)"
  assert recommend(Loop(("w",)), X).present.endswith("gamma = 1/2: Depth-muP)")


def test_convolutions_count_as_matrices():
  image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
  found = recommend(dmup.ResNet(8, 4, 3, P, block_depth=2, stages=2), image)
  assert (found.block_depth, found.norm) == (2, "none")
  assert all("--model=resnet" in command for command in found.commands)


def said(recommendation):
  """The texts of what may fail, in one."""
  return " ".join(claim.text for claim in recommendation.may_fail)


def test_what_may_fail_is_told_of_this_net():
  relu = dmup.ResidualMLP(16, 4, 3, P, mean_subtraction=False)
  assert "relu with its mean left in" in said(recommend(relu, X))
  for fine in (
    dmup.ResidualMLP(16, 4, 3, P),
    dmup.ResidualMLP(16, 4, 3, P, mean_subtraction=False, activation="tanh"),
    dmup.ResidualMLP(16, 4, 3, P, mean_subtraction=False, norm="layer_norm"),
  ):
    assert "mean" not in said(recommend(fine, X))
  assert "needs its mean subtracted" in said(recommend(Loop(("w",)), X))
  gains = "Trainable gains"
  assert gains in said(recommend(transformer(), TOKENS))
  assert gains not in said(recommend(transformer(norm_gain=False), TOKENS))
  assert "check_multipliers" in said(recommend(Loop(("wn", "wn")), X))
  always = said(recommend(block_depth=1, norm="none"))
  assert "number of steps" in always
  assert "Weight decay" in always


def test_what_has_no_evidence_is_disputed():
  def texts(**fields):
    return " ".join(claim.text for claim in recommend(**fields).disputed)

  assert "under AdamW" in texts(block_depth=2, norm="none")
  assert "under AdamW" in texts(block_depth=2, norm="pre", optimizer="sgd")
  assert "under AdamW" not in texts(block_depth=2, norm="pre")
  assert "no ideal limit" in texts(block_depth=2, norm="pre")
  assert "transferred as well" in texts(block_depth=2, norm="pre")
  assert "no ideal limit" not in texts(block_depth=1, norm="pre")


def test_tied_embeddings_under_table_3_are_refused_in_words():
  class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      table = dmup.Embed(5, 8, P)
      x = dmup.Residual(dense(), 2, P)(table(tokens))
      return table.attend(x)

  found = recommend(Tied(), TOKENS)
  assert "Table 3 would need two inits" in said(found)
  assert found.call.endswith("base_depth=..., width_rule=dmup.TABLE_8)")
  assert "Table 3" not in said(recommend(transformer(tied=True), TOKENS))


@pytest.mark.parametrize("optimizer", [*ENTRYWISE, "adamw", *MATRICES])
def test_every_optimizer_has_its_word(optimizer):
  found = recommend(block_depth=2, norm="pre", optimizer=optimizer)
  own = {"sgd": "SGD gets", "momentum": "SGD gets"}
  own["lion"] = "Lion takes the sign"
  own |= {name: f"{name} does not act entry by entry" for name in MATRICES}
  assert own.get(optimizer, "eps must follow") in said(found)
  has_eps = optimizer in ("adam", "adamw", "adagrad", "rmsprop")
  assert ("eps must follow" in said(found)) == has_eps
  assert bool(found.commands) == (optimizer not in MATRICES)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_every_claim_has_a_source(k, norm):
  found = recommend(block_depth=k, norm=norm)
  claims = (*found.reasons, *found.disputed, *found.may_fail)
  assert found.reasons
  assert found.disputed
  for claim in claims:
    assert re.search(r"arXiv \d{4}\.\d{5}|by definition", claim.source), claim
    assert claim.text.endswith(".")
    assert claim.source in str(claim)
  text = str(found)
  assert max(map(len, text.split("measure it")[0].splitlines())) <= 100
  assert found.present is None


def test_the_preset_is_one_and_has_these_exponents():
  for k in (1, 2):
    found = recommend(block_depth=k, norm="pre")
    p = getattr(dmup, found.preset)(base_width=8, base_depth=2)
    assert (str(p.alpha), str(p.gamma)) == (found.alpha, found.gamma)
    expression = found.call.replace("base_width=...", "base_width=8")
    assert eval(expression.replace("base_depth=...", "base_depth=2"), {"dmup": dmup}) == p


def commanded():
  """Recommendations of every kind, whose commands are tried."""
  nets = [(transformer(), TOKENS), (dmup.ResidualMLP(16, 4, 3, P, block_depth=2), X)]
  for optimizer in ENTRYWISE:
    for norm in NORMS:
      yield recommend(block_depth=1, norm=norm, optimizer=optimizer)
    for model, x in nets:
      yield recommend(model, x, optimizer=optimizer)
  yield recommend(block_depth=3, norm="pre")


def test_every_command_is_one():
  """absl parses it, and the entry point's own checks pass."""
  resolve = {
    "coordinate_check": coordinate_config.from_flags,
    "lr_transfer": transfer_config.from_flags,
  }
  tried = set()
  for found in commanded():
    for command in found.commands:
      python, dash_m, module, *given = shlex.split(command)
      assert (python, dash_m) == ("python", "-m")
      entry = module.removeprefix("experiments.")
      importlib.import_module(module)
      with flagsaver.flagsaver():
        left = flags.FLAGS(["program", *given])
        assert left == ["program"]
        config = resolve[entry]()
        net = config if entry == "lr_transfer" else config.net
        assert net.optimizer == found.optimizer
        assert net.block_depth == found.block_depth or net.model == "transformer"
        assert net.parametrizations[0] == found.preset
      tried.add((entry, net.model))
  models = ("mlp", "transformer")
  assert tried == {(entry, model) for entry in resolve for model in models}


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({}, "without a model, give block_depth="),
    ({"block_depth": 1}, "give norm=, one of pre, none, end, post"),
    ({"norm": "pre"}, "give block_depth="),
    ({"block_depth": 0, "norm": "pre"}, "block_depth=0: expected a whole number"),
    ({"block_depth": 1.5, "norm": "pre"}, "block_depth=1.5"),
    ({"block_depth": 1, "norm": "layer_norm"}, "norm='layer_norm': expected one of pre"),
    ({"block_depth": 1, "norm": "pre", "optimizer": "adamax"}, "optimizer='adamax'"),
  ],
)
def test_wrong_arguments_are_refused(arguments, words):
  with pytest.raises(DepthMupError, match=re.escape(words)):
    recommend(**arguments)


class Plain(nn.Module):
  """No skips."""

  @nn.compact
  def __call__(self, x):
    return dense()(x)


class Gains(nn.Module):
  """A branch without a matrix."""

  @nn.compact
  def __call__(self, x):
    ones = dmup.with_axes(nn.initializers.ones, "-> embed", P)
    x = dmup.Residual(nn.RMSNorm(scale_init=ones), 2, P)(x)
    return dense()(x)


@pytest.mark.parametrize(
  ("model", "words"),
  [
    ("a name", "is no linen module"),
    (Plain(), "has no residual branch"),
    (Gains(), "has no hidden weight matrix"),
    (Loop(("nw", "w")), r"differ in their norms \(b0: pre, b1: none\); give norm="),
    (nn.Dense(3), "carries no axes"),
  ],
)
def test_nets_that_cannot_be_judged_are_refused(model, words):
  with pytest.raises(DepthMupError, match=words):
    recommend(model, X)


def test_what_cannot_be_seen_is_asked_for():
  class Net(nn.Module):
    normed: bool

    @nn.compact
    def __call__(self, x):
      return dmup.Residual(Own(self.normed), 2, P)(x)

  with pytest.raises(DepthMupError, match="matrices of its own beside its norms"):
    recommend(Net(True), X)
  assert recommend(Net(True), X, norm="pre").norm == "pre"
  assert recommend(Net(False), X).norm == "none"
  assert recommend(Plain(), X, block_depth=2, norm="none").preset == "complete_p"
  with pytest.raises(DepthMupError, match="inputs without a model"):
    recommend(None, X, block_depth=1, norm="pre")
