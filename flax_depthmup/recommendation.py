"""Which preset the theory supports for a net, what may fail, and how to measure it.

Layer: jax, flax, `branch_survey`.
"""

import dataclasses
import textwrap
from typing import Any

from flax import linen as nn

import flax_depthmup.recommendation_claims as claims
from flax_depthmup.axes import Kind
from flax_depthmup.branch_survey import Survey, survey
from flax_depthmup.checks import check_size
from flax_depthmup.classify import classify
from flax_depthmup.errors import DepthMupError
from flax_depthmup.parametrizations.base import Parametrization
from flax_depthmup.parametrizations.width_rules import TABLE_3
from flax_depthmup.recommendation_claims import Claim
from flax_depthmup.recommendation_commands import ENTRYWISE, commands
from flax_depthmup.transforms import named_leaves

#: pre: at the head of every branch; none: in no branch; end: behind the last matrix of a
#: branch; post: on the stream, between blocks.
NORMS = ("pre", "none", "end", "post")
_LINEAR = ("sgd", "momentum")
#: Those of whole matrices.
MATRICES = ("adafactor", "muon", "shampoo", "soap")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recommendation:
  """What `recommend` says; print it.

  Attributes:
    preset: name of the preset.
    call: how it is made, base sizes left open.
    alpha, gamma: its exponents, as texts.
    supported: False where no theory covers the net (post-norm): the preset is then a
      guess to be measured.
    block_depth: weight matrices of the branch that has most of them.
    norm: where norms stand, one of `NORMS`.
    optimizer: as it was given.
    present: what the model has now, in words; None where no model was given.
    reasons: why this preset.
    disputed: what speaks against it.
    may_fail: what is known to fail in such a net, or in all of them.
    commands: that measure it on the experiments' net which is most like this one; empty
      where none of these has such blocks or takes the optimizer.
  """

  preset: str
  call: str
  alpha: str
  gamma: str
  supported: bool
  block_depth: int
  norm: str
  optimizer: str
  present: str | None
  reasons: tuple[Claim, ...]
  disputed: tuple[Claim, ...]
  may_fail: tuple[Claim, ...]
  commands: tuple[str, ...]

  def __str__(self) -> str:
    head = "theory supports" if self.supported else "no theory covers it; try"
    lines = [
      f"block depth {self.block_depth}, norm: {self.norm}, optimizer: {self.optimizer}",
      f"{head}: {self.call}  (alpha = {self.alpha}, gamma = {self.gamma})",
    ]
    lines += [f"the model has {self.present}"] if self.present else []
    parts = (
      ("why", self.reasons),
      ("disputed", self.disputed),
      ("may fail", self.may_fail),
    )
    for title, found in parts:
      lines += ["", title] if found else []
      for claim in found:
        lines += textwrap.wrap(str(claim), 88, initial_indent="- ", subsequent_indent="  ")
    lines += ["", "measure it"]
    lines += [f"  {command}" for command in self.commands]
    lines.append(
      "  on your own net: flax_depthmup.diagnostics.coordinate_check, dmup.run_sweep"
    )
    return "\n".join(lines)


def recommend(
  model: nn.Module | None = None,
  *inputs: Any,
  block_depth: int | None = None,
  norm: str | None = None,
  optimizer: str = "adam",
) -> Recommendation:
  """Which preset the theory supports for this net, with sources and a way to measure.

      print(dmup.recommend(model, x))
      print(dmup.recommend(block_depth=2, norm="pre", optimizer="sgd"))

  | block depth | preset       | (alpha, gamma) | source                             |
  |-------------|--------------|----------------|------------------------------------|
  | 1           | `depth_mup`  | (1/2, 1/2)     | Tensor Programs VI, section 7      |
  | 2 or more   | `complete_p` | (1, 0)         | Dey et al., arXiv 2505.01618       |

  Block depth counts the hidden weight matrices inside one branch: 2 for an MLP, gated or
  not 2 or more, 4 for attention. Matrices that stand side by side count each, for their
  order cannot be seen; give `block_depth` where that makes 2 of 1.

  Args:
    model: a linen module with annotated parameters and blocks in `Residual`; None: the
      next two arguments say what it is like.
    *inputs: of its `__call__`; shapes are enough.
    block_depth: in place of what is counted.
    norm: one of `NORMS`, in place of what is seen; a norm that is a plain function is
      not seen.
    optimizer: one of `ENTRYWISE` ("adamw" is adam) or of `MATRICES`.

  Raises:
    DepthMupError: the model has no residual branch; its branches have no weight matrix,
      or differ in their norms, or these cannot be seen, and the argument is missing; a
      value is unknown.
  """
  _check_arguments(block_depth, norm, optimizer)
  seen = _look(model, inputs)
  k = block_depth if block_depth is not None else _block_depth(seen)
  norm = norm if norm is not None else _norm(seen)
  chosen = optimizer.removesuffix("w")
  preset, alpha, gamma = ("depth_mup", "1/2", "1/2") if k == 1 else ("complete_p", "1", "0")
  tied = seen is not None and bool(seen.tied)
  rule = ", width_rule=dmup.TABLE_8" if tied and k == 1 else ""
  return Recommendation(
    preset=preset,
    call=f"dmup.{preset}(base_width=..., base_depth=...{rule})",
    alpha=alpha,
    gamma=gamma,
    supported=norm != "post",
    block_depth=k,
    norm=norm,
    optimizer=optimizer,
    present=None if seen is None else _present(seen, k),
    reasons=claims.ONE_MATRIX if k == 1 else claims.SEVERAL_MATRICES,
    disputed=_disputed(k, norm, chosen),
    may_fail=_may_fail(seen, norm, chosen),
    commands=commands(model, seen, k, norm, chosen),
  )


