"""Mistakes of users that are refused, or that a description or a probe shows.

Each test makes the mistake in a small script, and the sound version of the same script.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import axes_from_shapes, scales_from_axes
from flax_depthmup.adapt.scales_file import load_scales, save_scales
from flax_depthmup.checkpoint import Checkpoints, abstract
from flax_depthmup.diagnostics import Training, coordinate_check
from tests.helpers import assert_trees_equal
from tests.mistakes_nets import (
  BASE,
  KEY,
  P3,
  P8,
  Branch,
  Net,
  X,
  adamw,
  differing,
  drawn,
  loss,
  shape,
)

NET = Net(128, 2, P8)


# 1: wrong without a word ---------------------------------------------------------


def test_weights_initialized_anew_after_the_scaling():
  params, scales = drawn(NET, X)
  assert differing(params, scales) == set()
  rng = np.random.default_rng(0)
  again = jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape), params)
  assert "Branch_0/dense/kernel" in differing(again, scales)


def test_base_sizes_of_the_net_itself():
  """Then nothing scales, and the table says of every parameter that nothing does."""

  def reasons(base):
    p = dmup.complete_p(base_width={"embed": base}, base_depth=1)
    return [r.why for r in dmup.describe(*drawn(Net(128, 1, p), X)).parameters]

  assert all("as in the base net" in why for why in reasons(128))
  assert not any("as in the base net" in why for why in reasons(64))


def test_a_sound_check_and_an_optimum_that_moves():
  """Fewer octaves a doubling than a factor of 1/width, from width 96 to 768 two in all."""
  draw = np.random.default_rng(0)

  def sweep(octaves):
    for width, rate, seed in itertools.product((96, 192, 384, 768), range(-14, -4), (0, 1)):
      best = -9 - octaves * np.log2(width / 96)
      loss = np.exp(0.1 * (rate - best) ** 2 + draw.normal(0, 0.003))
      row = {"parametrization": "mine", "width": width, "log2_lr": rate, "seed": seed}
      yield row | {"loss": float(loss)}

  def transfers(octaves):
    return dmup.transfer_verdict(sweep(octaves), size="width")["mine"]["transfers"]

  assert (transfers(2 / 3), transfers(0)) == (False, True)


def test_a_large_net_that_diverges_where_the_check_was_sound():
  rows = [
    {"parametrization": "mine", "width": w, "log2_lr": r, "seed": s}
    | {"loss": 1 + (r + 8) ** 2 + s / 99 if w < 512 else float("nan")}
    for w, r, s in itertools.product((128, 256, 512), range(-11, -4), (0, 1))
  ]
  found = dmup.transfer_verdict(rows, size="width")["mine"]
  assert found["transfers"] is False


# 2: depth ------------------------------------------------------------------------


class PlainSkip(nn.Module):
  """Blocks added without `dmup.Residual`: no factor of depth anywhere."""

  parametrization: dmup.Parametrization
  sound: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p = self.parametrization
    x = dmup.Dense(32, "(inputs) -> embed", p, name="first")(x)
    for i in range(2):
      block = Branch(32, p, name=f"block_{i}")
      x = dmup.Residual(block, 2, p)(x) if self.sound else x + block(x)
    return dmup.Readout(4, p, "embed -> (classes)", name="readout")(x)


def test_blocks_added_without_a_depth_factor():
  training = Training(inputs=X, loss=loss, optimizer=adamw, lr=2**-8)
  with pytest.raises(DepthMupError, match="no residual branch"):
    coordinate_check(lambda w, d: PlainSkip(P3), training, widths=(32,), depths=(2, 4, 8))
  with pytest.raises(DepthMupError, match="the model has no residual branch"):
    dmup.recommend(PlainSkip(P3), X)
  assert dmup.recommend(PlainSkip(P3, sound=True), X).preset == "depth_mup"


def test_depth_under_mup_alone():
  def present(p):
    return dmup.recommend(Net(32, 2, p), X).present

  mup = dmup.mup(base_width=BASE, base_depth=1)
  assert "mup (alpha = 0, gamma = 0: unstable at initialization)" in present(mup)
  assert present(P3).endswith("gamma = 1/2: Depth-muP)")


class Nested(nn.Module):
  """A branch with a branch inside: the factor of depth twice."""

  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    p = self.parametrization
    return dmup.Residual(Branch(8, p, name="inner"), 2, p)(x)


def test_a_depth_factor_twice():
  for block, words in ((Nested(P3), "inside two residual branches"), (Branch(8, P3), "")):
    model = dmup.Residual(block, 2, P3)
    if words:
      with pytest.raises(DepthMupError, match=words):
        dmup.abstract_init(model, KEY, X)
    else:
      dmup.abstract_init(model, KEY, X)


# 3: weight decay -----------------------------------------------------------------


def test_a_decay_without_a_name_of_its_own():
  _, scales = drawn(NET, X)
  for wrong, words in [
    ({"decay": "decoupled"}, "expected one of size_independent, width_compensated"),
    ({"decay": "independent_peak"}, "give the peak of the schedule"),
    ({"peak_learning_rate": 1e-3}, "give the peak of the schedule"),
  ]:
    with pytest.raises(DepthMupError, match=words):
      dmup.adamw(1e-3, scales, **wrong)
  dmup.adamw(1e-3, scales, decay="independent_peak", peak_learning_rate=1e-3)


# 4: which table ------------------------------------------------------------------


class TiedNet(nn.Module):
  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    p = self.parametrization
    embed = dmup.Embed(6, 128, p, name="embed")
    x = dmup.Residual(Branch(128, p, name="block"), 1, p)(embed(tokens))
    return embed.attend(x)


TOKENS = jnp.arange(4)


def test_table_3_with_a_tied_readout():
  sizes = dmup.axis_sizes(width=8, heads=2, mlp=16)

  def model(rule):
    p = dmup.complete_p(base_width=sizes, base_depth=1, width_rule=rule)
    return dmup.Transformer(16, 4, 7, 4, p, mlp=32, tied=True)

  with pytest.raises(DepthMupError, match="tied=True with table 3"):
    dmup.abstract_init(model(dmup.TABLE_3), KEY, TOKENS[None])
  dmup.abstract_init(model(dmup.TABLE_8), KEY, TOKENS[None])

  def warned(p):
    return [str(c) for c in dmup.recommend(TiedNet(p), TOKENS).may_fail]

  assert any("Table 3 would need two inits" in c for c in warned(P3))
  assert not any("Table 3" in c for c in warned(P8))


def test_a_foreign_tied_embedding_under_table_3():
  def tree(n):
    blocks = {"block_0": {"kernel": shape(n, n)}}
    return {"embed": {"embedding": shape(11, n)}} | blocks

  how = {"branches": "block_*"}
  with pytest.raises(DepthMupError, match="tied"):
    axes_from_shapes(tree(8), tree(16), **how)
  axes = axes_from_shapes(tree(8), tree(16), tied="embed/*", **how)
  with pytest.raises(DepthMupError, match="embed/embedding is tied, but under table 3"):
    scales_from_axes(axes, dmup.depth_mup)
  scales_from_axes(axes, dmup.complete_p)


def test_a_tied_table_rescaled_as_a_readout():
  params, scales = drawn(TiedNet(P8), TOKENS)
  assert differing(params, scales) == set()
  params["embed"]["embedding"] *= 2**0.5
  assert differing(params, scales) == {"embed/embedding"}


def test_the_std_of_one_table_with_the_multiplier_of_another():
  params, scales = drawn(NET, X)
  other = drawn(
    Net(128, 2, dmup.complete_p(base_width=BASE, base_depth=1, width_rule=dmup.TABLE_3)), X
  )[0]
  assert differing(params, scales) == set()
  assert differing(other, scales) == {"readout/kernel"}


def test_the_rate_of_one_table_with_the_multiplier_of_another():
  """Scales that were changed by hand are not those of the model."""
  params, scales = drawn(NET, X)
  dmup.describe(params, scales, NET, X)
  own = scales["readout"]["kernel"]
  changed = dataclasses.replace(own, width_update_factor=own.width_update_factor / 2)
  scales = scales | {"readout": {"kernel": changed}}
  with pytest.raises(DepthMupError, match="readout/kernel: its scales are not those of"):
    dmup.describe(params, scales, NET, X)


# 5: checkpoints and shards -------------------------------------------------------


def test_a_checkpoint_of_another_parametrization(tmp_path):
  params, _ = drawn(NET, X)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, params, {"identity": {"parametrization": P8.as_dict()}})
  for p in (P3, dmup.complete_p(base_width={"embed": 32}, base_depth=1)):
    with pytest.raises(DepthMupError, match=r"is .*, this run has"):
      checkpoints.latest(abstract(params), {"parametrization": p.as_dict()})
  found = checkpoints.latest(abstract(params), {"parametrization": P8.as_dict()})
  assert found[0] == 1
  checkpoints.close()


def test_scales_of_another_size_or_another_net(tmp_path):
  (params, scales), path = drawn(NET, X), tmp_path / "scales.json"
  _, small = drawn(NET.clone(width=64), X)
  save_scales(path, small)
  with pytest.raises(DepthMupError, match="its scales were resolved for"):
    dmup.adam(1e-3, load_scales(path)).init(params)
  save_scales(path, scales)
  dmup.adam(1e-3, load_scales(path)).init(params)
  dmup.describe(params, load_scales(path), NET, X)
  _, other = drawn(NET.clone(parametrization=P3), X)
  save_scales(path, other)  # of the same shapes
  with pytest.raises(DepthMupError, match="its scales are not those of the model"):
    dmup.describe(params, load_scales(path), NET, X)


def test_parameters_flattened_split_or_put_in_boxes():
  """Scales are found by path: where paths are lost it is said, else nothing is lost."""
  params, scales = drawn(NET, X)
  tx = dmup.sgd(1.0, scales)
  flat = {"flat": np.concatenate([x.ravel() for x in jax.tree.leaves(params)])}
  with pytest.raises(DepthMupError, match="parameter flat has no scales: the tree differ"):
    tx.init(flat)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  columns = jax.sharding.NamedSharding(mesh, jax.P(None, "data"))
  whole = jax.tree.map(jnp.asarray, params)
  split = whole | {"Branch_0": jax.device_put(whole["Branch_0"], columns)}
  boxed = jax.tree.map(lambda x: nn.Partitioned(x, (None, "embed")), whole)
  expected, *others = (tx.update(p, tx.init(p))[0] for p in (whole, split, boxed))
  for found in others:
    assert_trees_equal(nn.meta.unbox(found), expected)
  found = others[0]["Branch_0"]["dense"]["kernel"]
  assert found.sharding.is_equivalent_to(columns, 2)
