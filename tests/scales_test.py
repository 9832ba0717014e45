"""The golden numbers of the published tables, and the symmetries between them."""

import dataclasses
import math

import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError, resolve

ETA, LAMBDA, EPS, SIGMA = 1e-3, 0.1, 1e-12, 0.02
SIZES = {"base_width": 64, "base_depth": 2}  # m_N = 4 and m_L = 8 below
HIDDEN = ("embed -> embed", (256, 256), 16)
VECTOR = ("-> embed", (256,), 16)
EMBED = ("(vocab) -> embed", (50, 256), None)
UNEMBED = ("embed -> (vocab)", (256, 50), None)


def scales(p, parameter):
  axes, shape, depth = parameter
  return resolve(axes, shape, p, depth=depth, base_std=SIGMA)


@pytest.mark.parametrize(
  ("alpha", "hidden_lr", "vector_lr", "branch", "eps"),
  [
    (1, 2.5e-4, 1e-3, 0.125, 3.125e-14),
    ("1/2", 8.838835e-5, 3.535534e-4, 0.3535534, 8.838835e-14),
  ],
)
def test_complete_p(alpha, hidden_lr, vector_lr, branch, eps):
  p = dmup.complete_p(alpha=alpha, **SIZES)
  hidden, vector = scales(p, HIDDEN), scales(p, VECTOR)
  assert ETA * hidden.update_factor == pytest.approx(hidden_lr, rel=1e-6)
  assert ETA * vector.update_factor == pytest.approx(vector_lr, rel=1e-6)
  assert p.branch_multiplier(16) == pytest.approx(branch, rel=1e-6)
  assert EPS / hidden.gradient_factor == pytest.approx(eps, rel=1e-6)
  assert EPS / vector.gradient_factor == pytest.approx(eps, rel=1e-6)
  assert hidden.init_std == pytest.approx(0.01, rel=1e-6)
  # The hidden weight decay m_N lambda = .4 on top of the rate: eta lambda m_L^(alpha-1).
  decay = hidden.depth_update_factor / hidden.update_factor * LAMBDA
  assert decay == pytest.approx(0.4, rel=1e-6)
  unembed = scales(p, UNEMBED)
  assert (unembed.multiplier, unembed.init_std, unembed.update_factor) == (0.25, 0.02, 1)
  assert scales(p, EMBED).update_factor == 1


def test_complete_d_p_is_table_3():
  p = dmup.complete_p(width_rule=dmup.TABLE_3, **SIZES)
  unembed = scales(p, UNEMBED)
  assert unembed.init_std == pytest.approx(0.005, rel=1e-6)
  assert ETA * unembed.update_factor == pytest.approx(2.5e-4, rel=1e-6)
  assert unembed.multiplier == 1
  assert EPS / unembed.gradient_factor == pytest.approx(1e-12, rel=1e-6)
  assert EPS / scales(p, EMBED).gradient_factor == pytest.approx(2.5e-13, rel=1e-6)
  assert EPS / scales(p, HIDDEN).gradient_factor == pytest.approx(3.125e-14, rel=1e-6)


def test_mup_package():
  p = dmup.mup(**SIZES)
  hidden, unembed = scales(p, HIDDEN), scales(p, UNEMBED)
  assert ETA * hidden.update_factor == pytest.approx(2.5e-4, rel=1e-6)
  assert LAMBDA * hidden.depth_update_factor / hidden.update_factor == pytest.approx(0.4)
  assert unembed.multiplier == 0.25
  assert (unembed.update_factor, scales(p, EMBED).update_factor) == (1, 1)
  assert p.branch_multiplier(16) == 1
  # MuSGD: the rate of a matrix times fan_out/fan_in, of a vector times m.
  wide = resolve("embed -> embed", (256, 128), p)
  assert wide.update_factor * wide.gradient_factor == pytest.approx(0.5)
  vector = scales(p, VECTOR)
  assert vector.update_factor * vector.gradient_factor == pytest.approx(4)


