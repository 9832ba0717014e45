"""The commutativity experiment: its claims and its main at toy size."""

import json
import math

import pytest
from absl.testing import flagsaver

from experiments import commutativity
from experiments._lib import commutativity_claims, commutativity_draws
from experiments._lib.commutativity_cells import row
from flax_depthmup import DepthMupError

# Claims ------------------------------------------------------------------------------

SIZES = [(32, 32), (256, 256), (16, 256), (64, 16), (256, 16), (64, 1024)]


def records(family, law, precision=0.01, sizes=SIZES):
  """Rows of cells whose log q is N(mean, std) by `law`(n, L), measured precisely."""
  rows = []
  for n, depth in sizes:
    mean, std, rms, distance = law(n, depth)
    rows.append(
      {
        "family": family,
        "width": n,
        "depth": depth,
        "log_q_mean": mean,
        "log_q_mean_error": precision * std,
        "log_q_mean_theory": mean,
        "log_q_median": mean,
        "log_q_median_error": precision * std,
        "log_q_std": std,
        "log_q_std_error": precision * std,
        "log_q_std_theory": std,
        "log_q_width_first": mean,
        "distance_mean": distance,
        "distance_median": distance,
        "distance_median_error": precision * distance,
        "distance_width_first": 1.0,
        **{f"{q}_rms": rms for q in ("q_aa", "q_ab")},
        **{f"{q}_rms_error": precision * rms for q in ("q_aa", "q_ab")},
        "q_aa_rms_theory": rms,
      }
    )
  return rows


def commuting(n, depth):
  return 0.5, 2.2 / n**0.5, 3.6 / n**0.5, 1.0


def growing(n, depth):
  return depth * (0.405465 - 1.4 / n), (4 * depth / n) ** 0.5, (depth / n) ** 0.5, 0.1


def shrinking(n, depth):
  ratio = depth / n
  return -2.5 * ratio, (5 * ratio) ** 0.5, ratio**0.5, math.exp(-ratio)


def seen(family, law, **values):
  found = commutativity_claims.claims(records(family, law, **values))
  assert all({"claim", "measured", "seen", "reason"} == set(c) for c in found.values())
  json.dumps(found, allow_nan=False)
  return {name: c["seen"] for name, c in found.items()}


def test_claims_are_seen_where_they_hold():
  assert seen("scaled", commuting) == {"scaled_commutes": True, "scaled_width_rate": True}
  assert seen("scaled_net", commuting) == {"net_commutes": True}
  assert seen("unscaled", growing) == {
    "unscaled_grows": True,
    "unscaled_does_not_commute": True,
  }
  assert seen("mlp", shrinking) == {
    "mlp_shrinks": True,
    "mlp_does_not_commute": True,
    "mlp_correlation": True,
  }


def test_claims_are_not_seen_where_they_do_not():
  assert seen("scaled", shrinking)["scaled_commutes"] is False
  assert seen("scaled", lambda n, depth: (0.5, 1.0, 1.0 / n, 1.0)) == {
    "scaled_commutes": False,
    "scaled_width_rate": False,
  }
  assert set(seen("unscaled", commuting).values()) == {False}
  assert set(seen("mlp", commuting).values()) == {False}
  assert seen("scaled_net", growing) == {"net_commutes": False}


def test_claims_say_when_they_cannot_tell():
  noisy = seen("scaled", commuting, precision=0.2)
  assert noisy == {"scaled_commutes": None, "scaled_width_rate": None}
  for family, law in (("scaled", commuting), ("unscaled", growing), ("mlp", shrinking)):
    for sizes in ([(32, 32)], [(32, 32), (64, 64)]):
      found = commutativity_claims.claims(records(family, law, sizes=sizes))
      assert {c["seen"] for c in found.values()} == {None}
      assert all("L/n spans a factor of 1 only" in c["reason"] for c in found.values())
  one_width = seen("unscaled", growing, sizes=[(64, 16), (64, 1024)])
  assert one_width == {"unscaled_grows": None, "unscaled_does_not_commute": True}


# The entry point -----------------------------------------------------------------------

TOY = {
  "cells": ["16:2", "8:16"],
  "net_cells": ["8:2"],
  "draws": 24,
  "net_draws": 8,
}


def run(workdir, **values):
  with flagsaver.flagsaver(workdir=str(workdir), **(TOY | values)):
    commutativity.main([])


