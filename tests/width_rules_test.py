"""Rules made of exponents against the published tables and against each other."""

import jax
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from tests.conformance_nets import train

# (a, b, c, d) of Everett et al., arXiv 2407.05872, Adam with full alignment, and d from
# their gradient exponents.
EVERETT = {
  "standard": ((0, 0, 0, 0.5), (0, 0.5, 1, 0.5), (0, 0.5, 1, 0)),
  "ntk": ((0, 0, 0, 0.5), (0.5, 0, 0.5, 1), (0.5, 0, 0.5, 0.5)),
  "mup": ((-0.5, 0.5, 0.5, 0.5), (0, 0.5, 1, 1), (0.5, 0.5, 0.5, 0.5)),
  "mean field": ((0, 0, 0, 1), (0.5, 0, 0.5, 1.5), (1, 0, 0, 1)),
}


def rule(name):
  rows = dict(zip(("input", "hidden", "output"), EVERETT[name], strict=True))
  return dmup.WidthRule.from_exponents(name, **rows)


def at(name, **more):
  return dmup.depthwise(
    alpha="1/2", gamma="1/2", base_width=4, base_depth=2, width_rule=rule(name), **more
  )


def test_the_mup_of_everett_is_table_9():
  for kind in dmup.Kind:
    assert rule("mup")[kind] == dmup.TABLE_9[kind]


@pytest.mark.parametrize("pair", [("ntk", "standard"), ("mean field", "mup")])
def test_two_forms_train_alike(pair):
  """Tolerance: rounding, amplified by three steps of Adam."""
  adam = lambda: optax.scale_by_adam(eps=1e-4), None
  runs = [train(at(name), adam, lr=0.01)[0] for name in pair]
  np.testing.assert_allclose(runs[0], runs[1], rtol=2e-4)
  other = train(at("mup" if pair[1] == "standard" else "standard"), adam, lr=0.01)[0]
  assert abs(other[-1] - runs[0][-1]) > 1e-4


def test_the_mean_field_of_bordelon_is_depth_mup_under_sgd():
  """arXiv 2309.16620, Table 1: multipliers 1, (L N)^-1/2, 1/N; rate N for all."""
  p = at("mean field")
  sgd = optax.identity, None
  found = train(p, sgd, lr=0.1)[0]
  table = dmup.depth_mup(base_width=4, base_depth=2)
  np.testing.assert_allclose(found, train(table, sgd, lr=0.1)[0], rtol=1e-5)
  s = dmup.init(
    dmup.ResidualMLP(16, 8, 3, p), jax.random.key(0), np.ones((1, 4), np.float32)
  )[1]
  for layer in (s["input"], s["stack"]["block"]["dense_0"], s["readout"]):
    kernel = layer["kernel"]
    assert kernel.width_update_factor * kernel.gradient_factor == pytest.approx(
      4 * (2 if kernel.kind is dmup.Kind.HIDDEN else 1)
    )


def test_scalars_do_not_scale():
  assert rule("mup")[dmup.Kind.SCALAR] == dmup.TABLE_3[dmup.Kind.SCALAR]


@pytest.mark.parametrize(
  ("output", "words"),
  [
    ((0, 1, 2), r"output=\(0, 1, 2\): expected four exponents"),
    ("0123", "output='0123': expected four"),
    ((0, "x", 0, 0), "output: b='x' is no finite exponent"),
    (3, "output=3: expected four"),
  ],
)
def test_wrong_exponents(output, words):
  zero = (0, 0, 0, 0)
  with pytest.raises(DepthMupError, match=words):
    dmup.WidthRule.from_exponents("x", input=zero, hidden=zero, output=output)
