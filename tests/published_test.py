"""Published presets against the numbers that their authors' own tables and code give.

m_N = 4 and m_L = 8 (16 layers over 2), rate 1e-3, weight decay 0.1, std 0.02, eps 1 (of
the base net: smaller ones would all be within the absolute tolerance of approx).
"""

import math
import warnings

import jax
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from tests.helpers import inputs, residual_mlp

RATE, DECAY, EPS, STD = 1e-3, 0.1, 1.0, 0.02
SIZES = {"base_width": 64, "base_depth": 2}
WIDTH, DEPTH = 256, 16
HIDDEN, GAIN = ("embed -> embed", (WIDTH, WIDTH)), ("-> embed", (WIDTH,))
EMBED, UNEMBED = ("(vocab) -> embed", (50, WIDTH)), ("embed -> (vocab)", (WIDTH, 50))
QK_GAIN = ("-> (head_dim)", (16,))


def scales(p, parameter, inside):
  axes, shape = parameter
  depth = DEPTH if inside else None
  return dmup.resolve(axes, shape, p, depth=depth, net_depth=DEPTH, base_std=STD)


def rate(p, parameter, inside):
  return RATE * scales(p, parameter, inside).update_factor


def eps(p, parameter, inside):
  return EPS / scales(p, parameter, inside).gradient_factor


def shrink(p, parameter, inside, decay):
  """What one step of weight decay takes, as a part of the parameter."""
  s = {"w": scales(p, parameter, inside)}
  params = {"w": np.ones(parameter[1], np.float32)}
  tx = dmup.adamw(RATE, s, weight_decay=DECAY, decay=decay)
  zero = jax.tree.map(np.zeros_like, params)
  updates, _ = tx.update(zero, tx.init(params), params)
  return -float(updates["w"].ravel()[0])


def test_complete_p_as_in_its_authors_code():
  p = dmup.complete_p_eleuther(**SIZES)
  assert rate(p, HIDDEN, True) == pytest.approx(2.5e-4)
  assert rate(p, GAIN, True) == pytest.approx(1e-3)
  assert p.branch_multiplier(DEPTH) == 0.125
  assert shrink(p, HIDDEN, True, "width_compensated") == pytest.approx(2.5e-4 * 0.4)
  assert scales(p, HIDDEN, True).init_std == pytest.approx(0.01)
  assert scales(p, UNEMBED, False).multiplier == 0.25
  assert rate(p, EMBED, False) == rate(p, UNEMBED, False) == pytest.approx(RATE)
  for parameter, inside in ((HIDDEN, True), (GAIN, True), (GAIN, False), (EMBED, False)):
    assert eps(p, parameter, inside) == pytest.approx(1 / 32)
  assert eps(p, UNEMBED, False) == pytest.approx(1 / 32)


def test_its_square_root_column():
  p = dmup.complete_p_eleuther(**SIZES, alpha="1/2")
  assert rate(p, HIDDEN, True) == pytest.approx(8.838835e-5, rel=1e-6)
  assert rate(p, GAIN, True) == pytest.approx(3.535534e-4, rel=1e-6)
  assert p.branch_multiplier(DEPTH) == pytest.approx(0.3535534, rel=1e-6)
  assert eps(p, HIDDEN, True) == pytest.approx(0.08838835, rel=1e-6)


def test_complete_p_as_in_the_paper():
  p = dmup.complete_p_paper(**SIZES)
  assert eps(p, HIDDEN, True) == eps(p, GAIN, True) == pytest.approx(1 / 32)
  for parameter in (EMBED, UNEMBED, GAIN):
    assert eps(p, parameter, False) == pytest.approx(1)
  assert rate(p, HIDDEN, True) == pytest.approx(2.5e-4)
  assert scales(p, UNEMBED, False).init_std == pytest.approx(STD)


def test_ours_lets_eps_follow_the_gradient_everywhere():
  p = dmup.complete_p(**SIZES)
  assert eps(p, HIDDEN, True) == eps(p, GAIN, True) == pytest.approx(1 / 32)
  for parameter in (EMBED, UNEMBED, GAIN):
    assert eps(p, parameter, False) == pytest.approx(1 / 4)


def test_complete_d_p():
  p = dmup.complete_d_p(**SIZES)
  assert scales(p, UNEMBED, False).init_std == pytest.approx(0.005)
  assert rate(p, UNEMBED, False) == pytest.approx(2.5e-4)
  assert scales(p, UNEMBED, False).multiplier == 1
  assert rate(p, HIDDEN, True) == pytest.approx(2.5e-4)
  assert eps(p, HIDDEN, True) == eps(p, GAIN, True) == pytest.approx(1 / 32)
  assert eps(p, EMBED, False) == pytest.approx(1 / 4)
  assert eps(p, QK_GAIN, True) == pytest.approx(1 / 8)
  assert eps(p, UNEMBED, False) == eps(p, GAIN, False) == pytest.approx(1)
  for parameter, inside in ((HIDDEN, True), (UNEMBED, False), (EMBED, False)):
    found = shrink(p, parameter, inside, "width_compensated")
    assert found == pytest.approx(RATE * DECAY)


