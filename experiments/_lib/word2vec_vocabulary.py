"""The vocabulary of a text, and what Word2Vec draws by the counts of its words."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from experiments._lib.word2vec_text import END_OF_LINE
from flax_depthmup import DepthMupError

#: An analogy has four words; a vocabulary of fewer has none.
_FEWEST = 4


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Words by falling count; word 0 is the end of a line, whatever its count.

  Attributes:
    words: [|V|].
    counts: [|V|] how often each occurs in the text.
  """

  words: tuple[str, ...]
  counts: np.ndarray

  def __len__(self) -> int:
    return len(self.words)

  def index(self) -> Mapping[str, int]:
    """Word -> its row."""
    return {word: i for i, word in enumerate(self.words)}

  def keep_probability(self, threshold: float) -> np.ndarray:
    """[|V|] min(1, sqrt(s/p) + s/p), p the share of a word in the text.

    The sub-sampling of the original program. Threshold s = 0 keeps everything.
    """
    if not threshold:
      return np.ones(len(self))
    share = np.maximum(self.counts, 1) / self.counts.sum()
    return np.minimum(1.0, np.sqrt(threshold / share) + threshold / share)

  def negative_probability(self, power: float = 0.75) -> np.ndarray:
    """[|V|] of a negative: proportional to count^power.

    As in the original program a draw of word 0 becomes a uniform one over the others.
    """
    weights = self.counts.astype(float) ** power * (self.counts > 0)
    p = weights / weights.sum()
    p[1:] += p[0] / (len(self) - 1)
    p[0] = 0.0
    return p


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A text as numbers.

  Attributes:
    vocabulary: its words.
    tokens: [T] rows of the vocabulary, 0 at the end of a line; other words are gone.
  """

  vocabulary: Vocabulary
  tokens: np.ndarray


def build(
  parts: Iterable[list[str]], min_count: int = 5, most: int | None = None
) -> Corpus:
  """The corpus of a text.

  Args:
    parts: its words, in lists, as `word2vec_text.words` gives them.
    min_count: rarer words are dropped, before windows are formed.
    most: |V| if there are more: the most frequent words, the end of a line included.

  Raises:
    DepthMupError: hardly a word is left.
  """
  index = {END_OF_LINE: 0}
  read = []
  for part in parts:
    ids = (index.setdefault(word, len(index)) for word in part)
    read.append(np.fromiter(ids, np.int32, len(part)))
  tokens = np.concatenate([np.zeros(0, np.int32), *read])
  counts = np.bincount(tokens, minlength=len(index))
  names = [*index]
  kept = [i for i in range(1, len(names)) if counts[i] >= min_count]
  kept.sort(key=lambda i: (-counts[i], names[i]))
  kept = [0, *kept][:most]
  if len(kept) <= _FEWEST:
    limit = "" if most is None else f" and --max_vocabulary={most}"
    raise DepthMupError(
      f"only {len(kept) - 1} of {len(names) - 1} words are left with "
      f"--min_count={min_count}{limit}; expected {_FEWEST} at least: change these, or "
      "give a longer text"
    )
  row = np.full(len(names), -1, np.int32)
  row[kept] = np.arange(len(kept), dtype=np.int32)
  rows = row[tokens]
  vocabulary = Vocabulary(tuple(names[i] for i in kept), counts[kept])
  return Corpus(vocabulary, rows[rows >= 0])
