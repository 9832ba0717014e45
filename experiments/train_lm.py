r"""Trains a transformer language model under any parametrization, on any mesh.

  python -m experiments.train_lm --workdir=DIR

trains a small one on the English of Python's help topics, as bytes. From prepared text
(`python -m experiments.prepare_text`), with the hyperparameters of a net of width 256,
4 layers, on 8 devices of which 2 share each layer:

  python -m experiments.train_lm --workdir=DIR --data_dir=SHARDS \
    --parametrization=complete_p --base_width=256 --base_depth=4 --width=1024 --depth=32 \
    --head_dim=64 --sequence_length=1024 --batch_size=64 --steps=20000 --lr=0.004 \
    --dtype=bfloat16 --remat --mesh=fsdp:4,model:2

On several machines, add --distributed: docs/pods.md. Adam with optional decay of the
matrices. Defaults: width 128, 4 layers, heads of 32, base net the same, 500 steps of 16
sequences of 128 tokens, lr 2^-8, complete_p.

Writes config.json, results.jsonl (loss, norm of the gradient, learning rate, tokens per
second and model-FLOP utilization by step; the validation loss), checkpoints/,
summary.json and loss.png. Interrupted, by SIGTERM or otherwise, the same command
continues, also on another mesh.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import flax_depthmup as dmup
from experiments._lib import app, described, packing, train_flags, train_main
from experiments._lib import flags as reading
from experiments._lib.described import Described
from experiments._lib.loader import Batches, in_order
from experiments._lib.shards import open_shards
from experiments._lib.throughput import peak_flops, transformer_flops
from experiments._lib.train_flags import DTYPES, Optimization
from experiments._lib.train_program import Program
from experiments._lib.training import Run, Work
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError

_KV_HEADS = flags.DEFINE_integer("kv_heads", None, "Key and value heads; default: heads.")
_MLP = flags.DEFINE_integer("mlp", None, "Hidden size of the MLPs; default: 4 width.")
_BASE_KV_HEADS = flags.DEFINE_integer(
  "base_kv_heads", None, "Of the base net; default: as many query heads to each as here."
)
_BASE_MLP = flags.DEFINE_integer(
  "base_mlp", None, "Of the base net; default: --mlp in proportion to the widths."
)
_NORM_GAIN = flags.DEFINE_boolean("norm_gain", True, "Norms have trainable gains.")
_GATED = flags.DEFINE_boolean("gated", False, "Gated MLPs.")
_TIED = flags.DEFINE_boolean("tied", False, "The readout is the embedding.")
_USE_BIAS = flags.DEFINE_boolean("use_bias", False, "Biases.")
_ATTENTION_MULTIPLIER = flags.DEFINE_float(
  "attention_multiplier", 1.0, "c in the logits c/head_dim q.k."
)
#: Shared flags that mean nothing here.
_FOREIGN = (
  *("optimizer", "block_depth", "train_boundary", "patch", "dataset"),
  "pre_nonlinearity",
)
#: The vocabulary is filled up to a multiple of this, so that a mesh can split it.
_VOCAB_MULTIPLE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What the run is; config.json holds it. See the flags' own help.

  Attributes:
    net: the fields of `Transformer` beside vocab and parametrization.
    base: sizes of the axes of the base net.
    optimization: how it is trained.
  """

  data_dir: str | None
  parametrization: str
  base: dict[str, int]
  base_depth: int
  net: dict[str, Any]
  sequence_length: int
  optimization: Optimization

  def model(self, vocab: int) -> dmup.Transformer:
    """The net."""
    return dmup.Transformer(
      vocab=-(-vocab // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE,
      parametrization=reading.parametrization(
        self.parametrization, self.base, self.base_depth
      ),
      remat=flags.FLAGS.remat,
      dtype=DTYPES[self.optimization.dtype],
      **self.net,
    )


def config_from_flags() -> Config:
  """The flags as a `Config`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  reading.refuse("train_lm", _FOREIGN)
  width, depth = reading.default(f.width, 128), reading.default(f.depth, 4)
  head_dim = reading.default(f.head_dim, 32)
  base_width = reading.default(f.base_width, width)
  sizes = _sizes(width, head_dim, _KV_HEADS.value, _MLP.value)
  kv_heads = sizes["kv_heads"] * base_width // width
  mlp = sizes["mlp"] * base_width // width
  base = _sizes(
    base_width,
    head_dim,
    reading.default(_BASE_KV_HEADS.value, max(kv_heads, 1)),
    reading.default(_BASE_MLP.value, mlp),
  )
  net = {
    "width": width,
    "depth": depth,
    "heads": sizes["heads"],
    "kv_heads": sizes["kv_heads"],
    "head_dim": head_dim,
    "mlp": sizes["mlp"],
    "norm": f.norm or "rms_norm",
    "norm_gain": _NORM_GAIN.value,
    "activation": f.activation or "gelu",
    "gated": _GATED.value,
    "use_bias": _USE_BIAS.value,
    "attention_multiplier": _ATTENTION_MULTIPLIER.value,
    "block_multiplier": reading.default(f.block_multiplier, 1.0),
    "tied": _TIED.value,
  }
  config = Config(
    data_dir=f.data_dir,
    parametrization=f.parametrization or "complete_p",
    base=base,
    base_depth=reading.default(f.base_depth, depth),
    net=net,
    sequence_length=reading.default(f.sequence_length, 128),
    optimization=train_flags.optimization(steps=500, batch_size=16, lr=2**-8),
  )
  reading.positive(config.sequence_length, "sequence_length")
  config.model(256)  # names a wrong value of the net
  return config


def _sizes(
  width: int, head_dim: int, kv_heads: int | None, mlp: int | None
) -> dict[str, int]:
  reading.positive(head_dim, "head_dim")
  reading.positive(width, "width")
  if width % head_dim:
    raise DepthMupError(
      f"--head_dim={head_dim} does not divide the width {width}; give one that divides "
      "--width and --base_width"
    )
  heads = width // head_dim
  return dmup.axis_sizes(
    width=width, heads=heads, kv_heads=kv_heads, head_dim=head_dim, mlp=mlp
  )


class NextToken:
  """Windows of tokens as examples: inputs and, shifted by one, targets."""

  def __init__(self, windows: Any):
    self._windows = windows

  def __len__(self) -> int:
    return len(self._windows)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    window = self._windows[i]
    return {"inputs": window[:-1], "targets": window[1:]}


def loss_of(model: dmup.Transformer):
  """Mean cross-entropy of the next token, natural log."""

  def loss(params: Any, batch: Any) -> dict[str, jax.Array]:
    logits = model.apply({"params": params}, batch["inputs"])
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return {"loss": errors.mean()}

  return loss


def build(config: Config, workdir: Workdir) -> Run:
  """Everything that a run needs, restored to where it was left."""
  length, how = config.sequence_length, config.optimization
  folder = config.data_dir or str(workdir.path / "tokens")
  if config.data_dir is None:
    app.once(lambda: packing.prepare(pathlib.Path(folder)))
  train, held_out = (open_shards(folder, split) for split in ("train", "validation"))
  model = config.model(train.vocab_size)
  mesh = train_flags.mesh(how.batch_size)
  program = Program(
    model=model,
    example=jnp.zeros((1, length), jnp.int32),
    loss=loss_of(model),
    optimizer=how.optimizer,
    rate=how.rate(),
    mesh=mesh,
    rules=dmup.make_rules(flags.FLAGS.rules),
    batch_size=how.batch_size,
    accumulate=flags.FLAGS.accumulate,
  )
  place = program.batch_place
  peak = peak_flops(jax.devices()[0], flags.FLAGS.peak_tflops)
  return Run(
    program,
    Batches(
      NextToken(train.windows(length)),
      how.batch_size,
      how.seed,
      place,
      f"the training split of {folder}",
    ),
    in_order(
      NextToken(held_out.windows(length)),
      how.batch_size,
      flags.FLAGS.eval_batches,
      place,
      f"the validation split of {folder}",
    ),
    workdir,
    identity(config, program, model, train.fingerprint),
    steps=how.steps,
    seed=how.seed,
    cadence=train_flags.cadence(how.steps),
    work=Work(
      unit="tokens",
      units=how.batch_size * length,
      flops=transformer_flops(model, length),
      peak=peak and peak * mesh.size,
    ),
  )


def identity(
  config: Config, program: Program, model: dmup.Transformer, data: str
) -> dict[str, Any]:
  """What the run is, as its checkpoints hold it."""
  return {
    "parametrization": model.parametrization.as_dict(),
    "model": {"name": "Transformer", "vocab": model.vocab, **config.net},
    "optimization": dataclasses.asdict(config.optimization),
    "data": {"fingerprint": data, "sequence_length": config.sequence_length},
    "scales": dmup.scales_as_dict(program.scales),
  }


def described_net(config: Config) -> Described:
  """The net that is trained, for --describe."""
  vocab = described.vocabulary(config.data_dir)
  sizes = "width {width}, depth {depth}".format(**config.net)
  label = f"{config.parametrization}, {sizes}"
  return Described(label, config.model(vocab), described.text(config.sequence_length))


def main(argv: Sequence[str]) -> None:
  """Trains what the flags describe."""
  del argv
  config = config_from_flags()
  train_flags.cadence(config.optimization.steps)
  which = "the net that is trained"
  if described.stops("train_lm", lambda: [described_net(config)], which):
    return
  train_main.train(config, build)


if __name__ == "__main__":
  app.run(main)
