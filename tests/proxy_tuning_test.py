"""Tuning through a proxy: what it trains, what it costs, what it concludes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import flax_depthmup as dmup
from experiments import proxy_tuning, train_lm
from experiments._lib import proxy_tuning_config, proxy_tuning_verdict
from experiments._lib.proxy_tuning_config import Values
from experiments._lib.proxy_tuning_training import Trial
from flax_depthmup import DepthMupError
from tests.naive_transformer import quick_jit

TOY = {
  "width": 16,
  "depth": 2,
  "base_width": 8,
  "base_depth": 1,
  "head_dim": 4,
  "sequence_length": 8,
  "batch_size": 2,
  "steps": 12,
  "trials": 3,
  "direct": 2,
  "neighbours": "-1:1:1",
  "target_seeds": 2,
}


def config(**values):
  with flagsaver.flagsaver(**(TOY | values)):
    return proxy_tuning_config.from_flags()


def parsed(command):
  """The flags of a command of train_lm, as absl would read them."""
  words = command.split()
  assert words[:3] == ["python", "-m", "experiments.train_lm"]
  kinds = {"i": int, "f": float, "s": str}
  given = dict(word.removeprefix("--").split("=") for word in words[3:])
  found = {}
  for name, text in given.items():
    parser = flags.FLAGS[name].parser
    found[name] = kinds.get(parser.flag_type()[0], str)(text)
  return found


def test_it_trains_the_net_of_the_command_it_prints():
  c, values = config(), Values(-6.0, 1.5, -3.0)
  with flagsaver.flagsaver(**parsed(c.command(values))):
    theirs = train_lm.config_from_flags().model(257)
  ours = c.net("complete_p", False, 257)
  assert ours.sizes == theirs.sizes
  assert ours.parametrization == theirs.parametrization
  assert theirs.block_multiplier == pytest.approx(2**1.5, rel=1e-5)
  same = "depth vocab norm norm_gain activation gated use_bias attention_multiplier"
  same += " embed_std readout_std readout_multiplier tied rope_base"
  for name in same.split():
    assert getattr(ours, name) == getattr(theirs, name), name
  proxy = c.net("complete_p", True, 257)
  assert (proxy.width, proxy.depth) == (8, 1)
  assert proxy.parametrization == ours.parametrization


def test_it_trains_with_the_optimizer_of_the_command_it_prints():
  c, values = config(steps=40), Values(-6.0, 1.5, -3.0)
  model = c.net("complete_p", False, 257)
  tokens = np.zeros((1, 8), np.int32)
  params, scales = dmup.abstract_init(model, jax.random.key(0), tokens)
  params = jax.tree.map(lambda p: np.full(p.shape, 0.5, np.float32), params)
  with flagsaver.flagsaver(**parsed(c.command(values))):
    other = train_lm.config_from_flags().optimization
  member = {"lr": np.float32(2**-6), "weight_decay": np.float32(2**-3)}

  def updates_of(tx):
    """Of three steps, where the gradients are clipped and then not."""

    def updates():
      state, found = tx.init(params), []
      for size in (3.0, 0.1, 1e-4):
        grads = jax.tree.map(lambda p, size=size: size * (1 + p), params)
        update, state = tx.update(grads, state, params)
        found.append(update)
      return found

    return jax.jit(updates)()

  ours = updates_of(Trial(c, model, scales)._optimizer(member))
  theirs = updates_of(other.optimizer(scales))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9), ours, theirs
  )


def test_a_step_trains_and_the_last_one_is_measured_on_held_out_text():
  """Against the losses written out: of the batch before a step, of held-out text after."""
  c = config(sequence_length=4)
  model = c.net("complete_p", True, 20)
  rng = np.random.default_rng(0)
  shapes, scales = dmup.abstract_init(model, jax.random.key(0), np.zeros((1, 4), np.int32))
  params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
  text = rng.integers(0, 20, (9, 5)).astype(np.int32)
  data = {
    "x": text[:5, :-1],
    "y": text[:5, 1:],
    "order": np.stack([np.arange(24) % 5, np.arange(24)[::-1] % 5]).astype(np.int32),
    "held_out_x": text[5:, :-1].reshape(2, 2, 4),
    "held_out_y": text[5:, 1:].reshape(2, 2, 4),
  }
  member = {"lr": 0.1, "weight_decay": 0.5, "block_multiplier": 3.0}
  member = {k: np.float32(v) for k, v in member.items()} | {"seed": np.int32(1)}
  trial = Trial(c, model, scales)
  step = quick_jit(trial.step)
  state = params, trial._optimizer(member).init(params)

  @quick_jit
  def loss(params, windows):
    logits = model.clone(block_multiplier=3.0).apply({"params": params}, windows[:, :-1])
    return -jnp.take_along_axis(
      jax.nn.log_softmax(logits), windows[:, 1:, None], axis=-1
    ).mean()

  (trained, _), first = step(state, member, np.int32(2), data)
  np.testing.assert_allclose(first, loss(params, text[[19 % 5, 18 % 5]]), rtol=1e-5)
  (trained, _), last = step(state, member, np.int32(11), data)
  held_out = np.mean([loss(trained, w) for w in (text[5:7], text[7:])])
  np.testing.assert_allclose(last, held_out, rtol=1e-5)
  assert abs(held_out - np.mean([loss(params, w) for w in (text[5:7], text[7:])])) > 0.01


def test_costs_are_those_of_the_formula():
  """6 per weight and token, and attention's over half of the pairs, by hand."""
  c = config()
  tokens, length, vocab = 12 * 2 * 8, 8, 384

  def work(width, depth):
    weights = depth * 12 * width**2 + width * vocab
    return tokens * (6 * weights + 6 * depth * width * length)

  assert c.flops(c.net("complete_p", True, 257)) == work(8, 1)
  assert c.flops(c.net("standard", False, 257)) == work(16, 2)


