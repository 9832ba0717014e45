"""What is in a results.jsonl, in a few lines."""

import collections
import dataclasses
from typing import Any

from experiments._lib.report_text import exact, is_number, text
from experiments._lib.report_values import Table, table

#: Records that are shown whole.
_FIRST = 10
#: Distinct values of a column that are listed; of more, the range.
_LISTED = 8


@dataclasses.dataclass(frozen=True)
class Records:
  """A summary of records.

  Attributes:
    count: how many.
    columns: name, what its values are.
    first: the first records.
  """

  count: int
  columns: list[tuple[str, str]]
  first: Table


def describe(records: list[dict[str, Any]]) -> Records:
  """Says what the columns of `records` hold."""
  names = list(dict.fromkeys(name for record in records for name in record))
  columns = [(name, _column([r[name] for r in records if name in r])) for name in names]
  return Records(len(records), columns, table(records, _FIRST))


def _column(values: list[Any]) -> str:
  known = [v for v in values if v is not None]
  missing = len(values) - len(known)
  nulls = f"; null ×{missing:,}" if missing and known else ""
  if not known:
    return f"null ×{missing:,}"
  counts = collections.Counter(map(exact, known))
  if len(counts) <= _LISTED:
    return _listed({exact(v): text(v) for v in known}, counts) + nulls
  if all(map(is_number, known)):
    return f"{text(min(known))} … {text(max(known))}" + nulls
  return f"{len(counts):,} different values" + nulls


def _listed(shown: dict[str, str], counts: collections.Counter[str]) -> str:
  numbers = set(counts.values())
  if len(numbers) == 1 and len(counts) > 1:
    each = numbers.pop()
    listed = ", ".join(shown.values())
    return listed if each == 1 else f"{listed} (×{each:,} each)"
  return ", ".join(f"{words} ×{counts[key]:,}" for key, words in shown.items())
