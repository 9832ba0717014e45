r"""Do activations and updates scale with width and depth as the parametrization says?

The coordinate check of Tensor Programs V (arXiv 2203.03466, appendix D.1) over width,
and of CompleteP (arXiv 2505.01618, Figure 7) over depth: nets of growing size take a few
steps on one batch, and the slopes of log size of every module's output, of its change,
and of what each branch's own update does, are compared with the exponents that theory
predicts (`flax_depthmup.diagnostics.coordinate_check`). Two more probes look at what
full-size gradients hide: the rule for eps, and weight decay.

  python -m experiments.coordinate_check --workdir=DIR

checks Depth-muP on 8x8 digits, and plants six mistakes, each of which must turn it red:
no branch multiplier, no mean subtraction, no update factor, the update factor on all
layers, one eps for all, weight decay inside of the scaling. --faults= plants none. Other
nets and parametrizations, thirty steps, CIFAR-10:

  python -m experiments.coordinate_check --workdir=DIR --model=transformer --faults= \
    --parametrizations=complete_p,depth_mup --widths=64,128,256 --depths=2,4,8,16
  python -m experiments.coordinate_check --workdir=DIR --steps=30 --faults= \
    --parametrizations=depth_mup,ode,0.5:0,standard
  python -m experiments.coordinate_check --workdir=DIR --dataset=cifar10 \
    --data_dir=FOLDER --width=256 --widths=256,512,1024,2048 \
    --depths=8,16,32,64,128,256 --block_multiplier=0.7071

Measured times and results: experiments/README.md.

Writes config.json, results.jsonl (a row per module, quantity, time, size and seed),
summary.json (slopes and verdicts) and a figure for each check. Interrupted, the same
command continues.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

import flax_depthmup as dmup
from experiments._lib import app, coordinate_faults, coordinate_table, data, transfer_config
from experiments._lib import flags as reading
from experiments._lib.sweeps import load
from experiments._lib.sweeps_claims import claim, tell
from experiments._lib.sweeps_config import Config
from experiments._lib.task import OPTIMIZERS
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import (
  CoordinateCheck,
  Training,
  coordinate_rows,
  draw_coordinates,
  judge_coordinates,
  loss_scales,
  sizes_of,
)

_NAME = "coordinate_check"
_FAULTS = flags.DEFINE_list(
  "faults", None, "Mistakes to plant, each in a check of its own; default: all six."
)
_TOLERANCE = flags.DEFINE_float("tolerance", 0.15, "How far a slope may be from theory.")
_ENTRY = transfer_config.Entry(
  name=_NAME,
  parametrizations=("depth_mup",),
  depths=(8, 16, 32, 64),
  seeds=3,
  window=1,
  log2_lrs="-10",
  refused=("log2_multipliers", "log2_lrs", "window", "depth", "axis", "mesh", "rules"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What config.json holds.

  Attributes:
    net: the nets, data and rate.
    faults: each is planted in a check of its own, beside the one without.
    weight_decay: decoupled, outside of the scaling.
    eps: of Adam and RMSprop.
    tolerance: see --tolerance.
  """

  net: Config
  faults: tuple[str, ...]
  weight_decay: float
  eps: float
  tolerance: float

  def __post_init__(self):
    for name in self.faults:
      if name not in coordinate_faults.NAMES:
        known = ", ".join(coordinate_faults.NAMES)
        raise DepthMupError(f"--faults: {name!r} is unknown; expected some of {known}")
    if len(set(self.faults)) != len(self.faults):
      raise DepthMupError(f"--faults={','.join(self.faults)}: expected distinct names")
    if self.faults and (self.net.model != "mlp" or self.net.optimizer != "adam"):
      raise DepthMupError(
        "--faults are planted in residual MLPs trained by Adam; give --faults= with "
        f"--model={self.net.model} --optimizer={self.net.optimizer}"
      )
    if not self.weight_decay >= 0:
      raise DepthMupError(f"--weight_decay={self.weight_decay}: expected at least 0")
    if "decay_inside" in self.faults and not self.weight_decay:
      raise DepthMupError("--faults=decay_inside needs a --weight_decay above 0")
    for name in ("eps", "tolerance"):
      reading.positive(getattr(self, name), name)

  @property
  def checks(self) -> dict[str, tuple[str, str | None]]:
    """Name of a check -> parametrization and fault; one without fault for each."""
    names = self.net.parametrizations
    found: dict[str, tuple[str, str | None]] = {name: (name, None) for name in names}
    for name in names:
      found |= {f"{name}, {fault}": (name, fault) for fault in self.faults}
    return found

  def model(self, name: str, fault: str | None, width: int, depth: int, vocab: Any) -> Any:
    """The net of one check and size."""
    net = self.net.net(name, width, depth, vocab)
    net = net.clone(block_multiplier=self.net.block_multiplier)
    return coordinate_faults.OF_MODEL.get(fault, lambda model: model)(net)

  def optimizer(self, fault: str | None) -> coordinate_faults.Optimizer:
    """That of one check."""
    if fault == "decay_inside":
      return coordinate_faults.decay_inside(self.eps, self.weight_decay)
    with_eps = {"adam", "rmsprop"} & {self.net.optimizer}
    inner = functools.partial(
      OPTIMIZERS[self.net.optimizer], **({"eps": self.eps} if with_eps else {})
    )

    def make(scales: Any, lr: jax.Array) -> optax.GradientTransformation:
      return optax.chain(
        dmup.scale_by_parametrization(inner(), scales),
        optax.add_decayed_weights(self.weight_decay, mask=dmup.trainable(scales)),
        optax.scale_by_learning_rate(lr),
      )

    return coordinate_faults.OF_OPTIMIZER.get(fault, lambda tx: tx)(make)

  def training(self, fault: str | None, dataset: data.Dataset) -> Training:
    """One batch, over and over."""
    n = self.net.batch_size
    x, y = jnp.asarray(dataset.x[:n]), jnp.asarray(dataset.y[:n])

    def loss(logits: jax.Array) -> jax.Array:
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    has_eps = self.net.optimizer == "adam"
    return Training(
      inputs=x,
      loss=loss,
      optimizer=self.optimizer(fault),
      lr=2.0 ** self.net.log2_lrs[0],
      steps=self.net.steps,
      seeds=tuple(range(self.net.seeds)),
      eps=self.eps if has_eps else None,
      name=self.net.optimizer,
    )


