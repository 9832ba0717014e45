"""From a standard initialization to that of a parametrization.

Layer: jax, flax, mathematics, `leaves`, `layers`.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flax_depthmup.adapt.layers import align
from flax_depthmup.adapt.leaves import Leaf, read_tree
from flax_depthmup.errors import DepthMupError
from flax_depthmup.paths import path_name
from flax_depthmup.patterns import check_used, matches
from flax_depthmup.scales import Scales
from flax_depthmup.transforms import is_scales, named_leaves

Law = Literal["fan_in", "fixed", "fan_out", "fan_avg"]
#: Law -> std over that in the base net, from (fan_in, fan_out) there and here.
_LAWS: dict[str, Callable[[tuple[int, int], tuple[int, int]], float]] = {
  "fan_in": lambda base, here: math.sqrt(base[0] / here[0]),
  "fixed": lambda base, here: 1.0,
  "fan_out": lambda base, here: math.sqrt(base[1] / here[1]),
  "fan_avg": lambda base, here: math.sqrt(sum(base) / sum(here)),
}
#: Law -> the size of std * sqrt(fan) in common initializers: lecun, he, PyTorch, glorot.
_GAINS: dict[str, tuple[float, ...]] = {
  "fan_in": (1.0, math.sqrt(2), math.sqrt(1 / 3)),
  "fan_out": (1.0, math.sqrt(2)),
  "fan_avg": (math.sqrt(2),),
  "fixed": (),
}
#: A measured ratio of stds agrees with a law within this, and four standard errors.
_TOLERANCE = 0.03
#: Laws that differ by less than this are not told apart: the first is taken.
_ALIKE = 0.15
#: What to write where nothing can be measured: laws of Flax's nn.Embed and of the others.
_EXAMPLE = '{"*/embedding": "fan_out", "*": "fan_in"}'


def rescale_init(
  params: Any,
  scales: Any,
  base: Any = None,
  *,
  init: Law | Mapping[str, Law] | None = None,
) -> Any:
  """Standard-initialized parameters -> those of the parametrization.

  Each is multiplied by a number, so that its std is that in the base net times its
  `std_factor`. In the base net every number is 1 and nothing changes. How the std of an
  initializer changes with width must be known for that:

      fan_in   1/sqrt(fan_in): Flax's nn.Dense, nn.Conv, nn.DenseGeneral
      fan_out  1/sqrt(fan_out): Flax's nn.Embed
      fan_avg  1/sqrt(fan_in + fan_out): xavier, glorot
      fixed    not at all: GPT-2's 0.02; constants

  With `base` it is measured, parameter by parameter, and what agrees with no law is an
  error. So is a second rescaling of what was rescaled, where it would change anything.

      params = dmup.rescale_init(params, scales, small.init(key, x)["params"])

  Args:
    params: arrays as the model initializes them at the size of `scales`; in boxes
      (`nn.Partitioned`) or without.
    scales: of `scales_from_axes`, or any tree of `Scales` like the parameters.
    base: arrays as the model initializes them at base size.
    init: instead of it the law, for all or by patterns of paths; for parameters inside
      of jax.jit, or when the base net is not at hand. Nothing is measured then:
      rescaling twice goes unnoticed. Flax's nn.Embed needs a law of its own:
      {"*/embedding": "fan_out", "*": "fan_in"}. Beside `base`, patterns name those
      parameters that are not measured, such as a class token too small for it.

  Returns:
    A new tree like `params`, of the same dtypes and shardings.

  Raises:
    DepthMupError: neither `base` nor `init`, or `base` and one law for all; the trees do
      not match; an std follows no law, or several; a pattern that fits nothing, a
      parameter that none fits.
  """
  if (base is None) == (init is None) and not isinstance(init, Mapping):
    raise DepthMupError(
      "rescale_init wants either base=, the parameters of the base net as its model "
      f"initializes them, or init=, such as {_EXAMPLE}; both only if init= names "
      "exceptions by patterns"
    )
  table = _table(params, scales)
  laws = _stated(init, table, whole=base is None) if init is not None else {}
  if base is not None:
    laws |= _measured(params, table, base, known=laws.keys())

  def rescale(path: Any, x: jax.Array) -> jax.Array:
    s = table[path_name(path)]
    law = _LAWS[laws[path_name(path)]](s.fans(s.base_shape), s.fans(s.shape))
    factor = s.std_factor / law
    if factor == 1:
      return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (x * jnp.asarray(factor, wide)).astype(x.dtype)

  plain = nn.meta.unbox(params)
  changed = jax.tree_util.tree_map_with_path(rescale, plain)
  return nn.meta.replace_boxed(params, changed)


def init_laws(params: Any, scales: Any, base: Any) -> dict[str, Law]:
  """Name of each parameter -> how the std of its initializer changes with width.

  Measured by comparing arrays of the base net with those of `params`; the names can be
  given to `rescale_init` as `init`. Of laws that agree at these sizes within 15 % the
  first is named; of others that both fit, that of a common initializer.

  Raises:
    DepthMupError: see `rescale_init`.
  """
  return _measured(params, _table(params, scales), base, known=())


def _measured(
  params: Any, table: dict[str, Scales], base: Any, known: Collection[str]
) -> dict[str, Law]:
  """Name -> law, of all parameters but those whose law is known."""
  leaves, bases = read_tree(params, "params")[0], read_tree(base, "base")[0]
  pairs, _ = align(bases, leaves, ("base", "params"))
  arrays, old = (dict(named_leaves(nn.meta.unbox(tree))) for tree in (params, base))
  laws: dict[str, Law] = {}
  for leaf in leaves:
    s, origin = table[leaf.name], pairs[leaf.name]
    _check_base_shape(s, leaf, origin)
    if leaf.name not in known:
      laws[leaf.name] = _law(leaf.name, s, arrays[leaf.name], old[origin.name])
  return laws


def _table(params: Any, scales: Any) -> dict[str, Scales]:
  """Name -> scales, checked against the parameters."""
  table = dict(named_leaves(scales))
  leaves = {leaf.name: leaf for leaf in read_tree(params, "params")[0]}
  for name, s in table.items():
    if not is_scales(s):
      raise DepthMupError(
        f"scales: {name} is a {type(s).__name__}, expected Scales; give the tree of "
        "dmup.scales_from_axes"
      )
  for name in [*leaves, *table]:
    shape = leaves[name].shape if name in leaves else None
    known = table[name].shape if name in table else None
    if shape != known:
      raise DepthMupError(
        f"parameter {name} has shape {shape} in params, but {known} in the scales; give "
        "the scales of this size of the model"
      )
  return table


def _check_base_shape(s: Scales, leaf: Leaf, origin: Leaf) -> None:
  """The given base net is that of the scales, up to the number of layers."""
  found = zip(origin.shape, s.base_shape, s.roles, strict=True)
  if any(n != m and role != "stacked" for n, m, role in found):
    raise DepthMupError(
      f"parameter {leaf.name} has shape {origin.shape} in base, but {s.base_shape} in the "
      "base net of the scales; give the parameters of that net"
    )


def _law(name: str, s: Scales, here: Any, there: Any) -> Law:
  """The law that takes the std of one parameter from the base net to here."""
  if isinstance(here, jax.core.Tracer | jax.ShapeDtypeStruct) or isinstance(
    there, jax.core.Tracer | jax.ShapeDtypeStruct
  ):
    raise DepthMupError(
      f"parameter {name} has no values that could be measured; give init= instead of "
      f"base=, such as init={_EXAMPLE}, or rescale outside of jax.jit"
    )
  new, old = np.asarray(here, np.float64), np.asarray(there, np.float64)
  flat = [np.ptp(x) <= 1e-6 * np.abs(x).max(initial=0) for x in (new, old)]
  if all(flat):
    if new.size and old.size and not np.isclose(new.flat[0], old.flat[0]):
      raise DepthMupError(
        f"parameter {name} starts at the constant {new.flat[0]:g}, and at {old.flat[0]:g} "
        "in the base net; initialize it alike, or state init="
      )
    if new.any() and "in" in s.roles and _grew(s):
      raise DepthMupError(
        f"parameter {name} starts at the constant {new.flat[0]:g} and has the axes "
        f'"{s.axes}": a constant start is a gain, and not a matrix; say so by '
        f'overrides={{"{name}": "-> ..."}} of axes_from_shapes, every axis after the arrow'
      )
    return "fixed"
  if any(flat):
    raise DepthMupError(
      f"parameter {name} is constant at one size and random at the other; give both as "
      "the model initializes them"
    )
  return _fitting_law(name, s, new, old)


def _fitting_law(name: str, s: Scales, new: np.ndarray, old: np.ndarray) -> Law:
  """The law of two random arrays; where several fit, that of a common initializer."""
  ratio = new.std() / old.std()
  noise = [math.sqrt(1 / (2 * x.size)) for x in (new, old)]
  near = _TOLERANCE + 4 * math.hypot(*noise)
  fans = s.fans(s.base_shape), s.fans(s.shape)
  ratios = {law: f(*fans) for law, f in _LAWS.items()}
  fits = [law for law in get_args(Law) if abs(math.log(ratio / ratios[law])) < near]
  if not np.isfinite(ratio) or not fits:
    known = ", ".join(f"{law} {r:.3g}" for law, r in ratios.items())
    raise DepthMupError(
      f"parameter {name}: its std is {ratio:.3g} times that of the base net, which is no "
      f"law of standard initializers ({known}); if it was rescaled already or starts with "
      "a factor of depth, give it as a standard initializer makes it, or state init="
    )
  if _alike(fits, ratios):
    return fits[0]
  fan_in, fan_out = fans[1]
  fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": fan_in + fan_out, "fixed": 1}
  gains = {law: new.std() * math.sqrt(fan[law]) for law in fits}
  common = [
    law
    for law in fits
    if any(abs(math.log(gains[law] / g)) < 4 * noise[0] < _ALIKE for g in _GAINS[law])
  ]
  if not common or not _alike(common, ratios):
    raise DepthMupError(
      f"parameter {name} is too small, or the sizes too near, to tell how its std changes: "
      f"{' or '.join(fits)}; state init="
    )
  return common[0]


def _alike(laws: list[Law], ratios: dict[str, float]) -> bool:
  """Whether these laws give about one std, so that it does not matter which it is."""
  return all(abs(math.log(ratios[law] / ratios[laws[0]])) < _ALIKE for law in laws)


def _grew(s: Scales) -> bool:
  """Whether an axis other than that of layers is larger than in the base net."""
  sizes = zip(s.shape, s.base_shape, s.roles, strict=True)
  return any(n != m and role != "stacked" for n, m, role in sizes)


def _stated(
  init: Law | Mapping[str, Law], table: dict[str, Scales], whole: bool
) -> dict[str, Law]:
  """Name -> law, by the first pattern that fits; of the whole net or of some parameters."""
  rules = {"*": init} if isinstance(init, str) else init
  if not isinstance(rules, Mapping):
    raise DepthMupError(f"init={init!r}: expected a law or a mapping from patterns to laws")
  for pattern, law in rules.items():
    if law not in get_args(Law):
      raise DepthMupError(f"init: {law!r} is none of {', '.join(get_args(Law))}")
    check_used(pattern, "init", table)
  found: dict[str, Law] = {}
  for name, s in table.items():
    laws = [law for pattern, law in rules.items() if matches(pattern, name)]
    if not laws and not whole:
      continue
    if not laws:
      raise DepthMupError(f'init has no pattern for parameter {name}; end with "*"')
    found[name] = "fixed" if s.kind.value in ("vector", "scalar") else laws[0]
  return found
