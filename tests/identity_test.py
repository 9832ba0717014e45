"""Where two runs differ, in words."""

import math

import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.identity import as_json, difference

RUN = {
  "parametrization": {"base_width": {"embed": 128, "mlp": 512}, "alpha": 0.5},
  "scales": [{"lr": 1.0}, {"lr": 0.25}],
  "remat": True,
}


def changed(place, value):
  """RUN with one entry replaced, or removed when the value is `...`."""
  run = as_json(RUN, "run")
  inner = run
  for key in place[:-1]:
    inner = inner[key]
  if value is ...:
    del inner[place[-1]]
  else:
    inner[place[-1]] = value
  return run


@pytest.mark.parametrize(
  ("place", "value", "words"),
  [
    (
      ("parametrization", "base_width", "embed"),
      64,
      "parametrization.base_width.embed is 64, this run has 128",
    ),
    (
      ("parametrization", "alpha"),
      ...,
      "parametrization.alpha is missing, this run has 0.5",
    ),
    (
      ("parametrization", "gamma"),
      1,
      "parametrization.gamma is 1, this run has no such entry",
    ),
    (("scales", 1, "lr"), 0.5, "scales.1.lr is 0.5, this run has 0.25"),
    (("scales", 1), ..., 'scales.1 is missing, this run has {"lr": 0.25}'),
    (("scales",), {}, 'scales is {}, this run has [{"lr": 1.0}, {"lr": 0.25}]'),
    (("remat",), 1, "remat is 1, this run has true"),
    (("parametrization",), None, "parametrization is null, this run has {"),
  ],
)
def test_the_first_difference_is_named(place, value, words):
  assert difference(changed(place, value), RUN).startswith(words)


def test_equal_runs_have_no_difference():
  assert difference(changed(("parametrization", "alpha"), 0.5), RUN) == ""
  assert difference({"a": 1, "b": math.nan}, {"b": math.nan, "a": 1.0}) == ""


def test_the_order_of_this_run_decides_which_is_first():
  assert difference({"a": 1, "b": 1}, {"b": 2, "a": 2}).startswith("b is")


def test_long_values_are_cut():
  assert len(difference({"a": "x" * 500}, {"a": "y" * 500})) < 200


def test_what_is_written_equals_what_is_read():
  assert as_json({"shape": (2, 3), 1: None}, "run") == {"shape": [2, 3], "1": None}


def test_what_json_cannot_hold_is_refused():
  with pytest.raises(DepthMupError, match="identity cannot be written as JSON: .*give"):
    as_json({"f": math.sqrt}, "identity")
