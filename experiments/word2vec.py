r"""Does a Word2Vec of infinite width know more than a finite one?

Tensor Programs IV (arXiv 2011.14522), its table and figures on Word2Vec:
continuous bag of words with negative sampling, in muP at finite widths and in the exact
limit of infinite width, which is the same step on matrices |V| x |V|
(`flax_depthmup.limits.cbow_batched_step`); the kernel regime, NNGP and NTK, whose
embeddings do not move, knows nothing. Judged by word analogies.

  python -m experiments.word2vec --workdir=DIR

trains 8 widths and the limit, 4 seeds of each, on a synthetic text of words on a 12 x 6
grid, whose analogies are known. Any text, words of less than 5 occurrences dropped:

  python -m experiments.word2vec --workdir=DIR --text=FILE --questions=questions-words.txt

With text8, or with text8.zip as it is, this is the paper's setting, and every default its
value: window 8, sub-sampling 1e-4, 25 negatives by count^0.75, learning rate 0.05 falling
linearly, weight decay 1e-3, widths 64, 256, 1024 and the limit, 15 epochs; for fil9
--min_count=10 --text_epochs=5. The limit of text8 (|V| = 71,291) needs 40.7 GB (37.9
GiB) for two matrices and 1.5 GB for a batch of 64; that of fil9 (142,276) needs 162 GB.
What does not fit is refused before it is begun. The paper found 33.4, 41.6, 42.6 and
43.3 % of the analogies on text8, 44.4, 54.2, 55.7 and 56.5 % on fil9.

Where the paper's text and code differ the code is followed, and the text is an option:

  output embeddings   zero; --readout_sigma=1: N(0, 1/n), and 2|V| columns in the limit
  input embeddings    uniform; --nouniform_embeddings: Gaussian
  targets             the centre and 25 negatives; --single_target: one, the centre with
                      probability 1/21, else any other word
  weight decay        of the rows visited; --nolazy_decay: of all rows

Others than the code: the logistic function is exact, not a table that ends at 12, and
the learning rate falls at each batch, not every half a million words. Gradients are
taken at --batch_size positions at once, which differs from one position after another at
first order in the learning rate; --sequential is exact and slow. Every width sees the
same windows and negatives, drawn from the seed alone.

Measured times and results: experiments/README.md.

The law of the logits takes nets from width 64 on, five doublings apart: on a text, such
as --widths=64,256,1024,2048.

Writes config.json, results.jsonl (a record per width, seed and epoch: loss, shares of
analogies solved, rms distance of the logits among the 128 most frequent words to those
of the limit), summary.json (the claims, under "word2vec"), word2vec.png and
word2vec_embeddings.png. Interrupted, the same command continues, within a width from
the last epoch if its matrices take up to 8 GiB.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax

from experiments._lib import (
  app,
  described,
  word2vec_analogies,
  word2vec_config,
  word2vec_demo,
  word2vec_figure,
  word2vec_table,
  word2vec_text,
  word2vec_verdict,
)
from experiments._lib import flags as reading
from experiments._lib.word2vec_config import KERNEL, LIMIT, Config
from experiments._lib.word2vec_sampler import Epoch
from experiments._lib.word2vec_training import Training, logits_path
from experiments._lib.word2vec_vocabulary import Corpus, Vocabulary, build
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError

_NAME = "word2vec"
#: Of the synthetic text: sentences of three words, and analogies asked.
_SENTENCES, _QUESTIONS = 1000, 400
#: Pairs of words in the figure of embeddings, preferably the paper's.
_PAIRS, _PREFERRED = 12, "city-in-state"

Record = dict[str, Any]


def load(config: Config) -> tuple[Corpus, word2vec_analogies.Questions]:
  """The text and the analogies that can be asked of it.

  Raises:
    DepthMupError: a file is missing or damaged, or nothing can be asked.
  """
  if config.text is None:
    parts, name = word2vec_demo.words(_SENTENCES), "the synthetic text"
    asked = word2vec_demo.questions(_QUESTIONS)
  else:
    asked = word2vec_analogies.read(pathlib.Path(config.questions), config.clean)
    parts = word2vec_text.words(pathlib.Path(config.text), config.clean)
    name = f"--questions={config.questions}"
  corpus = build(parts, config.min_count, config.max_vocabulary)
  return corpus, word2vec_analogies.known(asked, corpus.vocabulary, name)


def groups(
  config: Config, questions: word2vec_analogies.Questions, vocabulary: Vocabulary
) -> dict[str, list[str]]:
  """Words for the figure of embeddings: the columns of the grid, or pairs a : b."""
  if config.text is None:
    index = vocabulary.index()
    chosen = word2vec_demo.groups().items()
    return {name: [w for w in words if w in index] for name, words in chosen}
  sections = questions.sections
  section = _PREFERRED if _PREFERRED in sections else sections[0]
  rows = [
    q for q, s in zip(questions.words.tolist(), sections, strict=True) if s == section
  ]
  pairs: dict[int, int] = {}
  taken: set[int] = set()
  for a, b, c, d in sorted(rows, key=max):  # the most frequent words first
    for left, right in ((a, b), (c, d)):
      if left not in taken and right not in taken and len(pairs) < _PAIRS:
        pairs[left] = right
        taken |= {left, right}
  names = vocabulary.words
  return {
    f"{section}, first": [names[i] for i in pairs],
    f"{section}, second": [names[i] for i in pairs.values()],
  }


def train(config: Config, workdir: Workdir, training: Training, size: int) -> list[Record]:
  """The records of all cells; those that a former call finished are not trained again.

  Args:
    config: of the run.
    workdir: for records and states.
    training: of the cells.
    size: about how many positions an epoch has, for the progress bar.
  """
  found: list[Record] = []
  if (workdir.path / "results.jsonl").exists():
    found = workdir.results()
  states = workdir.path / "states"
  cells, each = config.cells(), config.epochs * size
  records = [r for r in found if r["width"] == KERNEL] or [training.baseline()]
  with app.progress(total=len(cells) * each, unit="position", unit_scale=True) as bar:
    for index, (width, seed) in enumerate(cells):
      bar.set_description(f"width {width}, seed {seed}", refresh=False)
      own = [r for r in found if (r["width"], r.get("seed")) == (width, seed)]
      ended = own and (own[-1]["diverged"] or own[-1]["epoch"] == config.epochs)
      # Finite nets of the seed may still have to be compared with the limit.
      logits = [logits_path(states, seed, r["epoch"] - 1) for r in own if not r["diverged"]]
      if ended and (width != LIMIT or all(path.exists() for path in logits)):
        records += own
        bar.update(sum(r["positions"] for r in own))
        continue

      # A former call may have finished cells behind this one.
      behind = [r for r in found if (r["width"], r.get("seed")) in cells[index + 1 :]]
      around = (tuple(records), tuple(behind))

      def report(count: int, rows: list[Record], around: tuple = around) -> None:
        bar.update(count)
        if not count:  # the end of an epoch
          workdir.write_results([*around[0], *rows, *around[1]])

      records += training.records((width, seed), states, report)
      workdir.write_results([*records, *behind])
      (states / f"state-{width}-{seed}.npz").unlink(missing_ok=True)
    bar.total = bar.n  # epochs differ a little in size
  workdir.write_results(records)
  return workdir.results()


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  instead = "its nets, two matrices of embeddings, take steps of their own in muP"
  if described.stops_without(_NAME, instead):
    return
  if jax.process_count() > 1:
    raise DepthMupError("word2vec runs in one process; leave out --distributed")
  config = word2vec_config.from_flags()
  what = {"experiment": _NAME, **dataclasses.asdict(config)}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
    word2vec_table.show(workdir.results(), config.epochs, summary[_NAME])
    return
  corpus, questions = load(config)
  words = len(corpus.vocabulary)
  word2vec_config.check_memory(config, words)
  size = Epoch(corpus, config.sampling, 0, 0).size
  if not size:
    raise DepthMupError("no word has a neighbour in its sentence; give a longer text")
  workdir.claim()
  print(
    f"{words:,} words, {len(corpus.tokens):,} tokens, {size:,} positions an epoch; "
    f"{len(questions.words):,} of {questions.asked:,} analogies can be asked"
  )
  training = Training(
    config, corpus, questions, groups(config, questions, corpus.vocabulary)
  )
  records = train(config, workdir, training, size)
  claims = word2vec_verdict.claims(records, len(questions.words), config.epochs)
  figures = [workdir.path / f"{_NAME}{part}.png" for part in ("", "_embeddings")]
  word2vec_figure.draw(records, config.epochs, config.title(words), figures[0])
  word2vec_figure.draw_embeddings(records, config.epochs, config.title(words), figures[1])
  workdir.write_summary({_NAME: claims})
  shutil.rmtree(workdir.path / "states", ignore_errors=True)
  word2vec_table.show(records, config.epochs, claims)
  print(f"figures: {figures[0]}, {figures[1]}")


if __name__ == "__main__":
  app.run(main)