def lines(workdir):
  return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_toy_run_writes_what_it_promises(tmp_path, capsys):
  run(tmp_path)
  rows = lines(tmp_path)
  assert [(r["family"], r["width"], r["depth"], r["draws"]) for r in rows] == [
    (family, *size)
    for family in commutativity_draws.FAMILIES
    for size in ([(8, 2, 8)] if family == "scaled_net" else [(16, 2, 24), (8, 16, 24)])
  ]
  for r in rows:
    assert {"log_q_mean", "log_q_mean_error", "log_q_std", "log_q_median"} <= set(r)
    assert ("q_ab_rms" in r) == r["family"].startswith("scaled")
  assert (tmp_path / "commutativity.png").read_bytes()[:4] == b"\x89PNG"
  found = json.loads((tmp_path / "summary.json").read_text())["commutativity"]
  assert set(found) == set(commutativity_claims._CLAIMS)
  assert found["scaled_commutes"]["seen"] is None  # 24 draws are too few
  config = json.loads((tmp_path / "config.json").read_text())
  assert (config["experiment"], config["c0"]) == ("commutativity", 0.3)
  told = capsys.readouterr().out
  assert "cannot tell: scaled residual nets" in told
  assert "give more draws" in told
  run(tmp_path)
  assert "already done" in capsys.readouterr().out
  with pytest.raises(DepthMupError, match="holds another run: c0 is 0.3, this run has 0.4"):
    run(tmp_path, c0=0.4)


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
  families = {"families": ["scaled", "mlp"]}
  run(tmp_path / "whole", **families)
  count = 0

  def interrupt(*args):
    nonlocal count
    count += 1
    if count == 3:
      raise KeyboardInterrupt
    return row(*args)

  with monkeypatch.context() as patch:
    patch.setattr(commutativity, "row", interrupt)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut", **families)
  assert len(lines(tmp_path / "cut")) == 2
  drawn_again = []

  def note(*args):
    drawn_again.append(args[:3])
    return commutativity_draws.draw(*args)

  monkeypatch.setattr(commutativity, "draw", note)
  run(tmp_path / "cut", **families)
  assert drawn_again == [("mlp", 16, 2), ("mlp", 8, 16)]
  for name in ("results.jsonl", "summary.json"):
    whole, cut = (tmp_path / d / name for d in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


BAD = [
  ({"workdir": None}, "--workdir is missing"),
  ({"cells": ["32"]}, "--cells='32'"),
  ({"cells": ["32:x"]}, "--cells='32:x'"),
  ({"cells": ["0:4"]}, "--cells='0:4'"),
  ({"cells": []}, "--cells=''"),
  ({"cells": ["4:4", "4:4"]}, "distinct pairs"),
  ({"net_cells": ["4:4:4"]}, "--net_cells='4:4:4'"),
  ({"families": ["scaled", "resnet"]}, "--families='scaled,resnet'"),
  ({"families": []}, "--families=''"),
  ({"families": ["mlp", "mlp"]}, "expected distinct"),
  ({"draws": 7}, "--draws=7: expected at least 8"),
  ({"net_draws": 0}, "--net_draws=0"),
  ({"c0": 1.0}, "--c0=1.0: expected a number between -1 and 1"),
  ({"c0": math.nan}, "--c0=nan"),
  ({"draw_seed": -1}, "--draw_seed=-1"),
  ({"width": 64}, "--width=64: commutativity has none"),
  ({"mesh": "data:-1"}, "--mesh=data:-1: commutativity has none"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=lambda v: str(v)[:30])
def test_wrong_flags(tmp_path, values, words):
  with (
    flagsaver.flagsaver(**({"workdir": str(tmp_path / "w")} | TOY | values)),
    pytest.raises(DepthMupError, match=words),
  ):
    commutativity.main([])
  assert not (tmp_path / "w").exists()


def test_too_narrow_cells_are_named(tmp_path):
  with pytest.raises(DepthMupError, match="nets of family mlp, width 1, depth 9"):
    run(tmp_path, families=["mlp"], cells=["1:9"])


def test_a_damaged_file_of_results(tmp_path):
  run(tmp_path, families=["mlp"])
  (tmp_path / "summary.json").unlink()
  (tmp_path / "results.jsonl").write_text("{")
  with pytest.raises(DepthMupError, match=r"results.jsonl is damaged"):
    run(tmp_path, families=["mlp"])
