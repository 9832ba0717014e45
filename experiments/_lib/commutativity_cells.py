"""What is measured in one cell (family, width, depth), beside its limits."""

import functools
import math
from typing import Any

import numpy as np

from experiments._lib.commutativity_theory import log_norm
from flax_depthmup import DepthMupError
from flax_depthmup.diagnostics.covariance import FEWEST, summarize_draws
from flax_depthmup.limits import (
  correlation,
  dual_covariance,
  mlp_covariance,
  residual_covariance_limit,
)

Row = dict[str, Any]
_RELU = {"activation": "relu", "mean_subtraction": False}


def row(
  family: str, width: int, depth: int, c0: float, log_q: np.ndarray, distance: np.ndarray
) -> Row:
  """The record of one cell.

  Args:
    family: see `commutativity_draws`.
    width: n.
    depth: L.
    c0: correlation of the inputs.
    log_q: [draws, 2] log <Y_L, Y_L>/n of both inputs.
    distance: [draws] 1 - c of the two.

  Raises:
    DepthMupError: hardly a net is left in which both inputs arrive.
  """
  alive = np.isfinite(log_q).all(axis=1)
  if alive.sum() < FEWEST:
    raise DepthMupError(
      f"in {int((~alive).sum())} of {len(alive)} nets of family {family}, width {width}, "
      f"depth {depth}, relu leaves nothing of an input; give wider or shallower cells"
    )
  log_q, distance = log_q[alive], distance[alive]
  logs, apart = summarize_draws(log_q[:, 0]), summarize_draws(distance)
  mean, std = log_norm(family, width, depth)
  found = {
    "family": family,
    "width": width,
    "depth": depth,
    "draws": len(alive),
    "dead": int((~alive).sum()),
    "distance_mean": float(apart.mean),
    "distance_mean_error": float(apart.mean_error),
    "distance_median": float(apart.median),
    "distance_median_error": float(apart.median_error),
    "distance_width_first": distance_width_first(family, depth, c0),
    "log_q_mean_theory": mean,
    "log_q_std_theory": std,
    "log_q_width_first": log_q_width_first(family, depth),
  }
  for name in ("mean", "std", "median"):
    for key in (name, f"{name}_error"):
      found[f"log_q_{key}"] = float(getattr(logs, key))
  if family.startswith("scaled"):
    found |= _errors(log_q, distance, c0)
    found["q_aa_rms_theory"] = float(limit(c0)[0, 0]) * std  # first order in 1/n
  return found


def _errors(log_q: np.ndarray, distance: np.ndarray, c0: float) -> Row:
  """Root mean square distances to the limit of infinite width and depth."""
  k = limit(c0)
  q_ab = np.exp(log_q.mean(axis=1)) * (1 - distance)
  found: Row = {}
  for name, values, goal in (
    ("q_aa", np.exp(log_q[:, 0]), k[0, 0]),
    ("q_ab", q_ab, k[0, 1]),
  ):
    squares = summarize_draws((values - goal) ** 2)
    rms = math.sqrt(float(squares.mean))
    found |= {f"{name}_rms": rms, f"{name}_rms_error": float(squares.mean_error) / 2 / rms}
  return found


@functools.cache
def limit(c0: float) -> np.ndarray:
  """[2, 2] covariance of the scaled net of infinite width and depth."""
  k0 = [[1.0, c0], [c0, 1.0]]
  return residual_covariance_limit(k0, [1.0], **_RELU)[-1]


def log_q_width_first(family: str, depth: int) -> float:
  """log q at depth L as the width tends to infinity."""
  alpha2 = {"mlp": 0.0, "unscaled": 1.0}.get(family, 1 / depth)
  return depth * math.log1p(alpha2 / 2)


@functools.cache
def distance_width_first(family: str, depth: int, c0: float) -> float:
  """1 - c at depth L as the width tends to infinity."""
  k = np.array([[1.0, c0], [c0, 1.0]])
  if family == "mlp":
    k = mlp_covariance(k, depth, **_RELU)[-1]
  else:
    alpha2 = 1.0 if family == "unscaled" else 1 / depth
    for _ in range(depth):  # by correlations: 1.5^L would leave float64
      k = (k + alpha2 * dual_covariance(k, **_RELU)) / (1 + alpha2 / 2)
  return float(1 - correlation(k)[0, 1])
