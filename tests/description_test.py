"""describe: the numbers against hand counts, the words, the trees that do not match."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.description import describe

KEY = jax.random.key(0)
X = jax.ShapeDtypeStruct((2, 8), jnp.float32)
P = dmup.depth_mup(base_width=16, base_depth=2)
MLP = dmup.ResidualMLP(64, 8, 10, P, block_depth=2, block_multiplier=3.0)
BASE = dmup.axis_sizes(width=16, heads=2)
LM = dmup.Transformer(64, 32, 50, 8, dmup.complete_p(base_width=BASE, base_depth=2))
TOKENS = jax.ShapeDtypeStruct((1, 4), jnp.int32)


def drawn(shapes, scales):
  """Normal draws of the std that the scales say; by numpy, compiles nothing."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x, s: rng.normal(0, s.init_std, x.shape).astype(np.float32), shapes, scales
  )


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
  """Tables are as wide as the terminal, of which a test run may have none."""
  monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture(scope="module")
def mlp():
  return dmup.abstract_init(MLP, KEY, X)


def by_name(description):
  return {p.parameter: p for p in description.parameters}


def test_factors_are_those_of_the_papers_table(mlp):
  """TP-VI section 3 and TP-V Table 3 at width ratio 4 and depth ratio 4."""
  rows = by_name(describe(*mlp, MLP, X))
  hidden = rows["stack/block/dense_0/kernel"]
  assert (hidden.kind, hidden.shape) == ("hidden", (8, 64, 64))
  assert hidden.branch == "stack/block"
  assert hidden.init_std == pytest.approx(1 / 8)
  assert hidden.adam_update == pytest.approx(1 / 4 / 2)  # 1/m_N, m_L^-1/2
  assert hidden.sgd_update == pytest.approx(1)  # no factor at all
  assert hidden.eps_factor == pytest.approx(1 / 4 / 2)  # n L^alpha divides eps
  assert (hidden.width_update, hidden.depth_update) == (0.25, 0.5)
  readout = rows["readout/kernel"]
  assert (readout.kind, readout.branch) == ("output", "")
  assert readout.init_std == pytest.approx(1 / 4 / 4)  # 1/sqrt(16) over m_N
  assert (readout.adam_update, readout.sgd_update, readout.eps_factor) == (0.25, 0.25, 1)
  first = rows["input/kernel"]
  assert (first.kind, first.adam_update, first.sgd_update) == ("input", 1, 4)


def test_the_words_say_the_numbers(mlp):
  rows = by_name(describe(*mlp))
  assert rows["stack/block/dense_1/kernel"].why == (
    "hidden: layers | embed x4 -> embed x4; std of the base net times 1/2; update times "
    "1/4 by width and 1/2 by depth; gradient times 8, which is eps times 1/8"
  )
  assert rows["readout/kernel"].why == (
    "output: embed x4 -> outputs; std of the base net times 1/4; update times 1/4 by width"
  )


def test_at_the_base_size_all_is_as_in_the_base_net():
  net = dmup.ResidualMLP(16, 2, 10, P)
  description = describe(*dmup.abstract_init(net, KEY, X))
  assert all(p.why.endswith("; as in the base net") for p in description.parameters)
  factors = ("multiplier", "adam_update", "sgd_update", "eps_factor")
  assert {getattr(p, f) for p in description.parameters for f in factors} == {1.0}


def test_multipliers_frozen_layers_and_vectors_have_words_of_their_own():
  p = dmup.mup(base_width=16, base_depth=2, width_rule=dmup.TABLE_9)

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = dmup.Dense(64, "(inputs) -> embed", p, use_bias=True, trainable=False)(x)
      return dmup.Readout(3, p)(x)

  rows = by_name(describe(*dmup.abstract_init(Net(), KEY, X)))
  frozen = rows["Dense_0/kernel"]
  assert (frozen.adam_update, frozen.sgd_update, frozen.trainable) == (0, 0, False)
  assert frozen.why == (
    "input: inputs -> embed x4; std of the base net times 1/2; multiplied by 2 in the "
    "forward pass; frozen, never updated"
  )
  assert rows["Dense_0/bias"].kind == "vector"
  assert rows["Readout_0/kernel"].multiplier == 0.5


