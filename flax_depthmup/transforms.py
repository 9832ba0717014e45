"""Definition 6.1 of Tensor Programs VI as one optax transformation.

Layer: optax, mathematics; knows no flax.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_depthmup.errors import DepthMupError
from flax_depthmup.families import ENTRYWISE, Family
from flax_depthmup.inner_checks import (
  check_entrywise,
  check_follows_updates,
  check_matrices,
  check_preset,
)
from flax_depthmup.matrices import per_matrix
from flax_depthmup.paths import path_name
from flax_depthmup.scales import Scales


def scale_by_parametrization(
  inner: optax.GradientTransformation, scales: Any, *, family: Family | None = None
) -> optax.GradientTransformationExtraArgs:
  """W <- W - eta n^(-c) L^(-gamma) Q(n^d L^delta g): Definition 6.1 around any Q.

  Multiplies every gradient by its `gradient_factor`, runs `inner`, multiplies
  what comes out by its `update_factor` (0 for frozen parameters). `inner` is Q
  without the learning rate, and acts entry by entry: SGD
  (`optax.identity()`), momentum (`optax.trace`), `optax.scale_by_adam`,
  `scale_by_rss`, `scale_by_lion`, `scale_by_rms`, ... Adam's eps needs no rule
  of its own: the gradient factor divides it.

      tx = optax.chain(
        dmup.scale_by_parametrization(optax.scale_by_adam(), scales),
        optax.scale_by_learning_rate(schedule))

  One that acts on whole matrices (Muon, Shampoo, Adafactor) makes updates of
  another size and has to say so by its `family`; the factors of `families` come on
  top. It then sees every parameter as a matrix [fan_in, fan_out] by itself, the
  layers of a stack one by one, so that a scanned net trains as an unrolled one:

      muon = optax.contrib.scale_by_muon()
      dmup.scale_by_parametrization(muon, scales, family=dmup.MUON)

  What depends on the size of gradients or updates belongs outside: clip
  gradients before, add decoupled weight decay after (see `adamw`).

  Args:
    inner: the transformation Q.
    scales: the tree of `Scales` that `dmup.init` gives beside the parameters.
    family: of Q, one of `families`; None: entrywise, which is checked in `init` on
      the program of `inner` (a few milliseconds for each traced `init`).
      `ENTRYWISE` says it unchecked.

  Returns:
    A transformation with the state of `inner`. Works inside and around `chain`,
    `masked`, `partition`, `inject_hyperparams`, `MultiSteps` and
    `apply_if_finite`; keeps dtypes and shardings.

  Raises:
    DepthMupError: when made, if `scales` is no tree of `Scales`; in `init` and
      `update`, if the parameters are not those of `scales`, naming the first
      that differs; in `init`, if `inner` mixes entries and no family was given, if
      it keeps the parameters themselves (schedule-free, lookahead, MADGRAD), or if
      it is linear and the preset was published for Adam alone.

  Reference: Yang, Yu, Zhu, Hayou, Tensor Programs VI, arXiv 2310.02244,
  Definition 6.1.
  """
  if not isinstance(inner, optax.GradientTransformation):
    raise DepthMupError(
      f"inner={inner!r} is no optax.GradientTransformation; give an entrywise one, "
      "such as optax.scale_by_adam()"
    )
  if not isinstance(family, Family | None):
    raise DepthMupError(
      f"family={family!r} is no Family; give one of flax_depthmup.families, as dmup.MUON"
    )
  table = _by_name(scales)
  factors = {name: (family or ENTRYWISE).factors(s) for name, s in table.items()}
  q = optax.with_extra_args_support(inner)
  if family not in (None, ENTRYWISE):
    q = per_matrix(inner, table)

  def init_fn(params):
    _check_matches(params, table)
    if family is None:
      check_entrywise(inner, params)
    elif family.matrices_only:
      check_matrices(family, params, table)
    if family in (None, ENTRYWISE):
      check_preset(inner, params, table)
    state = q.init(params)
    check_follows_updates(inner, params, state)
    return state

  def update_fn(updates, state, params=None, **extra_args):
    _check_matches(updates, table)
    updates = _multiply(updates, {name: f[0] for name, f in factors.items()})
    updates, state = q.update(updates, state, params, **extra_args)
    return _multiply(updates, {name: f[1] for name, f in factors.items()}), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def trainable(scales: Any) -> Any:
  """The tree of booleans that is False for frozen parameters: a mask for optax."""
  _by_name(scales)  # names what is no Scales
  return jax.tree.map(lambda s: s.trainable, scales, is_leaf=is_scales)


def scales_as_dict(scales: Any) -> dict[str, dict[str, Any]]:
  """Parameter name -> its scales, as JSON can hold them; for checkpoints and records."""
  return {name: s.as_dict() for name, s in _by_name(scales).items()}


def _by_name(scales: Any) -> dict[str, Scales]:
  table = dict(named_leaves(scales))
  for name, leaf in table.items():
    if not isinstance(leaf, Scales):
      raise DepthMupError(
        f"scales: {name} is a {type(leaf).__name__}, expected Scales; pass the second "
        "value of dmup.init"
      )
  if not table:
    raise DepthMupError("scales is empty; pass the second value of dmup.init")
  return table


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
  """(name, leaf) of every leaf; the holes that optax's masks leave are none."""
  paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_scales)
  return [(path_name(path), leaf) for path, leaf in paths]


def is_scales(node: Any) -> bool:
  """Whether a node of a tree is a `Scales`, also one that came through a trace."""
  return isinstance(node, Scales)


def _check_matches(tree: Any, table: dict[str, Scales]) -> None:
  """Raises unless the leaves of `tree` are parameters of `table`.

  All of them, unless optax masked some: then those that are left.
  """
  leaves = dict(named_leaves(tree))
  for name, leaf in leaves.items():
    if name not in table:
      raise DepthMupError(
        f"parameter {name} has no scales: the tree differs from that of the scales, "
        f"which holds {len(table)} parameters, first {next(iter(table))}; pass the "
        "parameters and the scales of the same dmup.init"
      )
    if tuple(jnp.shape(leaf)) != table[name].shape:
      raise DepthMupError(
        f"parameter {name} has shape {tuple(jnp.shape(leaf))} but its scales were "
        f"resolved for {table[name].shape}; pass the scales of this size's dmup.init"
      )
  if leaves and not _has_holes(tree):  # optax probes states with leafless trees
    missing = [name for name in table if name not in leaves]
    if missing:
      raise DepthMupError(
        f"parameter {missing[0]} is in the scales but not in the tree of "
        f"{len(leaves)} parameters; pass the parameters and the scales of the same "
        "dmup.init"
      )


def _has_holes(tree: Any) -> bool:
  def is_hole(node):
    return node is None or isinstance(node, optax.MaskedNode)

  return any(is_hole(leaf) for leaf in jax.tree.leaves(tree, is_leaf=is_hole))


def _multiply(tree: Any, factors: dict[str, float]) -> Any:
  def scale(path, x):
    value = factors[path_name(path)]
    if value == 1:
      return x
    if value == 0:
      return jnp.zeros_like(x)  # frozen, also where the gradient is not finite
    wide = jnp.promote_types(x.dtype, jnp.float32)  # bfloat16 would round the factor
    return (x * jnp.asarray(value, wide)).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(scale, tree)
