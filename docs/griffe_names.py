"""For the site: a docstring's entry of several names becomes one entry for each.

Griffe reads "alpha, gamma: exponents." as an attribute alpha of the type gamma.
"""

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^(  +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.M)


class SeveralNames(griffe.Extension):
  """Splits them before the docstring is parsed."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Called for every object that has been read."""
    del kwargs
    if obj.docstring is not None:
      obj.docstring.value = _ENTRY.sub(_split, obj.docstring.value)


def _split(entry: re.Match[str]) -> str:
  indent, names, text = entry.groups()
  return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