def test_draws_are_independent_and_within_their_ranges():
  c = config(trials=500, direct=400)
  proxy, direct = (np.array([m.values for m in c.draws(g)]) for g in ("proxy", "direct"))
  for table in (proxy, direct):
    assert np.all(table >= [-10, -3, -5])
    assert np.all(table <= [-4, 3, 1])
    np.testing.assert_allclose(table.mean(0), [-7, 0, -2], atol=0.4)
  assert np.abs(np.corrcoef(proxy.T) - np.eye(3)).max() < 0.15
  assert not set(map(tuple, proxy)) & set(map(tuple, direct))
  assert c.draws("direct")[:2] == config(direct=2).draws("direct")
  assert config(draw_seed=1).draws("direct") != config(direct=2).draws("direct")


def test_best_of_k_is_over_all_searches():
  found = proxy_tuning_verdict.best_of_k(np.array([3.0, 1.0, 2.0]), 2, 1.5)
  assert found["mean"] == pytest.approx((1 + 2 + 1) / 3)
  assert (found["lowest"], found["highest"]) == (1, 2)
  assert found["share_better_than_transferred"] == pytest.approx(2 / 3)


def records_of(transferred, direct, neighbours=(2.3, 2.4), standard=3.0, lost=()):
  """Records of a run whose search and one large run cost 1.5 large runs.

  Where the large net has a loss of x, the proxy's counterpart has 5 - x.
  """
  rows = [("proxy", 2.5, -8.0, 1.0), ("proxy", 2.2, -7.0, 1.0)]
  rows += [("transferred", x, -7.0, 4.0) for x in transferred]
  rows += [
    ("neighbours", x, -7.0 + o, 4.0) for o, x in zip((-1, 1), neighbours, strict=True)
  ]
  rows += [("direct", x, -5.5 + 0.1 * i, 4.0) for i, x in enumerate(direct)]
  rows += [("standard", standard, -7.0, 4.0)]
  tried = [r for r in rows if r[0] in ("neighbours", "direct")]
  rows += [("counterparts", 5 - x if x == x else 2.0, lr, 1.0) for _, x, lr, _ in tried]
  seeds = {}
  found = []
  for i, (group, loss, lr, flops) in enumerate(rows):
    seed = seeds[group] = seeds.get(group, -1) + 1
    where = {"log2_lr": lr, "log2_multiplier": 0.0, "log2_decay": 0.0}
    found.append(
      {"group": group, "seed": seed, "loss": loss, "flops": flops}
      | where
      | {"diverged": i in lost}
    )
  return found


