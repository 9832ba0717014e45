"""Axes of a model that is not ours, found by comparing two sizes of it.

Layer: jax, mathematics, `leaves`, `layers`, `stacks`, `branches`, `roles`, `model_axes`.
"""

from collections.abc import Mapping
from typing import Any, get_args

import jax

from flax_depthmup.adapt.branches import Patterns, branch_names, check_depth, net_depth
from flax_depthmup.adapt.layers import Counts, align
from flax_depthmup.adapt.leaves import Leaf, Sizes, check_layout, read_tree
from flax_depthmup.adapt.model_axes import (
  ModelAxes,
  ParameterAxes,
  base_sizes_of,
  check_hidden,
  tied_of,
)
from flax_depthmup.adapt.roles import Layout, Unlabelled, infer_axes, read_override
from flax_depthmup.adapt.stacks import (
  check_inside_layers,
  check_outside_branches,
  find_stacked,
)
from flax_depthmup.axes import Axes
from flax_depthmup.errors import DepthMupError
from flax_depthmup.patterns import check_used, matches


def axes_from_shapes(
  base: Any,
  target: Any,
  delta: Any = None,
  *,
  branches: Patterns | None = None,
  overrides: Mapping[str, str] | None = None,
  tied: Patterns | None = None,
  stacked: Patterns | None = None,
  depth: Counts | None = None,
  layout: Layout = "in_out",
) -> ModelAxes:
  """Reads the axes of a model off two sizes of it.

      base = jax.eval_shape(small.init, key, x)["params"]
      target = jax.eval_shape(large.init, key, x)["params"]
      axes = dmup.axes_from_shapes(base, target, branches="*/block_*/*")

  An axis is infinite if it is larger in the target. With one infinite axis a matrix is
  a first layer or a readout, with two it is hidden, if another parameter reads what it
  gives and gives what it reads; biases and gains are vectors. Layers
  are told by numbered names, as many as there may be, or by a stacked leading axis,
  which never counts as infinite. What has more than one reading is refused.

  Args:
    base: parameters of the net where hyperparameters are tuned, arrays or
      `jax.ShapeDtypeStruct`, of any framework.
    target: those of the net to train.
    delta: those of one more net, for axes that base and target have alike and that
      could grow: there it has another size.
    branches: shell patterns of the paths of all that is inside a residual branch; "!"
      before one excludes. () for a net without.
    overrides: pattern -> axes of the parameters that it fits, as `Axes` writes them,
      without the stacked axis of layers. An axis in parentheses stays finite, another
      one may grow though it does not here.
    tied: patterns of embeddings that serve as readouts too; () for none. Asked for
      where no parameter is a readout, or none has as many entries as an embedding.
    stacked: patterns of parameters whose leading axis counts layers (or the members of
      an `nn.vmap`); None: found where it is certain; () for none.
    depth: (blocks of the base net, blocks of the target), where the layers do not tell;
      it is that of every branch.
    layout: "in_out" of Flax and Haiku, or "out_in" of PyTorch and Equinox.

  Raises:
    DepthMupError: the trees are not two sizes of one net, a parameter is ambiguous, a
      pattern fits none; each with the path, what was found and the remedy.
  """
  if layout not in get_args(Layout):
    raise DepthMupError(f'layout={layout!r}: expected "in_out" or "out_in"')
  leaves, structure = read_tree(target, "target")
  check_layout(leaves, layout)
  bases, _ = read_tree(base, "base")
  pairs, groups = align(bases, leaves)
  third = bases if delta is None else read_tree(delta, "delta")[0]
  deltas, _ = align(third, bases, ("delta", "base"))
  sizes = [Sizes(x, pairs[x.name], deltas[pairs[x.name].name]) for x in leaves]
  for s in sizes:
    _check_sizes(s)
  told = check_depth(depth)
  inside = branch_names(branches, stacked, told, sizes, groups)
  layers = find_stacked(stacked, sizes, inside, groups)
  if told is None:
    check_inside_layers(sizes, inside, layers, groups)
  else:
    check_outside_branches(sizes, inside, layers)
  given = _matched_overrides(overrides, sizes)
  beside = _children(leaves)
  found = [
    _label(s, given.get(s.name), s.name in inside, s.name in layers, beside, layout)
    for s in sizes
  ]
  check_hidden(found)
  base_depth, new_depth = told or net_depth(branches or (), found, layers, groups)
  return ModelAxes(
    tree=jax.tree_util.tree_unflatten(structure, found),
    base_sizes=base_sizes_of(found),
    base_depth=base_depth,
    depth=new_depth,
    tied=tied_of(tied, found),
  )


