"""The flags of architectures, resolved: variants of a block, depths counted in layers."""

import dataclasses
import re
from typing import Any

from absl import flags

from experiments._lib import described, sweeps, transfer_config
from experiments._lib.described import Described
from experiments._lib.sweeps_config import Config
from flax_depthmup import DepthMupError

_VARIANTS = flags.DEFINE_list(
  "variants",
  ["abs", "relu"],
  "Blocks: an activation, and after it, joined by +, any of pre, k2 (or another number "
  "of weight matrices), layer_norm, rms_norm. The one expected to be best first.",
)
#: Fields of a `Config` that a variant states.
_STATED = ("activation", "block_depth", "pre_nonlinearity", "norm")
ENTRY = transfer_config.Entry(
  name="architectures",
  parametrizations=("depth_mup",),
  depths=(4, 8, 16, 32),
  seeds=3,
  log2_lrs="-12:-6:1",
  refused=(*_STATED, *transfer_config.ONE_RATE),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One kind of block. The fields are those of `ResidualMLP`."""

  name: str
  activation: str
  block_depth: int = 1
  pre_nonlinearity: bool = False
  norm: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architectures:
  """What config.json holds.

  Attributes:
    variants: the blocks compared.
    common: all else. Its depths and base depth count layers, which are weight
      matrices in branches: a net of block depth k has depth / k blocks.
  """

  variants: tuple[Variant, ...]
  common: Config

  def __post_init__(self):
    names = [v.name for v in self.variants]
    if not names or len(set(names)) != len(names):
      raise DepthMupError("--variants: expected distinct variants, at least one")
    if len(self.common.parametrizations) != 1:
      raise DepthMupError(
        "--parametrizations: architectures compares blocks under one parametrization; "
        "give one"
      )
    for v in self.variants:
      sizes = [("base_depth", self.common.base_depth)]
      for flag, layers in sizes + [("depths", d) for _, d in self.common.sizes]:
        if layers % v.block_depth:
          raise DepthMupError(
            f"--{flag}: {layers} layers are no whole number of blocks of {v.name}; give a "
            f"multiple of {v.block_depth}"
          )
    self.nets(None)  # names a wrong value of a net

  def described(self) -> dict[str, Any]:
    """What config.json holds."""
    common = self.common.described()
    for name in _STATED:
      del common[name]
    names = [v.name for v in self.variants]
    return {"experiment": ENTRY.name, "variants": names, **common}

  def title(self) -> str:
    """Of the figure."""
    (name,) = self.common.parametrizations
    return f"{name}, {self.common.title()}"

  def nets(self, vocab: int | None) -> list[sweeps.Net]:
    """The nets of every variant and depth, in this order."""
    return [
      self._net(v, width, depth, vocab)
      for v in self.variants
      for width, depth in self.common.sizes
    ]

  def described_nets(self) -> list[Described]:
    """The smallest and the largest of each variant, for --describe."""
    nets, count = self.nets(None), len(self.common.sizes)
    by_variant = [nets[i : i + count] for i in range(0, len(nets), count)]
    return [
      described.of_config(self.common, net.label, net.model)
      for several in by_variant
      for net in described.ends(several)
    ]

  def _net(self, v: Variant, width: int, depth: int, vocab: int | None) -> sweeps.Net:
    fields = {name: getattr(v, name) for name in _STATED}
    base_depth = self.common.base_depth // v.block_depth
    own = dataclasses.replace(self.common, base_depth=base_depth, **fields)
    (name,) = self.common.parametrizations
    blocks = depth // v.block_depth
    model = own.net(name, width, blocks, vocab)
    columns = {
      "variant": v.name,
      "parametrization": name,
      "alpha": float(model.parametrization.alpha),
      "gamma": float(model.parametrization.gamma),
      "width": width,
      "depth": depth,
      "blocks": blocks,
    }
    label, folder = f"{v.name}, {depth} layers", f"{v.name}-{depth}"
    return sweeps.Net(label=label, folder=folder, model=model, columns=columns)


def variant(text: str) -> Variant:
  """A word of --variants, such as "abs+layer_norm+k2".

  Raises:
    DepthMupError: a word means nothing, or two say the same thing.
  """
  activation, *words = text.split("+")
  fields: dict[str, Any] = {}
  for word in words:
    if word == "pre":
      key, value = "pre_nonlinearity", True
    elif re.fullmatch("k[1-9][0-9]*", word):
      key, value = "block_depth", int(word[1:])
    elif word in ("layer_norm", "rms_norm"):
      key, value = "norm", word
    else:
      raise DepthMupError(
        f"--variants: {word!r} of {text!r} is unknown; after the activation come, joined "
        "by +, any of pre, k2 (or another number), layer_norm, rms_norm"
      )
    if key in fields:
      raise DepthMupError(f"--variants: {text!r} states its {key} twice; leave one out")
    fields[key] = value
  return Variant(name=text, activation=activation, **fields)


def from_flags() -> Architectures:
  """The flags as `Architectures`.

  Raises:
    DepthMupError: a value is wrong.
  """
  f = flags.FLAGS
  if f.model == "transformer" or (f.axis or "depth") != "depth":
    raise DepthMupError(
      f"--model={f.model} --axis={f.axis}: architectures compares blocks of an mlp or a "
      "resnet over depth"
    )
  variants = tuple(map(variant, _VARIANTS.value))
  return Architectures(variants=variants, common=transfer_config.from_flags(ENTRY))