def from_flags() -> Settings:
  """The flags as `Settings`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  width = reading.default(f.width, 64)
  widths = reading.integers(reading.default(f.widths, [str(width)]), "widths")
  depths = reading.default(f.depths, [str(d) for d in _ENTRY.depths])
  sizes = sizes_of(widths, reading.integers(depths, "depths"))
  log2_lr = reading.default(f.log2_lr, -10.0)
  if not math.isfinite(log2_lr):
    raise DepthMupError(f"--log2_lr={log2_lr}: expected log2 of a rate, such as -10")
  net = transfer_config.from_flags(
    _ENTRY,
    sizes=tuple(sizes),
    axis="joint",
    log2_lrs=(log2_lr,),
    base_depth=reading.default(f.base_depth, sizes[0][1]),
    steps=reading.default(f.steps, 10),
    batch_size=reading.default(f.batch_size, 32),
    train_boundary=reading.default(f.train_boundary, True),
    block_multiplier=reading.default(f.block_multiplier, 0.7),
  )
  if f.faults is not None:
    faults = tuple(name for name in f.faults if name)
  else:
    faults = coordinate_faults.NAMES
  return Settings(
    net=net,
    faults=faults,
    weight_decay=reading.default(f.weight_decay, 0.1),
    eps=reading.default(f.eps, 1e-8),
    tolerance=f.tolerance,
  )


def measure(settings: Settings, workdir: Workdir, dataset: data.Dataset) -> list[Any]:
  """The rows of all checks and sizes; those that are there already are kept."""
  kept = workdir.results() if (workdir.path / "results.jsonl").exists() else []
  done = {(row["check"], row["width"], row["depth"]) for row in kept}
  nets = [(c, size) for c in settings.checks for size in settings.net.sizes]
  with app.progress(total=len(nets), unit="net") as bar:
    for check, (width, depth) in nets:
      bar.set_description(f"{check}, width {width}, depth {depth}", refresh=False)
      if (check, width, depth) not in done:
        kept += _rows(settings, check, width, depth, dataset)
        workdir.write_results(kept)
      bar.update()
  return kept


def _rows(
  settings: Settings, check: str, width: int, depth: int, dataset: data.Dataset
) -> list[dict[str, Any]]:
  name, fault = settings.checks[check]
  training = settings.training(fault, dataset)

  def model(width: int, depth: int) -> Any:
    return settings.model(name, fault, width, depth, dataset.vocab)

  scales = loss_scales(model(*settings.net.sizes[0]), training)
  rows = coordinate_rows(model(width, depth), training, width, depth, scales)
  return [{"check": check, **row} for row in rows]


def judge(settings: Settings, rows: list[dict[str, Any]]) -> dict[str, CoordinateCheck]:
  """The verdict of each check."""
  vocab = 256  # of no account for the slopes
  return {
    check: judge_coordinates(
      [row for row in rows if row["check"] == check],
      settings.model(name, None, *settings.net.sizes[0], vocab).parametrization,
      settings.tolerance,
    )
    for check, (name, _) in settings.checks.items()
  }


def summarize(settings: Settings, found: dict[str, CoordinateCheck]) -> dict[str, Any]:
  """What summary.json holds."""
  claims = {}
  for check, (name, fault) in settings.checks.items():
    outcome = found[check]
    failed = len(outcome.failures)
    measured = {"slopes": len(outcome.slopes), "not as predicted": failed}
    if fault is None:
      words = f"coordinates scale as {name} predicts"
      claims[check] = claim(words, measured, outcome.passed, outcome.reason)
    else:
      words = f"the check of {name} turns red on {fault}"
      claims[check] = claim(words, measured, failed > 0, outcome.reason)
  slopes = {
    check: [dataclasses.asdict(s) for s in outcome.slopes]
    for check, outcome in found.items()
  }
  return {"claims": claims, "slopes": slopes}


def main(argv: Sequence[str]) -> None:
  """Runs the check that the flags describe."""
  del argv
  settings = from_flags()
  described = {**dataclasses.asdict(settings), "net": settings.net.described()}
  workdir = Workdir(reading.WORKDIR.value, {"experiment": _NAME, **described}, claim=False)
  summary = workdir.summary()
  if summary is not None and _NAME in summary:
    print(f"already done: {workdir.path}")
  else:
    dataset = load(settings.net, workdir.path)
    workdir.claim()
    found = judge(settings, measure(settings, workdir, dataset))
    for check, outcome in found.items():
      figure = workdir.path / f"{check.replace(', ', '-').replace(':', '_')}.png"
      title = f"{settings.net.title()}: {check}"
      draw_coordinates(outcome.rows, outcome.slopes, figure, title)
    summary = {_NAME: summarize(settings, found)}
    workdir.write_summary(summary)
  coordinate_table.show(summary[_NAME])
  tell(summary[_NAME]["claims"])
  print(f"figures: {workdir.path}/*.png")


if __name__ == "__main__":
  app.run(main)
