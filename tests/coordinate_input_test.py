"""Wrong nets, losses, optimizers, sizes and times of a coordinate check."""

import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

import flax_depthmup as dmup
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics import (
  coordinate_check,
)
from tests.coordinate_nets import P, check, net, rows_of, training
from tests.helpers import inputs


def test_times():
  assert training(steps=30, times=None).moments == (0, 1, 3, 10, 30)
  assert training(steps=100, times=None).moments == (0, 1, 3, 10, 30, 100)
  assert training(steps=1, times=None).moments == (0, 1)
  assert training(steps=5, times=(5, 2)).moments == (0, 2, 5)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"steps": 0}, "steps=0"),
    ({"lr": -1.0}, "lr=-1"),
    ({"lr": 0.0}, "lr=0"),
    ({"seeds": (0, 0)}, "expected distinct whole numbers"),
    ({"seeds": 3}, "seeds=3"),
    ({"seeds": (True,)}, "expected distinct whole numbers"),
    ({"times": 5}, "times=5"),
    ({"eps": -1e-8}, "eps=-1e-08"),
    ({"eps": "1e-8"}, "eps='1e-8'"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"seeds": ()}, "seeds=()"),
    ({"times": (9,)}, "times=.9,.*from 0 to steps=3"),
    ({"loss": 3}, "loss=3 is no function"),
    ({"optimizer": optax.adam(1.0)}, "is no function"),
  ],
)
def test_wrong_training(fields, words):
  with pytest.raises(DepthMupError, match=words):
    training(**fields)


class Plain(nn.Module):
  @nn.compact
  def __call__(self, x):
    return dmup.Dense(4, "(inputs) -> embed", P)(x)


class Unannotated(nn.Module):
  parametrization: dmup.Parametrization = P

  @nn.compact
  def __call__(self, x):
    return nn.Dense(10)(x)


@pytest.mark.parametrize(
  ("make_model", "sizes", "words"),
  [
    (net, {"depths": (4, 8)}, "two points always lie on a line"),
    (net, {"depths": ()}, "depths: expected a sequence"),
    (net, {"depths": (4, 4, 8)}, "at least three different"),
    (net, {"widths": (0,)}, "a size of widths"),
    (net, {"depths": 8}, "depths: expected a sequence"),
    (lambda w, d: Plain(), {}, "Plain has no field parametrization"),
    (lambda w, d: Unannotated(), {}, "has no residual branch"),
  ],
)
def test_wrong_nets_and_sizes(make_model, sizes, words):
  with pytest.raises(DepthMupError, match=words):
    check(make_model, **sizes)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"loss": lambda out: out}, "expected one real number"),
    ({"optimizer": lambda scales: optax.sgd(1.0)}, "cannot be called with"),
    ({"optimizer": lambda scales, lr: None}, "optimizer gives NoneType"),
  ],
)
def test_wrong_losses_and_optimizers(fields, words):
  with pytest.raises(DepthMupError, match=words):
    rows_of(net(16, 4), **fields)


def test_a_net_without_branches():
  how = training(inputs=inputs(), loss=jnp.sum)
  with pytest.raises(DepthMupError, match="Plain has no residual branch"):
    coordinate_check(
      lambda w, d: Plain(), how, widths=(4,), depths=(1, 2, 3), parametrization=P
    )


def test_an_eps_that_cannot_be_probed():
  with pytest.raises(DepthMupError, match="vanish in float32"):
    coordinate_check(net, training(eps=1e-30), widths=(16,), depths=(1, 2, 4))
  flat = training(loss=lambda out: 0 * out.sum())
  with pytest.raises(DepthMupError, match="have size 0.0"):
    coordinate_check(net, flat, widths=(16,), depths=(1, 2, 4))
