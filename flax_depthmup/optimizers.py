"""Optimizers under a parametrization: thin chains around `scale_by_parametrization`.

Layer: optax, mathematics; knows no flax.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import optax

from flax_depthmup.axes import Kind
from flax_depthmup.checks import check_nonnegative, is_number
from flax_depthmup.errors import DepthMupError
from flax_depthmup.families import MUON
from flax_depthmup.paths import path_name
from flax_depthmup.transforms import named_leaves, scale_by_parametrization
from flax_depthmup.weight_decay import add_decayed_weights

LearningRate = float | jax.Array | Callable[[jax.Array], jax.Array]
Decay = Literal[
  "size_independent", "width_compensated", "coupled", "independent", "independent_peak"
]


def sgd(
  learning_rate: LearningRate,
  scales: Any,
  momentum: float | None = None,
  nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """SGD; a hidden matrix moves with eta (fan_out/fan_in ratio) (L/L0)^(alpha-gamma)."""
  if momentum is not None:
    _check_decay_rate(momentum, "momentum")
  q = optax.identity() if momentum is None else optax.trace(momentum, nesterov)
  return _with_rate(scale_by_parametrization(q, scales), learning_rate)


def adam(
  learning_rate: LearningRate,
  scales: Any,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
  """Adam; the update factor is on the learning rate, the gradient factor divides eps."""
  return _with_rate(_adam(scales, b1, b2, eps), learning_rate)


def adamw(
  learning_rate: LearningRate,
  scales: Any,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 1e-4,
  decay: Decay = "size_independent",
  mask: Any = None,
  peak_learning_rate: float | None = None,
) -> optax.GradientTransformationExtraArgs:
  """AdamW, with the meaning of weight decay spelt out.

  With C = n^(-c) the width part and m_L^(-gamma) the depth part of a
  parameter's update factor, eta the learning rate of the step and lambda the
  weight decay, a step shrinks the parameter by

  | decay              | shrink per step          | elsewhere                      |
  |--------------------|--------------------------|--------------------------------|
  | size_independent   | eta lambda               | added after the scaling        |
  | width_compensated  | eta lambda m_L^(-gamma)  | mup's default, CompleteP       |
  | coupled            | eta lambda C m_L^(-gamma)| AdamW with a rate per group    |
  | independent_peak   | lambda eta / eta_peak    | lambda / peak given to AdamW   |
  | independent        | lambda                   | constant, whatever the rate    |

  Frozen parameters never decay.

  Args:
    learning_rate: eta, a number or an optax schedule.
    scales: the tree of `Scales` of `dmup.init`.
    b1: decay of Adam's first moment.
    b2: decay of its second moment.
    eps: added to the root of the second moment.
    weight_decay: lambda.
    decay: a row of the table.
    mask: tree of booleans, or a function from parameters to one: which
      parameters decay. None: all. Only matrices:
      `jax.tree.map(lambda s: s.kind.value not in ("vector", "scalar"), scales)`.
    peak_learning_rate: eta_peak, for "independent_peak" only.

  Raises:
    DepthMupError: unknown `decay`, a negative or infinite `weight_decay`, a
      missing or needless `peak_learning_rate`.
  """
  if decay not in get_args(Decay):
    raise DepthMupError(
      f"decay={decay!r}: expected one of {', '.join(get_args(Decay))}; see adamw"
    )
  if not isinstance(weight_decay, jax.Array):
    check_nonnegative(weight_decay, "weight_decay")
  peak = peak_learning_rate
  given = peak is not None and is_number(peak) and peak > 0
  if given != (decay == "independent_peak") or not (given or peak is None):
    raise DepthMupError(
      f"decay={decay!r} with peak_learning_rate={peak!r}: give the peak of the schedule, "
      'a positive number, with decay="independent_peak", and only then'
    )
  q = _adam(scales, b1, b2, eps)
  if decay == "independent_peak":
    assert peak is not None  # checked above
    weight_decay = weight_decay / peak
  if decay == "independent":
    return optax.chain(
      q,
      optax.scale_by_learning_rate(learning_rate),
      add_decayed_weights(-weight_decay, scales, mask=mask),
    )
  factor = "size_independent" if decay == "independent_peak" else decay
  shrink = add_decayed_weights(weight_decay, scales, factor, mask)
  return _with_rate(optax.chain(q, shrink), learning_rate)


def muon(
  learning_rate: LearningRate,
  scales: Any,
  *,
  adam_learning_rate: LearningRate,
  beta: float = 0.95,
  nesterov: bool = True,
  weight_decay: float = 0.0,
  mask: Any = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
  """Muon for the hidden matrices, Adam for all else, both under the parametrization.

  A hidden matrix moves by learning_rate * sqrt(m_out/m_in) m_L^(-gamma) times an
  orthogonal matrix, m the ratios to the base net, where sqrt(fan_out/fan_in) is not
  taken out: tuned on the base net, not carried over from another Muon. Matrices are
  [fan_in, fan_out], heads together, layer by layer (the family `MUON`).

  Args:
    learning_rate: of the hidden matrices.
    scales: the tree of `Scales` of `dmup.init`.
    adam_learning_rate: of embeddings, readout, gains and biases.
    beta: decay of Muon's momentum.
    nesterov: of Muon.
    weight_decay: times the learning rate of the group, whatever the size.
    mask: which parameters decay; see `adamw`.
    b1: decay of Adam's first moment.
    b2: decay of its second moment.
    eps: of Adam.

  Raises:
    DepthMupError: as `adamw` does.

  References: Jordan et al., Muon, 2024; arXiv 2603.00541 and 2512.05620 for the
  scaling of its learning rate.
  """
  _check_decay_rate(beta, "beta")
  if not isinstance(weight_decay, jax.Array):
    check_nonnegative(weight_decay, "weight_decay")
  q = optax.contrib.scale_by_muon(beta=beta, nesterov=nesterov)
  groups = {
    "muon": (scale_by_parametrization(q, scales, family=MUON), learning_rate),
    "adam": (_adam(scales, b1, b2, eps), adam_learning_rate),
  }
  shrink = add_decayed_weights(weight_decay, scales, mask=mask)
  kinds = {name: s.kind for name, s in named_leaves(scales)}

  def labels(params: Any) -> Any:  # the container of the scales may be another
    return jax.tree_util.tree_map_with_path(
      lambda path, _: "muon" if kinds.get(path_name(path)) is Kind.HIDDEN else "adam",
      params,
    )

  return optax.partition(
    {name: _with_rate(optax.chain(tx, shrink), lr) for name, (tx, lr) in groups.items()},
    labels,
  )


def _adam(scales: Any, b1: float, b2: float, eps: float):
  _check_decay_rate(b1, "b1")
  _check_decay_rate(b2, "b2")
  if not isinstance(eps, jax.Array):
    check_nonnegative(eps, "eps")
  return scale_by_parametrization(optax.scale_by_adam(b1, b2, eps), scales)


def _check_decay_rate(value: Any, name: str) -> None:
  """A number in [0, 1); a traced one passes, its value is not known."""
  if not isinstance(value, jax.Array) and not (is_number(value) and 0 <= value < 1):
    raise DepthMupError(f"{name}={value!r}: expected a number in [0, 1)")


def _with_rate(tx: optax.GradientTransformation, learning_rate: LearningRate):
  array = isinstance(learning_rate, jax.Array) and learning_rate.ndim == 0
  if not callable(learning_rate) and not array:
    check_nonnegative(learning_rate, "learning_rate")
  return optax.chain(tx, optax.scale_by_learning_rate(learning_rate))
