"""The page that gathers work directories: whole, the same each time, and nothing else."""

import base64
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import report
from experiments._lib import report_page
from flax_depthmup import DepthMupError
from tests.report_pages import Page, contents, make, one_of_each, png, write

ROOT = pathlib.Path(__file__).parents[1]
NASTY = "<script>alert('x')</script>&amp;\"><img src=x>"


@pytest.fixture
def everything(tmp_path):
  return one_of_each(tmp_path / "work")


def test_the_page_is_whole_and_needs_nothing_else(everything, tmp_path):
  page = Page(write(tmp_path / "r.html", everything))
  names = {tag for tag, _ in page.tags}
  assert not names & {"script", "link", "iframe", "object", "base", "form", "input"}
  sources = page.all("src")
  assert len(sources) == 2
  prefix = "data:image/png;base64,"
  assert all(base64.b64decode(s.removeprefix(prefix)) == png() for s in sources)
  ids = page.all("id")
  assert len(set(ids)) == len(ids)
  assert page.all("href")
  assert {h[0] for h in page.all("href")} == {"#"}
  assert {h[1:] for h in page.all("href")} <= set(ids)
  assert set(page.all("aria-labelledby")) <= set(ids)
  assert not [name for _, a in page.tags for name in a if name.startswith("on")]
  alts = page.all("alt", "img")
  assert alts == [
    "diversity, figure a.png. 1 seen; 1 not seen; 1 cannot tell",
    "b, figure loss.png. steps 30, validation_loss 2.263",
  ]
  assert page.all("lang", "html") == ["en"]


def test_the_style_is_inside_and_asks_for_nothing(everything, tmp_path):
  text = write(tmp_path / "r.html", everything)
  style = text[text.index("<style>") : text.index("</style>")]
  assert "url(" not in style
  assert "@import" not in style
  for part in ("prefers-color-scheme: dark", "@media print", "max-width: 44rem"):
    assert part in style
  assert "default-src 'none'" in text


def test_contents_say_each_verdict_in_words(everything, tmp_path):
  text = write(tmp_path / "r.html", everything)
  said = contents(text)
  assert f"diversity {everything}/a 1 seen 1 not seen 1 cannot tell" in said
  assert "steps 30, validation_loss 2.263" in said
  assert f"d {everything}/c/d not finished 2 records so far" in said
  assert "documents 79" in said
  head = Page(text[text.index("<main>") : text.index("<nav")] + "</main>").text
  assert head == "Experiments 4 runs seen: 1 not seen: 1 cannot tell: 1 not finished: 1"


def test_config_versions_and_records(tmp_path):
  config = {
    "experiment": "experiments.lr_transfer",
    "command": ["python", "-m", "x", "--a=b c"],
    "net": {"width": 64, "norm": None, "bases": {}},
    "rate": 0.70710678,
  }
  page = Page(write(tmp_path / "r.html", make(tmp_path / "w", {"x": 1}, **config)))
  assert "Config 4 settings python -m x '--a=b c' net. width 64" not in page.text
  assert "python -m x '--a=b c' net.width 64 net.norm null net.bases {}" in page.text
  assert "rate 0.70710678" in page.text
  assert "package version jax 0.10.2 numpy 2.4.6" in page.text
  assert "3 records depth 4, 8, 16 loss 0.25, 0.125, 0.0625 note null ×3" in page.text
  assert "All records depth loss note 4 0.25 – 8 0.125 –" in page.text
  assert "lr_transfer" in page.text
  assert "Is the best learning rate of a shallow net still the best" in page.text


def test_everything_is_escaped(tmp_path):
  folder = tmp_path / NASTY.replace("/", "_")
  claim = {"claim": NASTY, "measured": {NASTY: NASTY}, "seen": True, "reason": NASTY}
  verdict = {"transfers": True, "reason": NASTY, NASTY: 1, "why": {NASTY: NASTY}}
  make(
    folder,
    {NASTY: {"claims": [claim], "t": {NASTY: verdict}}, "y": {NASTY: [NASTY, {}]}},
    [{NASTY: NASTY}],
    figures=(f"{NASTY.replace('/', '_')}.png",),
    command=NASTY,
    **{NASTY: NASTY},
  )
  config = json.loads((folder / "config.json").read_text())
  config["versions"] = {NASTY: NASTY}
  (folder / "config.json").write_text(json.dumps(config))
  text = write(tmp_path / "r.html", folder)
  page = Page(text)
  assert "<script" not in text
  assert "<img src=x" not in text
  assert "script" not in {tag for tag, _ in page.tags}
  assert NASTY in page.text
  assert [s[:5] for s in page.all("src")] == ["data:"]


