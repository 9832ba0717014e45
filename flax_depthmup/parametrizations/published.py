"""Presets as others published them, under their own names, their differences kept.

| preset                | (alpha, gamma)     | width rule | eps rule          | decay in `adamw`    |
|-----------------------|--------------------|------------|-------------------|---------------------|
| `complete_p_paper`    | (alpha, 1 - alpha) | `TABLE_8`  | `EPS_BRANCHES`    | "width_compensated" |
| `complete_p_eleuther` | (alpha, 1 - alpha) | `TABLE_8`  | `EPS_EVERYWHERE`  | "width_compensated" |
| `complete_d_p`        | (alpha, 1 - alpha) | `TABLE_3`  | `EPS_COMPLETE_DP` | "width_compensated" |
| `u_mup`               | (1/2, 1/2)         | `U_MUP`    | `EPS_CONSTANT`    | "independent_peak"  |
| `mup_package`         | (0, 0)             | `TABLE_8`  | `EPS_CONSTANT`    | "width_compensated" |
| `megatron_depth_mup`  | (1, 0)             | `TABLE_8`  | `EPS_HIDDEN`      | "coupled"           |
| `mini_cpm`            | (1/2, 0)           | `TABLE_8`  | `EPS_CONSTANT`    | "coupled"           |

With m_N the width ratio and m_L the depth ratio, AdamW, relative to the base net:

|                          | Table 8                  | Table 3                  | u-muP                 |
|--------------------------|--------------------------|--------------------------|-----------------------|
| branch                   | m_L^-alpha               | m_L^-alpha               | m_L^-1/2              |
| embedding: std, rate     | 1, 1                     | 1, 1                     | 1, m_N^-1/2           |
| matrices in blocks: std  | m_N^-1/2                 | m_N^-1/2                 | 1 (times m_N^-1/2)    |
| matrices in blocks: rate | m_N^-1 m_L^-gamma        | m_N^-1 m_L^-gamma        | m_N^-1/2 m_L^-1/2     |
| gains, biases in blocks  | m_L^-gamma               | m_L^-gamma               | m_L^-1/2              |
| final norm               | 1                        | 1                        | 1                     |
| readout: std, rate       | 1, 1 (times 1/m_N)       | 1/m_N, 1/m_N             | 1, 1 (times 1/m_N)    |

All but `u_mup`, which is absolute unless it is given base sizes, are standard
parametrization at the base width and depth. Attention logits are scaled by 1/head_dim in
each, which is the model's affair. With an optimizer that is linear in the gradient (SGD)
their gradient factor would be wrong: `scale_by_parametrization` refuses it.

Layer: standard library only.
"""

import warnings
from collections.abc import Mapping
from fractions import Fraction

from flax_depthmup.exponents import Exponent, as_exponent
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.eps_rules import (
  EPS_BRANCHES,
  EPS_COMPLETE_DP,
  EPS_CONSTANT,
  EPS_EVERYWHERE,
  EPS_HIDDEN,
  EpsRule,
)
from flax_depthmup.parametrizations.width_rules import TABLE_3, TABLE_8, U_MUP, WidthRule

BaseWidth = int | Mapping[str, int]
_HALF = Fraction(1, 2)


def complete_p_paper(
  *, base_width: BaseWidth, base_depth: int, alpha: Exponent = 1
) -> Parametrization:
  """CompleteP with eps as in the paper: only inside residual branches.

  Dey et al., arXiv 2505.01618, Table 1. `complete_p` differs in the eps of the
  embedding and of the readout, whose gradients fall as 1/m_N too.
  """
  return _alpha_family(
    "complete_p_paper", TABLE_8, EPS_BRANCHES, alpha, base_width, base_depth
  )


def complete_p_eleuther(
  *, base_width: BaseWidth, base_depth: int, alpha: Exponent = 1
) -> Parametrization:
  """CompleteP as in its authors' code, the branch "completep" of nanoGPT-mup.

  One eps for all parameters, that of the hidden layers (1/m_L^alpha for scalars and
  gains of finite axes, which know no width ratio); no decay of gains and
  biases (`adamw`'s mask). Their readout is tied to the embedding.
  """
  return _alpha_family(
    "complete_p_eleuther", TABLE_8, EPS_EVERYWHERE, alpha, base_width, base_depth
  )


