r"""Does few-shot learning gain from width, and where does it end?

Tensor Programs IV (arXiv 2011.14522), the table of Omniglot's accuracies: first-order MAML
of a linear net of one hidden layer in muP, at growing widths and in the exact limit of
infinite width, 5-way 1-shot; the kernels of the NNGP and NTK limits, which learn no
features, stay behind.

  python -m experiments.omniglot_maml --workdir=DIR --data_dir=FOLDER

reads images_background_small1.zip and images_background_small2.zip in FOLDER: training on
the five alphabets of the first, with rotations as classes of their own, test on Japanese,
Sanskrit and Tagalog; widths 2 to 512 and the limit, 1,500 meta-steps of 32 tasks, 500 for
the kernels, two seeds. Hyperparameters are those which the paper found best for each width
and kernel after 10,000 meta-steps. Their learning rates differ: after 1,500, width 32 is
ahead of its neighbours, whose rates are a quarter of its own. In muP one set serves all
widths, which is the fair comparison where training is short:

  python -m experiments.omniglot_maml --workdir=DIR --data_dir=FOLDER --meta_lr=0.4 \
    --init_sigma_u=1 --init_sigma_v=0.03125 --bias_multiplier=1

The paper's scale, for an accelerator, with the alphabets of the background set for training
and validation and those of the evaluation set for test (the paper splits by character, as
Vinyals et al. do):

  python -m experiments.omniglot_maml --workdir=DIR --data_dir=FOLDER \
    --train_sets=images_background --test_sets=images_evaluation \
    --validation_sets=images_background/Korean,images_background/Sanskrit \
    --widths=2,8,32,128,512,2048,8192 --steps=10000 --test_tasks=3200 --seeds=15

Each meta-step sums over tasks the gradients at the adapted nets, all parameters adapted by
one inner step, clips the sum and applies it at the net before adaptation. The test takes 20
inner steps. All models of a seed see the same tasks.

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a record per model and seed), summary.json (the claims,
under "omniglot_maml"; a pair of numbers is a value and its standard error) and
omniglot_maml.png. Differences of models are paired by seed and batch of test tasks.
Interrupted, the same command continues, within a model from a state that is kept every two
minutes.
"""

import dataclasses
import shutil
from collections.abc import Sequence

import jax

from experiments._lib import (
  app,
  described,
  omniglot_config,
  omniglot_figure,
  omniglot_tasks,
)
from experiments._lib import flags as reading
from experiments._lib.omniglot_config import NAME, Config
from experiments._lib.omniglot_training import Record, Training
from experiments._lib.omniglot_verdict import claims
from experiments._lib.sweeps_claims import tell
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError


def train(config: Config, workdir: Workdir, training: Training) -> list[Record]:
  """The records of all models and seeds; those that are there are not trained again."""
  records = workdir.results() if (workdir.path / "results.jsonl").exists() else []
  finished = {(r["name"], r["width"], r["seed"]) for r in records}
  states = workdir.path / "states"
  cells = [(model, seed) for model in config.models() for seed in range(config.seeds)]
  total = sum(config.meta_steps(model) for model, _ in cells)
  with app.progress(total=total, unit="meta-step") as bar:
    for model, seed in cells:
      bar.set_description(f"{model}, seed {seed}", refresh=False)
      if (*model, seed) in finished:
        bar.update(config.meta_steps(model))
        continue
      own = f"{model}-{seed}".replace(" ", "-")
      records.append(training.record(model, seed, states / own, bar.update))
      workdir.write_results(records)
      shutil.rmtree(states, ignore_errors=True)
  return workdir.results()


def main(argv: Sequence[str]) -> None:
  """Runs the experiment that the flags describe."""
  del argv
  instead = "its nets of one linear hidden layer take steps of their own in muP"
  if described.stops_without(NAME, instead):
    return
  if jax.process_count() > 1:
    raise DepthMupError(f"{NAME} runs in one process; leave out --distributed")
  config = omniglot_config.from_flags()
  archives = omniglot_tasks.digests(config.data_dir, config.sets())
  what = {"experiment": NAME, **dataclasses.asdict(config), "archives": archives}
  workdir = Workdir(reading.WORKDIR.value, what, claim=False)
  summary = workdir.summary()
  if summary is not None and NAME in summary:
    print(f"already done: {workdir.path}")
    omniglot_figure.show(workdir.results())
    tell(summary[NAME])
    return
  training = Training(config, omniglot_tasks.load(config.data_dir, config.sets()))
  workdir.claim()
  records = train(config, workdir, training)
  found = claims(records, config.ways)
  figure = workdir.path / f"{NAME}.png"
  omniglot_figure.draw(records, config.ways, config.title(), figure)
  workdir.write_summary({NAME: found})
  omniglot_figure.show(records)
  tell(found)
  print(f"figure: {figure}")


if __name__ == "__main__":
  app.run(main)