def test_what_no_encoding_holds_is_written_all_the_same(tmp_path):
  folder = make(tmp_path / "w", {"x": "\ud800|", "y": math.inf, "z": math.nan})
  text = Page(write(tmp_path / "r.html", folder)).text
  assert "x ?| y ∞ z not a number" in text


def test_an_unfinished_run(tmp_path):
  folder = make(tmp_path / "w", figures=())
  whole = (folder / "results.jsonl").read_text()
  (folder / "results.jsonl").write_text(whole[:-4])  # the last line is being written
  page = Page(write(tmp_path / "r.html", folder))
  assert "not finished 2 records so far" in page.text
  assert "This run is not finished: it has no summary.json yet" in page.text
  (folder / "results.jsonl").unlink()
  assert "0 records so far" in Page(write(tmp_path / "r.html", folder)).text


def test_a_folder_stands_for_what_is_below_it(everything, tmp_path):
  make(everything / ".hidden" / "x", {"x": 1})
  make(everything / "a" / "inside", {"x": 1})  # a work directory is not looked into
  outside = make(tmp_path / "outside", {"x": 1})
  (everything / "linked").symlink_to(outside)
  (everything / "circle").symlink_to(everything)
  found = report.report_runs.find([str(everything)])
  names = [str(path.relative_to(everything)) for path in found]
  assert names == ["a", "b", "c/d", "e", "linked"]
  given = [str(everything / name) for name in ("e", "c", "a")]
  found = report.report_runs.find(given)
  assert [path.name for path in found] == ["e", "d", "a"]  # in the order given


def test_the_same_directories_give_the_same_bytes(everything, tmp_path):
  first = write(tmp_path / "r.html", everything)
  for path in everything.rglob("*"):
    os.utime(path, (0, 0))
  assert write(tmp_path / "deep" / "other.html", everything) == first
  assert write(tmp_path / "r.html", everything) == first  # over an older report


def test_work_directories_stay_as_they_are(everything, tmp_path):
  def files():
    found = sorted(p for p in everything.rglob("*") if p.is_file())
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in found}

  before = files()
  write(tmp_path / "r.html", everything)
  assert files() == before
  assert [p.name for p in tmp_path.glob("r.html*")] == ["r.html"]


def test_wrong_outputs(everything, tmp_path):
  def refused(words, output, error=DepthMupError):
    with pytest.raises(error, match=words):
      write(output, everything)

  foreign = tmp_path / "mine.html"
  foreign.write_text("<p>mine</p>")
  refused("mine.html exists and is no report; give another name", foreign)
  assert foreign.read_text() == "<p>mine</p>"
  refused("expected a name that ends in .html", tmp_path / "r.pdf")
  (tmp_path / "folder.html").mkdir()
  refused("is a folder", tmp_path / "folder.html")
  refused("mine.html", foreign / "r.html", OSError)


def test_a_page_is_written_whole_or_not_at_all(everything, tmp_path, monkeypatch):
  first = write(tmp_path / "r.html", everything)
  make(tmp_path / "new", {"x": 1})

  def full(self, data):
    with self.open("wb") as file:
      file.write(data[:100])
    raise OSError(28, "No space left on device", str(self))

  monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  with pytest.raises(OSError, match="No space"):
    write(tmp_path / "r.html", everything, tmp_path / "new")
  assert (tmp_path / "r.html").read_text() == first
  assert [p.name for p in tmp_path.glob("r.html*")] == ["r.html"]


def test_a_question_is_of_an_entry_point_only():
  assert report_page._question("lr_transfer").startswith("Is the best learning rate")
  for name in (None, "nothing", "../tests/conftest", "_lib"):
    assert report_page._question(name) is None


def test_the_command(everything, tmp_path):
  def command(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "experiments.report", *arguments],
      cwd=ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      check=False,
    )

  output = tmp_path / "r.html"
  done = command(f"--workdirs={everything}/a,{everything}/c", f"--output={output}")
  assert done.returncode == 0, done.stderr
  assert f"{everything}/a: 1 seen; 1 not seen; 1 cannot tell\n" in done.stdout
  assert f"{everything}/c/d: not finished; 2 records so far\n" in done.stdout
  size = output.stat().st_size
  assert done.stdout.endswith(f"report: {output}, 2 runs, {size:,} bytes\n")
  wrong = command(f"--workdirs={everything}/b/loss.png", f"--output={output}")
  assert wrong.returncode == 1
  assert wrong.stderr.startswith("error: --workdirs: ")
  assert "Traceback" not in wrong.stderr
