"""Meshes, rules, and training on them against training on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.sharding import spec
from tests.helpers import assert_trees_close, assert_trees_equal

BASE = dmup.axis_sizes(width=32, heads=4, kv_heads=2)
P = dmup.complete_p(base_width=BASE, base_depth=2)
NETS = {
  "transformer": dmup.Transformer(64, 2, 32, 8, P, kv_heads=4, gated=True, use_bias=True),
  "tied, remat": dmup.Transformer(64, 2, 32, 8, P, kv_heads=8, tied=True, remat=True),
  "residual mlp": dmup.ResidualMLP(32, 4, 8, dmup.depth_mup(base_width=8, base_depth=2)),
  "resnet": dmup.ResNet(16, 4, 8, dmup.depth_mup(base_width=8, base_depth=2), patch=2),
}
#: Each axis alone, in pairs, and all together, on 8 devices.
MESHES = (
  *(
    pytest.param(f"{axis}:8", marks=pytest.mark.slow) for axis in ("data", "fsdp", "model")
  ),
  "data:2,fsdp:2,model:2",
  *(
    pytest.param(sizes, marks=pytest.mark.slow)
    for sizes in ("data:2,fsdp:4", "data:4,model:2", "fsdp:2,model:4", "sweep:2,fsdp:4")
  ),
)


def batch(name):
  if name == "residual mlp":
    return jax.random.normal(jax.random.key(1), (8, 12)), jnp.arange(8)
  if name == "resnet":
    return jax.random.normal(jax.random.key(1), (8, 8, 8, 3)), jnp.arange(8)
  tokens = jax.random.randint(jax.random.key(1), (8, 9), 0, 32)
  return tokens[:, :-1], tokens[:, 1:]


def train(name, mesh, rules=dmup.DEFAULT_RULES, steps=3):
  """Losses, parameters and optimizer state of a few Adam steps."""
  model, (x, y) = NETS[name], batch(name)
  abstract, scales = dmup.abstract_init(model, jax.random.key(0), x)
  tx = dmup.adamw(0.01, scales, weight_decay=0.1)
  params = dmup.param_shardings(scales, mesh, rules)
  state = dmup.optimizer_shardings(tx, abstract, params, mesh)
  place = dmup.batch_sharding(mesh, len(x), rules)

  def step(params, state, x, y):
    def loss_of(params):
      logits = model.apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  with dmup.on_mesh(mesh, rules):
    init = jax.jit(lambda key: dmup.init(model, key, x[:1])[0], out_shardings=params)
    now = init(jax.random.key(0))
    opt = jax.jit(tx.init, out_shardings=state)(now)
    step = jax.jit(
      step, in_shardings=(params, state, place, place), out_shardings=(params, state, None)
    )
    losses = []
    for _ in range(steps):
      now, opt, loss = step(now, opt, *jax.device_put((x, y), place))
      losses.append(float(loss))
  return losses, now, opt


@pytest.fixture(scope="module")
def alone():
  one = dmup.make_mesh("data:1", jax.devices()[:1])
  return {name: train(name, one) for name in NETS}


@pytest.mark.parametrize("sizes", MESHES)
def test_sharded_equals_unsharded(sizes, alone):
  """Adam divides by the gradient's size, so rounding of sums shows in a few entries."""
  name = "transformer" if "model:8" not in sizes else "tied, remat"
  losses, params, _ = train(name, dmup.make_mesh(sizes))
  np.testing.assert_allclose(losses, alone[name][0], rtol=2e-5)
  assert_trees_close(params, alone[name][1], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["tied, remat", "residual mlp", "resnet"])
def test_other_nets_sharded_equal_unsharded(name, alone):
  losses, params, _ = train(name, dmup.make_mesh("data:2,fsdp:2,model:2"))
  np.testing.assert_allclose(losses, alone[name][0], rtol=2e-5)
  assert_trees_close(params, alone[name][1], rtol=1e-3, atol=2e-4)


