"""AdamW's hyperparameters when the batch or the number of tokens changes.

Layer: standard library only.
"""

from __future__ import annotations

import dataclasses
import math

from flax_depthmup.checks import check_nonnegative, check_size, is_number
from flax_depthmup.errors import DepthMupError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWSettings:
  """AdamW's hyperparameters and the number of steps they were tuned for.

  Attributes:
    learning_rate: eta; the peak of a schedule.
    weight_decay: lambda of an AdamW whose decay is multiplied by the learning rate.
    eps: of the base net.
    b1: decay of the first moment.
    b2: decay of the second.
    steps: of training.
  """

  learning_rate: float
  weight_decay: float
  eps: float
  b1: float
  b2: float
  steps: int

  def __post_init__(self):
    for name in ("learning_rate", "weight_decay", "eps"):
      check_nonnegative(getattr(self, name), name)
    check_size(self.steps, "steps")
    for name in ("b1", "b2"):
      value = getattr(self, name)
      if not is_number(value) or not 0 <= value < 1:
        raise DepthMupError(f"{name}={value!r}: expected a number in [0, 1)")

  def rescaled(self, *, batch_ratio: float, token_ratio: float) -> AdamWSettings:
    """The settings for m_B times the batch and m_D times the tokens.

    | quantity                    | factor         |
    |-----------------------------|----------------|
    | learning rate, weight decay | sqrt(m_B/m_D)  |
    | eps                         | sqrt(m_D/m_B)  |
    | 1 - b1, 1 - b2              | m_B/m_D        |
    | steps                       | m_D/m_B        |

    Complete(d)P (arXiv 2512.22382, Table 1), from the limit in which AdamW is a
    stochastic differential equation. An independent decay (outside of the learning
    rate) scales as m_B/m_D instead.

    Args:
      batch_ratio: m_B.
      token_ratio: m_D.

    Raises:
      DepthMupError: a ratio is not positive, or 1 - b1 or 1 - b2 would be above 1:
        the batch is too large for the rule.
    """
    for name, value in (("batch_ratio", batch_ratio), ("token_ratio", token_ratio)):
      if not is_number(value) or value <= 0:
        raise DepthMupError(f"{name}={value!r}: expected a positive number")
    kappa = batch_ratio / token_ratio
    for name in ("b1", "b2"):
      if (1 - getattr(self, name)) * kappa > 1:
        raise DepthMupError(
          f"batch_ratio/token_ratio={kappa:g} makes 1 - {name} larger than 1: the rule "
          f"ends at {1 / (1 - getattr(self, name)):g} times; take a smaller batch or "
          "more tokens"
        )
    return AdamWSettings(
      learning_rate=self.learning_rate * math.sqrt(kappa),
      weight_decay=self.weight_decay * math.sqrt(kappa),
      eps=self.eps / math.sqrt(kappa),
      b1=1 - (1 - self.b1) * kappa,
      b2=1 - (1 - self.b2) * kappa,
      steps=max(1, round(self.steps / kappa)),
    )
