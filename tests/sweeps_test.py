"""The sweep engine: against plain steps, with members that diverge, interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from flax_depthmup import DepthMupError
from flax_depthmup.sweeps import run_sweep
from tests.helpers import compilations

STEPS = 23
MEMBERS = {
  "lr": np.array([0.01, 0.05, 0.1, 0.2, 1e30, 0.3], np.float32),
  "seed": np.array([0, 1, 0, 1, 0, 1], np.int32),
}
DATA = {"x": np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)}


def init(member, data):
  key = jax.random.key(member["seed"])
  w = jax.random.normal(key, (data["x"].shape[1], 3))
  return w, optax.adam(member["lr"]).init(w)


def step(state, member, t, data):
  w, opt_state = state
  key = jax.random.fold_in(jax.random.key(member["seed"]), t)
  x = data["x"][jax.random.randint(key, (5,), 0, len(data["x"]))]

  def loss_of(w):
    return jnp.mean(jnp.square(jnp.tanh(x @ w) - x[:, :3]))

  loss, grad = jax.value_and_grad(loss_of)(w)
  updates, opt_state = optax.adam(member["lr"]).update(grad, opt_state, w)
  return (optax.apply_updates(w, updates), opt_state), loss


def sweep(**fields):
  """On four lanes, unless told otherwise: six members make two waves."""
  if "mesh" not in fields:
    types, devices = (AxisType.Auto,), jax.devices()[:4]
    fields["mesh"] = jax.make_mesh((4,), ("sweep",), axis_types=types, devices=devices)
  return run_sweep(init, step, MEMBERS, DATA, **({"steps": STEPS, "chunk": 5} | fields))


def one_after_another():
  """Every member trained alone by a plain jitted loop."""
  losses = np.zeros((len(MEMBERS["lr"]), STEPS), np.float32)
  for i in range(len(losses)):
    member = {name: jnp.asarray(v[i]) for name, v in MEMBERS.items()}
    state = init(member, DATA)
    for t in range(STEPS):
      state, losses[i, t] = jax.jit(step)(state, member, t, DATA)
  return losses


@pytest.mark.parametrize("per_device", [None, 1, 2, 6])
def test_every_member_is_as_if_trained_alone(per_device):
  result = sweep(per_device=per_device, mesh=None)
  expected = one_after_another()
  healthy = [0, 1, 2, 3, 5]
  np.testing.assert_allclose(result.losses[healthy], expected[healthy], rtol=1e-4)
  assert np.isfinite(result.losses[healthy]).all()


def nan_after(steps):
  """A step whose members with lr > 1 become nan, at step `steps`."""

  def bad_step(state, member, t, data):
    state, loss = step(state, member, t, data)
    return state, jnp.where((member["lr"] > 1) & (t >= steps), jnp.nan, loss)

  return bad_step


@pytest.mark.parametrize("per_device", [1, 3])
def test_a_diverged_member_is_marked_and_hurts_nobody(per_device):
  fields = {"steps": STEPS, "chunk": 5, "per_device": per_device}
  result = run_sweep(init, nan_after(7), MEMBERS, DATA, **fields)
  assert result.diverged.tolist() == [False, False, False, False, True, False]
  assert np.isfinite(result.losses[4, :7]).all()
  assert np.isnan(result.losses[4, 7:]).all()
  healthy = [0, 1, 2, 3, 5]
  np.testing.assert_array_equal(
    result.losses[healthy], sweep(per_device=per_device, mesh=None).losses[healthy]
  )


def test_a_state_that_overflows_is_marked_though_the_loss_is_finite():
  def overflow(state, member, t, data):
    state, _ = step(state, member, t, data)
    scale = jnp.where(member["lr"] > 1, jnp.inf, 1.0)
    return (state[0] * scale, state[1]), jnp.float32(1.0)

  result = run_sweep(init, overflow, MEMBERS, DATA, steps=3, chunk=5)
  assert result.diverged.tolist() == [False, False, False, False, True, False]


def test_one_program_whatever_the_number_of_members_and_chunks():
  with compilations() as names:
    sweep(chunk=4)
  programs = [name for name in names if "train" in name]
  assert len(programs) == 1


def test_the_chunk_changes_nothing():
  np.testing.assert_array_equal(sweep(chunk=4).losses, sweep(chunk=STEPS).losses)


def test_reports_add_up():
  done = []
  sweep(on_chunk=done.append)
  assert sum(d.member_steps for d in done) == STEPS * 6
  assert sorted(np.concatenate([d.members for d in done if d.wave_done])) == list(range(6))
  assert done[0].losses.shape == (4, 5)


class Stop(Exception):
  pass


def interrupted_after(chunks, directory, **fields):
  """Runs the sweep until `chunks` reports have come, then stops it."""
  count = 0

  def on_chunk(done):
    nonlocal count
    count += 1
    if count >= chunks:
      raise Stop

  with pytest.raises(Stop):
    sweep(directory=directory, save_seconds=0.0, on_chunk=on_chunk, **fields)


@pytest.mark.parametrize("chunks", [1, 2, 4, 6, 9])
def test_an_interrupted_sweep_continues_bitwise(chunks, tmp_path):
  whole = sweep()
  interrupted_after(chunks, tmp_path)
  done = []
  again = sweep(directory=tmp_path, on_chunk=done.append)
  np.testing.assert_array_equal(again.losses, whole.losses)
  np.testing.assert_array_equal(again.diverged, whole.diverged)
  assert sum(d.member_steps for d in done) == STEPS * 6
  # It went on from where it was: what was done came as one report.
  assert done[0].member_steps >= min(chunks, 5) * 5 - 5
  assert not (tmp_path / "state").exists()


def test_a_finished_sweep_trains_nothing(tmp_path):
  whole = sweep(directory=tmp_path)
  with compilations() as names:
    again = sweep(directory=tmp_path)
  assert [name for name in names if "train" in name] == []
  np.testing.assert_array_equal(again.losses, whole.losses)


def test_finished_members_survive_another_number_of_devices(tmp_path):
  whole = sweep()
  interrupted_after(6, tmp_path)  # the first wave of four is done
  again = sweep(directory=tmp_path, per_device=2)
  np.testing.assert_array_equal(again.losses[:4], whole.losses[:4])
  np.testing.assert_allclose(again.losses[5], whole.losses[5], rtol=1e-4)


def test_a_damaged_state_costs_time_but_no_result(tmp_path):
  whole = sweep()
  interrupted_after(3, tmp_path)
  for path in (tmp_path / "state").rglob("*"):
    if path.is_file() and ("manifest" in path.name or path.name == "_METADATA"):
      path.write_bytes(b"")
  with pytest.warns(UserWarning, match="cannot be read and is passed over"):
    again = sweep(directory=tmp_path)
  np.testing.assert_array_equal(again.losses, whole.losses)


def test_a_program_may_hold_any_letters(tmp_path):
  """Names of jitted functions are part of the program's text."""

  @jax.jit
  def größe(x):
    return x * 2

  def named(state, member, t, data):
    state, loss = step(state, member, t, data)
    return state, größe(loss)

  fields = {"steps": 2, "directory": tmp_path}
  first = run_sweep(init, named, MEMBERS, DATA, **fields)
  again = run_sweep(init, named, MEMBERS, DATA, **fields)
  np.testing.assert_array_equal(first.losses, again.losses)


