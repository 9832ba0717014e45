"""The benchmark at toy size: the keys it promises, and that its rivals are equal.

No time is asserted here; what does not depend on the clock is.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from experiments import benchmark
from experiments._lib import benchmark_transformer
from experiments._lib.benchmark_core import Core, Sweep
from experiments._lib.benchmark_limits import Limits
from experiments._lib.benchmark_table import rows
from experiments._lib.benchmark_transformer import Transformers, Utilization
from experiments._lib.transformer_step import (
  Shape,
  TrainingStep,
  library_model,
  plain_model,
)
from flax_depthmup import DepthMupError

SMALL = Shape(width=16, depth=2, base_width=8, head_dim=4, vocab=11, batch=2, length=8)
BASE = dataclasses.replace(SMALL, base_width=16, base_depth=2)
TOY = benchmark.Settings(
  core=Core(
    sweep=Sweep(width=16, depth=4, members=2, steps=8),
    update_width=16,
    update_depth=4,
    updates=4,
    width=16,
    compilations=1,
    memory_depths=(64,),
    imports=1,
  ),
  limits=Limits(
    steps=(2, 3, 4),
    depth=4,
    depths=(4, 8, 16),
    length=2,
    mlp_steps=(2, 3, 4),
    mlp_depths=(2, 3, 4),
    particles=64,
  ),
  transformer=Transformers(timed=BASE, steps=2, growing=BASE, most_layers=2),
)


@functools.cache
def compiled(shape, plain, remat):
  return TrainingStep(shape, plain=plain, remat=remat)


def training_step(shape, plain=False, remat=False):
  return compiled(shape, plain, remat)


@pytest.fixture(autouse=True)
def _compile_quickly_and_once(monkeypatch):
  monkeypatch.setattr(benchmark_transformer, "TrainingStep", training_step)
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
def test_summary(tmp_path, capsys):
  benchmark.run(TOY, str(tmp_path))
  summary = json.loads((tmp_path / "summary.json").read_text())
  ratios = "sweep_speedup", "transformation_overhead", "compile_ratio_1024_over_8"
  for key in (*ratios, "import_ratio"):
    assert summary[key] > 0
  memory = summary["peak_memory"]
  assert memory["64"]["remat"] < 0.7 * memory["64"]["plain"]
  rates = summary["transformer_tokens_per_second"]
  assert rates["ratio"] == rates["ours"] / rates["plain"]
  deepest = {name: summary["largest_depth"][name] for name in ("plain", "remat")}
  assert deepest["plain"]["depth"] == deepest["remat"]["depth"] == 2
  assert deepest["remat"]["bytes"] < deepest["plain"]["bytes"]
  for name in ("linear residual", "abs residual", "deep linear"):
    entry = summary[f"limits {name}"]
    assert {key.split()[1] for key in entry} == {"T", "L"}
    assert all(len(e["seconds"]) == 3 and "exponent" in e for e in entry.values())
  for key in ("model_flop_utilization", "large_sweep"):
    assert "needs an accelerator" in summary[key]["skipped"]
  first = capsys.readouterr().out
  benchmark.run(TOY, str(tmp_path))
  assert capsys.readouterr().out == f"already done: {tmp_path}\n{first}"
  with pytest.raises(DepthMupError, match="holds another run: suite is"):
    benchmark.run(benchmark.Settings(suite="core"), str(tmp_path))


def test_without_a_workdir():
  with pytest.raises(DepthMupError, match="--workdir is missing"):
    benchmark.run(TOY, None)


@pytest.mark.parametrize(
  ("suite", "count"),
  [("core", 5), ("transformer", 2), ("limits", 8), ("accelerator", 2), ("all", 17)],
)
def test_a_suite_is_its_measurements(suite, count):
  assert len(benchmark.measurements(benchmark.Settings(suite=suite))) == count


# The rivals ----------------------------------------------------------------------


def shapes(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_both_transformers_have_the_same_parameters():
  for shape in (SMALL, Transformers().timed, Utilization().shape):
    tokens = jnp.zeros((1, shape.length), jnp.int32)
    models = library_model(shape), plain_model(shape)
    ours = dmup.abstract_init(models[0], jax.random.key(0), tokens)[0]
    plain = jax.eval_shape(models[1].init, jax.random.key(0), tokens)["params"]
    assert shapes(ours) == shapes(plain)
    logits = [jax.eval_shape(m.apply, {"params": ours}, tokens) for m in models]
    assert shapes(logits[0]) == shapes(logits[1])


def test_both_transformers_give_the_same_logits_at_base_size():
  ours, plain = library_model(BASE), plain_model(BASE)
  tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 11)
  shapes = dmup.abstract_init(ours, jax.random.key(0), tokens)[0]
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda s: draw.normal(size=s.shape).astype(s.dtype), shapes)
  expected = jax.jit(plain.apply)({"params": params}, tokens)
  found = jax.jit(ours.apply)({"params": params}, tokens)
  assert np.std(expected) > 1
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_both_steps_train_alike_at_base_size():
  def losses(plain):
    run = training_step(BASE, plain=plain).runner()
    return [float(run()) for _ in range(4)]

  np.testing.assert_allclose(losses(plain=False), losses(plain=True), rtol=1e-4)


def test_the_measured_nets_have_multipliers_of_every_sort():
  for shape in (Transformers().timed, Utilization().shape):
    model, tokens = library_model(shape), jnp.zeros((1, 2), jnp.int32)
    scales = jax.tree.leaves(dmup.abstract_init(model, jax.random.key(0), tokens)[1])
    for name in ("multiplier", "gradient_factor", "update_factor"):
      assert any(getattr(s, name) != 1 for s in scales)
    assert model.parametrization.branch_multiplier(shape.depth) != 1


# Memory --------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("budget", "depth"), [(99, None), (100, 1), (6399, 32), (6400, 64), (10**9, 4096)]
)
def test_the_largest_depth_fits_and_twice_as_many_layers_do_not(budget, depth):
  tried = []

  def bytes_at(depth):
    tried.append(depth)
    return 100 * depth

  found = benchmark_transformer.largest_depth(bytes_at, budget, 4096)
  assert found["depth"] == depth
  assert found["bytes"] == (100 * depth if depth else None)
  assert found["bytes_by_depth"] == {str(d): 100 * d for d in sorted(tried)}
  assert len(tried) <= 4


def test_a_step_needs_its_state_its_batch_and_more():
  step = training_step(BASE)
  tokens = jnp.zeros((1, 8), jnp.int32)
  params = dmup.abstract_init(library_model(BASE), jax.random.key(0), tokens)[0]
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  state = 4 * (3 * count + 1)  # parameters, two moments, Adam's count
  assert step.bytes_held == state + 4 * BASE.batch * BASE.length
  logits = 4 * BASE.batch * BASE.length * BASE.vocab
  assert step.bytes_temporary > logits


def test_the_budget_is_the_machines_memory_or_the_one_given():
  assert benchmark_transformer.memory_budget(0.5) == 2**29
  with open("/proc/meminfo") as file:
    kib = int(file.readline().split()[1])
  assert benchmark_transformer.memory_budget(None) == kib * 1024


# Utilization ---------------------------------------------------------------------


def test_utilization_is_the_work_done_over_the_peak():
  toy = Utilization(shape=BASE, steps=1)
  found = benchmark_transformer.utilization(toy, None, 1e9)
  rate = found["tokens_per_second"]["ours"]
  assert found["utilization"] == pytest.approx(rate * found["flops_per_token"] / 1e9)


def test_the_batch_is_halved_until_both_nets_fit(monkeypatch):
  class Step:
    def __init__(self, shape, plain=False):
      self.bytes_held, self.bytes_temporary = 10, shape.batch + plain

  monkeypatch.setattr(benchmark_transformer, "TrainingStep", Step)
  for budget, batch in ((29, 8), (28, 4), (24, 2), (22, 1)):
    shape = dataclasses.replace(BASE, batch=8)
    assert benchmark_transformer.fitting(shape, budget)[0].batch == batch
  with pytest.raises(DepthMupError, match="two nets of width 16 and depth 2 need 22 bytes"):
    benchmark_transformer.fitting(shape, 21)


def test_the_net_of_the_utilization_has_352_million_parameters():
  shape = Utilization().shape
  tokens = jnp.zeros((1, 2), jnp.int32)
  params = dmup.abstract_init(library_model(shape), jax.random.key(0), tokens)[0]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) // 10**6 == 352


def test_the_table_shows_what_an_accelerator_measured():
  rates = {"ours": 99_000.0, "plain": 100_000.0, "ratio": 0.99}
  found = {"utilization": 0.4321, "tokens_per_second": rates}
  table = dict(rows({"model_flop_utilization": found, "large_sweep": {"speedup": 8.5}}))
  assert table["model_flop_utilization"].startswith("43.2%; tokens per second: 99,000,")
  assert table["large_sweep"] == "8.500 times as fast"
  table = dict(rows({"model_flop_utilization": found | {"utilization": None}}))
  assert table["model_flop_utilization"].startswith("peak of this device unknown; ")
