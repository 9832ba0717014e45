"""Any JSON value as what a page can show: a text, pairs, or a table."""

import dataclasses
from typing import Any, ClassVar

from experiments._lib.report_text import is_flat, is_number, text

#: Rows of a table; the file has the rest.
_ROWS = 50


@dataclasses.dataclass(frozen=True)
class Text:
  """One line. Numbers stand apart, so that columns can align them."""

  kind: ClassVar[str] = "text"
  text: str
  number: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of texts under column names; `more` rows are not shown."""

  kind: ClassVar[str] = "table"
  columns: list[str]
  rows: list[list[Text]]
  more: int = 0


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Names with whatever stands under them."""

  kind: ClassVar[str] = "pairs"
  pairs: list[tuple[str, "Node"]]


Node = Text | Table | Pairs


def show(value: Any) -> Node:
  """A JSON value.

  A mapping of mappings with the same flat fields, a list of mappings with flat fields
  and a matrix are tables; a mapping from numbers to numbers, as from sizes, is a row.
  """
  if isinstance(value, dict) and value:
    return _mapping(value)
  if isinstance(value, list) and value and all(map(_is_record, value)):
    return table(value)
  if _is_matrix(value):
    return table([dict(zip(_numbers(row), row, strict=True)) for row in value])
  if isinstance(value, list) and not is_flat(value) and not all(map(is_flat, value)):
    return Pairs([(i, show(item)) for i, item in zip(_numbers(value), value, strict=True)])
  return cell(value)


def cell(value: Any) -> Text:
  """A JSON value in one line."""
  if isinstance(value, dict | list) and not value:
    return Text("none")
  return Text(text(value), is_number(value) or value is None)


def table(records: list[dict[str, Any]], rows: int = _ROWS) -> Table:
  """Records as rows; a column that a record lacks stays empty."""
  columns = list(dict.fromkeys(name for record in records for name in record))
  shown = [
    [cell(r[name]) if name in r else Text("") for name in columns] for r in records[:rows]
  ]
  return Table(columns, shown, max(len(records) - rows, 0))


def _mapping(value: dict[str, Any]) -> Node:
  inner = list(value.values())
  if len(value) > 1 and all(_is_record(v) and set(v) == set(inner[0]) for v in inner):
    return table([{"": name, **fields} for name, fields in value.items()])
  if all(map(_is_size, value)) and all(v is None or is_number(v) for v in inner):
    return table([value])
  return Pairs([(name, show(v)) for name, v in value.items()])


def _is_record(value: Any) -> bool:
  return isinstance(value, dict) and bool(value) and all(map(is_flat, value.values()))


def _is_matrix(value: Any) -> bool:
  rows = value if isinstance(value, list) else []
  full = all(isinstance(row, list) and len(row) > 1 and is_flat(row) for row in rows)
  return full and len(rows) > 1 and len(set(map(len, rows))) == 1


def _numbers(items: list[Any]) -> list[str]:
  return [str(i) for i in range(1, len(items) + 1)]


def _is_size(name: str) -> bool:
  try:
    float(name)
  except ValueError:
    return False
  return True