def _check_sizes(s: Sizes) -> None:
  """Raises unless two sizes of a parameter have one rank and dtype, and none shrinks."""
  old, new = s.base, s.leaf
  for other in (new, s.delta):
    if len(other.shape) != len(old.shape) or other.dtype != old.dtype:
      raise DepthMupError(
        f"parameter {s.name} has shape {old.shape} and dtype {old.dtype} in the base net, "
        f"but {other.shape} and {other.dtype} in another; give sizes of one net in one "
        "dtype"
      )
  if any(n < m for n, m in zip(new.shape, old.shape, strict=True)):
    raise DepthMupError(
      f"parameter {s.name} shrinks from {old.shape} in the base net to {new.shape} in the "
      "target; the base is the smaller of the two: exchange them, or choose a base with no "
      "axis larger than in the target"
    )


def _matched_overrides(
  overrides: Mapping[str, str] | None, sizes: list[Sizes]
) -> dict[str, str]:
  """Name of a parameter -> the axes that a pattern gives it."""
  is_mapping = isinstance(overrides, Mapping | None)
  if not is_mapping or not all(isinstance(pattern, str) for pattern in overrides or ()):
    raise DepthMupError(
      f"overrides={overrides!r}: expected a mapping from patterns to axes, such as "
      '{"*/query/kernel": "embed -> heads head_dim"}'
    )
  found: dict[str, tuple[str, str]] = {}
  names = [s.name for s in sizes]
  for pattern, text in (overrides or {}).items():
    check_used(pattern, "overrides", names)
    for name in names:
      if matches(pattern, name):
        if name in found:
          raise DepthMupError(
            f"overrides: the patterns {found[name][0]!r} and {pattern!r} both fit {name}; "
            "let one fit each parameter"
          )
        found[name] = pattern, text
  return {name: text for name, (_, text) in found.items()}


def _children(leaves: list[Leaf]) -> dict[tuple[str, ...], set[str]]:
  """Path of a module -> the names directly below it."""
  found: dict[tuple[str, ...], set[str]] = {}
  for leaf in leaves:
    for i, part in enumerate(leaf.parts):
      found.setdefault(leaf.parts[:i], set()).add(part)
  return found


def _label(
  s: Sizes,
  text: str | None,
  branch: bool,
  stacked: bool,
  beside: dict[tuple[str, ...], set[str]],
  layout: Layout,
) -> ParameterAxes:
  """The axes of one parameter, those given or those inferred."""
  skip = int(stacked and not (text and len(Axes.parse(text).axes) == len(s.leaf.shape)))
  shape, grows = s.base.shape[skip:], s.grows[skip:]
  if text is not None:
    axes, why = read_override(text, shape, grows, s.name, layout), "given"
  else:
    parts = s.leaf.parts
    axes, why = infer_axes(
      Unlabelled(
        name=s.name,
        parts=parts,
        shape=shape,
        grows=grows,
        siblings=frozenset(beside.get(parts[:-2], ())),
        branch=branch,
        layout=layout,
      )
    )
  return ParameterAxes(
    name=s.name,
    axes=axes.insert(0, "layers") if skip else axes,
    shape=s.leaf.shape,
    base_shape=s.base.shape,
    branch=branch,
    why=why,
  )