def test_mup_package():
  p = dmup.mup_package(**SIZES)
  assert rate(p, HIDDEN, True) == pytest.approx(2.5e-4)
  assert eps(p, HIDDEN, True) == eps(p, EMBED, False) == 1
  assert scales(p, UNEMBED, False).multiplier == 0.25
  assert shrink(p, HIDDEN, True, "width_compensated") == pytest.approx(2.5e-4 * 0.4)
  assert shrink(p, HIDDEN, True, "coupled") == pytest.approx(2.5e-4 * 0.1)
  assert p.branch_multiplier(DEPTH) == 1


def test_megatron_depth_mup_is_complete_p_and_says_so():
  with pytest.warns(UserWarning, match="is CompleteP"):
    p = dmup.megatron_depth_mup(**SIZES)
  assert (p.alpha, p.gamma) == (1, 0)
  assert p.branch_multiplier(DEPTH) == 0.125
  assert rate(p, HIDDEN, True) == pytest.approx(2.5e-4)
  assert eps(p, HIDDEN, True) == pytest.approx(1 / 32)
  assert eps(p, GAIN, True) == eps(p, EMBED, False) == eps(p, UNEMBED, False) == 1
  out_std = STD / math.sqrt(2 * SIZES["base_depth"])  # of the base net's projections
  out = dmup.resolve(*HIDDEN, p, depth=DEPTH, base_std=out_std)
  assert out.init_std == pytest.approx(0.005)


def test_mini_cpm():
  """Its branch is scale_depth/sqrt(L), at any depth; its rates know nothing of depth."""
  p, scale_depth = dmup.mini_cpm(**SIZES), 1.4
  a = scale_depth / math.sqrt(SIZES["base_depth"])
  for depth in (2, 16, 40):
    expected = scale_depth / math.sqrt(depth)
    assert a * p.branch_multiplier(depth) == pytest.approx(expected)
  assert rate(p, HIDDEN, True) == pytest.approx(2.5e-4)
  assert rate(p, GAIN, True) == RATE
  assert scales(p, UNEMBED, False).multiplier == 0.25  # dim_model_base / hidden_size
  assert p.regime.name == "unstable in training"


def test_u_mup():
  p = dmup.u_mup()

  def s(axes, *shape, inside=False):
    return dmup.resolve(axes, shape, p, depth=16 if inside else None)

  assert s("(vocab) -> embed", 50, 1024).update_factor == 0.03125
  hidden = s("embed -> embed", 1024, 1024, inside=True)
  assert hidden.update_factor == 0.0078125
  assert hidden.multiplier == 0.03125
  assert hidden.init_std == 1
  assert s("-> embed", 1024, inside=True).update_factor == 0.25
  readout = s("embed -> (vocab)", 1024, 50)
  assert (readout.multiplier, readout.update_factor) == (1 / 1024, 1)


