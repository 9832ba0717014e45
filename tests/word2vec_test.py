"""Word2Vec's rooms: vocabulary, sampling, and analogies."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments._lib import word2vec_analogies as analogies
from experiments._lib import word2vec_demo
from experiments._lib.word2vec_sampler import BLOCK, POSITIVE, Epoch, Sampling
from experiments._lib.word2vec_text import END_OF_LINE
from experiments._lib.word2vec_vocabulary import Corpus, Vocabulary, build
from flax_depthmup import DepthMupError

# Vocabulary ----------------------------------------------------------------------------

PARTS = [["b", "a", "b", END_OF_LINE], ["c", "b", "a", "d", "e", "f", "f", "b"]]


def test_vocabulary_is_sorted_by_count():
  corpus = build(PARTS, 1)
  words, counts = corpus.vocabulary.words, corpus.vocabulary.counts
  assert words == (END_OF_LINE, "b", "a", "f", "c", "d", "e")
  assert counts.tolist() == [1, 4, 2, 2, 1, 1, 1]
  read = [word for part in PARTS for word in part]
  assert [words[i] for i in corpus.tokens] == read
  rare = build([*PARTS, ["c", "d"]], 2)
  assert rare.vocabulary.words == (END_OF_LINE, "b", "a", "c", "d", "f")
  assert len(rare.tokens) == len(read) + 2 - 1  # without e
  most = build(PARTS, 1, 5)
  assert most.vocabulary.words == (END_OF_LINE, "b", "a", "f", "c")
  # The end of a line is there even if the text, as text8, has only one.
  no_ends = build([list("aabbccdd")], 2)
  assert no_ends.vocabulary.words == (END_OF_LINE, *"abcd")
  assert no_ends.vocabulary.counts[0] == 0
  with pytest.raises(DepthMupError, match=r"only 3 of 6 words are left with --min_count=2"):
    build(PARTS, 2)
  with pytest.raises(DepthMupError, match=r"--max_vocabulary=3; expected 4"):
    build(PARTS, 1, 3)


def vocabulary(*counts):
  return Vocabulary(tuple(map(str, range(len(counts)))), np.array(counts))


def test_sub_sampling_probability():
  """That of the original program: (sqrt(x/s) + 1) s/x for a share x of the text."""
  v = vocabulary(0, 9000, 900, 99, 1)
  found = v.keep_probability(1e-3)
  for share, p in zip((0.9, 0.09, 0.0099), found[1:], strict=False):
    assert p == pytest.approx((math.sqrt(share / 1e-3) + 1) * 1e-3 / share)
  assert found[0] == found[4] == 1
  assert v.keep_probability(0.0).tolist() == [1] * 5


def test_negatives_follow_the_law():
  v = vocabulary(10, 81, 16, 1, 0)
  weights = np.array([10**0.75, 27, 8, 1, 0])
  want = weights / weights.sum()
  want[1:] += want[0] / 4
  want[0] = 0
  np.testing.assert_allclose(v.negative_probability(), want)
  tokens = np.array([1, 2, 3] * 2000, np.int32)
  epoch = Epoch(Corpus(v, tokens), Sampling(subsample=0.0, negatives=20), 0, 0)
  drawn = np.concatenate([epoch.block(i).targets[:, 1:] for i in range(epoch.blocks)])
  counts = np.bincount(drawn.ravel(), minlength=5)
  total = counts.sum()  # 120,000
  assert counts[0] == 0
  assert (np.abs(counts - total * want) < 4 * np.sqrt(total * want) + 1e-9).all()


def test_targets_of_a_position():
  corpus = build([["a", "b", "c", "d"] * 500], 1)
  sampling = Sampling(window=1, subsample=0.0, negatives=6)
  block = Epoch(corpus, sampling, 3, 1).block(0)
  np.testing.assert_array_equal(block.targets[:, 0], corpus.tokens)
  assert block.labels[:, 0].all()
  assert not block.labels[:, 1:].any()
  np.testing.assert_array_equal(block.weights[:, 0], 1)
  same = block.targets[:, 1:] == block.targets[:, :1]
  assert 0.2 < same.mean() < 0.3  # one in four
  np.testing.assert_array_equal(block.weights[:, 1:], ~same)


def test_a_single_target():
  corpus = build([["a", "b", "c", "d"] * 5000], 1)
  sampling = Sampling(window=1, subsample=0.0, single_target=True)
  epoch = Epoch(corpus, sampling, 0, 0)
  block = [np.concatenate(x) for x in zip(*map(epoch.block, range(5)), strict=True)]
  targets, labels = block[2][:, 0], block[3][:, 0]
  assert block[2].shape == (20_000, 1)
  assert labels.mean() == pytest.approx(POSITIVE, abs=4 * 0.0015)
  np.testing.assert_array_equal(targets == corpus.tokens, labels == 1)
  others = targets[(labels == 0) & (corpus.tokens == 2)]
  shares = np.bincount(others, minlength=5) / len(others)
  np.testing.assert_allclose(shares, [0, 1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)


def test_windows_end_with_sentences():
  """Every context is a neighbour within the radius, and each radius is as likely."""
  names = [f"w{i:03}" for i in range(300)]
  lines = [*names[:5], END_OF_LINE, "alone", END_OF_LINE, *names[5:], END_OF_LINE]
  corpus = build([lines, lines], 1)
  names_of = corpus.vocabulary.words
  epoch = Epoch(corpus, Sampling(window=8, subsample=0.0, negatives=1), 0, 0)
  assert epoch.size == 2 * 300  # without "alone", which has no neighbour
  block = epoch.block(0)
  sizes = []
  for context, mask, target in zip(*block[:3], strict=True):
    centre = names_of[target[0]]
    assert centre != "alone"
    got = sorted(int(names_of[i][1:]) for i in context[mask > 0])
    at = int(centre[1:])
    assert at not in got
    assert all((i < 5) == (at < 5) for i in got)
    if 20 < at < 280:
      radius = len(got) // 2
      assert got == [i for i in range(at - radius, at + radius + 1) if i != at]
      sizes.append(radius)
  assert set(sizes) == set(range(1, 9))
  counts = np.bincount(sizes)[1:]
  assert (np.abs(counts - len(sizes) / 8) < 4 * math.sqrt(len(sizes) / 8)).all()


def test_sentences_of_a_thousand_words():
  corpus = build([[f"w{i}" for i in range(2500)]], 1)
  epoch = Epoch(corpus, Sampling(window=2, subsample=0.0, negatives=1), 0, 0)
  block = epoch.block(0)
  place = np.argsort(corpus.tokens)  # word row -> place in the text; row 0 is no word
  for context, mask, target in zip(*block[:3], strict=True):
    at = place[target[0] - 1]
    there = place[context[mask > 0] - 1]
    assert (there // 1000 == at // 1000).all()
  assert (block.mask.sum(axis=1) > 0).all()


def test_sub_sampling_before_windows():
  rng = np.random.default_rng(0)
  common = ["the"] * 9000 + [f"w{i}" for i in range(1000)]
  text = rng.permutation(common).tolist()
  corpus = build([text], 1)
  epoch = Epoch(corpus, Sampling(window=1, subsample=1e-2, negatives=1), 0, 0)
  # "the" is kept with sqrt(1e-2/0.9) + 1e-2/0.9 = 0.1165, the others always.
  assert epoch.size == pytest.approx(1000 + 9000 * 0.1165, abs=4 * 31)
  assert all((epoch.block(i).mask.sum(axis=1) <= 2).all() for i in range(epoch.blocks))


def test_the_stream_depends_on_seed_and_epoch_alone():
  corpus = build(word2vec_demo.words(2000), 1)
  sampling = Sampling(window=2, subsample=0.0, negatives=5)

  def block(seed, epoch, index):
    return Epoch(corpus, sampling, seed, epoch).block(index)

  first = block(0, 0, 1)
  assert len(first.mask) == 6000 - BLOCK
  for a, b in zip(first, block(0, 0, 1), strict=True):
    np.testing.assert_array_equal(a, b)
  for other in (block(1, 0, 1), block(0, 1, 1)):
    assert (first.targets != other.targets).any()
  assert (block(0, 0, 0).targets[: len(first.mask), 1:] != first.targets[:, 1:]).any()


def test_negatives_have_numbers_of_their_own():
  """Those of the first block are not the ones by which words were sub-sampled."""
  corpus = build([["a", "b", "c", "d"] * 500], 1)
  epoch = Epoch(corpus, Sampling(window=1, subsample=0.0, negatives=1), 3, 1)
  drawn = epoch.block(0).targets[:, 1]
  law = np.cumsum(corpus.vocabulary.negative_probability())
  by_stream = np.searchsorted(law, np.random.default_rng((3, 1)).random(2000), side="right")
  assert (drawn == by_stream).mean() < 0.4  # one in four by chance


# Analogies ---------------------------------------------------------------------------

WORDS = (END_OF_LINE, "athens", "greece", "oslo", "norway", "run", "ran", "go", "went")


def file_of(path, text):
  path.write_text(text)
  return path


QUESTIONS = """: capital-common-countries
Athens Greece Oslo Norway
Athens Greece Oslo Sweden
: gram7-past-tense
run ran go went
go went run ran
"""


def test_questions_of_a_file(tmp_path):
  asked = analogies.read(file_of(tmp_path / "q.txt", QUESTIONS))
  assert len(asked) == 4
  vocabulary_ = Vocabulary(WORDS, np.ones(len(WORDS)))
  known = analogies.known(asked, vocabulary_, "q")
  assert known.words.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [7, 8, 5, 6]]
  assert known.syntactic().tolist() == [False, True, True]
  assert known.asked == 4
  cased = analogies.read(tmp_path / "q.txt", lower=False)
  assert cased[0][1][0] == "Athens"
  with pytest.raises(DepthMupError, match=r"none of the 4 questions of q can be asked"):
    analogies.known(asked, Vocabulary(("a", "b", "c", "d"), np.ones(4)), "q")
  for text, words in (
    ("", "holds no question"),
    (": section\n", "holds no question"),
    ("a b c d\na b c\n", "line 2 has 3 words; expected four"),
  ):
    with pytest.raises(DepthMupError, match=words):
      analogies.read(file_of(tmp_path / "bad.txt", text))
  with pytest.raises(DepthMupError, match="cannot be read"):
    analogies.read(tmp_path / "none.txt")
  (tmp_path / "latin.txt").write_bytes(b"\xe9 b c d")
  with pytest.raises(DepthMupError, match="no text in UTF-8"):
    analogies.read(tmp_path / "latin.txt")


def test_answers_are_the_nearest_words():
  """Against the definition, word by word; a, b and c are no answers, nor is a negative."""
  rng = np.random.default_rng(0)
  u = rng.normal(size=(40, 6)).astype(np.float32)
  u[7] = 0  # a word that never moved has no direction
  asked = np.array([rng.choice(40, 3, replace=False) for _ in range(300)], np.int32)
  unit = u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-30)
  for (a, b, c), found in zip(asked, analogies.answers(jnp.asarray(u), asked), strict=True):
    scores = unit @ (unit[b] - unit[a] + unit[c])
    scores[[a, b, c]] = -np.inf
    assert found == scores.argmax()
  orthogonal = jnp.eye(40)  # the limit at initialization: no word has a positive score
  assert (analogies.answers(orthogonal, asked) == -1).all()


def test_accuracy_by_sections():
  words = np.array([[0, 1, 2, 3], [0, 1, 2, 4], [2, 3, 0, 1], [4, 0, 1, 2]], np.int32)
  # On a circle with 1 - 0 = 3 - 2: word 3 answers 0 1 2.
  u = jnp.array([[1, 0, 0.1], [1, 1, 0.1], [-1, 0, 2], [-1, 1, 2], [0, -5, -5.0]])
  u /= jnp.linalg.norm(u, axis=1, keepdims=True)
  right = analogies.answers(u, words[:, :3]) == words[:, 3]
  assert right.tolist()[:2] == [True, False]
  sections = ("family", "gram1", "gram1", "family")
  found = analogies.accuracy(u, analogies.Questions(words, sections, 4))
  assert found == {
    "accuracy": right.mean(),
    "semantic": (float(right[0]) + right[3]) / 2,
    "syntactic": (float(right[1]) + right[2]) / 2,
  }
  only = analogies.accuracy(u, analogies.Questions(words[:1], ("family",), 1))
  assert only == {"accuracy": 1.0, "semantic": 1.0, "syntactic": None}
