"""Mistakes of users that leave no parameter unsound: the coordinate check turns red.

Each case is a script with one thing wrong; the same script without it is green. Residual
nets of widths 64 to 256, one block, five seeds, three steps of Adam. Slopes have standard
errors of at most 0.06, each mistake moves one by 0.49 or more, the tolerance is 0.25.
"""

import dataclasses
import functools

import jax.numpy as jnp
import pytest

import flax_depthmup as dmup
from experiments._lib import coordinate_faults
from flax_depthmup.axes import Axes, Axis, Role
from tests import coordinate_nets
from tests import mistakes_parts as parts
from tests.mistakes_nets import EPS, P3, Net, adamw, check, readout, red


def with_part(**fields):
  """The user's net with parts of another make."""
  return functools.partial(Net, **fields)


# Cases ---------------------------------------------------------------------------

DENSE = "Branch/dense"
TOKENS = jnp.arange(16) % 6
heads = with_part(branch=parts.Heads)
HEADS = dmup.complete_p(base_width={"embed": 64, "heads": 4, "head_dim": 16}, base_depth=1)
SGD = {"lr": 0.1}
MUON = {"lr": 2**-5}
TIED = {"make_model": parts.Tied, "inputs": TOKENS}
STANDARD = dmup.standard(base_width={"embed": 64}, base_depth=1)
OUT_FIRST = Axes((Axis("embed", Role.OUT), Axis("inputs", Role.IN, finite=True)))


def standard_net(width, depth, parametrization):
  del parametrization
  return Net(width, depth, STANDARD)


def own_base(width, depth, parametrization):
  """Each net is its own base net: every ratio is 1."""
  return Net(
    width, depth, dataclasses.replace(parametrization, base_width={"embed": width})
  )


def no_head_count(width, depth, parametrization):
  del parametrization
  p = dmup.complete_p(base_width={"embed": 64}, base_depth=1)
  return heads(width, depth, p)


#: Mistake -> (sound script, the same with the mistake, what turns red).
CASES = {
  "plain optax.adam": (
    {},
    {"optimizer": parts.plain_adam},
    ("training", "branch", "Branch"),
  ),
  "standard parametrization": (
    {},
    {"make_model": standard_net},
    ("training", "change", "output"),
  ),
  "base sizes of the net itself": (
    {},
    {"make_model": own_base},
    ("training", "branch", "Branch"),
  ),
  "optimizer scaled twice": (
    {},
    {"optimizer": parts.scaled_twice},
    ("training", "branch", "Branch"),
  ),
  "decay inside of the scaling": (
    {},
    {"optimizer": coordinate_faults.decay_inside(EPS, 0.1)},
    ("decay", "parameter", f"{DENSE}/kernel"),
  ),
  "decay times the width ratio": (
    {},
    {"optimizer": parts.decays(lambda m: m)},
    ("decay", "parameter", f"{DENSE}/kernel"),
  ),
  "decay over the width ratio": (
    {},
    {"optimizer": parts.decays(lambda m: 1 / m)},
    ("decay", "parameter", f"{DENSE}/kernel"),
  ),
  "L2 before Adam": (
    {},
    {"optimizer": parts.l2_before_adam},
    ("decay", "parameter", f"{DENSE}/kernel"),
  ),
  "one eps for all": (
    {"eps": EPS},
    {"eps": EPS, "optimizer": coordinate_faults.plain_eps(adamw)},
    ("eps", "branch", "Branch"),
  ),
  "readout multiplier forgotten": (
    {"make_model": with_part(readout=parts.own_readout(1))},
    {"make_model": with_part(readout=parts.own_readout(0))},
    ("training", "value", "output"),
  ),
  "readout multiplier twice": (
    {"make_model": with_part(readout=parts.own_readout(1))},
    {"make_model": with_part(readout=parts.own_readout(2))},
    ("training", "value", "output"),
  ),
  "Table 3's rate of the readout under Table 8": (
    {},
    {"optimizer": parts.readout_rate_of_table_3},
    ("training", "change", "readout"),
  ),
  "Table 3 with a tied readout": (TIED, {**TIED, "p": P3}, ("training", "value", "output")),
  "SGD with Adam's factors": (
    {"optimizer": parts.sgd, **SGD},
    {"optimizer": parts.sgd_with_adams_factors, **SGD},
    ("training", "branch", "Branch"),
  ),
  "Muon scaled twice": (
    {"optimizer": parts.muon, **MUON},
    {"optimizer": parts.muon_with_adams_factors, **MUON},
    ("training", "branch", "Branch"),
  ),
  "matrix the other way round": (
    {"make_model": with_part(first=parts.out_first(OUT_FIRST))},
    {"make_model": with_part(first=parts.out_first("embed -> (inputs)"))},
    ("training", "value", "first"),
  ),
  "no base number of heads": (
    {"make_model": heads, "p": HEADS},
    {"make_model": no_head_count, "p": HEADS},
    ("training", "value", "Heads/query"),
  ),
}
#: Run every time; each compiles for seconds.
QUICK = {
  "plain optax.adam",
  "optimizer scaled twice",
  "decay inside of the scaling",
}


