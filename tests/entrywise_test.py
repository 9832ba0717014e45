"""What is entrywise, and what else an inner transformation must not be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError, scale_by_parametrization
from flax_depthmup.entrywise import keeps_parameters, why_not_entrywise
from tests.helpers import INNER, assert_trees_close, inputs, residual_mlp
from tests.matrix_optimizers import one_step, scale_by_adam_atan2

KEY = jax.random.key(0)
TREE = {"w": jnp.ones((4, 4)), "b": jnp.ones(4), "s": jnp.ones(())}
MIXING = {
  "factored": optax.scale_by_factored_rms,
  "trust ratio": optax.scale_by_trust_ratio,
  "clipping of the whole": lambda: optax.clip_by_global_norm(1.0),
  "block clipping": lambda: optax.clip_by_block_rms(1.0),
  "adaptive clipping": lambda: optax.adaptive_grad_clip(0.1),
  "centralized": optax.centralize,
  "normalized": optax.contrib.normalize,
  "novograd": optax.scale_by_novograd,
  "lbfgs": optax.scale_by_lbfgs,
  "galore": optax.contrib.scale_by_galore,
  "muon": lambda: optax.contrib.muon(0.1),
  "jitted": lambda: optax.GradientTransformation(
    optax.init_empty_state,
    jax.jit(lambda g, s, p=None: (jax.tree.map(lambda x: x / jnp.max(x), g), s)),
  ),
  "in a loop": lambda: optax.GradientTransformation(
    optax.init_empty_state,
    lambda g, s, p=None: (
      jax.tree.map(lambda x: jax.lax.fori_loop(0, 2, lambda _, y: y * jnp.mean(y), x), g),
      s,
    ),
  ),
  "in an open loop": lambda: optax.GradientTransformation(
    optax.init_empty_state,
    lambda g, s, p=None: (
      jax.tree.map(
        lambda x: jax.lax.while_loop(
          lambda y: jnp.array(True), lambda y: y * jnp.mean(y), x
        ),
        g,
      ),
      s,
    ),
  ),
  "in a branch": lambda: optax.GradientTransformation(
    optax.init_empty_state,
    lambda g, s, p=None: (
      jax.tree.map(
        lambda x: jax.lax.cond(True, lambda y: y - jnp.mean(y), lambda y: y, x), g
      ),
      s,
    ),
  ),
  "of matrices that only look so": lambda: optax.GradientTransformation(
    optax.init_empty_state,
    lambda g, s, p=None: (jax.tree.map(lambda x: x @ x if x.ndim == 2 else x, g), s),
  ),
}
ENTRYWISE = {
  **INNER,
  "adamw": lambda: optax.adamw(0.1),
  "ademamix": optax.contrib.scale_by_ademamix,
  "adam-atan2": scale_by_adam_atan2,
  "clip": lambda: optax.clip(1.0),
  "inject": lambda: optax.inject_hyperparams(optax.scale_by_adam)(b1=0.9),
  "if finite": lambda: optax.apply_if_finite(optax.scale_by_adam(), 3),
  "accumulated": lambda: optax.MultiSteps(
    optax.scale_by_adam(), 2
  ).gradient_transformation(),
  "flattened": lambda: optax.flatten(optax.scale_by_adam()),
  "noise": lambda: optax.add_noise(0.1, 0.1, 0),
  "a loop over entries": lambda: optax.GradientTransformation(
    optax.init_empty_state,
    lambda g, s, p=None: (
      jax.tree.map(
        lambda x: jax.lax.while_loop(
          lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 0.5), (0, x)
        )[1],
        g,
      ),
      s,
    ),
  ),
  "reduce on plateau": optax.contrib.reduce_on_plateau,
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_entries_is_seen(name):
  why = why_not_entrywise(MIXING[name](), TREE)
  assert "entries of a parameter" in why


@pytest.mark.parametrize("name", ENTRYWISE)
def test_what_does_not_passes(name):
  assert why_not_entrywise(ENTRYWISE[name](), TREE) is None


def test_adam_atan2_needs_no_eps():
  """Its update does not depend on the size of the gradient, however small."""
  p = dmup.complete_p(base_width=4, base_depth=2)
  s = {"w": dmup.resolve("embed -> embed", (16, 16), p, depth=8)}
  tx = scale_by_parametrization(scale_by_adam_atan2(), s)
  g = {"w": jax.random.normal(KEY, (16, 16))}
  tiny = jax.tree.map(lambda x: x * 1e-15, g)
  one, other = one_step(tx, g, g), one_step(tx, tiny, g)
  assert_trees_close(one, other, rtol=1e-5)
  np.testing.assert_allclose(np.abs(one["w"]), np.pi / 4 / 4, rtol=1e-5)


def test_an_undeclared_one_is_refused_with_the_remedy():
  p = dmup.complete_p(base_width=4, base_depth=2)
  params, s = dmup.init(residual_mlp(p), KEY, inputs())
  for inner, words in (
    (optax.scale_by_factored_rms(), "reduce_sum to the entries"),
    (optax.contrib.scale_by_muon(), "cannot be traced|applies"),
    (optax.scale_by_zoom_linesearch(3), "cannot be traced .*value_fn"),
  ):
    with pytest.raises(DepthMupError, match=words) as error:
      scale_by_parametrization(inner, s).init(params)
    assert "family=dmup.MUON" in str(error.value)
  scale_by_parametrization(optax.scale_by_factored_rms(), s, family=dmup.FACTORED).init(
    params
  )
  scale_by_parametrization(optax.scale_by_sm3(), s, family=dmup.ENTRYWISE)


FOLLOWERS = {
  "schedule-free": lambda: optax.contrib.schedule_free(optax.sgd(1.0), 1.0),
  "madgrad": lambda: optax.contrib.madgrad(0.1),
  "cocob": optax.contrib.cocob,
  "sam": lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
  "in a chain": lambda: optax.chain(optax.contrib.cocob(), optax.scale(1.0)),
}


@pytest.mark.parametrize("name", FOLLOWERS)
def test_what_keeps_the_parameters_is_refused(name):
  p = dmup.complete_p(base_width=4, base_depth=2)
  s = {"w": dmup.resolve("embed -> embed", (8, 8), p)}
  for family in (None, dmup.ENTRYWISE):
    with pytest.raises(DepthMupError, match="keeps copies of the parameters .*around"):
      scale_by_parametrization(FOLLOWERS[name](), s, family=family).init(
        {"w": jnp.ones((8, 8))}
      )


@pytest.mark.parametrize("name", [n for n in ENTRYWISE if n != "flattened"])
def test_what_keeps_moments_is_not(name):
  assert not keeps_parameters(ENTRYWISE[name](), TREE)


@pytest.mark.parametrize(
  ("inner", "family", "words"),
  [
    (optax.scale_by_adam(), "muon", "family='muon' is no Family"),
  ],
)
def test_wrong_inner(inner, family, words):
  p = dmup.complete_p(base_width=4, base_depth=2)
  params, s = dmup.init(residual_mlp(p), KEY, inputs())
  with pytest.raises(DepthMupError, match=words):
    scale_by_parametrization(inner, s, family=family).init(params)
