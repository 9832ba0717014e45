"""Random nets at initialization, and the covariance of their last hidden states.

Two inputs a, b with <a, a>/d = <b, b>/d = 1, <a, b>/d = c0; Y_0 = W_in a, then

  scaled      Y_l = Y_(l-1) + L^(-1/2) W_l relu(Y_(l-1))
  unscaled    Y_l = Y_(l-1) + W_l relu(Y_(l-1))
  mlp         Y_l = sqrt(2) W_l relu(Y_(l-1))
  scaled_net  the first as dmup.ResidualMLP, parameters and all

with entries of W_l from N(0, 1/n). A matrix is used once, so the first three draw the
vectors W_l relu(Y) themselves: given Y, the n rows are independent Gaussians whose
covariance over the inputs is relu(Y) relu(Y)^T / n. The law of the net is the same, and
costs n instead of n^2.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

import flax_depthmup as dmup
from flax_depthmup.diagnostics.covariance import neural_covariance
from flax_depthmup.diagnostics.streams import residual_stream

FAMILIES = ("scaled", "scaled_net", "unscaled", "mlp")
#: Features of an input of scaled_net.
FEATURES = 30
#: Numbers that a device draws at once.
_AT_ONCE = 2**22

Key = jax.Array
#: States Y_L [2, n] up to a factor for each input, and twice the logarithms of these.
States = tuple[jax.Array, jax.Array]


def draw(
  family: str, width: int, depth: int, c0: float, draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Draws nets batch by batch; the same ones for any number of devices.

  Yields:
    log <Y_L, Y_L>/n of a and b, [draws of the batch, 2]: -inf where relu left nothing.
    1 - c, c the correlation of Y_L(a) and Y_L(b), [draws of the batch].
  """
  root = jax.random.key(seed)
  for number in (FAMILIES.index(family), width, depth):
    root = jax.random.fold_in(root, number)
  net = family == "scaled_net"
  numbers = width * width * depth if net else 2 * width  # that a net needs at once
  devices = jax.local_device_count()
  size = devices * max(1, min(256, _AT_ONCE // numbers, -(-draws // devices)))
  sharding = dmup.batch_sharding(dmup.make_mesh("data:-1", jax.local_devices()), size)
  several = _nets(width, depth, c0) if net else _layers(family, width, depth, c0)
  for start in range(0, draws, size):
    # The last batch is filled up, so that one program does for all.
    members = jnp.arange(start, start + size)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(root, members)
    y, log_scale = (np.asarray(v) for v in several(jax.device_put(keys, sharding)))
    wanted = min(size, draws - start)
    yield _log_norms_and_distance(y[:wanted], log_scale[:wanted])


def _log_norms_and_distance(y: np.ndarray, log_scale: np.ndarray):
  k = neural_covariance(y)
  norms = np.diagonal(k, axis1=1, axis2=2)
  with np.errstate(divide="ignore", invalid="ignore"):
    correlation = k[:, 0, 1] / np.sqrt(norms[:, 0] * norms[:, 1])
    return np.log(norms) + log_scale, 1 - correlation


def _layers(family: str, width: int, depth: int, c0: float) -> Callable[[Key], States]:
  skip, multiplier = {
    "scaled": (1.0, depth**-0.5),
    "unscaled": (1.0, 1.0),
    "mlp": (0.0, math.sqrt(2)),
  }[family]
  return lambda keys: _recurrence(keys, width, depth, skip, multiplier, c0)


@functools.partial(jax.jit, static_argnums=1)
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None, None))
def _recurrence(
  key: Key, width: int, depth: int, skip: float, multiplier: float, c0: float
) -> States:
  """Y_l = skip Y_(l-1) + multiplier W_l relu(Y_(l-1)); one program for a width.

  relu is homogeneous: dividing Y(a) by its norm after every layer changes nothing but
  what float32 can hold, and each input keeps the logarithm of its own scale.
  """
  first, rest = jax.random.split(key)
  g = jax.random.normal(first, (2, width))

  def layer(i: int, carry: States) -> States:
    y, log_scale = carry
    w_phi = _times_gaussian(jax.nn.relu(y), jax.random.fold_in(rest, i))
    y = skip * y + multiplier * w_phi
    q = jnp.mean(y * y, axis=1)
    q = jnp.where(q > 0, q, 1.0)
    return y / jnp.sqrt(q)[:, None], log_scale + jnp.log(q)

  y = jnp.stack([g[0], c0 * g[0] + jnp.sqrt(1 - c0**2) * g[1]])
  return jax.lax.fori_loop(0, depth, layer, (y, jnp.zeros(2)))


def _times_gaussian(phi: jax.Array, key: Key) -> jax.Array:
  """W phi for phi of shape [2, n], by the Gram-Schmidt factor of phi phi^T.

  What one input has beyond the other is formed as a vector: from the entries of
  phi phi^T it would be lost in float32 once the inputs are nearly parallel.
  """
  width = phi.shape[1]
  norm = jnp.sqrt(jnp.sum(phi[0] * phi[0]))
  direction = jnp.where(norm > 0, phi[0] / jnp.where(norm > 0, norm, 1.0), 0.0)
  shared = jnp.sum(direction * phi[1])
  rest = phi[1] - shared * direction
  g = jax.random.normal(key, (2, width))
  own = jnp.sqrt(jnp.sum(rest * rest))
  return jnp.stack([norm * g[0], shared * g[0] + own * g[1]]) * width**-0.5


def scaled_net(width: int, depth: int) -> dmup.ResidualMLP:
  """At its base width; base depth 1 makes the branch multiplier L^(-1/2)."""
  p = dmup.depth_mup(base_width=width, base_depth=1)
  return dmup.ResidualMLP(
    width, depth, 1, p, activation="relu", pre_nonlinearity=True, mean_subtraction=False
  )


def _nets(width: int, depth: int, c0: float) -> Callable[[Key], States]:
  """The library's own nets."""
  model = scaled_net(width, depth)
  x = jnp.zeros((2, FEATURES)).at[0, 0].set(1.0)
  x = x.at[1, :2].set(jnp.array([c0, math.sqrt(1 - c0**2)])) * math.sqrt(FEATURES)

  def one(key: Key) -> States:
    params, _ = dmup.init(model, key, x)
    return residual_stream(model, params, x)[-1], jnp.zeros(2)

  return jax.jit(jax.vmap(one))
