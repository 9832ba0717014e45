"""The small rooms of a training run: rates, work, batches, metrics."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from experiments._lib import loader
from experiments._lib.metrics import Behind, Metrics
from experiments._lib.schedules import schedule
from experiments._lib.throughput import peak_flops, resnet_flops, transformer_flops
from flax_depthmup import DepthMupError


def rates(name, steps=20, warmup=4, decay=5):
  rate = schedule(name, 0.5, steps, warmup, decay)
  return [float(rate(t)) for t in range(steps)]


def test_schedules_against_their_formulas():
  rise = [0.125, 0.25, 0.375, 0.5]
  assert rates("constant") == pytest.approx(rise + [0.5] * 16)
  fall = [0.5 - 0.1 * i for i in range(1, 6)]
  assert rates("wsd") == pytest.approx(rise + [0.5] * 11 + fall, abs=1e-7)
  cosine = [0.5 * (0.1 + 0.45 * (1 + math.cos(math.pi * t / 16))) for t in range(16)]
  assert rates("cosine") == pytest.approx(rise + cosine)
  assert rates("constant", warmup=0) == [0.5] * 20
  assert rates("wsd", warmup=1, decay=1)[-1] == 0.0
  assert rates("cosine", warmup=20)[-1] == 0.5


@pytest.mark.parametrize(
  ("name", "warmup", "decay", "words"),
  [
    ("linear", 0, 0, "--schedule=linear: expected one of constant, cosine, wsd"),
    ("wsd", 15, 6, "--warmup=15 and --decay=6 do not fit into --steps=20"),
    ("cosine", 21, 0, "--warmup=21"),
    ("constant", -1, 0, "--warmup=-1"),
  ],
)
def test_wrong_schedules(name, warmup, decay, words):
  with pytest.raises(DepthMupError, match=words):
    rates(name, warmup=warmup, decay=decay)


@pytest.mark.parametrize("gated", [False, True])
def test_the_work_of_a_transformer_is_six_per_weight_and_attention(gated):
  base = dmup.axis_sizes(width=32, heads=4, kv_heads=2)
  p = dmup.complete_p(base_width=base, base_depth=2)
  model = dmup.Transformer(32, 3, 50, 4, p, kv_heads=2, gated=gated, norm_gain=False)
  params, _ = dmup.abstract_init(model, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
  weights = sum(x.size for x in jax.tree.leaves(params)) - 50 * 32  # not the table
  # Scores and values: 2 products of length^2 / 2 pairs, 2 operations, 3 passes.
  attention = 3 * 2 * 2 * (16**2 / 2) * 32 * 3 / 16
  assert transformer_flops(model, 16) == 6 * weights + attention


def test_the_work_of_a_resnet():
  p = dmup.depth_mup(base_width=8, base_depth=2)
  model = dmup.ResNet(8, 3, 10, p, stages=2, block_depth=2, patch=2)
  stem, first, second = 16 * 4 * 3 * 8, 16 * 9 * 64 * 2 * 2, 4 * 9 * 64 * 2
  assert resnet_flops(model, (8, 8, 3)) == 6 * (stem + first + second + 80)


def test_the_peak_of_an_unknown_device_is_not_guessed():
  assert peak_flops(jax.devices()[0]) is None
  assert peak_flops(jax.devices()[0], 2.5) == 2.5e12


class Numbers:
  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    return {"x": np.array([i])}


def batches(count=10, size=4, seed=0):
  place = dmup.batch_sharding(dmup.make_mesh("data:4,model:2"), size)
  return loader.Batches(Numbers(count), size, seed, place, "the numbers")


def take(iterator, count):
  return [np.asarray(next(iterator)["x"]).ravel().tolist() for _ in range(count)]


def test_batches_go_through_all_examples_in_another_order_every_epoch():
  seen = np.ravel(take(batches(), 5)).tolist()
  assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
  assert seen[:10] != seen[10:]
  assert np.ravel(take(batches(), 5)).tolist() == seen
  assert np.ravel(take(batches(seed=1), 5)).tolist() != seen


def test_a_position_can_be_kept_and_gone_back_to():
  first = batches()
  take(first, 3)
  state = json.loads(json.dumps(first.state()))
  expected = take(first, 4)
  other = batches()
  other.restore(state)
  assert take(other, 4) == expected
  with pytest.raises(DepthMupError, match="data position"):
    other.restore({"place": 3})


def test_shares_of_processes_make_up_the_whole_batch(monkeypatch):
  """Whatever the number of processes, batch t holds the same examples."""
  monkeypatch.setattr(loader, "put", lambda local, *_: local)
  whole = take(batches(size=8, count=40), 6)
  shares = []
  for part in range(4):
    monkeypatch.setattr(loader, "share_of_this_process", lambda *_, p=part: (p, 4, ()))
    shares.append(take(batches(size=8, count=40), 6))
  for t, batch in enumerate(whole):
    assert sorted(batch) == sorted(np.ravel([share[t] for share in shares]).tolist())


def test_evaluation_reads_whole_batches_in_order():
  place = dmup.batch_sharding(dmup.make_mesh("data:4,model:2"), 4)
  start = loader.in_order(Numbers(10), 4, 5, place, "the numbers")
  assert take(start(), 2) == take(start(), 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
  assert len(list(start())) == 2
  for open_ in (lambda: loader.in_order(Numbers(3), 4, 5, place, "n"), lambda: batches(3)):
    with pytest.raises(DepthMupError, match="holds 3 examples, fewer than the 4"):
      open_()


def test_values_come_in_order_and_all_of_them():
  seen = []
  behind = Behind(lambda step, values: seen.append((step, values["loss"])))
  for step in range(30):
    behind.put(step, {"loss": jnp.float32(step)})
  behind.drain()
  assert seen == [(step, float(step)) for step in range(30)]


def test_records_of_steps_taken_again_are_dropped(tmp_path):
  path = tmp_path / "results.jsonl"
  lines = [json.dumps({"step": s, "split": "train"}) for s in range(1, 6)]
  path.write_text("\n".join(lines) + '\n{"step": 6, "spl')  # a kill cut the last one
  metrics = Metrics(path, 3, tensorboard=False)
  metrics.write({"step": 4, "split": "train", "loss": 1.0})
  metrics.close()
  records = [json.loads(line) for line in path.read_text().splitlines()]
  assert [r["step"] for r in records] == [1, 2, 3, 4]
  assert records[-1]["loss"] == 1.0