def _check_arguments(block_depth: int | None, norm: str | None, optimizer: str) -> None:
  if block_depth is not None:
    check_size(block_depth, "block_depth")
  if norm is not None and norm not in NORMS:
    raise DepthMupError(f"norm={norm!r}: expected one of {', '.join(NORMS)}; see recommend")
  known = (*ENTRYWISE, "adamw", *MATRICES)
  if optimizer not in known:
    raise DepthMupError(
      f"optimizer={optimizer!r}: expected one of {', '.join(known)}; for another that acts "
      'entry by entry, give "adam" where its update does not follow the size of gradients, '
      'else "sgd"'
    )


def _look(model: nn.Module | None, inputs: tuple[Any, ...]) -> Survey | None:
  if model is None:
    if inputs:
      raise DepthMupError("recommend: inputs without a model; give both, or neither")
    return None
  return survey(model, *inputs)


def _block_depth(seen: Survey | None) -> int:
  if seen is None:
    raise DepthMupError(
      "recommend: without a model, give block_depth= (weight matrices in a branch) and "
      f"norm= (one of {', '.join(NORMS)})"
    )
  if not seen.branches:
    raise DepthMupError(
      "the model has no residual branch; build its blocks with dmup.Residual or "
      "dmup.ResidualStack, or give block_depth= and norm= of those it has (for a net "
      "without skips theory has no depth rule: dmup.mup)"
    )
  counts = {b.path: len(b.matrices) for b in seen.branches}
  if not max(counts.values()):
    raise DepthMupError(
      f"branch {next(iter(counts))} has no hidden weight matrix, whose in and out axes "
      "both grow; annotate both by axes with a base size, or give block_depth="
    )
  return max(counts.values())


def _norm(seen: Survey | None) -> str:
  remedy = f"give norm=, one of {', '.join(NORMS)}"
  if seen is None or not seen.branches:
    raise DepthMupError(f"recommend: without branches to look at, {remedy}")
  if seen.norm_on_stream:
    return "post"
  found = {}
  for branch in seen.branches:
    if branch.norms is None:
      raise DepthMupError(
        f"branch {branch.path} holds matrices of its own beside its norms, whose order "
        f"cannot be seen; {remedy}"
      )
    places = branch.norms
    found[branch.path] = "end" if "end" in places else "pre" if "head" in places else "none"
  kinds = set(found.values())
  if "end" in kinds:
    return "end"
  if len(kinds) > 1:
    words = ", ".join(f"{path}: {kind}" for path, kind in found.items())
    raise DepthMupError(f"the branches differ in their norms ({words}); {remedy}")
  return kinds.pop()


def _present(seen: Survey, block_depth: int) -> str | None:
  """The points of the class that the branches are at; `classify` is of block depth 1."""
  points: dict[Parametrization, None] = {b.parametrization: None for b in seen.branches}
  words = []
  for p in points:
    regime = f": {classify(p.alpha, p.gamma).name}" if block_depth == 1 else ""
    words.append(f"{p.name} (alpha = {p.alpha}, gamma = {p.gamma}{regime})")
  return " and ".join(words) or None


def _disputed(block_depth: int, norm: str, optimizer: str) -> tuple[Claim, ...]:
  if block_depth == 1:
    return claims.ONE_MATRIX_DISPUTED
  beyond = norm == "none" or optimizer in _LINEAR
  return (*claims.SEVERAL_MATRICES_DISPUTED, *[claims.BEYOND_EVIDENCE] * beyond)


def _may_fail(seen: Survey | None, norm: str, optimizer: str) -> tuple[Claim, ...]:
  found: list[Claim] = []
  if norm == "post":
    found.append(claims.POST_NORM)
  if norm == "end":
    found.append(claims.END_NORM)
  if norm == "none":
    found.append(claims.NO_NORM)
    known = seen is not None and all(b.mean_left_in is not None for b in seen.branches)
    if not known:
      found.append(claims.RELU_UNSEEN)
    elif seen is not None and any(b.mean_left_in for b in seen.branches):
      found.append(claims.RELU)
  if seen is not None and seen.tied and _table_3(seen):
    found.append(claims.TIED)
  if optimizer in MATRICES:
    text = claims.NOT_ENTRYWISE.text.format(optimizer=optimizer)
    found.append(dataclasses.replace(claims.NOT_ENTRYWISE, text=text))
  else:
    plain = {"lion": claims.LION} | dict.fromkeys(_LINEAR, claims.PLAIN_SGD)
    found.append(plain.get(optimizer, claims.PLAIN_ADAM))
  gains = norm != "none" if seen is None else _has_gains(seen)
  found += [claims.GAINS] * gains
  return (*found, claims.HORIZON, claims.WEIGHT_DECAY)


def _table_3(seen: Survey) -> bool:
  return any(b.parametrization.width_rule == TABLE_3 for b in seen.branches)


def _has_gains(seen: Survey) -> bool:
  """Trainable vectors of the name that linen gives to the gains of its norms."""
  return any(
    s.kind is Kind.VECTOR and s.trainable and name.split("/")[-1] == "scale"
    for name, s in named_leaves(seen.scales)
  )
