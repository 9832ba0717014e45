"""Small work directories, and a reader of the page that gathers them."""

import html.parser
import io
import json

from absl.testing import flagsaver
from PIL import Image

from experiments import report

VERSIONS = {"jax": "0.10.2", "numpy": "2.4.6"}
CLAIMS = [
  {"claim": "rises", "measured": {"slope": 0.512345}, "seen": True, "reason": "above 0"},
  {"claim": "falls", "measured": {"slope": -1.5e-7}, "seen": False, "reason": "it rose"},
  {"claim": "bends", "measured": None, "seen": None, "reason": "one seed"},
]
RECORDS = [{"depth": d, "loss": 1 / d, "note": None} for d in (4, 8, 16)]


def png(width=6, height=4):
  file = io.BytesIO()
  Image.new("RGB", (width, height), "teal").save(file, "PNG")
  return file.getvalue()


def lines(records):
  return "".join(json.dumps(r) + "\n" for r in records)


def make(folder, summary=None, records=RECORDS, figures=("a.png",), **config):
  """A work directory; without a summary it is not finished."""
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps({**config, "versions": VERSIONS}))
  if records is not None:
    (folder / "results.jsonl").write_text(lines(records))
  if summary is not None:
    (folder / "summary.json").write_text(json.dumps(summary))
  for name in figures:
    (folder / name).write_bytes(png())
  return folder


def one_of_each(root):
  """One work directory of each kind, below one folder."""
  make(root / "a", {"diversity": {"claims": CLAIMS, "kappa": 0.5}}, experiment="diversity")
  make(root / "b", {"steps": 30, "validation_loss": 2.2626}, figures=("loss.png",))
  make(root / "c" / "d", records=RECORDS[:2], figures=())
  make(root / "e", {"text": {"documents": 79}}, None, figures=())
  return root


def write(output, *workdirs):
  """Runs the entry point; the page as text."""
  values = {"workdirs": [str(w) for w in workdirs], "output": str(output)}
  with flagsaver.flagsaver(**values):
    report.main([])
  return output.read_text()


VOID = {"meta", "img", "br", "hr", "input", "link", "wbr", "col"}


class Page(html.parser.HTMLParser):
  """Tags, in order with their attributes, and text; fails on one left open."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.words = [], [], []
    self.feed(text.replace("<wbr>", ""))
    self.close()
    assert not self.open
    self.text = " ".join(" ".join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    assert len(dict(attrs)) == len(attrs)
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "style" not in self.open:
      self.words.append(data)

  def all(self, name, tag=None):
    return [a[name] for t, a in self.tags if name in a and tag in (None, t)]


def contents(page):
  """Text of the table of contents."""
  return Page(page[page.index("<nav") : page.index("</nav>") + len("</nav>")]).text