def test_claims_speak_of_what_was_measured():
  found = proxy_tuning_verdict.judge(records_of([2.2, 2.25], [2.1, 2.9, 2.7]), 257)
  claims = found["claims"]
  assert found["compute"]["direct_trials_rounded_up"] == 2
  # Best of two of (2.1, 2.9, 2.7): 2.1, 2.1, 2.7.
  assert claims["equal_compute"]["measured"] == pytest.approx(6.9 / 3 - 2.225)
  assert claims["equal_compute"]["seen"] is True
  assert claims["standard"]["seen"] is True
  assert claims["rate"]["seen"] is True
  assert found["best_rate"]["best_octaves_away"] == 0
  # Ranks 1 0 5 4 2 3 and 1 5 0 2 4 3: 1 - 6 (25 + 25 + 4 + 4) / (6 35).
  assert found["ranking"]["large_losses"] == [2.2, 2.1, 2.9, 2.7, 2.3, 2.4]
  assert found["ranking"]["rank_correlation"] == pytest.approx(1 - 58 / 35)


def test_claims_can_fail():
  worse = proxy_tuning_verdict.judge(records_of([2.2, 2.25], [2.0, 2.0]), 257)["claims"]
  assert worse["equal_compute"]["seen"] is False
  near = proxy_tuning_verdict.judge(records_of([2.2, 2.25], [2.2, 2.2]), 257)["claims"]
  assert near["equal_compute"]["seen"] is None
  edge = records_of([2.2, 2.25], [2.0, 2.0], neighbours=(2.1, 2.4), standard=2.0)
  claims = proxy_tuning_verdict.judge(edge, 257)["claims"]
  assert claims["rate"]["seen"] is None
  assert claims["standard"]["seen"] is False
  alone = proxy_tuning_verdict.judge(records_of([2.2], [2.9, 2.9]), 257)["claims"]
  assert alone["equal_compute"]["seen"] is None
  few = proxy_tuning_verdict.judge(records_of([2.2, 2.25], [2.9]), 257)["claims"]
  assert few["equal_compute"]["seen"] is None
  assert "--direct=2" in few["equal_compute"]["reason"]


def test_a_net_that_diverged_counts_as_one_that_guesses():
  rows = records_of([2.2, 2.25], [float("nan"), 2.3], lost=(6,))
  found = proxy_tuning_verdict.judge(rows, 257)
  assert found["direct"]["losses"] == [math.log(257), 2.3]
  assert found["direct"]["diverged"] == 1
  lost = records_of([2.2], [2.3, 2.3], lost=(0, 1))
  with pytest.raises(DepthMupError, match="every trial of the proxy diverged"):
    proxy_tuning_verdict.judge(lost, 257)


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"neighbours": "-2,-1"}, "the transferred rate itself is missing"),
    ({"neighbours": "1:0:1"}, "--neighbours='1:0:1' is no grid"),
    ({"log2_lr_range": "-4:-10"}, "--log2_lr_range='-4:-10': expected low:high"),
    ({"log2_decay_range": "nan:1"}, "--log2_decay_range"),
    ({"log2_multiplier_range": "0"}, "--log2_multiplier_range='0'"),
    ({"trials": 0}, "--trials=0"),
    ({"direct": -1}, "--direct=-1"),
    ({"target_seeds": 0}, "--target_seeds=0"),
    ({"draw_seed": -1}, "--draw_seed=-1"),
    ({"steps": 3}, "--steps=3: expected at least 10"),
    ({"head_dim": 5}, "--head_dim=5 does not divide --width=16"),
    ({"head_dim": 16}, "does not divide --base_width=8"),
    ({"base_depth": 0}, "depth"),
    ({"weight_decay": 0.1}, "--weight_decay=0.1: proxy_tuning has none"),
    ({"rules": "kv_heads:"}, "--rules=kv_heads:: proxy_tuning without --mesh"),
    ({"chunk": 0}, "--chunk=0"),
    ({"workdir": None}, "--workdir is missing"),
    ({"sequence_length": 100_000_000}, "fewer than one window"),
    ({"batch_size": 1_000_000}, "fewer than the 1000000 of a batch"),
  ],
)
def test_wrong_flags(tmp_path, values, words):
  given = {"workdir": str(tmp_path / "w")} | TOY | values
  with flagsaver.flagsaver(**given), pytest.raises(DepthMupError, match=words):
    proxy_tuning.main([])
  assert not (tmp_path / "w" / "config.json").exists()
