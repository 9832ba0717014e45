"""What the report makes of summaries, records and numbers."""

import math

import pytest

from experiments._lib import report_text
from experiments._lib.workdir import Workdir
from flax_depthmup.diagnostics import transfer_verdict
from tests.report_pages import CLAIMS, Page, contents, make, write


def test_claims_are_rows_with_what_was_measured(tmp_path):
  named = {"x": CLAIMS[0] | {"seeds": 3}}
  summary = {"one": CLAIMS[1], "deep": {"rows": [named]}, "list": CLAIMS}
  page = Page(write(tmp_path / "r.html", make(tmp_path / "w", summary)))
  assert "falls not seen it rose slope −1.5×10⁻⁷" in page.text
  assert "deep · rows · 1 claim verdict measured x rises seen above 0" in page.text
  assert "seen above 0 slope 0.5123 seeds 3" in page.text
  assert "bends cannot tell one seed –" in page.text
  assert "2 seen 2 not seen 1 cannot tell" in page.text


def test_one_claim_is_its_own_headline(tmp_path):
  text = write(tmp_path / "r.html", make(tmp_path / "w", {"only": CLAIMS[1]}))
  assert contents(text).endswith("/w not seen")


def transfer_records():
  """Curves with a clear minimum at -8 for one, moving by an octave for the other."""
  for name, move in (("stays", 0.0), ("moves", -1.0)):
    for i, depth in enumerate((4, 8, 16)):
      for rate in range(-13, -3):
        for seed in range(3):
          loss = math.exp(0.1 * (rate + 8 - move * i) ** 2 + 1e-3 * seed)
          yield {
            "parametrization": name,
            "depth": depth,
            "log2_lr": rate,
            "seed": seed,
            "loss": loss,
          }


def test_a_transfer_verdict_is_a_table(tmp_path):
  records = list(transfer_records())
  workdir = Workdir(str(tmp_path / "w"), {"steps": 20})
  workdir.write_results(records)
  workdir.write_summary({"transfer": transfer_verdict(records)})
  text = write(tmp_path / "r.html", workdir.path)
  page = Page(text)
  assert "stays: transfers moves: does not transfer" in page.text
  header = "log₂ of the best rate, by size octaves per doubling 95 % interval best loss"
  assert f"verdict {header}, by size regret of transfer 4 8 16 4 8 16 stays" in page.text
  assert "stays transfers −8.00 −8.00 −8.00 +0.00 [+0.00, +0.00] 1.001" in page.text
  assert "moves does not transfer −8.00 −9.00 −10.00 −1.00 [−1.00, −1.00]" in page.text
  assert "moves the optimum moves by -1.00 octaves per doubling of depth" in page.text
  assert page.all("colspan") == ["3", "3"]
  # Every row of the table is as wide as its header.
  body = text[text.index('class="transfers"') :]
  rows = body[body.index("<tbody>") : body.index("</tbody>")].split("<tr>")[1:]
  assert {row.count("<td") for row in rows} == {1 + 3 + 1 + 1 + 3 + 1}
  assert "180 records" in page.text


def test_a_transfer_verdict_without_an_answer(tmp_path):
  verdict = {
    "optimum_log2_lr": {"4": None},
    "why_no_optimum": {"4": "too flat"},
    "ci95": None,
    "transfers": None,
    "reason": "one depth",
  }
  summary = {"transfer": {"a": verdict, "b": verdict | {"optimum_log2_lr": {"8": -7}}}}
  page = Page(write(tmp_path / "r.html", make(tmp_path / "w", summary)))
  assert "a: cannot tell b: cannot tell" in page.text
  assert "b cannot tell – −7.00 –" in page.text
  assert "Notes a: why_no_optimum 4 too flat b: why_no_optimum 4 too flat" in page.text


def test_with_claims_transfer_is_no_headline(tmp_path):
  verdict = {"transfers": False, "reason": "moves"}
  summary = {"x": {"transfer": {"standard": verdict}, "claims": {"c": CLAIMS[0]}}}
  text = write(tmp_path / "r.html", make(tmp_path / "w", summary))
  assert contents(text).endswith("/w seen")
  assert "standard does not transfer" in Page(text).text


def test_any_other_summary_is_shown(tmp_path):
  summary = {
    "memory": {"8": {"plain": 13107200, "remat": None}, "64": {"plain": 2.5, "remat": 1}},
    "by_size": {"4": -0.25, "8": None},
    "rows": [{"n": i, "x": i / 7} for i in range(60)],
    "grid": [[1, 2], [3, 1 / 3]],
    "ragged": [[1, 2], [1 / 3], {"a": 1}],
    "nested": [{"a": [{"b": True}]}, {}],
    "empty": {},
    "devices": ["cpu:0", "cpu:1"],
    "long": list(range(30)),
  }
  text = Page(write(tmp_path / "r.html", make(tmp_path / "w", summary))).text
  assert "memory plain remat 8 13,107,200 – 64 2.5 1" in text
  assert "by_size 4 8 −0.25 –" in text
  assert "rows n x 0 0 1 0.1429 2 0.2857" in text
  assert (
    "49 7 … and 10 more rows. grid 1 2 1 2 3 0.3333 ragged 1 [1, 2] 2 [0.3333] 3 a 1"
    in text
  )
  assert "nested 1 a b yes 2 none empty none devices [cpu:0, cpu:1]" in text
  assert "18, 19, … 10 more]" in text


def test_many_records_are_summed_up(tmp_path):
  records = [
    {"i": i, "even": i % 2 == 0, "name": f"n{i}", "half": None if i < 5 else 0.5}
    for i in range(1000)
  ]
  records[3]["more"] = "x"
  folder = make(tmp_path / "w", {"x": 1}, records)
  text = Page(write(tmp_path / "r.html", folder)).text
  assert "1,000 records i 0 … 999 even yes, no (×500 each)" in text
  assert "name 1,000 different values half 0.5 ×995; null ×5 more x ×1" in text
  assert "The first 10 records" in text
  assert "… and 990 more rows." in text


@pytest.mark.parametrize(
  ("value", "words"),
  [
    (None, "–"),
    (True, "yes"),
    (0, "0"),
    (0.0, "0"),
    (-3, "−3"),
    (9999, "9999"),
    (1234567, "1,234,567"),
    (0.123456, "0.1235"),
    (1.0, "1"),
    (999.96, "1000"),
    (39246.84, "39,247"),
    (1e-4, "0.0001"),
    (-0.00012344, "−0.0001234"),
    (9.9e-5, "9.9×10⁻⁵"),
    (-1e-12, "−1×10⁻¹²"),
    (1.23456e11, "1.235×10¹¹"),
    (-math.inf, "−∞"),
    ([0.25, None, "x"], "[0.25, –, x]"),
    ({"a": [1]}, '{"a": [1]}'),
  ],
)
def test_numbers_have_sensible_digits(value, words):
  assert report_text.text(value) == words
