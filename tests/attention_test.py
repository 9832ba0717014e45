"""Attention and the whole net against numpy; rotary positions; causality."""

import jax
import numpy as np
import pytest

import flax_depthmup as dmup
from flax_depthmup.models.attention import Attention, rotate
from tests import naive_transformer as naive
from tests.naive_transformer import TOKENS, VOCAB, drawn, quick_jit, transformer

SIZES = {name: size for name, size in naive.BASE.items() if name != "mlp"}
P = dmup.complete_p(base_width=SIZES, base_depth=1)
RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 5, 16)).astype(np.float32)
POSITIONS = np.arange(5, dtype=np.int32)


def random_params(module, *inputs):
  shapes, _ = dmup.abstract_init(module, jax.random.key(0), *inputs)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(x.dtype), shapes)


@pytest.mark.parametrize(
  ("heads", "kv_heads", "head_dim", "bias", "multiplier", "base"),
  [(3, 3, 2, False, 1.0, 1e4), (6, 2, 4, True, 2.5, 100.0), (4, 1, 6, False, 6**0.5, 1e4)],
  ids=["each its own key", "grouped", "one key head"],
)
def test_attention_against_numpy(heads, kv_heads, head_dim, bias, multiplier, base):
  module = Attention(heads, kv_heads, head_dim, P, None, multiplier, base, bias)
  params = random_params(module, X, POSITIONS)
  apply = quick_jit(module.apply)
  found = apply({"params": params}, X, POSITIONS)
  wide = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
  expected = [naive.attention(wide, np.asarray(x), multiplier, base) for x in X]
  np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-5)
  # Only differences of positions count.
  moved = apply({"params": params}, X, POSITIONS + 40)
  np.testing.assert_allclose(found, moved, rtol=1e-3, atol=1e-4)
  mixed = apply({"params": params}, X, POSITIONS * 2)
  assert np.abs(found - mixed).max() > 0.01


def test_a_rotated_product_depends_on_the_difference_alone():
  q, k = (RNG.normal(size=(1, 1, 1, 8)).astype(np.float32) for _ in range(2))
  turned = quick_jit(lambda x, n: rotate(x, n[None], 50.0))

  def product(i, j):
    return float(np.vdot(turned(q, np.int32(i)), turned(k, np.int32(j))))

  assert product(9, 4) == pytest.approx(product(5, 0), abs=1e-5)
  assert product(0, 3) == pytest.approx(product(97, 100), abs=1e-4)
  assert product(0, 0) == pytest.approx(float(np.vdot(q, k)), abs=1e-6)
  assert abs(product(5, 0) - product(0, 5)) > 0.1  # it knows before from after
  norm = np.linalg.norm(turned(q, np.int32(7)))
  assert norm == pytest.approx(np.linalg.norm(q), rel=1e-6)


def test_logits_are_over_the_head_dim_and_not_its_root():
  """Query and key all ones: q.k / head_dim is 1 at every head_dim."""
  for head_dim in (4, 64):
    module = Attention(1, 1, head_dim, P)
    query = np.zeros((16, 1, head_dim), np.float32)
    value, out = query.copy(), np.full((1, head_dim, 16), 1 / head_dim, np.float32)
    query[0], value[1] = 1, 1
    kernels = {"query": query, "key": query, "value": value, "out": out}
    params = {name: {"kernel": kernel} for name, kernel in kernels.items()}
    x = np.zeros((1, 2, 16), np.float32)
    x[0, 1, :2] = 1  # logits (0, 1), values (0, 1)
    y = quick_jit(module.apply)({"params": params}, x, np.zeros(2, np.int32))
    assert float(y[0, 1, 0]) == pytest.approx(np.e / (1 + np.e), rel=1e-5)


#: Fields of the net, multipliers of branch, embedding and readout. Its width is 2, its
#: depth 2 times that of the base net.
VARIANTS = {
  "complete_p": ({}, 1.5 / 2, 1, 3 / 2),
  "depth_mup": (
    {"preset": dmup.depth_mup, "norm": "layer_norm", "use_bias": True, "gated": True},
    1.5 * 2**-0.5,
    1,
    3,
  ),
  "standard": ({"preset": dmup.standard, "norm_gain": False}, 1.5, 1, 3),
  "table 9": (
    {"rule": dmup.TABLE_9, "activation": "relu", "rope_base": 20.0},
    1.5 / 2,
    2**0.5,
    3 * 2**-0.5,
  ),
  "tied": ({"tied": True, "gated": True, "kv_heads": 4}, 1.5 / 2, 1, 3 / 2),
  "tied, table 9": (
    {"tied": True, "rule": dmup.TABLE_9, "kv_heads": 1},
    1.5 / 2,
    2**0.5,
    3 * 2**-0.5,
  ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_net_against_numpy(variant):
  """Also: the scan over layers is a loop over slices, tied logits are x E^T."""
  fields, *multipliers = VARIANTS[variant]
  model = transformer(**fields)
  params = drawn(model)[0]
  found = quick_jit(model.apply)({"params": params}, TOKENS)
  for text, logits in zip(TOKENS, found, strict=True):
    expected = naive.logits(model, params, text, *multipliers)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)
    assert expected.std() > 0.1


def test_the_future_does_not_reach_the_past():
  model = transformer()
  params = drawn(model)[0]
  apply = quick_jit(model.apply)
  one = apply({"params": params}, TOKENS)
  other = TOKENS.at[:, 4].set((TOKENS[:, 4] + 1) % VOCAB)
  two = apply({"params": params}, other)
  np.testing.assert_array_equal(one[:, :4], two[:, :4])
  assert (np.abs(one[:, 4:] - two[:, 4:]).max(axis=(0, 2)) > 1e-3).all()
