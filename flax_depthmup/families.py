"""Families of optimizers: how large the update is that Q makes of a gradient.

An entrywise Q (SGD, Adam, Lion, ...) needs nothing but the width rule: its updates
have entries of the size that the gradient factor gave them. What acts on whole
matrices makes updates of another size, and says so by its family. Let s(n_in, n_out)
be the spectral norm of its update of an [n_in, n_out] matrix whose gradient has
entries of size 1 and a rank that does not grow; Adam's is sqrt(n_in n_out). The
update is then multiplied, beside the factor of the width rule, by

    [sqrt(n_in n_out) / s] / [the same in the base net]

so that it moves activations as Adam's does (the spectral condition, Yang et al.,
arXiv 2310.17813), and at the base size is left alone. Of an input matrix single rows
are looked up, or few inputs summed: there 1/e takes the place of the bracket's part,
e the size of an entry of the update: s/sqrt(max(n_in, n_out)) of an orthogonal one.
What eps is compared with grows too: by g(n_in, n_out), by which gradients are divided
on their way into Q.

| family        | s                        | g                | who                        |
|---------------|--------------------------|------------------|----------------------------|
| ENTRYWISE     | sqrt(n_in n_out)         | 1                | SGD, Adam, Lion: default   |
| FACTORED      | sqrt(n_in n_out)         | 1                | Adafactor, no param. scale |
| RELATIVE      | rms(W) sqrt(n_in n_out)  | 1                | Adafactor, LAMB, LARS      |
| MUON          | 1                        | sqrt(n_in n_out) | optax's `scale_by_muon`    |
| MUON_JORDAN   | sqrt(max(1, n_out/n_in)) | sqrt(n_in n_out) | K. Jordan's factor on it   |
| MUON_SPECTRAL | sqrt(n_out/n_in)         | sqrt(n_in n_out) | Modula's factor            |
| MUON_MOONSHOT | sqrt(max(n_in, n_out))   | sqrt(n_in n_out) | Kimi's 0.2 sqrt(max)       |
| SHAMPOO       | 1                        | sqrt(n_in n_out) | Shampoo (1/4, 1/4)         |
| FROBENIUS     | 1                        | sqrt(n_in n_out) | norm 1 for each matrix     |

For square hidden matrices that gives, of the ratio m to the base net, a learning rate
of 1 (Muon, Shampoo; Adam 1/m, Muon-Moonshot m^-1/2, LAMB m^-1/2); for the
readout of Table 8 m^1/2 (Adam 1), and so for the embedding once it is wider than the
vocabulary is long (1 before), and depth factors as Adam's: m_L^0
under CompleteP, m_L^-1/2 under Depth-muP (arXiv 2603.00541, Tables 3 to 7; arXiv
2512.05620, Table 1). Learning rate times decoupled weight decay does not depend on
size where the decay is added after the scaling.

SOAP and Shampoo in blocks of a fixed size are FACTORED: each block is then a matrix
that does not grow. Whole-matrix SOAP has been seen to fail the coordinate check for
the sparsity of its eigenvectors (arXiv 2512.05620), and `adaptive=True` of Muon is not
of degree zero: neither has a family.

Layer: standard library only.
"""

import dataclasses
import math
from collections.abc import Callable

from flax_depthmup.axes import Kind
from flax_depthmup.scales import Scales

Norm = Callable[[int, int], float]


@dataclasses.dataclass(frozen=True)
class Family:
  """What Q does to the size of a matrix's update; see the module.

  Attributes:
    name: shown in messages.
    spectral_norm: s(n_in, n_out) of the update, up to a constant.
    entry_size: e(n_in, n_out): root mean square of its entries where the gradient has
      full rank, up to a constant.
    gradient_norm: g(n_in, n_out): what eps is compared with, over an entry's size.
    relative: the update is proportional to the root mean square of the parameter.
    matrices_only: Q takes matrices and nothing else.
  """

  name: str
  spectral_norm: Norm
  entry_size: Norm
  gradient_norm: Norm
  relative: bool = False
  matrices_only: bool = False

  def factors(self, s: Scales) -> tuple[float, float]:
    """(gradient, update): by what those of one parameter are multiplied, all told."""
    fans, base_fans = s.fans(s.shape), s.fans(s.base_shape)
    gradient = s.gradient_factor * self.gradient_ratio(fans, base_fans)
    update = s.update_factor * self.update_ratio(s.kind, fans, base_fans)
    return gradient, update / (s.std_factor if self.relative else 1.0)

  def update_ratio(
    self, kind: Kind, fans: tuple[int, int], base_fans: tuple[int, int]
  ) -> float:
    """By what updates of a parameter are multiplied at `fans`; 1 in the base net."""
    if kind is Kind.INPUT:
      return self.entry_size(*base_fans) / self.entry_size(*fans)
    entry, base_entry = math.sqrt(math.prod(fans)), math.sqrt(math.prod(base_fans))
    here = entry / self.spectral_norm(*fans)
    return here / (base_entry / self.spectral_norm(*base_fans))

  def gradient_ratio(self, fans: tuple[int, int], base_fans: tuple[int, int]) -> float:
    """By what gradients are multiplied at `fans`; 1 in the base net."""
    return self.gradient_norm(*base_fans) / self.gradient_norm(*fans)


def _one(n_in: int, n_out: int) -> float:
  del n_in, n_out
  return 1.0


def _frobenius(n_in: int, n_out: int) -> float:
  """Norm of a matrix of ones."""
  return math.sqrt(n_in * n_out)


def _orthogonal(name: str, spectral_norm: Norm, matrices_only: bool = True) -> Family:
  """A family whose update is an orthogonal matrix times `spectral_norm`."""
  return Family(
    name,
    spectral_norm,
    lambda n_in, n_out: spectral_norm(n_in, n_out) / math.sqrt(max(n_in, n_out)),
    _frobenius,
    matrices_only=matrices_only,
  )


ENTRYWISE = Family("ENTRYWISE", _frobenius, _one, _one)
FACTORED = Family("FACTORED", _frobenius, _one, _one)
RELATIVE = Family("RELATIVE", _frobenius, _one, _one, relative=True)
MUON = _orthogonal("MUON", _one)
MUON_JORDAN = _orthogonal(
  "MUON_JORDAN", lambda n_in, n_out: math.sqrt(max(1, n_out / n_in))
)
MUON_SPECTRAL = _orthogonal("MUON_SPECTRAL", lambda n_in, n_out: math.sqrt(n_out / n_in))
MUON_MOONSHOT = _orthogonal(
  "MUON_MOONSHOT", lambda n_in, n_out: math.sqrt(max(n_in, n_out))
)
SHAMPOO = _orthogonal("SHAMPOO", _one, matrices_only=False)
FROBENIUS = Family(
  "FROBENIUS", _one, lambda n_in, n_out: 1 / _frobenius(n_in, n_out), _frobenius
)
