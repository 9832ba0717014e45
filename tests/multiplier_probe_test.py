"""Our models pass the probe; a multiplier behind which a norm stands is named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError, forward_multipliers
from flax_depthmup.forward_multipliers import multiplied
from flax_depthmup.multiplier_probe import check_multipliers
from tests.helpers import residual_mlp

KEY = jax.random.key(0)
SIZES = dmup.axis_sizes(width=8, heads=2, mlp=16)
P = dmup.complete_p(base_width={"embed": 8}, base_depth=2)
P9 = dmup.complete_p(base_width={"embed": 8}, base_depth=2, width_rule=dmup.TABLE_9)
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 16)), jnp.float32)
TOKENS = jnp.asarray([[1, 2, 0, 4, 3]])
BRANCHES = {"layers/attention/branch_multiplier", "layers/mlp/branch_multiplier"}


def drawn(model, *inputs, **kwargs):
  """Parameters of the right std, drawn by numpy: compiles nothing."""
  shapes, scales = dmup.abstract_init(model, KEY, *inputs, **kwargs)
  rng = np.random.default_rng(0)

  def draw(x, s):
    return jnp.asarray(rng.normal(0, s.init_std, x.shape), jnp.float32)

  return jax.tree.map(draw, shapes, scales)


def effects(model, *inputs, **kwargs):
  return check_multipliers(model, drawn(model, *inputs), *inputs, **kwargs)


def transformer(rule, **fields):
  p = dmup.complete_p(base_width=SIZES, base_depth=2, width_rule=rule)
  return dmup.Transformer(16, 4, 7, 4, p, mlp=32, **fields)


@pytest.mark.parametrize(
  ("rule", "fields", "others"),
  [
    (dmup.TABLE_3, {"norm": "rms_norm"}, set()),
    (dmup.TABLE_8, {"norm": "layer_norm", "remat": True}, {"readout/kernel"}),
    (dmup.TABLE_9, {"tied": True}, {"embed/embedding", "embed/attend"}),
  ],
)
def test_transformers_pass(rule, fields, others):
  found = effects(transformer(rule, **fields), TOKENS)
  assert set(found) == BRANCHES | others
  assert min(found.values()) > 0.05
  for name in others - {"embed/embedding"}:  # logits are linear in them
    assert found[name] == pytest.approx(1, rel=1e-5)


def test_residual_mlps_pass():
  found = effects(residual_mlp(P, norm="layer_norm", depth=32), X)
  assert set(found) == {"stack/block/branch_multiplier", "readout/kernel"}
  assert min(found.values()) > 0.05
  standard = dmup.standard(base_width=8, base_depth=2)
  found = effects(residual_mlp(standard, norm="rms_norm"), X)
  assert set(found) == {"stack/block/branch_multiplier"}


def test_resnets_pass():
  images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)
  net = dmup.ResNet(8, 4, 3, P9, stages=2, patch=2, norm="rms_norm")
  found = effects(net, images)
  assert set(found) == {
    "stem/kernel",
    "stage_0/block/branch_multiplier",
    "stage_1/block/branch_multiplier",
    "readout/kernel",
  }
  assert min(found.values()) > 0.05


class Linear(nn.Module):
  """x + m W x, then m_in^-1 V: effects known in closed form."""

  @nn.compact
  def __call__(self, x):
    dense = dmup.Dense(16, "embed -> embed", P, name="dense")
    x = dmup.Residual(dense, 8, P, 0.5)(x)
    return dmup.Readout(4, P, name="readout")(x)


def test_the_effect_of_a_branch_against_its_formula():
  params = drawn(Linear(), X)
  found = check_multipliers(Linear(), params, X)
  w, v = (params[name]["kernel"] for name in ("dense", "readout"))
  branch = 0.5 / 4 * X @ w
  expected = np.linalg.norm(branch @ v) / np.linalg.norm((X + branch) @ v)
  assert found["dense/branch_multiplier"] == pytest.approx(expected, rel=1e-5)


def test_a_zero_readout_does_not_hide_its_multiplier():
  net = dmup.Readout(4, P)
  params = jax.tree.map(jnp.zeros_like, drawn(net, X))
  assert check_multipliers(net, params, X)["kernel"] == pytest.approx(1)


class PostNorm(nn.Module):
  """A block whose own multiplier stands before its norm, without a skip between."""

  @nn.compact
  def __call__(self, x):
    x = dmup.Dense(16, "embed -> embed", P, name="dense")(x)
    x = multiplied(self, x, 0.25, "own")
    return nn.LayerNorm(use_bias=False, use_scale=False)(x)


class Skipless(nn.Module):
  """The branch alone is normalized: what its multiplier did is gone."""

  @nn.compact
  def __call__(self, x):
    dense = dmup.Dense(16, "embed -> embed", P, name="dense")
    branch = dmup.Residual(dense, 8, P)(x) - x
    return x + nn.RMSNorm(use_scale=False)(branch)


class NormedReadout(nn.Module):
  """Logits are normalized."""

  @nn.compact
  def __call__(self, x):
    x = dmup.Readout(4, P, name="readout")(x)
    return nn.LayerNorm(use_bias=False, use_scale=False)(x)


class NormedEmbedding(nn.Module):
  """Under Table 9 the embedding has a multiplier, which the norm takes away."""

  p: dmup.Parametrization = P9

  @nn.compact
  def __call__(self, tokens):
    x = dmup.Embed(7, 16, self.p, name="embed")(tokens)
    x = nn.RMSNorm(use_scale=False)(x)
    return dmup.Readout(4, self.p, name="readout")(x)


@pytest.mark.parametrize(
  ("model", "given", "lost", "all_of"),
  [
    (dmup.ResidualStack(PostNorm(), 6, P, remat=True), X, "block/own", 2),
    (Skipless(), X, "dense/branch_multiplier", 1),
    (NormedReadout(), X, "readout/kernel", 1),
    (NormedEmbedding(), TOKENS, "embed/embedding", 2),
  ],
  ids=["post-norm", "no skip", "readout", "embedding"],
)
def test_a_cancelled_multiplier_is_named(model, given, lost, all_of):
  words = rf"^1 of {all_of} forward multipliers have no effect .*: {lost} \(\S+\); a norm"
  with pytest.raises(DepthMupError, match=words):
    effects(model, given)


def test_without_its_multiplier_the_embedding_passes():
  assert set(effects(NormedEmbedding(P), TOKENS)) == {"readout/kernel"}


def towers(axes):
  return nn.vmap(
    dmup.Dense, variable_axes=axes, split_rngs={"params": True}, in_axes=None, axis_size=3
  )(4, "embed -> (outputs)", P)


def test_inside_vmap():
  assert set(effects(towers({True: 0}), X)) == {"kernel"}
  assert set(effects(towers({"params": 0, "multipliers": 0}), X)) == {"kernel"}
  with pytest.raises(DepthMupError, match="cannot see Dense .*variable_axes="):
    effects(towers({"params": 0}), X)


def test_outside_the_probe_there_is_no_trace(monkeypatch):
  net = transformer(dmup.TABLE_9)
  params = drawn(net, TOKENS)

  def program():
    return str(jax.make_jaxpr(lambda p: net.apply({"params": p}, TOKENS))(params))

  one = program()
  monkeypatch.setattr(forward_multipliers, "_probed", lambda scope, x, name: x)
  two = program()
  addresses = re.compile("0x[0-9a-f]+")
  assert addresses.sub("", one) == addresses.sub("", two)
  monkeypatch.undo()
  assert set(jax.eval_shape(net.init, KEY, TOKENS)) == {"params"}

  def all_mutable():
    return net.apply({"params": params}, TOKENS, mutable=True)[1]

  assert "multipliers" not in jax.eval_shape(all_mutable)


class Silent(nn.Module):
  @nn.compact
  def __call__(self, x):
    return 0.0 * dmup.Readout(4, P)(x)


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda: check_multipliers(None, {}, X), "model=None is no linen module"),
    (lambda: effects(NormedReadout(), X, tolerance=-1), "tolerance=-1"),
    (lambda: effects(Silent(), X), r"the outputs have norm 0\.0"),
    (lambda: effects(dmup.Dense(16, "embed -> embed", P), X), "no forward multiplier"),
    (lambda: effects(dmup.Readout(4, P, dtype=jnp.bfloat16), X), "computes in bfloat16"),
    (lambda: check_multipliers(Linear(), {"w": "x"}, X), "something other than arrays"),
  ],
)
def test_errors(call, words):
  with pytest.raises(DepthMupError, match=words):
    call()
