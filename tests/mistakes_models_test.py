"""Mistakes of users in inference, export, optimizers and everyday use.

Each test makes the mistake in a small script, and the sound version of the same script.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import axes_from_shapes, export, rescale_init, scales_from_axes
from flax_depthmup.adapt.base_shapes import read_base_shapes, write_base_shapes
from tests import naive_transformer as naive
from tests.mistakes_nets import BASE, KEY, P3, P8, Net, X, differing, drawn, shape, tree

WIDE = dmup.complete_p(base_width={"embed": 8}, base_depth=1)
Y = jnp.asarray(np.random.default_rng(2).normal(size=(3, 16)), jnp.float32)

# 6: multipliers at inference and export ------------------------------------------


class Sampling(nn.Module):
  """Logits that are multiplied in training only.

  Attributes:
    sound: they are multiplied when sampling as well.
  """

  sound: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = dmup.Residual(dmup.Dense(16, "embed -> embed", WIDE, name="block"), 1, WIDE)(x)
    axes = "embed -> (vocab)"
    draw = dmup.normal(axes, WIDE, folded=False)
    x = x @ self.param("readout", draw, (16, 5))
    if not (train or self.sound):
      return x
    return dmup.multiplied(self, x, dmup.resolve(axes, (16, 5), WIDE).multiplier, "logits")


@pytest.mark.parametrize("sound", [True, False])
def test_a_multiplier_left_out_when_sampling(sound):
  model = Sampling(sound)
  params, _ = drawn(model, Y, True)
  found = [set(dmup.check_multipliers(model, params, Y, train=t)) for t in (True, False)]
  assert ("logits" in found[0], "logits" in found[1]) == (True, sound)


class LastNorm(nn.Module):
  """A multiplier of the width, and a norm behind it or before it."""

  sound: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    norm = nn.RMSNorm(use_scale=False)
    x = norm(x) if self.sound else x
    x = dmup.multiplied(self, x, 0.5, "logits")
    x = x if self.sound else norm(x)
    return dmup.Readout(4, P3, name="readout")(x)


def test_a_multiplier_before_a_norm():
  params, _ = drawn(LastNorm(), Y)
  with pytest.raises(DepthMupError, match="no effect on the outputs: logits"):
    dmup.check_multipliers(LastNorm(), params, Y)
  assert dmup.check_multipliers(LastNorm(sound=True), params, Y)["logits"] > 0.9


def test_export_without_folding():
  """The logits of plain code are the model's with folded weights, and not with its own."""
  model = naive.transformer()
  params, _ = naive.drawn(model)
  m = export.multipliers_of(model)
  text = np.asarray(naive.TOKENS)[0]
  expected = naive.logits(model, params, text, m.branch, m.embedding, m.logits)
  plain, weights = export.fold(model, params)
  found = naive.logits(plain, weights, text, 1, 1, 1)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  unfolded = naive.logits(plain, params, text, 1, 1, 1)
  assert np.abs(unfolded - expected).max() > 0.1 * np.abs(expected).max()


# 7: other optimizers -------------------------------------------------------------


def test_an_optimizer_that_is_not_entrywise():
  params, scales = drawn(Net(128, 1, P8), X)
  clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
  for inner in (optax.contrib.scale_by_muon(), optax.scale_by_trust_ratio(), clipped):
    with pytest.raises(DepthMupError, match="inner is not entrywise"):
      dmup.scale_by_parametrization(inner, scales).init(params)
  tx = dmup.scale_by_parametrization(
    optax.contrib.scale_by_muon(), scales, family=dmup.MUON
  )
  tx.init(params)


def test_sgd_under_a_preset_for_adam():
  p = dmup.complete_p_paper(base_width=BASE, base_depth=1)
  params, scales = drawn(Net(128, 1, p), X)
  with pytest.raises(DepthMupError, match="inner is linear in the gradient, as SGD is"):
    dmup.sgd(0.1, scales).init(params)
  dmup.adam(1e-3, scales).init(params)
  params, scales = drawn(Net(128, 1, P8), X)
  dmup.sgd(0.1, scales).init(params)


def test_schedule_free_inside():
  params, scales = drawn(Net(128, 1, P8), X)
  inside = optax.contrib.schedule_free(optax.scale_by_adam(b1=0.0), 1e-3)
  with pytest.raises(DepthMupError, match="inner keeps copies of the parameters"):
    dmup.scale_by_parametrization(inside, scales, family=dmup.ENTRYWISE).init(params)
  optax.contrib.schedule_free(dmup.adam(1e-3, scales, b1=0.0), 1e-3).init(params)


# 9: everyday use -----------------------------------------------------------------


class PlainHead(nn.Module):
  """A head of flax in a net of ours."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.Dense(4, name="head")(dmup.Dense(16, "embed -> embed", WIDE)(x))


def test_a_layer_that_bypasses_the_initializers():
  with pytest.raises(DepthMupError, match="parameter head/bias carries no axes"):
    dmup.init(PlainHead(), KEY, Y)
  with pytest.raises(DepthMupError, match='names the axis "embd" but no parameter'):
    dmup.abstract_init(
      Net(128, 1, dataclasses.replace(P8, base_width={"embd": 64})), KEY, X
    )


def test_std_over_the_ratio_instead_of_its_root():
  params, scales = drawn(Net(128, 1, P8), X)
  assert differing(params, scales) == set()
  params["Branch_0"]["dense"]["kernel"] /= 2**0.5  # m = 2, and once the root is there
  assert differing(params, scales) == {"Branch_0/dense/kernel"}


def arrays(n):
  rng = np.random.default_rng(0)
  sizes = {"in": (50, n), "block_0": (n, n), "head": (n, 30)}
  return {
    k: {"kernel": rng.normal(0, s[0] ** -0.5, s).astype(np.float32)}
    for k, s in sizes.items()
  }


def test_an_initialization_rescaled_twice():
  small, large = arrays(64), arrays(256)
  axes = axes_from_shapes(small, large, branches="block_*")
  scales = scales_from_axes(axes, dmup.complete_p)
  once = rescale_init(large, scales, small)
  assert differing(once, scales) == set()
  with pytest.raises(DepthMupError, match="head/kernel: its std is .* rescaled already"):
    rescale_init(once, scales, small)
  twice = rescale_init(once, scales, init="fan_in")  # nothing is measured
  assert "head/kernel" in differing(twice, scales)


def test_a_base_net_larger_than_the_target():
  with pytest.raises(DepthMupError, match="the base is the smaller of the two"):
    axes_from_shapes(tree(16), tree(8))
  axes_from_shapes(tree(8), tree(16))


def test_base_shapes_of_another_net(tmp_path):
  path = tmp_path / "net.bsh"
  write_base_shapes(path, tree(8), tree(12))
  read_base_shapes(path, tree(16))
  with pytest.raises(DepthMupError, match="extra"):
    read_base_shapes(path, tree(16, extra={"kernel": shape(16, 16)}))