def complete_d_p(
  *, base_width: BaseWidth, base_depth: int, alpha: Exponent = 1
) -> Parametrization:
  """Complete(d)P in width and depth (arXiv 2512.22382, Table 1): untied readout.

  Its rules for batch size and number of tokens change the optimizer's
  hyperparameters for all layers alike: `AdamWSettings.rescaled`.
  """
  return _alpha_family(
    "complete_d_p", TABLE_3, EPS_COMPLETE_DP, alpha, base_width, base_depth
  )


def u_mup(*, base_width: BaseWidth = 1, base_depth: int = 1) -> Parametrization:
  """u-muP (Blake et al., arXiv 2407.17465, Table 2 and appendix G): unit scaling.

  Absolute with base sizes of 1, as published: weights start at N(0, 1). For axes
  of other names than "embed" give a mapping of ones, {"embed": 1, "mlp": 1, ...}.
  The published residual rule, x <- (x + tau F(x)) / sqrt(1 + tau^2) with tau falling
  over the layers, is the same net as x <- x + a/sqrt(L) F(x) where every branch and
  the readout begin with a norm; a is its residual multiplier (`block_multiplier`),
  for a ratio of attention to MLP of 1.

  Its input row is the one of embeddings; a dense first layer gets it as well. The
  window of a convolution is finite and counts for no fan, so that its rates are larger
  by kh kw. The
  backward multiplier of its readout, which Adam cannot see, is left out.
  """
  return Parametrization(
    name="u_mup",
    alpha=_HALF,
    gamma=_HALF,
    width_rule=U_MUP,
    base_width=base_width,
    base_depth=base_depth,
    eps_rule=EPS_CONSTANT,
  )


def mup_package(*, base_width: BaseWidth, base_depth: int) -> Parametrization:
  """The package mup with MuAdam or MuAdamW: Table 8 of Tensor Programs V, one eps.

  `mup` differs in eps alone. MuAdamW's default decay is "width_compensated", with
  decoupled_wd=True it is "coupled". Its tied readout rescales the embedding by the
  root of m_N, which is a mistake and is not copied.
  """
  return _alpha_family("mup_package", TABLE_8, EPS_CONSTANT, 0, base_width, base_depth, 0)


def megatron_depth_mup(*, base_width: BaseWidth, base_depth: int) -> Parametrization:
  """The recipe that Megatron-LM calls depth_mup: CompleteP, alpha = 1.

  Not `depth_mup`, and it warns so. Its eps rule leaves out gains and biases. The std of
  the output projections, over sqrt(2 L0) in the base net, is a `base_std`: it does not
  change with depth.
  """
  warnings.warn(
    "megatron_depth_mup is CompleteP (alpha = 1, gamma = 0) under the name that "
    "Megatron-LM gives it; Depth-muP of Tensor Programs VI (alpha = gamma = 1/2) is "
    "dmup.depth_mup",
    stacklevel=2,
  )
  return _alpha_family("megatron_depth_mup", TABLE_8, EPS_HIDDEN, 1, base_width, base_depth)


def mini_cpm(*, base_width: BaseWidth, base_depth: int) -> Parametrization:
  """MiniCPM (Hu et al., arXiv 2404.06395): branches over sqrt(L), no rate of depth.

  (alpha, gamma) = (1/2, 0): stable at initialization and not in training, as
  `classify` says: under Adam the updates of the blocks add up to sqrt(m_L) times
  those of the base net. In its config's words: `scale_depth` / sqrt(L0) is the
  `block_multiplier`, `scale_emb` the multiplier of the embedding, `dim_model_base`
  the base width.
  """
  return _alpha_family("mini_cpm", TABLE_8, EPS_CONSTANT, _HALF, base_width, base_depth, 0)


def _alpha_family(
  name: str,
  width_rule: WidthRule,
  eps_rule: EpsRule,
  alpha: Exponent,
  base_width: BaseWidth,
  base_depth: int,
  gamma: Exponent | None = None,
) -> Parametrization:
  """A point of the class; gamma = 1 - alpha unless it is given."""
  alpha = as_exponent(alpha, "alpha")
  return Parametrization(
    name=name,
    alpha=alpha,
    gamma=1 - alpha if gamma is None else gamma,
    width_rule=width_rule,
    base_width=base_width,
    base_depth=base_depth,
    eps_rule=eps_rule,
  )
