"""The coordinate check: do activations and updates scale with size as they should?

Layer: jax, flax, optax, `coordinates`, `coordinate_verdict`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from flax_depthmup.checks import check_size
from flax_depthmup.diagnostics.coordinate_verdict import CoordinateCheck, judge_coordinates
from flax_depthmup.diagnostics.coordinates import Probe, Training
from flax_depthmup.diagnostics.plain_net import PlainNet
from flax_depthmup.errors import DepthMupError
from flax_depthmup.parametrizations.base import Parametrization

Row = dict[str, Any]

#: Quantities that each probe looks at.
PROBES = {
  "training": ("value", "change", "branch"),
  "eps": ("change", "branch"),
  "decay": ("parameter",),
}
#: In the probe "eps" gradients are this many times smaller than eps.
_BELOW_EPS = 8.0
#: Squares of gradients below this are lost in float32.
_SMALLEST_SQUARE = 1e-36


def coordinate_check(
  make_model: Callable[[int, int], nn.Module | PlainNet],
  training: Training,
  *,
  widths: Sequence[int],
  depths: Sequence[int],
  parametrization: Parametrization | None = None,
  tolerance: float = 0.15,
  on_net: Callable[[int, int], None] | None = None,
) -> CoordinateCheck:
  """Trains nets of growing width and depth a few steps and fits how coordinates scale.

  Width is varied at the smallest depth, depth at the smallest width. Three probes train
  the same nets with the loss multiplied by

      training   1
      eps        a number that makes gradients eight times smaller than the optimizer's
                 eps in the smallest net: shows a wrong rule for eps, which full-size
                 gradients hide
      decay      0: what still moves the parameters is weight decay

  and these quantities are taken, each by module or parameter:

      value      the output of the module
      change     the same minus that at t = 0, on the same inputs
      branch     g(x; W_t) - g(x; W_0) of a residual branch g at its inputs of now,
                 before the branch multiplier: what its own update does
      parameter  (W_t - W_0) / rms(W_0)

  Slopes of log l2 over log size are judged against those that the parametrization
  predicts; see `judge_coordinates`.

  Args:
    make_model: (width, depth) -> a linen module with annotated parameters and
      residual branches (`dmup.Residual`, `dmup.ResidualStack`), or a `PlainNet`.
    training: data, loss, optimizer and rate.
    widths: at least three to judge width, one to leave it alone.
    depths: likewise.
    parametrization: of the nets; None: the field of that name of the model.
    tolerance: how far a slope may lie from its prediction.
    on_net: told (width, depth) when a size is done.

  Returns:
    The rows, with the columns width, depth, module, t, l1 (mean |x|), l2 (root mean
    square), mean, std, optimizer, lr, seed, quantity, probe, zone (before, inside or
    after the residual branches); the fitted slopes; the verdict.

  Raises:
    DepthMupError: sizes that are no sizes, two of an axis, a net without
      annotations, residual branches or parametrization, an eps too small to probe.

  References: Yang et al., Tensor Programs V, arXiv 2203.03466, appendix D.1 (the
  check over width); Dey et al., arXiv 2505.01618, Figure 7 (over depth).
  """
  if not callable(make_model) or not isinstance(training, Training):
    raise DepthMupError(
      f"make_model={make_model!r} and training={training!r}: expected a function of "
      "(width, depth) and a Training"
    )
  sizes = sizes_of(widths, depths)
  p = parametrization or parametrization_of(make_model(*sizes[0]))
  scales = loss_scales(make_model(*sizes[0]), training)
  rows: list[Row] = []
  for width, depth in sizes:
    rows += coordinate_rows(make_model(width, depth), training, width, depth, scales)
    if on_net is not None:
      on_net(width, depth)
  return judge_coordinates(rows, p, tolerance)


def sizes_of(widths: Sequence[int], depths: Sequence[int]) -> list[tuple[int, int]]:
  """(width, depth) of every net: a row and a column that share the smallest of each.

  Raises:
    DepthMupError: no sizes, doubles, or exactly two of an axis.
  """
  widths, depths = _axis("widths", widths), _axis("depths", depths)
  return [(w, depths[0]) for w in widths] + [(widths[0], d) for d in depths[1:]]


def _axis(name: str, values: Any) -> list[int]:
  """Sizes along one axis, the smallest first."""
  values = list(values) if isinstance(values, Iterable) else []
  if not values:
    raise DepthMupError(f"{name}: expected a sequence of sizes, such as (64, 128, 256)")
  for value in values:
    check_size(value, f"a size of {name}={tuple(values)}")
  if len(set(values)) != len(values) or len(values) == 2:
    raise DepthMupError(
      f"{name}={tuple(values)}: expected one size, or at least three different ones: "
      "two points always lie on a line"
    )
  return sorted(int(value) for value in values)


def parametrization_of(model: Any) -> Parametrization:
  """The parametrization that a model has as its field.

  Raises:
    DepthMupError: it has none.
  """
  found = getattr(model, "parametrization", None)
  if not isinstance(found, Parametrization):
    raise DepthMupError(
      f"{type(model).__name__} has no field parametrization; give parametrization="
    )
  return found


def loss_scales(smallest: nn.Module | PlainNet, training: Training) -> dict[str, float]:
  """Probe -> the factor of the loss; no "eps" where the optimizer has none.

  Raises:
    DepthMupError: eps is so small that such gradients vanish in float32, or the
      smallest net has no gradient.
  """
  scales = {"training": 1.0, "decay": 0.0}
  if training.eps is None:
    return scales
  if not (training.eps / _BELOW_EPS) ** 2 > _SMALLEST_SQUARE:
    raise DepthMupError(
      f"eps={training.eps}: gradients smaller than that vanish in float32 when squared; "
      "give a larger eps to the optimizer and to the check, or eps=None to leave it out"
    )
  size = Probe(smallest, training).scaled_gradient(training.seeds[0])
  if not (np.isfinite(size) and size > 0):
    raise DepthMupError(
      f"the gradients of the smallest net have size {size}; give inputs and a loss with "
      "a finite gradient that is not zero"
    )
  return scales | {"eps": training.eps / _BELOW_EPS / size}


def coordinate_rows(
  model: nn.Module | PlainNet,
  training: Training,
  width: int,
  depth: int,
  scales: dict[str, float],
) -> list[Row]:
  """The rows of one size, all probes and seeds; see `coordinate_check`."""
  probe, rows = Probe(model, training), []
  for name, loss_scale in scales.items():
    for seed in training.seeds:
      for t, quantity, module, stats in probe.observe(seed, loss_scale):
        if quantity not in PROBES[name]:
          continue
        rows.append(
          {
            "width": int(width),
            "depth": int(depth),
            "module": module,
            "t": int(t),
            **{key: float(value) for key, value in stats.items()},
            "optimizer": training.name,
            "lr": float(training.lr),
            "seed": int(seed),
            "quantity": quantity,
            "probe": name,
            "zone": probe.zones.get(module),
          }
        )
  return rows
