"""Analogies a : b :: c : d, and how many of them embeddings solve.

With rows of unit length the answer is the word w, none of a, b, c, of largest
<u_w, u_b - u_a + u_c>, which must be positive (Tensor Programs IV, arXiv 2011.14522,
appendix on Word2Vec; compute-accuracy of the original program).
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments._lib.word2vec_vocabulary import Vocabulary
from flax_depthmup import DepthMupError

#: Questions of one matrix product.
_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Questions:
  """The questions whose four words are all known.

  Attributes:
    words: [Q, 4] rows of the vocabulary.
    sections: [Q] the section of each.
    asked: how many there are in the file.
  """

  words: np.ndarray
  sections: tuple[str, ...]
  asked: int

  def syntactic(self) -> np.ndarray:
    """[Q] whether the section is of grammar: the official ones are gram1 to gram9."""
    return np.array([name.startswith("gram") for name in self.sections], bool)


def read(path: pathlib.Path, lower: bool = True) -> list[tuple[str, list[str]]]:
  """(section, four words) of each question of a file such as questions-words.txt.

  Args:
    path: lines ": section", and lines of four words.
    lower: lower-case the words.

  Raises:
    DepthMupError: there is no such file, a line is neither, or there is no question.
  """
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except UnicodeDecodeError as error:
    raise DepthMupError(f"{path} is no text in UTF-8: {error.reason}") from None
  except OSError as error:
    raise DepthMupError(f"--questions={path} cannot be read: {error.strerror}") from None
  section, found = "", []
  for number, line in enumerate(lines, 1):
    words = (line.lower() if lower else line).split()
    if line.startswith(":"):
      section = line[1:].strip()
    elif len(words) == 4:
      found.append((section, words))
    elif words:
      raise DepthMupError(
        f"{path}, line {number} has {len(words)} words; expected four, or a colon and "
        "the name of a section"
      )
  if not found:
    raise DepthMupError(
      f"{path} holds no question; expected lines of four words, as in questions-words.txt"
    )
  return found


def known(
  questions: list[tuple[str, list[str]]], vocabulary: Vocabulary, name: str
) -> Questions:
  """The questions that can be asked of a vocabulary.

  Args:
    questions: as `read` gives them.
    vocabulary: of the text.
    name: where they come from, for the error.

  Raises:
    DepthMupError: there is none.
  """
  index = vocabulary.index()
  kept = [(s, [index[w] for w in q]) for s, q in questions if all(w in index for w in q)]
  if not kept:
    raise DepthMupError(
      f"none of the {len(questions)} questions of {name} can be asked: of each, a word is "
      f"not among the {len(vocabulary)} words of the text; lower --min_count, raise "
      "--max_vocabulary, or give a longer text or other --questions"
    )
  sections, words = zip(*kept, strict=True)
  return Questions(np.array(words, np.int32), sections, len(questions))


def answers(embeddings: jax.Array, words: np.ndarray) -> np.ndarray:
  """[Q] the rows that embeddings [|V|, h] answer a, b, c [Q, 3] with; -1: none."""
  norms = jnp.maximum(jnp.linalg.norm(embeddings, axis=1), 1e-30)
  found = []
  for begin in range(0, len(words), _BLOCK):
    block = words[begin : begin + _BLOCK]
    padded = np.zeros((_BLOCK, 3), np.int32)
    padded[: len(block)] = block
    found.append(np.asarray(_answers(embeddings, norms, padded))[: len(block)])
  return np.concatenate(found)


@jax.jit
def _answers(u: jax.Array, norms: jax.Array, words: jax.Array) -> jax.Array:
  a, b, c = (u[words[:, i]] / norms[words[:, i]][:, None] for i in range(3))
  scores = jnp.matmul(b - a + c, u.T, precision="highest") / norms[None, :]
  places = jnp.arange(len(words))[:, None]
  scores = scores.at[places, words].set(-jnp.inf)
  return jnp.where(scores.max(axis=1) > 0, scores.argmax(axis=1), -1)


def accuracy(embeddings: jax.Array, questions: Questions) -> dict[str, float | None]:
  """Shares solved: "accuracy" of all, "semantic", "syntactic"; None where none is asked."""
  right = answers(embeddings, questions.words[:, :3]) == questions.words[:, 3]
  syntactic = questions.syntactic()
  parts = {"semantic": right[~syntactic], "syntactic": right[syntactic]}
  shares = {name: float(part.mean()) if len(part) else None for name, part in parts.items()}
  return {"accuracy": float(right.mean()), **shares}