def taus(layers, r=1.0, rho=1.0):
  """The published rule: of attention and MLP in turn."""
  mlp = r * math.sqrt(2 / (1 + rho**2))
  own = (rho * mlp, mlp)
  return [
    own[i % 2] / math.sqrt(layers + (i + 1) // 2 * own[0] ** 2 + i // 2 * own[1] ** 2)
    for i in range(2 * layers)
  ]


def test_the_residual_rule_of_u_mup_is_a_branch_over_the_root_of_depth():
  """Through norms the two streams are the same net, up to rounding of float64."""
  layers, r = 16, 0.7
  assert taus(16)[0] == 0.25
  assert taus(16)[-1] == pytest.approx(0.145865, abs=1e-6)
  rng = np.random.default_rng(0)
  matrices = rng.normal(size=(2 * layers, 8, 8)) / np.sqrt(8)

  def norm(x):
    return x / np.sqrt(np.mean(x**2))

  theirs = ours = rng.normal(size=8)
  for tau, w in zip(taus(layers, r), matrices, strict=True):
    theirs = (theirs + tau * np.tanh(w @ norm(theirs))) / math.sqrt(1 + tau**2)
    ours = ours + r * dmup.u_mup().branch_multiplier(layers) * np.tanh(w @ norm(ours))
  np.testing.assert_allclose(norm(theirs), norm(ours), rtol=1e-12)


def net(p):
  return dmup.init(residual_mlp(p), jax.random.key(0), inputs())


ADAM_ONLY = {
  "complete_p_paper": dmup.complete_p_paper,
  "complete_p_eleuther": dmup.complete_p_eleuther,
  "complete_d_p": dmup.complete_d_p,
  "u_mup": dmup.u_mup,
  "mup_package": dmup.mup_package,
  "mini_cpm": dmup.mini_cpm,
}


@pytest.mark.parametrize("name", ADAM_ONLY)
def test_presets_for_adam_refuse_sgd(name):
  params, s = net(ADAM_ONLY[name](**SIZES))
  for sgd in (dmup.sgd(0.1, s), dmup.sgd(0.1, s, momentum=0.9)):
    with pytest.raises(DepthMupError, match="is linear in the gradient, as SGD is"):
      sgd.init(params)
    with pytest.raises(DepthMupError, match="is linear"):
      jax.eval_shape(sgd.init, params)
  for inner in (optax.scale_by_adam(), optax.scale_by_lion(), optax.scale_by_sign()):
    dmup.scale_by_parametrization(inner, s).init(params)


LINEAR = {
  "decayed": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9)),
  "clipped": lambda: optax.chain(optax.clip(1.0), optax.trace(0.9)),
  "accumulated": lambda: optax.MultiSteps(optax.identity(), 3).gradient_transformation(),
  "warming up": lambda: optax.scale_by_schedule(lambda t: t / 10),
  "of groups": lambda: optax.partition(
    {"a": optax.identity(), "b": optax.trace(0.9)},
    {"input": "a", "readout": "a", "stack": "b"},
  ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_presets_for_adam_refuse_what_is_sgd_in_other_clothes(name):
  params, s = net(dmup.complete_p_paper(**SIZES))
  for family in (None, dmup.ENTRYWISE):
    tx = dmup.scale_by_parametrization(LINEAR[name](), s, family=family)
    with pytest.raises(DepthMupError, match="is linear in the gradient"):
      tx.init(params)


def test_a_large_eps_of_adam_is_no_sgd():
  params, s = net(dmup.complete_p_paper(**SIZES))
  for inner in (
    optax.scale_by_adam(eps=1e-2),
    optax.chain(optax.add_decayed_weights(0.1), optax.scale_by_adam()),
  ):
    state = dmup.scale_by_parametrization(inner, s).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(inner.init(params))


def test_presets_of_the_class_take_sgd():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    params, s = net(dmup.complete_p(**SIZES))
  tx = dmup.sgd(0.1, s)
  ones = jax.tree.map(np.ones_like, params)
  moved = tx.update(ones, tx.init(params), params)[0]["stack"]["block"]["dense_0"]
  kernel = s["stack"]["block"]["dense_0"]["kernel"]
  expected = -0.1 * kernel.update_factor * kernel.gradient_factor
  np.testing.assert_allclose(moved["kernel"], expected, rtol=1e-6)


def test_an_eps_rule_that_wants_the_depth_says_so():
  p = dmup.complete_p_eleuther(**SIZES)
  with pytest.raises(DepthMupError, match="give net_depth="):
    dmup.resolve(*EMBED, p)
  with pytest.raises(DepthMupError, match="is no EpsRule"):
    dmup.Parametrization(
      name="x", alpha=0, gamma=0, width_rule=dmup.TABLE_3, eps_rule="constant", **SIZES
    )


def test_a_net_knows_its_own_depth():
  """The embedding's eps follows the depth of the stack it is outside of."""
  p = dmup.complete_p_eleuther(base_width=16, base_depth=2)
  s = dmup.init(residual_mlp(p, width=16, depth=8), jax.random.key(0), inputs())[1]
  assert s["input"]["kernel"].gradient_factor == pytest.approx(4)
  assert s["readout"]["kernel"].gradient_factor == pytest.approx(4)


# Batch size and duration ----------------------------------------------------------

BASE = dmup.AdamWSettings(
  learning_rate=1e-3, weight_decay=0.1, eps=1e-8, b1=0.9, b2=0.95, steps=1000
)


def test_settings_for_a_larger_batch_and_more_tokens():
  found = BASE.rescaled(batch_ratio=8, token_ratio=2)
  assert found.learning_rate == pytest.approx(2e-3)
  assert found.weight_decay == pytest.approx(0.2)
  assert found.eps == pytest.approx(0.5e-8)
  assert found.b1 == pytest.approx(0.6)
  assert found.b2 == pytest.approx(0.8)
  assert found.steps == 250
  assert BASE.rescaled(batch_ratio=3, token_ratio=3).learning_rate == 1e-3
  again = BASE.rescaled(batch_ratio=2, token_ratio=4).rescaled(batch_ratio=2, token_ratio=1)
  assert again.b2 == pytest.approx(BASE.b2)
  assert again.steps == BASE.steps


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda: BASE.rescaled(batch_ratio=16, token_ratio=1), "makes 1 - b1 larger than 1"),
    (lambda: BASE.rescaled(batch_ratio=0, token_ratio=1), "batch_ratio=0"),
    (lambda: BASE.rescaled(batch_ratio=1, token_ratio=math.nan), "token_ratio=nan"),
    (
      lambda: dmup.AdamWSettings(
        learning_rate=1, weight_decay=0, eps=0, b1=1, b2=0, steps=1
      ),
      r"b1=1: expected a number in \[0, 1\)",
    ),
    (
      lambda: dmup.AdamWSettings(
        learning_rate=-1, weight_decay=0, eps=0, b1=0, b2=0, steps=1
      ),
      "learning_rate=-1",
    ),
  ],
)
def test_wrong_settings(call, words):
  with pytest.raises(DepthMupError, match=words):
    call()
