"""Learning rates over the steps of a training run."""

import optax

from flax_depthmup import DepthMupError

SCHEDULES = ("constant", "cosine", "wsd")


def schedule(name: str, peak: float, steps: int, warmup: int, decay: int) -> optax.Schedule:
  """Learning rate by step.

  Args:
    name: "constant" after the warm-up; "cosine" falls to a tenth of the peak at the
      last step; "wsd" (warm-up, stable, decay; Hu et al., arXiv 2404.06395) falls to
      zero, linearly, over the last `decay` steps.
    peak: the highest rate.
    steps: of the whole run.
    warmup: steps of a linear rise from zero.
    decay: see wsd.

  Raises:
    DepthMupError: an unknown name, or a warm-up and a decay that do not fit.
  """
  if name not in SCHEDULES:
    raise DepthMupError(f"--schedule={name}: expected one of {', '.join(SCHEDULES)}")
  decay = decay if name == "wsd" else 0
  if warmup < 0 or decay < 0 or warmup + decay > steps:
    raise DepthMupError(
      f"--warmup={warmup} and --decay={decay} do not fit into --steps={steps}; expected "
      "whole numbers of at least 0 that do together"
    )
  stable = steps - warmup - decay
  after = {
    "constant": optax.constant_schedule(peak),
    "cosine": optax.cosine_decay_schedule(peak, max(stable, 1), alpha=0.1),
    "wsd": optax.constant_schedule(peak),
  }[name]
  # Step 0 of a warm-up has a rate above zero: it would else be a wasted batch.
  parts = [optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1)), after]
  bounds = [warmup]
  if decay:
    parts.append(optax.linear_schedule(peak * (1 - 1 / decay), 0.0, max(decay - 1, 1)))
    bounds.append(warmup + stable)
  return optax.join_schedules(parts, bounds)
