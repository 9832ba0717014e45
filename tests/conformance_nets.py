"""Every preset and every optimizer of the conformance table, and the nets they train."""

import functools
import warnings

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup.models.residual_mlp import MLPBlock
from tests.helpers import INNER, compilations, inputs, residual_mlp
from tests.matrix_optimizers import scale_by_shampoo, scale_to_norm_one


def megatron(**sizes):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    return dmup.megatron_depth_mup(**sizes)


PRESETS = {
  "mup": dmup.mup,
  "mup, table 3": functools.partial(dmup.mup, width_rule=dmup.TABLE_3),
  "mup, table 9": functools.partial(dmup.mup, width_rule=dmup.TABLE_9),
  "depth_mup": dmup.depth_mup,
  "ode": dmup.ode,
  "complete_p": dmup.complete_p,
  "2/3:1/5": functools.partial(dmup.depthwise, alpha="2/3", gamma="1/5"),
}
ADAM_ONLY = {
  "complete_p_paper": dmup.complete_p_paper,
  "complete_p_eleuther": dmup.complete_p_eleuther,
  "complete_d_p": dmup.complete_d_p,
  "u_mup": dmup.u_mup,
  "mup_package": dmup.mup_package,
  "megatron_depth_mup": megatron,
  "mini_cpm": dmup.mini_cpm,
}
LINEAR = ("sgd", "momentum", "nesterov")
#: Name -> (inner transformation, its family).
OPTIMIZERS = {
  **{name: (make, None) for name, make in INNER.items()},
  "muon": (optax.contrib.scale_by_muon, dmup.MUON),
  "shampoo": (scale_by_shampoo, dmup.SHAMPOO),
  "adafactor": (
    lambda: optax.chain(
      optax.scale_by_factored_rms(min_dim_size_to_factor=4),
      optax.clip_by_block_rms(1.0),
      optax.scale_by_param_block_rms(),
    ),
    dmup.RELATIVE,
  ),
  "factored": (
    lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=4),
    dmup.FACTORED,
  ),
  "lamb": (
    lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
    dmup.RELATIVE,
  ),
  "normalized": (scale_to_norm_one, dmup.FROBENIUS),
}
PAIRS = [
  (preset, optimizer)
  for preset in PRESETS | ADAM_ONLY
  for optimizer in OPTIMIZERS
  if preset in PRESETS or optimizer not in LINEAR
]
WIDTH, DEPTH = 16, 4
Y = jnp.arange(8) % 3
X = inputs(8, 4)


class Loop(nn.Module):
  """`ResidualMLP` with its blocks one by one."""

  parametrization: dmup.Parametrization

  @nn.compact
  def __call__(self, x):
    p = self.parametrization
    x = dmup.Dense(WIDTH, "(inputs) -> embed", p, name="input")(x)
    for i in range(DEPTH):
      block = MLPBlock(p, activation="tanh", parent=None)
      x = dmup.Residual(block, DEPTH, p, name=f"block_{i}")(x)
    return dmup.Readout(3, p, name="readout")(x)


def unstacked(params):
  """The parameters of a scanned net for `Loop`."""
  blocks = params["stack"]["block"]
  return {name: params[name] for name in ("input", "readout")} | {
    f"block_{i}": {"block": jax.tree.map(lambda x, i=i: x[i], blocks)} for i in range(DEPTH)
  }


def train(p, optimizer, form="scan", steps=3, lr=0.02):
  """Losses of a few steps, and what compiled after the first.

  `form` is "scan", "loop" (the same parameters, layer by layer) or "sharded" (the scan,
  parameters and state over 2 x 2 devices, the batch over 2).
  """
  make, family = optimizer
  scanned = residual_mlp(p, width=WIDTH, depth=DEPTH, activation="tanh")
  model = Loop(p) if form == "loop" else scanned
  params = dmup.init(scanned, jax.random.key(0), X)[0]
  params = unstacked(params) if form == "loop" else params
  scales = dmup.abstract_init(model, jax.random.key(0), X)[1]
  q = dmup.scale_by_parametrization(make(), scales, family=family)
  hidden = jax.tree.map(
    lambda s: "q" if s.kind is dmup.Kind.HIDDEN else "adam",
    scales,
    is_leaf=lambda s: isinstance(s, dmup.Scales),
  )
  if family is dmup.MUON:  # as it is used: for hidden matrices
    adam = dmup.scale_by_parametrization(optax.scale_by_adam(), scales)
    q = optax.partition({"q": q, "adam": adam}, hidden)
  tx = optax.chain(q, optax.scale(-lr))

  def step(params, state, x):
    def loss_of(params):
      logits = model.apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  init, x, placed = jax.jit(tx.init), X, None
  if form == "sharded":
    mesh = dmup.make_mesh("data:2,fsdp:2,model:2")
    shardings = dmup.param_shardings(scales, mesh)
    params = jax.device_put(params, shardings)
    kept = dmup.optimizer_shardings(tx, params, shardings, mesh)
    init = jax.jit(tx.init, out_shardings=kept)
    placed = (shardings, kept, None)  # else XLA moves what is not like a parameter
    x = jax.device_put(X, dmup.batch_sharding(mesh, 8))
  step = jax.jit(step, out_shardings=placed)
  state, losses, later = init(params), [], []
  for t in range(steps):
    with compilations() as names:
      params, state, loss = step(params, state, x)
    later += names if t else []
    losses.append(float(loss))
  return losses, later
