"""The commands that measure a recommendation, on the net of the experiments nearest to it.

Layer: flax, `branch_survey`; the flags are those of the experiments.
"""

import shlex

from flax import linen as nn

from flax_depthmup.branch_survey import Survey
from flax_depthmup.models.resnet import ResNet
from flax_depthmup.models.transformer import Transformer

#: Optimizers that act entry by entry, as the experiments call them.
ENTRYWISE = ("adam", "sgd", "momentum", "adagrad", "lion", "rmsprop")
#: log2 of learning rates: one that moves features in a few steps, and a grid.
_RATE = {"adam": "-10", "lion": "-12"}
_GRID = {"adam": "-12:-5:1", "lion": "-14:-7:1"}


def commands(
  model: nn.Module | None, seen: Survey | None, block_depth: int, norm: str, optimizer: str
) -> tuple[str, ...]:
  """A coordinate check and a sweep of learning rates over depth.

  Args:
    model: whose kind is taken, if it is one of the library's.
    seen: of the model; a branch with "attention" in its class makes a transformer.
    block_depth: of the net.
    norm: where its norms stand. The experiments' nets have norms at the heads of
      branches or none.
    optimizer: by its plain name.

  Returns:
    None where no experiment has such blocks or knows the optimizer.
  """
  if norm not in ("pre", "none") or optimizer not in ENTRYWISE:
    return ()
  kind = _kind(model, seen)
  if kind == "transformer" and norm == "none":
    return ()
  preset, other = ("depth_mup", "ode") if block_depth == 1 else ("complete_p", "depth_mup")
  net = [f"--model={kind}"]
  if kind != "transformer":
    net += [f"--block_depth={block_depth}"] * (block_depth > 1)
    net += ["--norm=layer_norm"] * (norm == "pre")
  net += [f"--optimizer={optimizer}"] * (optimizer != "adam")
  check = [*net, f"--parametrizations={preset},{other}", "--faults="]
  check += [f"--log2_lr={_RATE.get(optimizer, '-4')}"]
  sizes = ["--widths=64,128,256", "--depths=4,8,16,32"]
  sweep = [*net, f"--parametrizations={preset},{other},standard", "--depths=4,8,16,32"]
  sweep += [f"--log2_lrs={_GRID.get(optimizer, '-8:2:1')}", "--seeds=3", "--steps=300"]
  sweep += ["--batch_size=16"] * (kind == "transformer")
  return (
    _command("coordinate_check", [*check, *sizes]),
    _command("lr_transfer", sweep),
  )


def _command(entry: str, flags: list[str]) -> str:
  words = ["python", "-m", f"experiments.{entry}", f"--workdir=work/{entry}", *flags]
  return shlex.join(words)


def _kind(model: nn.Module | None, seen: Survey | None) -> str:
  names = [] if seen is None else [b.module.lower() for b in seen.branches]
  if isinstance(model, Transformer) or any("attention" in name for name in names):
    return "transformer"
  return "resnet" if isinstance(model, ResNet) else "mlp"