def test_everything_lies_where_the_rules_say():
  """No device holds more of a parameter, or of Adam's moments, than its share."""
  _, params, opt = train("transformer", dmup.make_mesh("data:2,fsdp:2,model:2"), steps=1)
  up = params["layers"]["mlp"]["up"]["kernel"]
  assert up.sharding.spec == jax.P(None, "fsdp", "model")
  query = params["layers"]["attention"]["query"]["kernel"]
  assert query.sharding.spec == jax.P(None, "fsdp", "model", None)
  assert params["embed"]["embedding"].sharding.spec == jax.P("model", "fsdp")
  for tree in (params, opt[0][0].mu, opt[0][0].nu):
    for x in jax.tree.leaves(tree):
      share = 1 if x.shape[-1:] == (8,) else 4 if x.ndim > 2 else 2
      assert x.addressable_shards[0].data.size * share <= x.size


def test_init_makes_no_whole_parameter():
  """The compiled init holds, on one device, a share of the parameters and no more."""
  model = dmup.Transformer(256, 2, 256, 8, dmup.mup(base_width=BASE, base_depth=2))
  x = jnp.zeros((1, 4), jnp.int32)
  abstract, scales = dmup.abstract_init(model, jax.random.key(0), x)
  mesh = dmup.make_mesh("fsdp:8")

  def init(key):
    return dmup.init(model, key, x)[0]

  def needs(places):
    memory = jax.jit(init, out_shardings=places).lower(jax.random.key(0)).compile()
    return memory.memory_analysis()

  whole = sum(x.size * 4 for x in jax.tree.leaves(abstract))
  largest = max(x.size * 4 for x in jax.tree.leaves(abstract))
  split = needs(dmup.param_shardings(scales, mesh))
  assert split.output_size_in_bytes < whole / 7
  assert split.temp_size_in_bytes < largest


@pytest.mark.slow
def test_the_values_do_not_depend_on_the_mesh(alone):
  _, params, _ = train("transformer", dmup.make_mesh("fsdp:4,model:2"), steps=0)
  model, (x, _) = NETS["transformer"], batch("transformer")
  expected = dmup.init(model, jax.random.key(0), x[:1])[0]
  assert_trees_close(params, expected, rtol=1e-6)


def test_flax_reads_the_same_annotation():
  abstract = jax.eval_shape(
    NETS["transformer"].init, jax.random.key(0), batch("transformer")[0]
  )
  specs = nn.get_partition_spec(abstract)["params"]
  assert specs["layers"]["mlp"]["up"]["kernel"] == jax.P("layers", "embed", "mlp")
  rules = list(dmup.DEFAULT_RULES.items())
  mesh = dmup.make_mesh("fsdp:4,model:2")
  shardings = nn.logical_to_mesh_sharding(specs, mesh, rules)
  scales = dmup.abstract_init(
    NETS["transformer"], jax.random.key(0), batch("transformer")[0]
  )[1]
  ours = dmup.param_shardings(scales, mesh)

  def same(a, b, s):
    assert a.is_equivalent_to(b, len(s.shape))

  jax.tree.map(same, shardings, ours, scales)


def test_an_inner_box_keeps_its_own_spec():
  boxed = nn.with_partitioning(nn.initializers.lecun_normal(), ("x", None))
  init = dmup.with_axes(boxed, "embed -> embed", dmup.mup(base_width=8, base_depth=2))
  assert nn.get_partition_spec(init(jax.random.key(0), (8, 8))) == jax.P("x", None)


