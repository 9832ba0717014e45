"""A synthetic text whose analogies are known: words on a grid.

Word (a, b) occurs in sentences "row_a word_a_b column_b" only, so its contexts tell a and
b apart and nothing else: word_a_b : word_a_d :: word_c_b : word_c_d. Of 12 x 6 words,
with the 12 + 6 words of the contexts, a vocabulary of 90 and the end of a line.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from experiments._lib.word2vec_text import END_OF_LINE

ROWS, COLUMNS = 12, 6


def _word(row: int, column: int) -> str:
  return f"word_{row}_{column}"


def words(sentences: int) -> Iterator[list[str]]:
  """The text: each word of the grid as often as the others, in random order."""
  rng = np.random.default_rng(0)
  cells = np.arange(sentences) % (ROWS * COLUMNS)
  for cell in rng.permutation(cells).tolist():
    row, column = divmod(cell, COLUMNS)
    yield [f"row_{row}", _word(row, column), f"column_{column}", END_OF_LINE]


def questions(count: int) -> list[tuple[str, list[str]]]:
  """`count` questions of two sections: another row, and another column ("gram")."""
  rng = np.random.default_rng(1)
  found = []
  for section in ("another row", "gram: another column"):
    for _ in range(count // 2):
      a, c = rng.choice(ROWS, 2, replace=False).tolist()
      b, d = rng.choice(COLUMNS, 2, replace=False).tolist()
      middle = [_word(a, d), _word(c, b)]
      if section == "another row":
        middle.reverse()
      found.append((section, [_word(a, b), *middle, _word(c, d)]))
  return found


def groups() -> dict[str, list[str]]:
  """Words for the figure of embeddings, by column."""
  grid = itertools.product(range(COLUMNS), range(ROWS))
  found: dict[str, list[str]] = {}
  for column, row in grid:
    found.setdefault(f"column {column}", []).append(_word(row, column))
  return found
