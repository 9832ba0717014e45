"""Starts that are stated in part, and constants that are no matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.adapt import (
  axes_from_shapes,
  init_laws,
  rescale_init,
  scales_from_axes,
)
from tests.helpers import assert_trees_equal


def normal(*shape, std):
  draws = np.random.default_rng(shape[-1]).normal(size=shape)
  return jnp.asarray(std * draws, jnp.float32)


def test_exceptions_are_stated_and_the_rest_is_measured():
  """A class token of 8 entries is too small to tell; the rest need not be stated."""

  def tree(n):
    ends = {"in": normal(100, n, std=0.1), "cls": normal(1, 1, n, std=0.02)}
    return ends | {"w": normal(n, n, std=0.02), "head": {"kernel": jnp.zeros((n, 2))}}

  base, params = tree(8), tree(32)
  scales = scales_from_axes(axes_from_shapes(base, params), dmup.complete_p)
  with pytest.raises(DepthMupError, match="cls is too small"):
    rescale_init(params, scales, base)
  found = rescale_init(params, scales, base, init={"cls": "fixed"})
  ratios = {name: float(found[name].std() / params[name].std()) for name in ("cls", "w")}
  assert ratios == pytest.approx({"cls": 1, "w": 0.5}, rel=1e-5)
  with pytest.raises(DepthMupError, match="w: its std is"):
    rescale_init(params | {"w": 3 * params["w"]}, scales, base, init={"cls": "fixed"})


@pytest.mark.parametrize(("start", "refused"), [(1.0, True), (0.0, False)])
def test_a_constant_start_of_a_matrix_is_that_of_a_gain(start, refused):
  """Gains of heads by a name that does not say so."""

  def tree(n, heads):
    gain = jnp.full((heads, n // heads), start)
    ends = {"in": normal(100, n, std=0.1), "head": {"kernel": jnp.zeros((n, 2))}}
    return ends | {"block": {"norm": gain, "w": normal(n, n, std=n**-0.5)}}

  base, params = tree(32, 2), tree(128, 4)
  scales = scales_from_axes(axes_from_shapes(base, params, branches="block/*"), dmup.mup)
  if not refused:
    assert init_laws(params, scales, base)["block/norm"] == "fixed"
    return
  with pytest.raises(DepthMupError, match="block/norm starts at the constant 1.*is a gain"):
    rescale_init(params, scales, base)
  told = {"block/norm": "-> heads head_dim"}
  axes = axes_from_shapes(base, params, branches="block/*", overrides=told)
  found = rescale_init(params, scales_from_axes(axes, dmup.mup), base)
  assert_trees_equal(found["block"]["norm"], params["block"]["norm"])
