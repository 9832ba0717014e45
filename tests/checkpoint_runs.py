"""A small training state for the tests of checkpoints, and runs that save it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_depthmup.checkpoint import Checkpoints, abstract

IDENTITY = {"parametrization": {"base_width": {"embed": 64}, "alpha": 0.5}}


def state_at(step, shardings=lambda shape: None):
  """A small training state that differs at every step."""
  w = jax.random.normal(jax.random.key(step), (8, 12))
  block = {"kernel": w, "b.ias": jnp.full(3, step, jnp.bfloat16)}
  params = {"block": block, "step": jnp.asarray(step)}
  tree = {
    "params": params,
    "opt": optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params),
    "key": jax.random.fold_in(jax.random.key(1), step),
    "keys": jax.random.split(jax.random.key(step, impl="rbg"), 3),
  }
  placed = jax.tree.map(lambda x: jax.device_put(x, shardings(x.shape)), tree)
  return placed | {"losses": np.arange(5) * float(step)}


def bits(tree):
  """What a tree holds, to be compared."""

  def raw(x):
    key = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(x) if key else x)
    return str(x.dtype), array.shape, array.tobytes()

  return jax.tree.map(raw, tree)


def mesh_of(*shape):
  """A mesh of the first devices."""
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  return jax.sharding.Mesh(devices, ("data", "model")[: len(shape)])


def split_over(mesh):
  """Shardings that split the first axes over the mesh, where they can be."""

  def sharding(shape):
    fits = len(shape) >= len(mesh.shape)
    fits = fits and all(n % m == 0 for n, m in zip(shape, mesh.devices.shape, strict=False))
    spec = jax.sharding.PartitionSpec(*mesh.axis_names) if fits else jax.P()
    return jax.sharding.NamedSharding(mesh, spec)

  return sharding


def saved_run(directory, steps=(100, 200), **kwargs):
  checkpoints = Checkpoints(directory, keep=len(steps), **kwargs)
  for step in steps:
    checkpoints.save(step, state_at(step), {"identity": IDENTITY, "position": step})
  checkpoints.close()
  return directory


def reopened(directory, identity=IDENTITY):
  """What a run goes on from."""
  checkpoints = Checkpoints(directory, keep=2)
  try:
    return checkpoints.latest(abstract(state_at(0)), identity)
  finally:
    checkpoints.close()
