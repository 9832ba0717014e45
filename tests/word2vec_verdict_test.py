"""The claims of a word2vec run, from made-up records."""

import json

import pytest

from experiments._lib import word2vec_verdict

KERNEL = {
  "width": "kernel",
  "expected": 0.001,
  "accuracy": 0.0012,
  "accuracy_error": 0.0002,
  "draws": 16,
}


def records(shares, rms=lambda n: n**-0.5, seeds=2, **other):
  found = [KERNEL | other]
  for width, share in shares.items():
    for seed in range(seeds):
      for epoch in (1, 2):
        distance = 0.0 if width == "limit" else rms(width)
        own = {"width": width, "seed": seed, "epoch": epoch, "diverged": False}
        found.append(own | {"accuracy": share * epoch / 2, "logit_rms": distance})
  return found


def seen(rows, questions=2000):
  found = word2vec_verdict.claims(rows, questions, 2)
  json.dumps(found, allow_nan=False)
  assert all({"claim", "measured", "seen", "reason"} == set(c) for c in found.values())
  return [c["seen"] for c in found.values()]


RISING = {64: 0.3, 128: 0.4, 512: 0.42, 2048: 0.425, "limit": 0.43}


def test_claims():
  assert seen(records(RISING)) == [True, True, True]
  assert seen(records(RISING | {512: 0.3}))[0] is False
  assert seen(records(RISING | {"limit": 0.35}))[0] is False
  assert seen(records(RISING | {"limit": 0.6}))[0] is None  # the widest is far from it
  assert seen(records(RISING | {"limit": 0.444}), questions=10**6)[0] is True
  assert seen(records(RISING | {"limit": 0.446}), questions=10**6)[0] is None
  assert seen(records(dict.fromkeys(RISING, 1.0)))[0] is None  # saturated
  assert seen(records(RISING), questions=20)[0] is None
  assert seen(records(RISING, lambda n: 1 / n))[1] is False
  assert seen(records(RISING, lambda n: 1.0))[1] is False
  narrow = {16: 0.2, 32: 0.3, 64: 0.3, 128: 0.3, "limit": 0.43}
  assert seen(records(narrow))[1] is None
  assert seen(records(RISING, accuracy=0.01))[2] is False
  assert seen(records(RISING, accuracy=0.0), questions=20)[2] is None
  without = {w: p for w, p in RISING.items() if w != "limit"}
  assert seen(records(without, lambda n: None)) == [None, None, True]


def test_the_exponent_counts_with_its_error():
  """Slopes within 0.1 of -1/2 all: exact, noisy, and over too few doublings."""

  def converge(rms):
    rows = records(dict.fromkeys([*rms, "limit"], 0.4), rms.get)
    return word2vec_verdict.claims(rows, 2000, 2)["logits_converge"]

  noisy = converge({64: 1.0, 256: 0.3, 2048: 0.2})
  slope, error = noisy["measured"]["exponent"]
  assert abs(slope + 0.5) < 0.1 < 2 * error
  assert noisy["seen"] is None
  assert "too uncertain" in noisy["reason"]
  # The synthetic text: n^(-0.541 +- 0.017) from six widths.
  signs = dict(zip((64, 128, 256, 512, 1024, 2048), (1, -1, 1, 1, -1, 1), strict=True))
  measured = converge({n: n**-0.541 * 1.04**s for n, s in signs.items()})
  assert measured["measured"]["exponent"] == pytest.approx([-0.541, 0.017], abs=5e-3)
  assert measured["seen"] is True
  for rms in ({64: 1.0, 256: 0.35, 1024: 0.27}, {n: n**-0.5 for n in (64, 256, 1024)}):
    assert converge(rms)["seen"] is None
    assert "over a factor of 32" in converge(rms)["reason"]


def test_a_width_that_diverged_is_left_out():
  rows = records(RISING)
  rows = [r for r in rows if not (r["width"] == 64 and r["seed"] == 1)]
  rows.append({"width": 64, "seed": 1, "epoch": 1, "loss": None, "diverged": True})
  found = word2vec_verdict.claims(rows, 2000, 2)["accuracy_rises_with_width"]
  assert [*found["measured"]] == ["128", "512", "2048", "limit"]


def test_exponent_of_a_power_law():
  slope, error = word2vec_verdict.line({n: 3 * n**-0.5 for n in (32, 64, 512)})
  assert slope == pytest.approx(-0.5)
  assert error == pytest.approx(0, abs=1e-9)
