r"""Is a large net tuned better through a small proxy, or directly, at equal compute?

A transformer of width 64 and 4 layers is tuned by random search: learning rate, block
multiplier and weight decay, drawn evenly in their logarithms. Its best values train the
large net, width 256 and 32 layers, under CompleteP (arXiv 2505.01618) unchanged. Beside it:

* standard: the same values in the large net under standard parametrization;
* neighbours: the large net at other learning rates, to see where its best one is;
* direct: random search in the large net itself, from the same distribution. Best of k of
  these is what k large runs buy, k being what the search and the one large run cost.

  python -m experiments.proxy_tuning --workdir=DIR --search_only
  python -m experiments.proxy_tuning --workdir=DIR

The first searches, prints the best values and the command of train_lm that uses them. The
second goes on to the comparison. All is trained as train_lm trains by default, on the
English of Python's help topics as bytes or on the shards of --data_dir: AdamW with decay
of matrices, warm-up, cosine, clipping. Losses are of held-out text after the last step.

Compute is counted by the formula of train_lm's utilization: 6 operations per token and
weight of a matrix product, and those of attention.

Defaults: 64 trials, 6 direct ones, 200 steps of 8 sequences of 64 tokens. On a pod,
members along one axis of the mesh: --mesh=sweep:16,fsdp:4 (docs/pods.md).

Writes config.json, results.jsonl (a record per net), summary.json (the verdict, under
"proxy_tuning") and proxy_tuning.png. Interrupted, the same command continues.
docs/tutorial.md walks through it.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from experiments._lib import app, described, proxy_tuning_figure, proxy_tuning_table
from experiments._lib import flags as reading
from experiments._lib.described import Described
from experiments._lib.proxy_tuning_config import Config, Member, Values, from_flags
from experiments._lib.proxy_tuning_training import Trainer
from experiments._lib.proxy_tuning_verdict import best_of, judge
from experiments._lib.sweeps import CHUNK
from experiments._lib.workdir import Workdir

_NAME = "proxy_tuning"
_PRESET = "complete_p"
_SEARCH_ONLY = flags.DEFINE_boolean("search_only", False, "Stop after the search.")


def compare(config: Config, trainer: Trainer, best: Values) -> None:
  """Trains the large net: transferred, under standard, at random draws, at other rates.

  And the proxy at the last two's values.
  """
  moved = [o for o in config.neighbours if o]
  rates = [best._replace(log2_lr=best.log2_lr + o) for o in moved]
  large = [
    *(Member("transferred", best, seed) for seed in range(config.target_seeds)),
    *config.draws("direct"),
    *(Member("neighbours", values, 0) for values in rates),
  ]
  trainer.train("standard", [Member("standard", best, 0)], False, "standard")
  trainer.train("large", large, False, _PRESET)
  tried = [m.values for m in large if m.group != "transferred"]
  again = [Member("counterparts", values, 0) for values in tried]
  trainer.train("counterparts", again, True, _PRESET)


def described_nets(config: Config) -> list[Described]:
  """The proxy and the large net, for --describe."""
  vocab = described.vocabulary(config.data_dir)
  example = described.text(config.sequence_length)
  nets = [config.net(_PRESET, proxy, vocab) for proxy in (True, False)]
  return [
    Described(f"{_PRESET}, width {net.width}, depth {net.depth}", net, example)
    for net in nets
  ]


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  config = from_flags()
  reading.positive(CHUNK.value, "chunk")
  which = "the proxy and the large net, at a = 1 of the search"
  if described.stops(_NAME, lambda: described_nets(config), which):
    return
  what = {"experiment": _NAME, **config.described()}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  speaks = jax.process_index() == 0
  if summary is not None and _NAME in summary:
    if speaks:
      print(f"already done: {workdir.path}")
      proxy_tuning_table.show(summary[_NAME], workdir.results())
    return
  trainer = Trainer(config, workdir)
  workdir.claim()
  trainer.train("proxy", config.draws("proxy"), True, _PRESET)
  record = best_of(trainer.records)
  best = Values(*(record[name] for name in Values._fields))
  if speaks:
    proxy_tuning_table.show_search(trainer.records)
    print(f"the large net with these values:\n  {config.command(best)}")
  if _SEARCH_ONLY.value:
    return
  compare(config, trainer, best)
  if speaks:
    _conclude(config, workdir, trainer)


def _conclude(config: Config, workdir: Workdir, trainer: Trainer) -> None:
  """Writes and prints the verdict, from the records as they stand in results.jsonl."""
  records: list[dict[str, Any]] = workdir.results()
  found = judge(records, trainer.vocab)
  figure = workdir.path / f"{_NAME}.png"
  proxy_tuning_figure.draw(records, found, config.title(), figure)
  workdir.write_summary({_NAME: json.loads(json.dumps(found))})
  proxy_tuning_table.show(found, records)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
