"""What the literature says of depth, each sentence with its source.

Layer: standard library only.
"""

import dataclasses

_TP6 = "Tensor Programs VI, arXiv 2310.02244"
_TP5 = "Tensor Programs V, arXiv 2203.03466"
_COMPLETE_P = "Dey et al., CompleteP, arXiv 2505.01618"
_COMPLETE_D_P = "Complete(d)P, arXiv 2512.22382"
_SPECTRAL = "the spectral condition in depth, arXiv 2603.00541"
_KOSSON = "Kosson et al., arXiv 2510.19093"
_LINGLE = "Lingle, arXiv 2404.05728"


@dataclasses.dataclass(frozen=True)
class Claim:
  """A sentence and where it is from."""

  text: str
  source: str

  def __str__(self) -> str:
    return f"{self.text} [{self.source}]"


ONE_MATRIX = (
  Claim(
    "With one weight matrix a branch, alpha = gamma = 1/2 is the only stable, nontrivial, "
    "faithful point that learns features with the greatest feature diversity.",
    f"{_TP6}, section 7",
  ),
  Claim(
    "At alpha = 1, gamma = 0 the limit is an ODE: neighbouring blocks compute the same, "
    "and the randomness of the hidden layers vanishes.",
    f"{_TP6}, section 7",
  ),
)
SEVERAL_MATRICES = (
  Claim(
    "With two or more matrices a branch, alpha = 1/2 linearizes each block in its own "
    "update as depth grows; alpha = 1 alone keeps the nonlinear terms, and in "
    "transformers of depth 2 to 128 learning rate and init std transferred at "
    "alpha = 1 alone.",
    _COMPLETE_P,
  ),
  Claim(
    "A condition on spectral norms gives the same: a branch multiplier of 1/L and no "
    "factor of depth on Adam's or Muon's rate.",
    _SPECTRAL,
  ),
)
SEVERAL_MATRICES_DISPUTED = (
  Claim(
    "No stable, faithful and nontrivial point keeps both the nonlinear terms and feature "
    "diversity: there is no ideal limit at block depth 2, and alpha = 1 gives diversity "
    "up.",
    f"{_TP6}, section 9",
  ),
  Claim(
    "alpha = 1/2 transferred as well as alpha = 1, in transformers with normalized "
    "queries and keys and an eps for each group of parameters.",
    _COMPLETE_D_P,
  ),
  Claim(
    "Transformers were insensitive to the block multiplier, their best learning rate "
    "lying between Theta(1) and 1/sqrt(L).",
    f"{_TP6}, Figures 14 to 16",
  ),
  Claim(
    "At alpha = 1/2 the first of two matrices in a branch stops learning features as depth "
    "grows; a rate of its own that grows with depth was seen to restore transfer.",
    "Yao, Wu, Gao, arXiv 2512.21075, first version",
  ),
)
#: With several matrices, without Adam or without a norm.
BEYOND_EVIDENCE = Claim(
  "The evidence for alpha = 1 is of pre-norm transformers under AdamW; for SGD, and for "
  "nets without a norm, it is the derivation alone.",
  f"{_COMPLETE_P}, Table 1",
)
ONE_MATRIX_DISPUTED = (
  Claim(
    "That diversity makes nets better was shown on CIFAR-10; a nonlinearity that "
    "decorrelates blocks (|x|) gains by it, W phi(x) blocks do not.",
    f"{_TP6}, Figures 2, 3 and 17 to 19",
  ),
)
PLAIN_SGD = Claim(
  "The learning rate of SGD gets (L/L0)^(alpha - gamma): none under Depth-muP, L/L0 under "
  "CompleteP; leaving that out is hidden where the input and output layers train too, "
  "for these then set the edge of stability.",
  f"{_TP6}, Definition 6.1; {_SPECTRAL}, Tables 5 and 11",
)
PLAIN_ADAM = Claim(
  "eps must follow the size of the gradients: divided by n (L/L0)^alpha inside of "
  "branches. The published code of CompleteP has one eps for all groups, against its "
  "own table.",
  f"{_TP6}, Definition 6.1; {_COMPLETE_P}, Table 1",
)
LION = Claim(
  "Lion takes the sign of its momentum, which does not follow the size of gradients: its "
  "learning rate gets Adam's factors. It has no eps.",
  f"{_TP6}, Definition 6.1; Chen et al., Lion, arXiv 2302.06675",
)
NOT_ENTRYWISE = Claim(
  "{optimizer} does not act entry by entry, so Adam's rule of width is wrong for it: give "
  "scale_by_parametrization its family.",
  f"{_SPECTRAL}, Tables 3, 4 and 7; arXiv 2512.05620, Table 1",
)
NO_NORM = Claim(
  "Without a norm, branches that are not scaled (alpha = 0) make the stream and its "
  "gradients grow exponentially in depth: standard parametrization diverges.",
  f"{_TP6}, section 7; {_SPECTRAL}",
)
POST_NORM = Claim(
  "A norm of the stream between blocks rescales the sum again and again, so that it is no "
  "longer x + (L/L0)^(-alpha) F(x): the theories assume a plain sum, and transfer over "
  "depth was seen in pre-norm nets alone.",
  f"{_TP6}, section 3; {_TP5}; {_COMPLETE_P}, Table 1",
)
END_NORM = Claim(
  "A norm at the end of a branch cancels the scale of the matrices before it: norm(c x) = "
  "norm(x), so that their multipliers and init std have no effect and their updates "
  "are too large or small for their size; dmup.check_multipliers shows it.",
  "by definition of a norm",
)
RELU = Claim(
  "A branch ends in relu with its mean left in, which adds a positive mean in every block "
  "and rules the dynamics in depth: set mean_subtraction=True, or put a norm at the head.",
  f"{_TP6}, section 3",
)
RELU_UNSEEN = Claim(
  "Without a norm at the head of a branch, a nonlinearity that is not odd needs its mean "
  "subtracted behind it (dmup.mean_subtraction).",
  f"{_TP6}, section 3",
)
TIED = Claim(
  "The embedding is the readout too: Table 3 would need two inits and two rates for one "
  "tensor; take width_rule=dmup.TABLE_8.",
  f"{_TP5}, Tables 3 and 8",
)
GAINS = Claim(
  "Trainable gains of norms spoilt transfer over width where they were tried with and "
  "without: sweep without them, or measure.",
  _LINGLE,
)
HORIZON = Claim(
  "The best learning rate moves with the number of steps and the batch size, which no "
  "parametrization in width and depth sees: tune at the length you train for, or use "
  "a rule for it.",
  f"{_TP5}; {_COMPLETE_D_P}, Table 1",
)
WEIGHT_DECAY = Claim(
  "Weight decay is regularization, which the theory does not cover, and late in training "
  "it decides on transfer more than the learning rates do: choose dmup.adamw's decay on "
  "purpose, and sweep with the decay that you train with.",
  f"{_TP5}; {_KOSSON}",
)
