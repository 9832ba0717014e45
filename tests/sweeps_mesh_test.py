"""The sweep engine on meshes: members along "sweep", each split along the other axes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from flax_depthmup import DepthMupError
from flax_depthmup.sweep_store import SweepStore
from flax_depthmup.sweeps import run_sweep
from tests.helpers import compilations

STEPS = 13
MEMBERS = {
  "lr": np.array([0.01, 0.05, 1e30, 0.02, 0.03, 0.1], np.float32),
  "seed": np.arange(6, dtype=np.int32),
}
HEALTHY = [0, 1, 3, 4, 5]
DATA = {"x": np.linspace(-1, 1, 320, dtype=np.float32).reshape(40, 8) ** 3}


def mesh_of(**sizes):
  """A mesh with all four axes, on the first devices."""
  shape = tuple(sizes.get(name, 1) for name in ("sweep", "data", "fsdp", "model"))
  return jax.make_mesh(
    shape,
    ("sweep", "data", "fsdp", "model"),
    axis_types=(AxisType.Auto,) * 4,
    devices=jax.devices()[: int(np.prod(shape))],
  )


def split(x, *spec):
  """A constraint, where there is a mesh to name."""
  if jax.sharding.get_abstract_mesh().axis_names in ((), ("sweep",)):
    return x
  return jax.lax.with_sharding_constraint(x, jax.P(*spec))


def optimizer(member):
  return optax.sgd(member["lr"], momentum=0.9)


def init(member, data):
  keys = jax.random.split(jax.random.key(member["seed"]))
  params = {
    "in": jax.random.normal(keys[0], (8, 24)) / 8**0.5,
    "out": jax.random.normal(keys[1], (24, 8)) / 24**0.5,
  }
  return params, optimizer(member).init(params)


def step(state, member, t, data):
  params, opt_state = state
  x = data["x"][(member["seed"] + 5 * t + 7 * jnp.arange(16)) % len(data["x"])]

  def loss_of(params):
    h = split(jnp.tanh(split(x, ("data", "fsdp")) @ params["in"]), "data", "model")
    # Devices of a lane exchange their examples, in one operation of all lanes.
    y = split(jnp.roll(split(h, ("data", "fsdp")), 3, axis=0), ("data", "fsdp"))
    return jnp.mean(jnp.square(y @ params["out"] - jnp.roll(x[:, ::-1], 3, axis=0)))

  loss, grad = jax.value_and_grad(loss_of)(params)
  updates, opt_state = optimizer(member).update(grad, opt_state, params)
  return (optax.apply_updates(params, updates), opt_state), loss


def state_specs(state):
  """Matrices along fsdp and model, the rest whole."""
  return jax.tree.map(lambda x: jax.P("fsdp", "model") if x.ndim == 2 else None, state)


def sweep(mesh, **fields):
  if mesh is not None:
    fields = {"state_specs": state_specs} | fields
  fields = {"steps": STEPS, "chunk": 5} | fields
  return run_sweep(init, step, MEMBERS, DATA, mesh=mesh, **fields)


@pytest.fixture(scope="module")
def alone():
  """[members, steps] losses of every member trained alone by a plain jitted loop."""
  losses = np.zeros((6, STEPS), np.float32)
  stepped = jax.jit(step)
  for i in range(6):
    member = {name: jnp.asarray(v[i]) for name, v in MEMBERS.items()}
    state = init(member, DATA)
    for t in range(STEPS):
      state, losses[i, t] = stepped(state, member, t, DATA)
  return losses


@pytest.mark.parametrize(
  ("sizes", "per_device", "shard"),
  [
    ({"sweep": 8}, 1, (1, 8, 24)),
    ({"sweep": 4, "fsdp": 2}, 1, (1, 4, 24)),
    ({"sweep": 2, "data": 2, "model": 2}, 2, (2, 8, 12)),
    ({"sweep": 1, "fsdp": 8}, 1, (1, 1, 24)),
  ],
  ids=str,
)
def test_split_members_are_as_if_trained_alone(
  sizes, per_device, shard, alone, monkeypatch
):
  seen = []

  def keep(self, step, wave, lanes, state):
    params, (momentum, *_) = state
    for x in (params["in"], momentum.trace["in"]):
      seen.extend(s.data.shape for s in x.addressable_shards)

  monkeypatch.setattr(SweepStore, "keep", keep)
  result = sweep(mesh_of(**sizes), per_device=per_device)
  np.testing.assert_allclose(result.losses[HEALTHY], alone[HEALTHY], rtol=1e-4)
  assert result.diverged.tolist() == [i not in HEALTHY for i in range(6)]
  assert {*seen} == {shard}, "each device holds its part of the state"


def test_a_member_is_born_split(monkeypatch):
  """No device holds the whole of a matrix, not even while it is drawn."""
  real, texts = jax.jit, []

  def jit(f, **fields):
    compiled = real(f, **fields)

    def call(*args):
      texts.append(compiled.lower(*args).compile().as_text())
      return compiled(*args)

    return call

  monkeypatch.setattr(jax, "jit", jit)
  sweep(mesh_of(sweep=2, fsdp=4), steps=1)
  born = texts[0]
  assert "f32[1,2,24]" in born
  assert not any(f"[{lead}8,24]" in born for lead in ("", "1,"))


def test_one_program_whatever_the_number_of_waves_and_chunks():
  with compilations() as names:
    sweep(mesh_of(sweep=2, fsdp=4), chunk=4)
  ours = [name for name in names if "train" in name or "lambda" in name]
  assert len(ours) == 2, names


class Stop(Exception):
  pass


def interrupted_after(chunks, mesh, directory, **fields):
  done = []

  def on_chunk(chunk):
    done.append(chunk)
    if len(done) >= chunks:
      raise Stop

  with pytest.raises(Stop):
    sweep(mesh, directory=directory, save_seconds=0.0, on_chunk=on_chunk, **fields)


@pytest.fixture(scope="module")
def whole():
  return sweep(mesh_of(sweep=4, fsdp=2))


@pytest.mark.parametrize("chunks", [2, 4])
def test_an_interrupted_sweep_continues_bitwise(chunks, whole, tmp_path):
  mesh = mesh_of(sweep=4, fsdp=2)
  interrupted_after(chunks, mesh, tmp_path)
  done = []
  again = sweep(mesh, directory=tmp_path, on_chunk=done.append)
  np.testing.assert_array_equal(again.losses, whole.losses)
  np.testing.assert_array_equal(again.diverged, whole.diverged)
  assert done[0].losses.shape[1] == {2: 10, 4: STEPS}[chunks]  # not from the start


@pytest.mark.parametrize(
  ("before", "after", "kept"),
  [
    ({"sweep": 4, "fsdp": 2}, {"sweep": 4}, 10),
    ({"sweep": 2, "fsdp": 2}, {"sweep": 2, "model": 4}, 10),
    ({"sweep": 2, "fsdp": 2}, {"sweep": 4, "fsdp": 2}, 5),  # other lanes: from the start
  ],
  ids=str,
)
def test_another_mesh_goes_on_from_a_state_of_as_many_lanes(
  before, after, kept, tmp_path, alone
):
  interrupted_after(2, mesh_of(**before), tmp_path)
  done = []
  again = sweep(mesh_of(**after), directory=tmp_path, on_chunk=done.append)
  np.testing.assert_allclose(again.losses[HEALTHY], alone[HEALTHY], rtol=1e-4)
  assert done[0].losses.shape[1] == kept


def test_constraints_are_no_part_of_what_a_sweep_is(tmp_path, alone):
  """The same step without a mesh places nothing; the directory takes it all the same."""
  interrupted_after(4, mesh_of(sweep=4, fsdp=2), tmp_path)
  done = []
  again = sweep(None, directory=tmp_path, on_chunk=done.append)
  assert done[0].wave_done
  np.testing.assert_allclose(again.losses[HEALTHY], alone[HEALTHY], rtol=1e-4)
  with pytest.raises(DepthMupError, match="holds another sweep: program"):
    run_sweep(
      init,
      lambda s, m, t, d: step(s, m, t + 1, d),
      MEMBERS,
      DATA,
      steps=STEPS,
      directory=tmp_path,
    )


def plain_mesh(*names, kind=AxisType.Auto):
  return jax.make_mesh(
    (1,) * len(names), names, axis_types=(kind,) * len(names), devices=jax.devices()[:1]
  )


@pytest.mark.parametrize(
  ("mesh", "specs", "words"),
  [
    (lambda: plain_mesh("fsdp"), None, 'none is "sweep"'),
    (lambda: jax.devices(), None, "is no jax.sharding.Mesh"),
    (
      lambda: plain_mesh("sweep", "fsdp", kind=AxisType.Explicit),
      None,
      '"sweep" is AxisType.Explicit, expected',
    ),
    (lambda: mesh_of(sweep=2), jax.P(), "is no function"),
    (
      lambda: mesh_of(sweep=2),
      lambda state: jax.tree.map(lambda x: jax.P("expert") if x.ndim else None, state),
      r"state\[0\]\['in'\] of shape \[8, 24\].*cannot be split along \"expert\"",
    ),
    (
      lambda: mesh_of(sweep=2),
      lambda state: ({"in": jax.P("sweep"), "out": None}, None),
      'cannot be split along "sweep"',
    ),
    (
      lambda: mesh_of(sweep=2, model=3),
      lambda state: ({"in": jax.P("model"), "out": None}, None),
      r"state\[0\]\['in'\] of shape \[8, 24\].*\"model\" of size 3 does not divide 8",
    ),
    (
      lambda: mesh_of(sweep=2, fsdp=2),
      lambda state: ({"in": jax.P(("fsdp", "fsdp")), "out": None}, None),
      'names "fsdp" twice',
    ),
    (
      lambda: mesh_of(sweep=2, fsdp=2),
      lambda state: jax.P(None, None, "fsdp"),
      r"of shape \[8, 24\].*3 entries for 2 axes",
    ),
    (
      lambda: mesh_of(sweep=2),
      lambda state: ({"in": None}, None),
      "no prefix of the state.*different",
    ),
    (lambda: mesh_of(sweep=2), lambda state: "fsdp", "the leaf 'fsdp', expected jax.P"),
    (
      lambda: mesh_of(sweep=2, fsdp=2),
      lambda state: ({"in": jax.P(jax.P.UNCONSTRAINED), "out": None}, None),
      "expected mesh axes or None",
    ),
    (lambda: None, lambda state: state_specs(state), 'cannot be split along "fsdp"'),
  ],
)
def test_errors(mesh, specs, words):
  with pytest.raises(DepthMupError, match=words):
    run_sweep(init, step, MEMBERS, DATA, steps=2, mesh=mesh(), state_specs=specs)
