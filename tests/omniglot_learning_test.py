"""First-order MAML of linear nets and kernels against the plain computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments._lib import omniglot_config
from experiments._lib.omniglot_config import Model
from experiments._lib.omniglot_kernels import KernelLearner
from experiments._lib.omniglot_learning import Settings, accuracy, split
from experiments._lib.omniglot_linear import LinearLearner
from flax_depthmup.limits import (
  LinearNet,
  empty_expansion,
  expansion_outputs,
  linear_outputs,
  pop,
  push,
  rkhs_norm,
)

SETTINGS = Settings(ways=3, shots=2, queries=1, inner_steps=2, inner_lr=0.4, meta_clip=0.5)
LABELS = {"support": np.repeat(np.arange(3), 2), "query": np.arange(3)}
D, TASKS = 10, 2
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(60, D)).astype(np.float32) / 2


def draw_tasks(*shape):
  """[..., 3, 3] rows of images, distinct within a task."""
  keys = np.random.default_rng(1).random((*shape, 60))
  return keys.argsort(axis=-1)[..., :9].reshape(*shape, 3, 3).astype(np.int32)


def cross_entropy(net, x, labels, alpha):
  f = linear_outputs(net, x, alpha)
  return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(f), labels[:, None], axis=1))


def plain_meta_step(net, tasks, alpha, meta_lr):
  """By automatic differentiation, whole matrices, the gradient of each task."""
  gradient = jax.grad(cross_entropy)
  total = jax.tree.map(jnp.zeros_like, net)
  for task in tasks:
    support, query = split(task, SETTINGS.shots)
    adapted = net
    for _ in range(SETTINGS.inner_steps):
      g = gradient(adapted, IMAGES[support], LABELS["support"], alpha)
      adapted = jax.tree.map(lambda w, g: w - 0.4 * g, adapted, g)
    g = gradient(adapted, IMAGES[query], LABELS["query"], alpha)
    total = jax.tree.map(jnp.add, total, g)
  norm = jnp.sqrt(sum(jnp.sum(g**2) for g in total))
  return jax.tree.map(lambda w, g: w - meta_lr * 0.5 / norm * g, net, total), norm


def test_low_rank_steps_are_the_plain_ones():
  learner = LinearLearner(7, 1.0, 0.8, 0.6, 0.3, SETTINGS)
  u, v = (RNG.normal(size=shape) for shape in ((7, D), (3, 7)))
  net = LinearNet(*map(jnp.asarray, (u, v, np.linspace(-1, 1, 7))))
  tasks, images = draw_tasks(TASKS), jnp.asarray(IMAGES)

  @jax.jit
  def both(net):
    plain, norm = plain_meta_step(net, tasks, 0.6, 0.3)
    evaluated = learner.evaluate(net, None, images, tasks, SETTINGS.inner_steps)
    return learner.meta_step(net, images, tasks), plain, norm, jnp.mean(evaluated)

  (found, right), plain, norm, evaluated = both(net)
  assert float(norm) > SETTINGS.meta_clip
  for a, b in zip(found, plain, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)
  assert float(evaluated) == pytest.approx(float(right))


def test_kernel_steps_are_pushes_and_pops():
  def kernel(x, z):  # any will do
    return (1 + x @ z.T) ** 2

  batches = draw_tasks(2, TASKS)
  learner, images = KernelLearner(kernel, 0.3, SETTINGS), jnp.asarray(IMAGES)

  def derivative(expansion, rows, part):
    f = expansion_outputs(kernel, expansion, images[rows])
    labels = np.eye(3, dtype=np.float32)[LABELS[part]]
    return (jax.nn.softmax(f) - labels) / len(labels)

  @jax.jit
  def plain_meta_step(expansion, tasks):
    queries, derivatives = [], []
    for task in tasks:
      support, query = split(task, SETTINGS.shots)
      for _ in range(SETTINGS.inner_steps):
        chi = derivative(expansion, support, "support")
        expansion = push(expansion, images[support], -0.4 * chi)
      derivatives.append(derivative(expansion, query, "query"))
      queries.append(images[query])
      expansion = pop(expansion, 6 * SETTINGS.inner_steps)
    x, chi = jnp.concatenate(queries), jnp.concatenate(derivatives)
    norm = rkhs_norm(kernel, x, chi)
    return push(expansion, x, -0.3 * 0.5 / norm * chi), norm

  expansion, q = empty_expansion(64, D, 3), learner.init(0, images)
  meta_step = jax.jit(learner.meta_step)
  for tasks in batches:
    q, _ = meta_step(q, images, tasks)
    expansion, norm = plain_meta_step(expansion, tasks)
    assert float(norm) > SETTINGS.meta_clip
  wanted = expansion_outputs(kernel, expansion, images)
  np.testing.assert_allclose(kernel(images, images) @ q, wanted, atol=2e-5)


def test_finite_nets_tend_to_the_limit():
  """25 meta-steps of 8 tasks, 3-way, d = 10; five doublings and 50 seeds: error 0.02."""
  settings = Settings(
    ways=3, shots=2, queries=1, inner_steps=1, inner_lr=0.4, meta_clip=0.5
  )
  limit = LinearLearner(None, 1.0, 0.5, 0.5, 0.2, settings)
  tasks, images = draw_tasks(25, 8), jnp.asarray(IMAGES)

  def trained(net):
    def step(net, own):
      return limit.meta_step(net, images, own)

    return linear_outputs(jax.lax.scan(step, net, tasks)[0], images[:6], 0.5)

  wanted = np.asarray(jax.jit(trained)(limit.init(0, IMAGES)))
  widths, seeds, rng = [16 * 2**i for i in range(6)], 50, np.random.default_rng(2)

  @jax.jit
  def rms(nets):
    return jnp.sqrt(jnp.mean((jax.lax.map(trained, nets) - wanted[None]) ** 2))

  def start(width):  # neurons without weights stay so: one program for all widths
    u, v = np.zeros((seeds, widths[-1], D)), np.zeros((seeds, 3, widths[-1]))
    u[:, :width] = rng.normal(size=(seeds, width, D)) / width**0.5
    v[:, :, :width] = 0.5 * rng.normal(size=(seeds, 3, width)) / width**0.5
    return LinearNet(*map(jnp.asarray, (u, v, np.zeros((seeds, widths[-1])))))

  errors = [float(rms(start(width))) for width in widths]
  slope = np.polyfit(np.log2(widths), np.log2(errors), 1)[0]
  assert slope == pytest.approx(-0.5, abs=0.1)


def test_outputs_that_are_no_numbers_are_wrong():
  outputs = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  assert float(accuracy(outputs, 2)) == 1.0
  assert float(accuracy(outputs.at[0, 0].set(jnp.nan), 2)) == 0.5
  assert float(accuracy(outputs[::-1], 2)) == 0.0


def learner(model, **values):
  with flagsaver.flagsaver(data_dir="unread", **values):
    return omniglot_config.from_flags().learner(model)


def test_hyperparameters():
  for width, rate, bias in (
    (2, 0.05, 2.0),
    (32, 0.4, 0.5),
    (40, 0.4, 0.5),
    (4096, 0.1, 1.0),
  ):
    found = learner(Model("width", width))
    assert (found.width, found.meta_lr, found.bias_multiplier) == (width, rate, bias)
  limit = learner(Model("limit"))
  assert (limit.width, limit.sigma_u, limit.sigma_v) == (None, 1.0, 0.03125)
  given = {"meta_lr": 0.3, "init_sigma_u": 2.0, "init_sigma_v": 0.0, "bias_multiplier": 0.0}
  own = learner(Model("width", 2), **given)
  assert (own.meta_lr, own.sigma_u, own.sigma_v, own.bias_multiplier) == (0.3, 2.0, 0, 0)
  kernel = learner(Model("relu_ntk"), **given)  # no linear net
  assert kernel.meta_lr == 0.05
  x = jnp.ones((1, 4))
  assert jax.jit(kernel.kernel)(x, x)[0, 0] == pytest.approx((0.25**2 * 4 + 1) / 2 + 4 / 2)
