"""Nets and their training that the tests of coordinates share."""

import jax.numpy as jnp
import optax

import flax_depthmup as dmup
from experiments._lib.data import load
from flax_depthmup.diagnostics import (
  Training,
  coordinate_check,
  coordinate_rows,
)

_DIGITS = load("digits", None)
# Small, so that the logits start small and all seeds have gradients of about one size.
X, Y = jnp.asarray(_DIGITS.x[:32]) / 4, jnp.asarray(_DIGITS.y[:32])
P = dmup.depth_mup(base_width=64, base_depth=8)
EPS, DECAY = 1e-8, 0.1


def loss(logits):
  return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def adamw(scales, lr):
  return dmup.adamw(lr, scales, eps=EPS, weight_decay=DECAY)


def training(optimizer=adamw, **fields):
  defaults = {"inputs": X, "loss": loss, "lr": 2**-10, "steps": 3, "times": (3,)}
  fields = defaults | fields
  return Training(optimizer=optimizer, **{"eps": EPS} | fields)


def net(width, depth, p=P, **fields):
  return dmup.ResidualMLP(width, depth, 10, p, **{"block_multiplier": 0.7} | fields)


def check(make_model=net, optimizer=adamw, eps=EPS, **sizes):
  sizes = {"widths": (64,), "depths": (8, 32, 128)} | sizes
  return coordinate_check(make_model, training(optimizer, eps=eps), **sizes)


def rows_of(model, **fields):
  how = training(seeds=(0,), **fields)
  found = coordinate_rows(model, how, 16, 4, {"training": 1.0})
  return {(r["quantity"], r["module"], r["t"]): r for r in found}