def test_branches_tell_their_multipliers():
  """a (L/L0)^-alpha: 3 * 4^-1/2, and for CompleteP 1/16."""
  (branch,) = describe(*dmup.abstract_init(MLP, KEY, X), MLP, X).branches
  assert (branch.path, branch.depth, branch.multiplier) == ("stack/block", 8, 1.5)
  assert branch.matrices == ("dense_0/kernel", "dense_1/kernel")
  found = describe(*dmup.abstract_init(LM, KEY, TOKENS), LM, TOKENS)
  assert [(b.path, b.multiplier) for b in found.branches] == [
    ("layers/attention", 1 / 16),
    ("layers/mlp", 1 / 16),
  ]
  inside = {p.parameter for p in found.parameters if p.branch}
  outside = {p.parameter for p in found.parameters if p.branch == ""}
  assert outside == {"embed/embedding", "norm/scale", "readout/kernel"}
  assert "layers/mlp/norm/scale" in inside
  text = str(found)
  assert "layers/mlp: FeedForward, 32 blocks, multiplied by 1/16 (complete_p" in text


def test_a_traced_multiplier_is_not_known():
  def names(a):
    net = MLP.clone(block_multiplier=a)
    found = describe(*dmup.abstract_init(MLP, KEY, X), net, X)
    assert found.branches[0].multiplier is None
    assert "multiplied by a traced scalar" in str(found)
    return a

  jax.eval_shape(names, jax.ShapeDtypeStruct((), jnp.float32))


def test_without_a_model_branches_are_not_claimed(mlp):
  description = describe(*mlp)
  assert description.branches is None
  assert {p.branch for p in description.parameters} == {None}
  text = str(description)
  assert "No model was given" in text
  assert " branch " not in text.splitlines()[0]


def test_measured_std_of_right_draws_is_right(mlp):
  shapes, scales = mlp
  description = describe(drawn(shapes, scales), scales)
  assert all(p.differs is False for p in description.parameters)
  for p in description.parameters:
    assert p.measured_std == pytest.approx(p.init_std, rel=0.2)
  assert "measured" in str(description)
  assert "!" not in str(description)


@pytest.mark.parametrize("spoil", [1.2, 0.8, np.nan, 1e-30])
def test_a_std_that_is_off_is_flagged(mlp, spoil):
  shapes, scales = mlp
  params = drawn(shapes, scales)
  params["stack"]["block"]["dense_0"]["kernel"] *= np.float32(spoil)
  rows = by_name(describe(params, scales))
  assert [name for name, p in rows.items() if p.differs] == ["stack/block/dense_0/kernel"]
  text = str(describe(params, scales))
  assert "!: 1 measured std differ" in text
  assert "first stack/block/dense_0/kernel. After training" in text


def test_std_of_tiny_entries_does_not_underflow(mlp):
  shapes, scales = mlp
  params = jax.tree.map(lambda x: np.full(x.shape, 1e-30, np.float32), shapes)
  found = describe(params, scales).parameters
  assert [p.measured_std for p in found] == pytest.approx([1e-30] * len(found))
  assert all(p.differs for p in found)


def test_zero_init_and_constants_are_right():
  net = dmup.Transformer(
    16, 2, 50, 2, dmup.mup(base_width=BASE, base_depth=2), readout_std=0.0
  )
  shapes, scales = dmup.abstract_init(net, KEY, TOKENS)
  params = jax.tree.map(np.ones_like, drawn(shapes, scales))
  params["readout"]["kernel"] *= 0
  rows = by_name(describe(params, scales))
  assert rows["readout/kernel"].differs is False
  gain = rows["norm/scale"]
  assert (gain.measured_std, gain.differs) == (1, None)  # gains are no draws


def test_jax_arrays_of_half_precision_are_measured():
  net = dmup.Readout(3, P)
  shapes, scales = dmup.abstract_init(net, KEY, X)
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), drawn(shapes, scales))
  (found,) = describe(params, scales).parameters
  assert found.differs is False
  assert found.measured_std == pytest.approx(found.init_std, rel=0.5)


def test_inside_of_a_trace_nothing_is_measured():
  def traced(key):
    params, scales = dmup.init(MLP, key, jnp.zeros(X.shape))
    found = describe(params, scales).parameters
    assert {p.measured_std for p in found} == {None}
    return params

  jax.eval_shape(traced, KEY)


