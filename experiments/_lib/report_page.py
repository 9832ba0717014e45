"""Runs as one HTML page that needs nothing else."""

import ast
import base64
import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from experiments._lib import report_records, report_verdicts
from experiments._lib.report_runs import Run
from experiments._lib.report_text import count, exact, is_number, text
from experiments._lib.report_verdicts import Block, Verdict

#: In every page; by it an older report is known.
MARK = '<meta name="generator" content="flax_depthmup experiments.report">'

_HERE = pathlib.Path(__file__).parent
_HEADLINE = 4  # numbers that stand for a run without verdicts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """A run as the page shows it.

  Attributes:
    run: what was read.
    question: what the entry point asks, where it is known.
    blocks: of the summary.
    verdicts: in one line.
    note: what there is to say where there are no verdicts.
    records: of results.jsonl.
    settings: dotted name, value as JSON.
  """

  run: Run
  question: str | None
  blocks: list[Block]
  verdicts: list[Verdict]
  note: str
  records: report_records.Records
  settings: list[tuple[str, str]]

  @property
  def line(self) -> str:
    """The verdict as one line of plain text."""
    return "; ".join(filter(None, [*(v.words for v in self.verdicts), self.note]))


def section(run: Run) -> Section:
  """What there is to say about a run.

  Raises:
    DepthMupError: its summary holds a verdict that is none.
  """
  records = count(len(run.records), "record")
  if run.summary is None:
    blocks = []
    verdicts, note = [Verdict("not finished", "open")], f"{records} so far"
  else:
    blocks = report_verdicts.blocks(run.summary, f"{run.folder}/summary.json")
    verdicts = report_verdicts.headline(blocks)
    note = "" if verdicts else _numbers(run.summary) or records
  return Section(
    run=run,
    question=_question(run.experiment),
    blocks=blocks,
    verdicts=verdicts,
    note=note,
    records=report_records.describe(run.records),
    settings=list(_flat(run.settings, "")),
  )


def render(sections: Sequence[Section]) -> str:
  """The page; the same for the same runs."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
  environment.filters["count"] = count
  environment.filters["text"] = text
  template = environment.get_template("report.html.jinja")
  return template.render(sections=sections, mark=MARK, tally=_tally(sections))


def _tally(sections: Sequence[Section]) -> list[Verdict]:
  """How often each answer is given, over all runs."""
  given = collections.Counter()
  for s in sections:
    given.update(report_verdicts.answers(s.blocks))
    given.update(v for v in s.verdicts if v.tone == "open")
  order = ["yes", "no", "neutral", "unclear", "open"]
  listed = sorted(given.items(), key=lambda item: order.index(item[0].tone))
  return [Verdict(f"{v.words}: {n:,}", v.tone) for v, n in listed]


def _numbers(summary: dict[str, Any]) -> str:
  """The first numbers of a summary, in words."""
  while len(summary) == 1 and isinstance(only := next(iter(summary.values())), dict):
    summary = only
  numbers = [(k, v) for k, v in summary.items() if is_number(v)]
  return ", ".join(f"{k} {text(v)}" for k, v in numbers[:_HEADLINE])


def _flat(settings: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
  for name, value in settings.items():
    if isinstance(value, dict) and value:
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", exact(value)


def _question(experiment: str | None) -> str | None:
  """The first sentence of an entry point's text."""
  if experiment is None or not experiment.isidentifier():
    return None
  path = _HERE.parent / f"{experiment}.py"
  if not path.is_file():
    return None
  words = ast.get_docstring(ast.parse(path.read_text())) or ""
  return " ".join(words.partition("\n\n")[0].split()) or None