M = 16.0  # width ratio below; roots are exact
# Of (input, hidden, output): std over that of the base net, multiplier, Adam, SGD.
TABLES = {
  "standard": (dmup.STANDARD, (1, 1 / 4, 1 / 4), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
  "table 3": (dmup.TABLE_3, (1, 1 / 4, 1 / M), (1, 1, 1), (1, 1 / M, 1 / M), (M, 1, 1 / M)),
  "table 8": (dmup.TABLE_8, (1, 1 / 4, 1), (1, 1, 1 / M), (1, 1 / M, 1), (M, 1, M)),
  "table 9": (
    dmup.TABLE_9,
    (1 / 4, 1 / 4, 1 / 4),
    (4, 1, 1 / 4),
    (1 / 4, 1 / M, 1 / 4),
    (1, 1, 1),
  ),
}
WIDE = {
  "input": ("(inputs) -> embed", (10, 1024)),
  "hidden": ("embed -> embed", (1024, 1024)),
  "output": ("embed -> (outputs)", (1024, 10)),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("column", range(3))
def test_tables_as_printed(table, column):
  rule, std, multiplier, adam, sgd = TABLES[table]
  p = dmup.depthwise(alpha=0, gamma=0, base_width=64, base_depth=1, width_rule=rule)
  s = resolve(*WIDE[list(WIDE)[column]], p, base_std=1.0)
  assert s.init_std == pytest.approx(std[column])
  assert s.multiplier == pytest.approx(multiplier[column])
  assert s.update_factor == pytest.approx(adam[column])
  assert s.update_factor * s.gradient_factor == pytest.approx(sgd[column])


@pytest.mark.parametrize("kind", [*WIDE, "vector"])
@pytest.mark.parametrize("rule", [dmup.TABLE_8, dmup.TABLE_9])
def test_tables_are_one_parametrization(rule, kind):
  """theta: multiplier * theta, std, update and gradient / theta (TP-IVb, section 2)."""
  axes, shape = WIDE.get(kind, ("-> embed", (1024,)))

  def under(width_rule):
    p = dmup.depth_mup(base_width=64, base_depth=4, width_rule=width_rule)
    return resolve(axes, shape, p, depth=8 if kind in ("hidden", "vector") else None)

  s, s3 = under(rule), under(dmup.TABLE_3)
  theta = s.multiplier / s3.multiplier
  assert s.init_std * theta == pytest.approx(s3.init_std)
  assert s.update_factor * theta == pytest.approx(s3.update_factor)
  assert s.gradient_factor * theta == pytest.approx(s3.gradient_factor)


@pytest.mark.parametrize("rule", [dmup.TABLE_3, dmup.TABLE_8, dmup.TABLE_9])
@pytest.mark.parametrize("kind", WIDE)
def test_folding_takes_the_multiplier_in(rule, kind):
  p = dmup.depth_mup(base_width=64, base_depth=4, width_rule=rule)
  folded = resolve(*WIDE[kind], p, folded=True)
  table_3 = resolve(*WIDE[kind], dataclasses.replace(p, width_rule=dmup.TABLE_3))
  assert folded.multiplier == 1
  for name in ("init_std", "gradient_factor", "update_factor"):
    assert getattr(folded, name) == pytest.approx(getattr(table_3, name))


@pytest.mark.parametrize(
  ("alpha", "gamma"), [("1/2", "1/2"), ("1/2", 0), (1, 0), ("3/4", "1/4"), (0, 0)]
)
def test_depth_factors(alpha, gamma):
  """theory: branch m_L^-a, Adam m_L^-g, SGD m_L^(a-g), inside branches only."""
  p = dmup.depthwise(alpha=alpha, gamma=gamma, base_width=64, base_depth=4)
  inside = resolve("embed -> embed", (64, 64), p, depth=64)
  outside = resolve("embed -> embed", (64, 64), p)
  a, g = float(p.alpha), float(p.gamma)
  assert p.branch_multiplier(64) == pytest.approx(16**-a)
  assert inside.update_factor == pytest.approx(16**-g)
  assert inside.update_factor * inside.gradient_factor == pytest.approx(16 ** (a - g))
  assert (outside.update_factor, outside.gradient_factor) == (1, 1)


PRESETS = [
  dmup.standard,
  dmup.mup,
  dmup.depth_mup,
  dmup.ode,
  dmup.complete_p,
  lambda **sizes: dmup.depthwise(alpha="2/3", gamma="-1/5", **sizes),
]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", [*WIDE, "vector"])
def test_base_size_is_standard(preset, kind):
  axes, shape = WIDE.get(kind, ("-> embed", (1024,)))
  p = preset(base_width=1024, base_depth=6)
  s = resolve(axes, shape, p, depth=6)
  factors = s.multiplier, s.update_factor, s.gradient_factor, p.branch_multiplier(6)
  assert factors == (1, 1, 1, 1)
  assert s.init_std == 1 / math.sqrt(shape[0] if kind != "vector" else 1)


def test_unequal_axes():
  """The gradient factor follows the out axis, the update factor the in axis."""
  sizes = {"embed": 64, "mlp": 256}
  p = dmup.depth_mup(base_width=sizes, base_depth=1)
  s = resolve("embed -> mlp", (128, 2048), p)
  assert (s.update_factor, s.gradient_factor) == (1 / 2, 8)
  assert s.init_std == pytest.approx(1 / math.sqrt(128))


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda p: resolve("embed -> mlp", (4, 4), p), '"mlp".*no base size.*base_width='),
    (lambda p: resolve("embed -> embed", (4,), p), "name 2 axes"),
    (lambda p: resolve("embed -> embed", (4, 4), p, depth=0), "depth=0"),
    (lambda p: resolve("embed -> embed", (4, 4), p, base_std=-1.0), "base_std"),
    (lambda p: dmup.depth_mup(base_width=0, base_depth=4), "base_width=0"),
    (lambda p: dmup.depth_mup(base_width={"embed": 1.5}, base_depth=4), "embed.*1.5"),
    (lambda p: dmup.depth_mup(base_width=64, base_depth="8"), "base_depth='8'"),
    (lambda p: dmup.depthwise(alpha="a", gamma=0, base_width=1, base_depth=1), "alpha"),
    (lambda p: dataclasses.replace(p, width_rule="table 3"), "TABLE_3"),
  ],
)
def test_errors_name_the_offender(call, words):
  with pytest.raises(DepthMupError, match=words):
    call(dmup.depth_mup(base_width=64, base_depth=4))


def test_the_regime_is_that_of_its_exponents():
  assert dmup.depth_mup(base_width=4, base_depth=2).regime == dmup.classify("1/2", "1/2")


def test_as_dict_is_json():
  p = dmup.depthwise(alpha="1/3", gamma="2/3", base_width={"embed": 64}, base_depth=2)
  assert p.as_dict() == {
    "name": "1/3:2/3",
    "alpha": "1/3",
    "gamma": "2/3",
    "width_rule": "table 3",
    "base_width": {"embed": 64},
    "base_depth": 2,
    "eps_rule": None,
  }
  assert hash(p) == hash(dataclasses.replace(p))