@functools.cache
def sound(name):
  """Cases of one sound script share its check."""
  same = next(key for key in CASES if _texts(CASES[key][0]) == _texts(CASES[name][0]))
  return check(**CASES[name][0]) if same == name else sound(same)


def _texts(script):
  return {key: repr(value) for key, value in script.items()}


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in CASES]
)
def test_the_sound_script_is_green_and_the_mistaken_one_red(name):
  _, mistaken, symptom = CASES[name]
  assert sound(name).passed is True, sound(name).reason
  found = check(**mistaken)
  assert found.passed is False, found.reason
  assert symptom in red(found)


def multiplier_twice(width, depth):
  return coordinate_nets.net(width, depth, block_multiplier=0.7 * (depth / 8) ** -0.5)


def own_base_depth(width, depth):
  p = dataclasses.replace(coordinate_nets.P, base_depth=depth)
  return coordinate_nets.net(width, depth, p)


def factor_everywhere(scales, lr):
  return coordinate_faults.update_factor_everywhere(coordinate_nets.adamw)(scales, lr)


#: The same over depth, at width 64; more of them are in `coordinate_check_test`.
OVER_DEPTH = {
  "branch multiplier twice": (
    {"make_model": multiplier_twice},
    ("training", "change", "stack"),
  ),
  "base depth of the net itself": (
    {"make_model": own_base_depth},
    ("training", "change", "stack"),
  ),
  "depth factor on the embedding and the readout": (
    {"optimizer": factor_everywhere},
    ("training", "change", "input"),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OVER_DEPTH)
def test_over_depth(name):
  mistaken, symptom = OVER_DEPTH[name]
  assert sound_over_depth().passed is True
  found = coordinate_nets.check(eps=None, **mistaken)
  assert found.passed is False
  assert symptom in red(found)


@pytest.mark.slow
def test_one_branch_of_two_without_its_depth_factor():
  script = {"p": P3, "widths": (64,), "depths": (2, 4, 8)}
  assert check(make_model=functools.partial(parts.HalfPlain, sound=True), **script).passed
  found = check(make_model=parts.HalfPlain, **script)
  assert found.passed is False
  assert ("training", "value", "readout") in red(found)


@functools.cache
def sound_over_depth():
  return coordinate_nets.check(eps=None)


@pytest.mark.slow
def test_a_zero_readout_hides_a_mistake_for_one_step_and_the_check_says_so():
  """No gradient reaches the blocks in the first step: not green, but None."""
  script = {"make_model": with_part(readout=functools.partial(readout, std=0))}
  first = check(**script, optimizer=parts.plain_adam, steps=1, times=(1,))
  assert first.passed is None
  assert first.reason.startswith("no branch was trained")
  late = check(**script, optimizer=parts.plain_adam, steps=30, times=(30,))
  assert late.passed is False
  assert ("training", "change", "Branch/dense") in red(late)
  assert check(**script, steps=30, times=(30,)).passed is True


@pytest.mark.slow
def test_standard_parametrization_has_nothing_to_pass():
  found = check(STANDARD)
  assert found.passed is None
  assert "theory predicts no slopes here: standard" in found.reason