def test_meshes_and_rules_as_written():
  assert dict(dmup.make_mesh().shape) == {"sweep": 1, "data": 8, "fsdp": 1, "model": 1}
  mesh = dmup.make_mesh("model:2, data:-1")
  assert dict(mesh.shape) == {"sweep": 1, "data": 4, "fsdp": 1, "model": 2}
  rules = dmup.make_rules("kv_heads:,embed:data+fsdp")
  assert (rules["kv_heads"], rules["embed"]) == (None, ("data", "fsdp"))
  assert spec(("embed", "kv_heads"), mesh, rules) == jax.P("data", None)
  assert spec(("embed", "mlp"), mesh) == jax.P(None, "model")
  assert spec(("mlp", "heads"), mesh) == jax.P("model", None)  # an axis splits once
  assert dmup.make_rules() == dmup.DEFAULT_RULES


def test_a_rule_keeps_an_axis_whole(alone):
  rules = dmup.make_rules("kv_heads:")
  losses, params, _ = train("transformer", dmup.make_mesh("model:8"), rules)
  key = params["layers"]["attention"]["key"]["kernel"]
  assert key.sharding.spec == jax.P(None, None, None, None)
  np.testing.assert_allclose(losses, alone["transformer"][0], rtol=2e-5)


@pytest.mark.parametrize(
  ("sizes", "words"),
  [
    ("data:3", "mesh data:3 needs 3 devices, there are 8"),
    ("data:4", "needs 4 devices, there are 8"),
    ("data:3,fsdp:-1", "needs a multiple of 3 devices, there are 8"),
    ("data:-1,fsdp:-1", "-1, all that is left, can stand once"),
    ("batch:8", 'unknown axis "batch"; the axes are sweep, data'),
    ("data:two", "'data:two' is no axis:size"),
    ("data", "'data' is no axis:size"),
    ("data:2,data:4", 'names "data" twice'),
    ("data:0", "mesh axis data=0"),
    ("", "'' is no axis:size"),
  ],
)
def test_wrong_meshes(sizes, words):
  with pytest.raises(DepthMupError, match=words):
    dmup.make_mesh(sizes)


@pytest.mark.parametrize(
  ("rules", "words"),
  [
    ("embed:tensor", "rule for \"embed\": 'tensor' is no axis"),
    ("embed:sweep", "'sweep' is no axis"),
    ("embed", "'embed' is no name:axis"),
    (":data", "':data' is no name:axis"),
  ],
)
def test_wrong_rules(rules, words):
  with pytest.raises(DepthMupError, match=words):
    dmup.make_rules(rules)


def test_sizes_that_do_not_divide():
  scales = dmup.abstract_init(NETS["transformer"], jax.random.key(0), batch("t")[0])[1]
  words = 'its axis "kv_heads" has size 4, which the 8 devices along model'
  with pytest.raises(DepthMupError, match=words):
    dmup.param_shardings(scales, dmup.make_mesh("model:8"))
  with pytest.raises(DepthMupError, match="batch_size=12 is no multiple of the 8 devices"):
    dmup.batch_sharding(dmup.make_mesh("data:2,fsdp:4"), 12)


def test_optimizer_state_of_any_chain_follows_the_parameters():
  model, (x, _) = NETS["residual mlp"], batch("residual mlp")
  abstract, scales = dmup.abstract_init(model, jax.random.key(0), x)
  mesh = dmup.make_mesh("fsdp:8")
  places = dmup.param_shardings(scales, mesh)
  for tx in (
    dmup.sgd(0.1, scales, momentum=0.9),
    optax.MultiSteps(dmup.adam(0.1, scales), 2).gradient_transformation(),
    optax.chain(optax.clip(1.0), dmup.adam(optax.constant_schedule(1), scales)),
  ):
    state = dmup.optimizer_shardings(tx, abstract, places, mesh)
    made = jax.eval_shape(tx.init, abstract)
    assert jax.tree.structure(state) == jax.tree.structure(made)
    split = [s for s in jax.tree.leaves(state) if s.spec != jax.P()]
    assert len(split) >= len(jax.tree.leaves(places))


def test_one_device_is_no_special_case():
  one = dmup.make_mesh("data:1", jax.devices()[:1])
  a, b = (train("residual mlp", one)[1] for _ in range(2))
  assert_trees_equal(a, b)
