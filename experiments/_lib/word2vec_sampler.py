"""What is drawn at the positions of a text: context windows and negatives.

As in the authors' program (Tensor Programs IV, arXiv 2011.14522, appendix on Word2Vec):
words are sub-sampled before windows are formed; a sentence ends with its line or after
1000 words; the radius of a window is uniform on 1..window; a negative that is the
centre word is skipped, not drawn again. All is drawn from (seed, epoch, block) alone, so
every width sees the same.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from experiments._lib.word2vec_vocabulary import Corpus
from flax_depthmup.limits import CbowPositions

#: Positions that are drawn at once, and words of a sentence at most.
BLOCK, _SENTENCE = 4096, 1000

#: Of a single target to be the centre word, as in the paper's text.
POSITIVE = 1 / 21


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How positions are drawn.

  Attributes:
    window: largest radius of a context.
    subsample: threshold of `Vocabulary.keep_probability`.
    negatives: per position, drawn by count^0.75.
    single_target: instead one target: the centre with probability 1/21, else any
      other word, all alike.
  """

  window: int = 8
  subsample: float = 1e-4
  negatives: int = 25
  single_target: bool = False


class _Stream(NamedTuple):
  """The words of an epoch that were kept."""

  words: np.ndarray  # [N]
  sentence: np.ndarray  # [N] number of the sentence of each
  radius: np.ndarray  # [N]
  centres: np.ndarray  # [P] places that have a neighbour


class Epoch:
  """The positions of one pass through the text.

  Attributes:
    size: number of positions.
    blocks: number of blocks of `BLOCK` positions, the last one shorter.
  """

  def __init__(self, corpus: Corpus, sampling: Sampling, seed: int, epoch: int):
    self._sampling, self._key = sampling, (seed, epoch)
    self._vocabulary = len(corpus.vocabulary)
    self._law = np.cumsum(corpus.vocabulary.negative_probability())
    self._law /= self._law[-1]
    self._stream = _stream(corpus, sampling, np.random.default_rng(self._key))
    self.size = len(self._stream.centres)
    self.blocks = -(-self.size // BLOCK)

  def block(self, index: int) -> CbowPositions:
    """Block `index`: words in int32, all else in float32."""
    words, sentence, radius, centres = self._stream
    places = centres[index * BLOCK : (index + 1) * BLOCK]
    reach = np.arange(1, self._sampling.window + 1)
    offsets = np.concatenate([-reach[::-1], reach])
    near = places[:, None] + offsets[None, :]
    inside = (near >= 0) & (near < len(words))
    near = np.clip(near, 0, len(words) - 1)
    mask = inside & (sentence[near] == sentence[places][:, None])
    mask &= np.abs(offsets)[None, :] <= radius[places][:, None]
    # NumPy pads a seed with zeros: with 0 at its end it would be that of the stream.
    rng = np.random.default_rng((*self._key, 1 + index))
    drawn = self._single if self._sampling.single_target else self._negatives
    targets, labels, weights = drawn(words[places], rng)
    return CbowPositions(
      context=np.where(mask, words[near], 0).astype(np.int32),
      mask=mask.astype(np.float32),
      targets=targets.astype(np.int32),
      labels=labels.astype(np.float32),
      weights=weights.astype(np.float32),
    )

  def _negatives(self, centres: np.ndarray, rng: np.random.Generator):
    shape = (len(centres), self._sampling.negatives)
    # A word of probability 0 has an interval of length 0: side="right" passes it over.
    drawn = np.searchsorted(self._law, rng.random(shape), side="right")
    targets = np.concatenate([centres[:, None], drawn], axis=1)
    labels = np.zeros(targets.shape)
    labels[:, 0] = 1
    weights = np.concatenate(
      [np.ones((len(centres), 1)), drawn != centres[:, None]], axis=1
    )
    return targets, labels, weights

  def _single(self, centres: np.ndarray, rng: np.random.Generator):
    positive = rng.random(len(centres)) < POSITIVE
    other = rng.integers(1, self._vocabulary - 1, len(centres))
    other += other >= centres  # any of the words 1.. but the centre
    targets = np.where(positive, centres, other)[:, None]
    return targets, positive[:, None], np.ones(targets.shape)


def _stream(corpus: Corpus, sampling: Sampling, rng: np.random.Generator) -> _Stream:
  tokens = corpus.tokens
  ends = tokens == 0
  kept = (
    rng.random(len(tokens)) < corpus.vocabulary.keep_probability(sampling.subsample)[tokens]
  )
  kept &= ~ends
  words, line = tokens[kept], np.cumsum(ends)[kept]
  places = np.arange(len(words))
  first = np.ones(len(words), bool)
  first[1:] = line[1:] != line[:-1]
  begin = np.maximum.accumulate(np.where(first, places, 0))
  sentence = np.cumsum((places - begin) % _SENTENCE == 0)
  follows = sentence[1:] == sentence[:-1]
  has = np.zeros(len(words), bool)
  has[1:] |= follows
  has[:-1] |= follows
  radius = rng.integers(1, sampling.window + 1, len(words))
  return _Stream(words, sentence, radius, np.flatnonzero(has))
