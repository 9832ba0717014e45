"""Checkpoints: what comes back is what was saved, by the same run; or words."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_depthmup import DepthMupError
from flax_depthmup.checkpoint import Checkpoints, abstract
from tests.checkpoint_runs import (
  IDENTITY,
  bits,
  mesh_of,
  reopened,
  saved_run,
  split_over,
  state_at,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run with steps 100 and 200; to be copied, not changed."""
  return saved_run(tmp_path_factory.mktemp("run"))


# What comes back -----------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_comes_back_is_bitwise_what_was_saved(asynchronous, tmp_path):
  saved_run(tmp_path, asynchronous=asynchronous)
  step, state, note = reopened(tmp_path)
  assert (step, note) == (200, {"identity": IDENTITY, "position": 200})
  assert bits(state) == bits(state_at(200))
  assert jax.tree.structure(state) == jax.tree.structure(state_at(200))


def test_an_empty_directory_has_nothing(tmp_path):
  assert reopened(tmp_path / "deep" / "er") is None


MESHES = {
  "4": lambda: mesh_of(4),
  "2": lambda: mesh_of(2),
  "1": lambda: mesh_of(1),
  "2x2": lambda: mesh_of(2, 2),
  "1x4": lambda: mesh_of(1, 4),
}


@pytest.mark.parametrize(
  ("before", "after"), [("4", "2"), ("4", "1"), ("4", "2x2"), ("2x2", "1x4"), ("1", "4")]
)
def test_a_state_comes_back_on_another_mesh(before, after, tmp_path):
  saved = state_at(7, split_over(MESHES[before]()))
  wanted = state_at(0, split_over(MESHES[after]()))
  checkpoints = Checkpoints(tmp_path, asynchronous=True)
  checkpoints.save(7, saved, {})
  _, state, _ = checkpoints.latest(abstract(wanted))
  checkpoints.close()
  assert bits(state) == bits(saved)
  assert jax.tree.map(lambda x: getattr(x, "sharding", None), state) == jax.tree.map(
    lambda x: getattr(x, "sharding", None), wanted
  )
  assert (
    not saved["params"]["block"]["kernel"].sharding.is_fully_replicated or before == "1"
  )


def test_buffers_may_be_donated_once_save_returns(tmp_path):
  sharding = split_over(mesh_of(4))((4, 500_000))
  x = jax.device_put(jnp.zeros((4, 500_000)), sharding)
  advance = jax.jit(lambda x: x + 1, donate_argnums=0)
  counts = np.zeros(500_000)
  checkpoints = Checkpoints(tmp_path, keep=4, asynchronous=True)
  saved = {}
  for step in range(4):
    checkpoints.save(step, {"x": x, "counts": counts}, {})
    saved[step] = float(x[0, 0])
    for _ in range(5):
      x = advance(x)
    counts += 5
  checkpoints.wait()
  for step, value in saved.items():
    _, state, _ = checkpoints.restore(step, abstract({"x": x, "counts": counts}))
    assert (np.asarray(state["x"]) == value).all()
    assert (state["counts"] == value).all()
  checkpoints.close()


# What stays ----------------------------------------------------------------------


def test_the_newest_and_the_best_stay(tmp_path):
  losses = [float("nan"), 0.1, None, 0.9, 0.5, None]
  checkpoints = Checkpoints(tmp_path, keep=2, asynchronous=True)
  for step, loss in enumerate(losses):
    checkpoints.save(step, {"x": jnp.full(2, step)}, {}, validation_loss=loss)
    checkpoints.poll()
  checkpoints.close()
  again = Checkpoints(tmp_path, keep=2)
  assert again.steps() == [1, 4, 5]
  assert again.best_step() == 1
  assert again.restore(1, abstract({"x": jnp.zeros(2, int)}))[1]["x"].tolist() == [1, 1]
  again.save(6, {"x": jnp.full(2, 6)}, {}, validation_loss=0.05)
  assert again.steps() == [5, 6]
  again.close()
  assert len(list((tmp_path / "seals").iterdir())) == 2


