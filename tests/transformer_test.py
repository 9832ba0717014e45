"""The transformer's scales against numbers by hand; standard at the base size."""

import functools
import re

import jax
import optax
import pytest

import flax_depthmup as dmup
from tests.naive_transformer import BASE, TOKENS, transformer

KEY = jax.random.key(0)
EVERY_KIND = {"norm": "layer_norm", "use_bias": True, "gated": True}


def named(tree):
  """Path -> leaf, as "layers/mlp/up/kernel"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves}


def scales_of(p, **fields):
  model = dmup.Transformer(vocab=7, parametrization=p, **EVERY_KIND, **fields)
  return named(dmup.abstract_init(model, KEY, TOKENS)[1])


# At width and depth four times those of the base net. Of embedding, final norm, kernels
# and vectors in layers, readout: (std over that of the base net, multiplier, gradient
# factor, update factor).
GOLDEN = {
  dmup.mup: (
    ((1, 1, 4, 1), (1, 1, 4, 1), (1 / 2, 1, 4, 1 / 4), (1, 1, 4, 1), (1, 1 / 4, 4, 1)),
    1,
  ),
  dmup.depth_mup: (
    (
      (1, 1, 4, 1),
      (1, 1, 4, 1),
      (1 / 2, 1, 8, 1 / 8),
      (1, 1, 8, 1 / 2),
      (1 / 4, 1, 1, 1 / 4),
    ),
    1 / 2,
  ),
  dmup.complete_p: (
    ((1, 1, 4, 1), (1, 1, 4, 1), (1 / 2, 1, 16, 1 / 4), (1, 1, 16, 1), (1, 1 / 4, 4, 1)),
    1 / 4,
  ),
}
BASE_STD = {"query": 8, "key": 8, "value": 8, "out": 8, "up": 8, "gate": 8, "down": 16}


@pytest.mark.parametrize(
  "heads",
  [
    {"heads": 8, "kv_heads": 4},
    {"heads": 4, "kv_heads": 2, "head_dim": 8},
    {"heads": 2, "kv_heads": 1, "head_dim": 16},
  ],
  ids=["more heads", "both", "wider heads"],
)
@pytest.mark.parametrize("preset", GOLDEN)
def test_golden_scales(preset, heads):
  (embed, norm, kernel, vector, readout), branch = GOLDEN[preset]
  p = preset(base_width=BASE, base_depth=2)
  assert p.branch_multiplier(8) == branch
  expected = {
    "embed/embedding": (1, embed),
    "norm/scale": (1, norm),
    "norm/bias": (1, norm),
    "readout/kernel": (8**-0.5, readout),
  }
  for module in ("attention", "mlp"):
    for name in ("scale", "bias"):
      expected[f"layers/{module}/norm/{name}"] = (1, vector)
  for name, fan_in in BASE_STD.items():
    module = "mlp" if name in ("up", "gate", "down") else "attention"
    expected[f"layers/{module}/{name}/kernel"] = (fan_in**-0.5, kernel)
    expected[f"layers/{module}/{name}/bias"] = (1, vector)
  found = scales_of(p, width=32, depth=8, mlp=64, **heads)
  assert set(found) == set(expected)
  for name, (base_std, (ratio, multiplier, gradient, update)) in expected.items():
    s = found[name]
    assert s.init_std == pytest.approx(base_std * ratio), name
    numbers = s.multiplier, s.gradient_factor, s.update_factor
    assert numbers == pytest.approx((multiplier, gradient, update)), name


def test_axes_that_grow_apart():
  """Width times 2, MLP times 8, heads times 4, one key head still; depth times 4."""
  p = dmup.complete_p(base_width=BASE, base_depth=2)
  found = scales_of(p, width=16, depth=8, mlp=128, heads=8, kv_heads=1, head_dim=4)
  expected = {  # fan-in in the net, gradient factor, update factor
    "attention/query": (16, 4 * 4, 1 / 2),
    "attention/key": (16, 1 * 4, 1 / 2),
    "attention/out": (32, 2 * 4, 1 / 4),
    "mlp/up": (16, 8 * 4, 1 / 2),
    "mlp/down": (128, 2 * 4, 1 / 8),
  }
  for name, (fan_in, gradient, update) in expected.items():
    s = found[f"layers/{name}/kernel"]
    numbers = s.init_std, s.gradient_factor, s.update_factor
    assert numbers == pytest.approx((fan_in**-0.5, gradient, update)), name
  assert found["layers/mlp/up/bias"].gradient_factor == 8 * 4
  assert found["layers/attention/key/bias"].gradient_factor == 4


@pytest.mark.parametrize("alpha", ["1/2", 1])
def test_table_1_of_complete_p(alpha):
  """Dey et al., arXiv 2505.01618: variance, Adam rate and eps, at m_N = m_L = 4."""
  a, m_n, m_l = float(dmup.complete_p(base_width=1, base_depth=1, alpha=alpha).alpha), 4, 4
  p = dmup.complete_p(base_width=BASE, base_depth=2, alpha=alpha)
  found = scales_of(p, width=32, depth=8, mlp=64, heads=8, kv_heads=4)
  base = scales_of(p, width=8, depth=2, mlp=16, heads=2, kv_heads=1)
  rows = {  # variance, rate
    "embed/embedding": (1, 1),
    "layers/attention/norm/scale": (1, m_l ** (a - 1)),
    "layers/mlp/up/kernel": (1 / m_n, m_l ** (a - 1) / m_n),
    "layers/attention/out/kernel": (1 / m_n, m_l ** (a - 1) / m_n),
    "layers/mlp/down/bias": (1, m_l ** (a - 1)),
    "norm/scale": (1, 1),
    "readout/kernel": (1, 1),
  }
  for name, (variance, rate) in rows.items():
    s = found[name]
    assert (s.init_std / base[name].init_std) ** 2 == pytest.approx(variance), name
    assert s.update_factor == pytest.approx(rate), name
    if name.startswith("layers/"):
      assert 1 / s.gradient_factor == pytest.approx(1 / m_n * m_l**-a), name
  assert found["readout/kernel"].multiplier == 1 / m_n
  assert p.branch_multiplier(8) == pytest.approx(m_l**-a)


def program(p, **fields):
  """Init, logits and steps of Adam, as the operations that jax would run."""
  model = dmup.Transformer(8, 2, 7, 2, p, kv_heads=1, mlp=16, **EVERY_KIND, **fields)
  shapes, scales = dmup.abstract_init(model, KEY, TOKENS)
  tx = dmup.adam(0.1, scales)

  def step(carry, _):
    params, state = carry
    loss_of = lambda params: model.apply({"params": params}, TOKENS).var()  # noqa: E731
    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), loss

  def run(params):
    return jax.lax.scan(step, (params, tx.init(params)), length=3)

  texts = str(jax.make_jaxpr(model.init)(KEY, TOKENS)), str(jax.make_jaxpr(run)(shapes))
  return re.sub("0x[0-9a-f]+", "", "".join(texts))


@functools.cache
def standard_program(tied):
  return program(dmup.standard(base_width=BASE, base_depth=2), tied=tied)


@pytest.mark.parametrize(
  ("preset", "tied"),
  [
    (dmup.mup, False),
    (dmup.depth_mup, False),
    (functools.partial(dmup.depth_mup, width_rule=dmup.TABLE_8), True),
    (functools.partial(dmup.ode, width_rule=dmup.TABLE_9), False),
    (dmup.complete_p, True),
    (functools.partial(dmup.complete_p, alpha="3/4", width_rule=dmup.TABLE_9), True),
  ],
)
def test_at_the_base_size_every_preset_is_standard(preset, tied):
  """The same operations on the same numbers, so bitwise the same results."""
  assert program(preset(base_width=BASE, base_depth=2), tied=tied) == standard_program(tied)


def test_beside_the_base_size_presets_are_not_standard():
  for p in (
    dmup.mup(base_width=BASE | {"embed": 4}, base_depth=2),
    dmup.ode(base_width=BASE, base_depth=1),
  ):
    assert program(p) != standard_program(False)


def test_the_program_does_not_grow_with_depth():
  def operations(depth):
    model = transformer(depth=depth)
    params = dmup.abstract_init(model, KEY, TOKENS)[0]
    grad = jax.grad(lambda p: model.apply({"params": p}, TOKENS).var())
    return str(jax.make_jaxpr(grad)(params)).count(" = ")

  assert operations(3) == operations(300) > 100