def test_a_half_written_file_is_passed_over(tmp_path):
  """What a kill inside a write leaves: the temporary of any of the files."""
  whole = sweep()
  interrupted_after(6, tmp_path)
  for name in ("members_00000.npz", "members_00004.npz", "running.npz", "sweep.json"):
    (tmp_path / f"{name}.tmp").write_bytes(b"PK half")
  (tmp_path / "running.npz").write_bytes(b"PK half")
  np.testing.assert_array_equal(sweep(directory=tmp_path).losses, whole.losses)


@pytest.mark.parametrize("per_device", [1, 2])
def test_a_state_of_another_layout_and_back(per_device, tmp_path):
  """Stopped on four lanes, gone on with six and stopped, gone on with four."""
  whole = sweep()
  interrupted_after(3, tmp_path)
  interrupted_after(1, tmp_path, per_device=per_device, chunk=1, mesh=None)
  (tmp_path / "running.npz").unlink(missing_ok=True)
  again = sweep(directory=tmp_path)
  np.testing.assert_allclose(again.losses, whole.losses, rtol=1e-4)


def test_a_truncated_result_is_named(tmp_path):
  sweep(directory=tmp_path)
  path = tmp_path / "members_00000.npz"
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(DepthMupError, match=r"members_00000.npz cannot be read.*delete it"):
    sweep(directory=tmp_path)


def test_another_sweep_is_refused(tmp_path):
  sweep(directory=tmp_path, config={"model": "a"})
  with pytest.raises(DepthMupError, match="holds another sweep: config is"):
    sweep(directory=tmp_path, config={"model": "b"})
  with pytest.raises(DepthMupError, match="holds another sweep: steps is 23.* 24"):
    sweep(directory=tmp_path, config={"model": "a"}, steps=24)
  with pytest.raises(DepthMupError, match="holds another sweep: program"):
    run_sweep(
      init,
      nan_after(3),
      MEMBERS,
      DATA,
      steps=STEPS,
      directory=tmp_path,
      config={"model": "a"},
    )
  other = {"x": DATA["x"] + 1}
  with pytest.raises(DepthMupError, match="holds another sweep: data"):
    run_sweep(
      init, step, MEMBERS, other, steps=STEPS, directory=tmp_path, config={"model": "a"}
    )
  (tmp_path / "sweep.json").write_text("{")
  with pytest.raises(DepthMupError, match="is no JSON object"):
    sweep(directory=tmp_path, config={"model": "a"})


@pytest.mark.parametrize(
  ("members", "fields", "words"),
  [
    ({}, {}, "at least one name"),
    ({"lr": np.ones(2), "seed": np.ones(3)}, {}, "same number of values"),
    ({"lr": np.float32(1)}, {}, "same number of values"),
    ({"lr": np.ones(0)}, {}, "members are empty"),
    (MEMBERS, {"steps": 0}, "steps=0"),
    (MEMBERS, {"chunk": 2.5}, "chunk=2.5"),
    (MEMBERS, {"per_device": -1}, "per_device=-1"),
    (MEMBERS, {"per_device": 0}, "per_device=0"),
    (None, {}, "members=None"),
    (MEMBERS, {"directory": __file__}, "cannot be made"),
  ],
)
def test_errors(members, fields, words):
  with pytest.raises(DepthMupError, match=words):
    run_sweep(init, step, members, DATA, **({"steps": 3} | fields))
