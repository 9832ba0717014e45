"""The one exception of the library. Layer: standard library only."""


class DepthMupError(ValueError):
  """Wrong input: the message names the offender, what was found, what was
  expected and the remedy, in one sentence a user can act on."""