def test_many_layers_are_one_row_but_a_record_each(mlp):
  class Loop(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = dmup.Dense(64, "(inputs) -> embed", P)(x)
      for i in range(48):
        block = dmup.Dense(64, "embed -> embed", P)
        x = dmup.Residual(block, 48, P, name=f"block_{i}")(x)
      return x

  shapes, scales = dmup.abstract_init(Loop(), KEY, X)
  description = describe(shapes, scales, Loop(), X)
  assert len(description.parameters) == 49
  text = str(description)
  assert "(48 alike)" in text
  table = text.split("\nwhy\n")[0]
  assert len(table.splitlines()) < 6
  assert text.count("48 blocks") == 1
  assert len(description.as_dict()["parameters"]) == 49
  # One that differs has a row of its own.
  params = drawn(shapes, scales)
  name = next(n for n in params if "7" in n)
  params[name] = jax.tree.map(lambda x: 2 * x, params[name])
  assert "(47 alike)" in str(describe(params, scales))
  assert "stack/block/dense_*/kernel (2 alike)" in str(describe(*mlp))


def test_json_holds_all_of_it(mlp):
  shapes, scales = mlp
  params = drawn(shapes, scales)
  params["readout"]["kernel"][0] = np.inf
  description = describe(params, scales, MLP, X)
  found = json.loads(description.as_json())
  assert {p["parameter"] for p in found["parameters"]} == {*dmup.scales_as_dict(scales)}
  row = next(p for p in found["parameters"] if p["parameter"] == "readout/kernel")
  assert row["measured_std"] is None  # infinite
  assert row["differs"] is True
  (branch,) = found["branches"]
  assert (branch["blocks"], branch["multiplier"]) == (8, 1.5)
  assert branch["parametrization"]["alpha"] == "1/2"
  assert json.loads(describe(shapes, scales).as_json(indent=None))["branches"] is None


def test_a_preset_for_adam_alone_has_no_rate_of_sgd(mlp):
  shapes, scales = mlp
  alone = jax.tree.map(
    lambda s: dataclasses.replace(s, adam_only=True),
    scales,
    is_leaf=lambda s: isinstance(s, dmup.Scales),
  )
  description = describe(shapes, alone)
  assert {p.sgd_update for p in description.parameters} == {None}
  assert "published for Adam alone" in str(description)
  assert not any("gradient" in p.why for p in description.parameters)


def spoilt(tree, name, value):
  """A copy with one parameter replaced, or dropped for None."""
  copy = jax.tree.map(lambda x: x, tree, is_leaf=lambda x: isinstance(x, dmup.Scales))
  if value is None:
    del copy[name]
  else:
    copy[name] = {"kernel": value}
  return copy


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (
      lambda p, s: (spoilt(p, "readout", None), s),
      "readout/kernel is in the scales but not",
    ),
    (lambda p, s: (p, spoilt(s, "input", None)), "input/kernel has no scales"),
    (
      lambda p, s: (spoilt(p, "readout", np.zeros((3, 3))), s),
      r"readout/kernel has shape \(3, 3\) but its scales were resolved for \(64, 10\)",
    ),
    (lambda p, s: (spoilt(p, "readout", "w"), s), "readout/kernel is a str, expected an"),
    (lambda p, s: (p, spoilt(s, "readout", 1.0)), "readout/kernel is a float, expected S"),
    (lambda p, s: (p, {}), "scales is empty"),
    (lambda p, s: (s, p), "is a ShapeDtypeStruct, expected Scales"),
    (lambda p, s: ({}, s), "in the tree of 0 parameters"),
  ],
)
def test_trees_that_differ_are_refused(mlp, change, words):
  with pytest.raises(DepthMupError, match=words):
    describe(*change(*mlp))


def test_scales_of_another_net_are_refused(mlp):
  shapes, scales = mlp
  deeper = MLP.clone(depth=8, parametrization=dmup.ode(base_width=16, base_depth=2))
  with pytest.raises(DepthMupError, match="its scales are not those of the model"):
    describe(shapes, scales, deeper, X)
  with pytest.raises(DepthMupError, match=r"inputs without a model"):
    describe(shapes, scales, None, X)
  with pytest.raises(DepthMupError, match="is no linen module"):
    describe(shapes, scales, "model", X)
