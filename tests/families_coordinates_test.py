"""Families held to the coordinate check, at one matrix a block and at two.

Each optimizer trains nets of three widths and three depths for three steps; under its own
family all slopes are as predicted, and under another one they are not. One seed at a
fixed key, so that nothing is drawn anew: a run is red always or never. Two matrices
a block are small beside the stream, as the predictions over depth want it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import diagnostics
from tests.conformance_nets import OPTIMIZERS

X = jax.random.normal(jax.random.key(1), (16, 8))
Y = jnp.arange(16) % 4
#: Learning rates at which three steps move a net without tearing it.
RATES = {
  "muon": 0.1,
  "shampoo": 0.1,
  "normalized": 0.2,
  "adafactor": 0.05,
  "lamb": 0.05,
  "factored": 0.01,
  "lion": 0.01,
}
PRESETS = {
  1: lambda: dmup.depth_mup(base_width=32, base_depth=2, width_rule=dmup.TABLE_8),
  2: lambda: dmup.complete_p(base_width=32, base_depth=2),
}


def check(name, block_depth, family, widths=(32, 64, 128), depths=(2, 4, 8)):
  make = OPTIMIZERS[name][0]

  def optimizer(scales, lr):
    q = dmup.scale_by_parametrization(make(), scales, family=family)
    if name == "muon":
      adam = dmup.scale_by_parametrization(optax.scale_by_adam(), scales)
      adam = optax.chain(adam, optax.scale(0.1))
      labels = jax.tree.map(
        lambda s: "q" if s.kind is dmup.Kind.HIDDEN else "adam",
        scales,
        is_leaf=lambda s: isinstance(s, dmup.Scales),
      )
      q = optax.partition({"q": q, "adam": adam}, labels)
    return optax.chain(q, optax.scale_by_learning_rate(lr))

  training = diagnostics.Training(
    inputs=X,
    loss=lambda z: optax.softmax_cross_entropy_with_integer_labels(z, Y).mean(),
    optimizer=optimizer,
    lr=RATES[name],
    steps=3,
    times=(1, 3),
    seeds=(0, 1, 2),
    name=name,
  )

  def model(width, depth):
    p, more = PRESETS[block_depth](), {"activation": "tanh"}
    more["block_multiplier"] = 1.0 if block_depth == 1 else 0.25
    return dmup.ResidualMLP(width, depth, 4, p, block_depth=block_depth, **more)

  return diagnostics.coordinate_check(model, training, widths=widths, depths=depths)


def test_muon_scales_with_width():
  found = check("muon", 1, dmup.MUON, depths=(2,))
  assert found.passed is not False, found.reason


@pytest.mark.slow
@pytest.mark.parametrize("block_depth", [1, 2])
@pytest.mark.parametrize("name", RATES)
def test_every_family_scales(name, block_depth):
  found = check(name, block_depth, OPTIMIZERS[name][1])
  assert found.passed is not False, (found.reason, found.failures[:5])


#: Optimizer -> a family that it is not.
OTHERS = {
  "muon": dmup.FACTORED,
  "shampoo": dmup.FACTORED,
  "normalized": dmup.FACTORED,
  "adafactor": dmup.FACTORED,
  "lamb": dmup.FACTORED,
  "factored": dmup.SHAMPOO,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_another_family_turns_it_red(name):
  assert check(name, 2, OTHERS[name], depths=(2,)).passed is False


@pytest.mark.slow
@pytest.mark.parametrize("rule", [dmup.TABLE_3, dmup.TABLE_8])
def test_what_clipping_by_the_global_norm_sees(rule):
  """Hidden gradients: norm 1 in width, m_L^(1/2 - alpha) in depth; readouts differ.

  Under Table 3 the gradient of the readout grows as sqrt(m_N), under Table 8 it falls.
  Four seeds; slopes over 8 times the size, tolerance 0.15.
  """

  def norms(alpha, width, depth):
    p = dmup.depthwise(alpha=alpha, gamma=0, base_width=64, base_depth=4, width_rule=rule)
    more = {"block_multiplier": 0.25, "activation": "tanh"}
    net = dmup.ResidualMLP(width, depth, 4, p, **more)

    @jax.jit
    def grads(key):
      params, _ = dmup.init(net, key, X)
      loss = optax.softmax_cross_entropy_with_integer_labels
      g = jax.grad(lambda q: loss(net.apply({"params": q}, X), Y).mean())(params)
      return optax.tree.norm(g["stack"]), optax.tree.norm(g["readout"])

    return np.mean([grads(jax.random.key(seed)) for seed in range(4)], axis=0)

  wide = np.log(norms(1, 512, 4) / norms(1, 64, 4)) / np.log(8)
  assert abs(wide[0]) < 0.15
  assert abs(wide[1] - (0.5 if rule is dmup.TABLE_3 else -0.5)) < 0.15
  for alpha, expected in (("1/2", 0), (1, -0.5)):
    deep = np.log(norms(alpha, 64, 32) / norms(alpha, 64, 4)) / np.log(8)
    assert abs(deep[0] - expected) < 0.15
