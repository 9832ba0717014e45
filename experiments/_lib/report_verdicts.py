"""The verdicts in a summary: claims seen or not, and learning rates that transfer."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from experiments._lib.report_text import is_flat, is_scalar, text
from experiments._lib.report_values import Node, show
from flax_depthmup import DepthMupError

#: Field of a transfer verdict -> what a column says, and the format of its numbers.
_COLUMNS = {
  "optimum_log2_lr": ("log₂ of the best rate, by size", ".2f"),
  "optimum_log2_multiplier": ("log₂ of the best multiplier, by size", ".2f"),
  "octaves_per_doubling": ("octaves per doubling", "+z.2f"),
  "ci95": ("95 % interval", "+z.2f"),
  "best_loss": ("best loss, by size", None),
  "regret_of_transfer": ("regret of transfer", None),
}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """An answer in words.

  Attributes:
    words: all that it says.
    tone: for its colour: "yes", "no", "unclear"; "neutral" where no is no failure.
  """

  words: str
  tone: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """What was to be seen, and whether it was. `measured` None: nothing else is known."""

  name: str
  claim: str
  verdict: Verdict
  measured: Node | None
  reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claims:
  """Claims at one place of a summary."""

  kind: ClassVar[str] = "claims"
  title: str
  rows: list[Claim]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfers:
  """Transfer verdicts at one place of a summary.

  Attributes:
    title: the place.
    columns: what each group of columns says, and the sizes in it; a column alone has
      none.
    rows: name, verdict, the cells of all columns, reason.
    notes: name, field, what it says: what does not fit into columns.
  """

  kind: ClassVar[str] = "transfers"
  title: str
  columns: list[tuple[str, list[str]]]
  rows: list[tuple[str, Verdict, list[str], str]]
  notes: list[tuple[str, str, Node]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values:
  """The rest of what stands at one place of a summary."""

  kind: ClassVar[str] = "values"
  title: str
  node: Node


Block = Claims | Transfers | Values


def blocks(summary: dict[str, Any], where: str) -> list[Block]:
  """What a summary says: verdicts first, then everything else.

  Args:
    summary: of a finished run.
    where: its file, for the error.

  Raises:
    DepthMupError: a verdict is neither true, false nor null.
  """
  try:
    found = list(_walk(summary, ()))
  except _NoVerdict as error:
    raise DepthMupError(
      f"{where} is damaged: {error}, expected true, false or null; delete it and run again"
    ) from None
  order = ("claims", "transfers", "values")
  return sorted(found, key=lambda block: order.index(block.kind))


def answers(found: list[Block]) -> list[Verdict]:
  """Of all claims; of a run that makes none, whether what was tuned transfers."""
  claims = [row.verdict for b in found if b.kind == "claims" for row in b.rows]
  named = [verdict for b in found if b.kind == "transfers" for _, verdict, _, _ in b.rows]
  return claims or named


def headline(found: list[Block]) -> list[Verdict]:
  """The answers in one line: numbers of claims, or transfer by name."""
  if not any(b.kind == "claims" for b in found):
    rows = [row for b in found if b.kind == "transfers" for row in b.rows]
    return [Verdict(f"{name}: {v.words}", v.tone) for name, v, _, _ in rows]
  given = answers(found)
  if len(given) == 1:
    return given
  counts = [(v, given.count(v)) for v in (_seen(True), _seen(False), _seen(None))]
  return [Verdict(f"{n:,} {v.words}", v.tone) for v, n in counts if n]


class _NoVerdict(Exception):
  """What should be one is something else."""


def _seen(value: bool | None) -> Verdict:
  return _verdict("seen", value, Verdict("seen", "yes"), Verdict("not seen", "no"))


def _moves(value: bool | None) -> Verdict:
  stays, moves = Verdict("transfers", "yes"), Verdict("does not transfer", "neutral")
  return _verdict("transfers", value, stays, moves)


def _verdict(field: str, value: Any, yes: Verdict, no: Verdict) -> Verdict:
  if value is None:
    return Verdict("cannot tell", "unclear")
  if not isinstance(value, bool):
    raise _NoVerdict(f"{field!r} is {text(value)!r}")
  return yes if value else no


def _is_claim(value: Any) -> bool:
  return isinstance(value, dict) and {"claim", "seen"} <= set(value)


def _is_transfer(value: Any) -> bool:
  return isinstance(value, dict) and {"transfers", "reason"} <= set(value)


def _has_verdict(value: Any) -> bool:
  if _is_claim(value) or _is_transfer(value):
    return True
  inner = value.values() if isinstance(value, dict) else value
  return not is_scalar(value) and any(map(_has_verdict, inner))


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[Block]:
  """Blocks in the order of the summary; a list is a mapping from 1, 2, ..."""
  named = isinstance(value, dict)
  title = " · ".join(path[:-1] if path[-1:] == ("claims",) else path)
  if _is_claim(value) or _is_transfer(value):
    value = {path[-1] if path else "": value}
  entries = value if isinstance(value, dict) else dict(_numbered(value))
  claims = {k: v for k, v in entries.items() if _is_claim(v)}
  transfers = {k: v for k, v in entries.items() if k not in claims and _is_transfer(v)}
  if claims:
    rows = [_claim(name if named else "", v) for name, v in claims.items()]
    yield Claims(title=title, rows=rows)
  if transfers:
    yield _transfers(title, transfers)
  rest = {k: v for k, v in entries.items() if k not in claims and k not in transfers}
  plain = {k: v for k, v in rest.items() if not _has_verdict(v)}
  if plain:
    yield Values(title=title, node=show(plain))
  for name, inner in rest.items():
    if name not in plain:
      yield from _walk(inner, (*path, name))


def _numbered(items: list[Any]) -> Iterator[tuple[str, Any]]:
  return ((str(i), item) for i, item in enumerate(items, 1))


def _claim(name: str, found: dict[str, Any]) -> Claim:
  known = ("claim", "measured", "seen", "reason")
  measured = found.get("measured")
  more = {k: v for k, v in found.items() if k not in known}
  if more:
    measured = (measured if isinstance(measured, dict) else {"measured": measured}) | more
  return Claim(
    name=name,
    claim=text(found["claim"]),
    verdict=_seen(found["seen"]),
    measured=None if measured is None else show(measured),
    reason=text(found.get("reason") or ""),
  )


def _transfers(title: str, found: dict[str, dict[str, Any]]) -> Transfers:
  """One row each; a field whose values are flat everywhere is a column or several."""
  fields = dict.fromkeys(key for v in found.values() for key in v)
  columns: list[tuple[str, list[str]]] = []
  cells: dict[str, list[str]] = {name: [] for name in found}
  notes: list[tuple[str, str, Node]] = []
  for field in fields:
    values = {name: v.get(field) for name, v in found.items()}
    if field in ("transfers", "reason"):
      continue
    label, spec = _COLUMNS.get(field, (field, None))
    if all(map(is_flat, values.values())):
      columns.append((label, []))
      for name, v in values.items():
        cells[name].append(text(v, spec))
    elif all(map(_is_by_size, values.values())):
      sizes = list(dict.fromkeys(n for v in values.values() for n in v or {}))
      columns += [(label, sizes)] if sizes else []
      for name, v in values.items():
        cells[name] += [text((v or {}).get(n), spec) for n in sizes]
    else:
      notes += [(name, field, show(v)) for name, v in values.items() if v]
  rows = [
    (name, _moves(v["transfers"]), cells[name], text(v["reason"] or ""))
    for name, v in found.items()
  ]
  return Transfers(title=title, columns=columns, rows=rows, notes=notes)


def _is_by_size(value: Any) -> bool:
  """Numbers by size; sentences by size would be columns too wide to read."""
  if value is None:
    return True
  flat = isinstance(value, dict) and all(map(is_flat, value.values()))
  return flat and not any(isinstance(v, str) for v in value.values())
