"""The trials of proxy_tuning: transformers trained as train_lm trains, as one sweep."""

import contextlib
import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import flax_depthmup as dmup
from experiments._lib import app, packing
from experiments._lib.data import epoch_order
from experiments._lib.proxy_tuning_config import Config, Member
from experiments._lib.schedules import schedule
from experiments._lib.shards import open_shards
from experiments._lib.sweeps import CHUNK
from experiments._lib.workdir import Workdir
from flax_depthmup import DepthMupError
from flax_depthmup.sweeps import ChunkDone, run_sweep

#: Of train_lm's defaults: warm-up of a twentieth, cosine to a tenth, clipping at 1.
_WARMUP, _CLIP, _B1, _B2, _EPS = 20, 1.0, 0.9, 0.95, 1e-8
#: The training loss of a record is the mean over the last tenth of the steps.
_WINDOW = 10


class Trainer:
  """Trains groups of members, one group after another, and keeps their records.

  Attributes:
    vocab: number of different tokens.
    records: of everything trained so far, a dict each.
  """

  def __init__(self, config: Config, workdir: Workdir):
    """Reads the text; makes the shards of the demo text where none are given.

    Raises:
      DepthMupError: the shards cannot be read, or are too short.
    """
    self._config, self._workdir = config, workdir
    folder = config.data_dir or str(workdir.path / "tokens")
    if config.data_dir is None:
      app.once(lambda: packing.prepare(pathlib.Path(folder)))
    train = open_shards(folder, "train").windows(config.sequence_length)
    held_out = open_shards(folder, "validation").windows(config.sequence_length)
    self.vocab = open_shards(folder, "train").vocab_size
    self._data = _arrays(config, train, held_out, folder)
    several = jax.process_count() > 1
    sizes = flags.FLAGS.mesh or ("sweep:-1" if several else None)
    self._mesh = None if sizes is None else dmup.make_mesh(sizes)
    self.records: list[dict[str, Any]] = []

  def train(self, name: str, members: list[Member], proxy: bool, preset: str) -> None:
    """Trains what of these members has not been trained, in the folder `name`."""
    c = self._config
    model = c.net(preset, proxy, self.vocab)
    scales = dmup.abstract_init(model, jax.random.key(0), self._data["x"][:1])[1]
    trial = Trial(c, model, scales)
    shown = {
      "parametrization": preset,
      "width": model.width,
      "depth": model.depth,
      "flops": c.flops(model),
    }
    label = f"{name}, width {model.width}, depth {model.depth}"
    with app.progress(
      total=len(members) * c.steps,
      unit="step",
      unit_scale=True,
      desc=label,
      disable=jax.process_index() > 0,
    ) as bar:

      def on_chunk(done: ChunkDone) -> None:
        bar.update(done.member_steps)
        if done.wave_done:
          self._record(members, shown, done)

      self._sweep(name, members, trial, on_chunk)

  def _sweep(self, name: str, members: list[Member], trial: "Trial", on_chunk: Any) -> None:
    mesh, rules = self._mesh, dmup.make_rules(flags.FLAGS.rules)
    specs = None if mesh is None else functools.partial(trial.state_specs, mesh, rules)
    with contextlib.nullcontext() if mesh is None else dmup.on_mesh(mesh, rules):
      run_sweep(
        trial.init,
        trial.step,
        _as_arrays(members),
        self._data,
        steps=self._config.steps,
        mesh=mesh,
        state_specs=specs,
        chunk=CHUNK.value,
        directory=self._workdir.path / "sweeps" / name,
        on_chunk=on_chunk,
      )

  def _record(self, members: list[Member], shown: dict[str, Any], done: ChunkDone) -> None:
    window = max(self._config.steps // _WINDOW, 1)
    for i, losses, diverged in zip(done.members, done.losses, done.diverged, strict=True):
      group, values, seed = members[i]
      # The last entry is the validation loss: see `Trial.step`.
      loss = float(losses[-1])
      lost = bool(diverged) or not math.isfinite(loss)
      self.records.append(
        {"group": group, **shown, **values._asdict(), "seed": seed}
        | {"loss": loss, "diverged": lost}
        | {"train_loss": float(np.mean(losses[-window - 1 : -1], dtype=np.float64))}
      )
    self._workdir.write_results(self.records)


class Trial:
  """Training of one net with one set of hyperparameters, as the sweep engine wants it."""

  def __init__(self, config: Config, model: dmup.Transformer, scales: Any):
    """Of a net with its scales; `model`'s block multiplier is replaced by each member's."""
    self._config, self._model, self._scales = config, model, scales
    steps = config.steps
    self._shape = schedule("cosine", 1.0, steps, steps // _WARMUP, 0)
    kinds = jax.tree.map(
      lambda s: s.kind.value not in ("vector", "scalar"),
      scales,
      is_leaf=lambda s: isinstance(s, dmup.Scales),
    )
    self._decayed = kinds

  def init(self, member: dmup.Member, data: Any) -> Any:
    """(parameters, optimizer state) of a member."""
    params = dmup.init(self._model, jax.random.key(member["seed"]), data["x"][:1])[0]
    return params, self._optimizer(member).init(params)

  def step(self, state: Any, member: dmup.Member, t: jax.Array, data: Any) -> Any:
    """One step on batch t of the member's seed.

    Gives (state, training loss), and with the last step the validation loss after it
    in the place of the training loss.
    """
    params, opt_state = state
    size, last = self._config.batch_size, self._config.steps - 1
    model = self._model.clone(block_multiplier=member["block_multiplier"])
    start = (member["seed"], t * size)
    rows = jax.lax.dynamic_slice(data["order"], start, (1, size))[0]

    def loss_of(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
      logits = model.apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_of)(params, data["x"][rows], data["y"][rows])
    updates, opt_state = self._optimizer(member).update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)

    def held_out() -> jax.Array:
      def one(batch: Any) -> jax.Array:
        return loss_of(params, *batch)

      return jax.lax.map(one, (data["held_out_x"], data["held_out_y"])).mean()

    # Only scalars leave the condition: the state is not copied.
    loss = jax.lax.cond(t == last, held_out, lambda: loss)
    return (params, opt_state), loss

  def state_specs(self, mesh: jax.sharding.Mesh, rules: dmup.Rules, state: Any) -> Any:
    """Where the state of a member lies on a mesh, for `run_sweep`."""
    params = dmup.param_shardings(self._scales, mesh, rules)
    zero = {"lr": jnp.float32(0), "weight_decay": jnp.float32(0)}
    tx = self._optimizer(zero)
    return params, dmup.optimizer_shardings(tx, state[0], params, mesh)

  def _optimizer(self, member: dmup.Member) -> optax.GradientTransformation:
    def rate(count: jax.Array) -> jax.Array:
      return member["lr"] * self._shape(count)

    tx = dmup.adamw(
      rate,
      self._scales,
      _B1,
      _B2,
      _EPS,
      member["weight_decay"],
      "width_compensated",
      mask=self._decayed,
    )
    return optax.chain(optax.clip_by_global_norm(_CLIP), tx)


def _as_arrays(members: list[Member]) -> dict[str, np.ndarray]:
  """The members as the sweep engine takes them."""
  table = 2.0 ** np.array([m.values for m in members])
  names = ("lr", "block_multiplier", "weight_decay")
  found = {name: table[:, i].astype(np.float32) for i, name in enumerate(names)}
  return found | {"seed": np.array([m.seed for m in members], np.int32)}


def _arrays(config: Config, train: Any, held_out: Any, folder: str) -> dict[str, Any]:
  """Windows for training with their order by seed, and held-out batches, in memory."""
  size = config.batch_size
  for windows, what in ((train, "training"), (held_out, "validation")):
    if len(windows) < size:
      raise DepthMupError(
        f"the {what} split of {folder} holds {len(windows)} windows, fewer than the {size} "
        "of a batch; take a smaller --batch_size or --sequence_length, or more text"
      )
  count = min(config.eval_batches, len(held_out) // size)
  kept = np.stack([held_out[i] for i in range(count * size)])
  kept = kept.reshape(count, size, -1)
  needed = config.steps * size
  order = [epoch_order(s, len(train), needed) for s in range(config.target_seeds)]
  # Only windows that some seed trains on are held.
  used, places = np.unique(np.stack(order), return_inverse=True)
  tokens = np.stack([train[int(i)] for i in used])
  return {
    "x": tokens[:, :-1],
    "y": tokens[:, 1:],
    "order": places.reshape(len(order), needed).astype(np.int32),
    "held_out_x": kept[..., :-1],
    "held_out_y": kept[..., 1:],
  }