def test_polling_seals_without_waiting(tmp_path):
  checkpoints = Checkpoints(tmp_path, asynchronous=True)
  checkpoints.save(1, {"x": jnp.zeros(10)}, {})
  until = time.monotonic() + 20
  while not list((tmp_path / "seals").glob("1-*.json")):
    assert time.monotonic() < until
    checkpoints.poll()
    time.sleep(0.001)
  checkpoints.close()


def test_polling_takes_microseconds(tmp_path):
  checkpoints = Checkpoints(tmp_path, asynchronous=True)
  start = time.perf_counter()
  for _ in range(1000):
    checkpoints.poll()
  assert time.perf_counter() - start < 0.02
  checkpoints.close()


def test_a_step_is_saved_once_and_upwards(tmp_path):
  saved_run(tmp_path)
  checkpoints = Checkpoints(tmp_path)
  for step in (200, 150):
    with pytest.raises(
      DepthMupError, match=f"step {step} cannot be saved: .* step 200; go"
    ):
      checkpoints.save(step, state_at(step), {})
  checkpoints.close()


# Another run ---------------------------------------------------------------------


def resumed(directory, state=None, identity=IDENTITY):
  checkpoints = Checkpoints(directory)
  try:
    checkpoints.latest(abstract(state_at(0)) if state is None else state, identity)
  finally:
    checkpoints.close()


def test_another_run_is_refused_by_the_name_of_what_differs(run):
  other = json.loads(json.dumps(IDENTITY).replace("64", "128"))
  words = (
    f"checkpoint of step 200 in {run}: parametrization.base_width.embed is 64, this run "
    "has 128; resume with the same, or use another directory"
  )
  # The shapes differ too: identity is compared first.
  with pytest.raises(DepthMupError) as error:
    resumed(run, {"other": struct((3,))}, other)
  assert str(error.value) == words
  with pytest.raises(DepthMupError, match="optimizer is missing, this run has"):
    resumed(run, identity=IDENTITY | {"optimizer": "adam"})
  assert sorted(p.name for p in run.iterdir()) == ["100", "200", "seals"]


def changed_state(place, value):
  wanted = abstract(state_at(0))
  inner = wanted
  for key in place[:-1]:
    inner = inner[key]
  if value is None:
    del inner[place[-1]]
  else:
    inner[place[-1]] = value
  return wanted


def struct(shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=split_over(mesh_of(1))(shape))


@pytest.mark.parametrize(
  ("place", "value", "words"),
  [
    (
      ("params", "block", "kernel"),
      struct((8, 16)),
      r"params/block/kernel is float32\[8, 12\], this run has float32\[8, 16\]; resume",
    ),
    (
      ("params", "block", "b.ias"),
      struct((3,)),
      r"params/block/b.ias is bfloat16\[3\], this run has float32\[3\]",
    ),
    (("params", "extra"), struct(()), r"the saved state has no params/extra, this run has"),
    (("params", "step"), None, r"the saved state has params/step, int32\[\], this run has"),
    (("losses",), np.zeros(6), r"losses is float64\[5\], this run has float64\[6\]"),
    (("key",), struct((), jax.random.key(0, impl="rbg").dtype), r"key is uint32\[2\], .*4"),
    (
      ("keys",),
      struct((3,), jax.random.key(0, impl="unsafe_rbg").dtype),
      r"keys is key<rbg>, this run has key<urbg>",
    ),
    (
      ("params", "step"),
      jax.ShapeDtypeStruct((), jnp.int32),
      "abstract_state: params/step is ShapeDtypeStruct.* expected .* with a sharding",
    ),
  ],
)
def test_another_state_is_refused_by_the_leaf_that_differs(place, value, words, run):
  with pytest.raises(DepthMupError, match=words):
    resumed(run, changed_state(place, value))


def test_a_step_of_choice(run):
  checkpoints = Checkpoints(run, keep=2)
  assert checkpoints.restore(100, abstract(state_at(0)), IDENTITY)[0] == 100
  with pytest.raises(
    DepthMupError, match=r"no checkpoint of step 150; it has \[100, 200\]"
  ):
    checkpoints.restore(150, abstract(state_at(0)))
  checkpoints.close()
