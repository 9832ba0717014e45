"""A work directory: config.json, results.jsonl, summary.json and figures."""

import importlib.metadata
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from flax_depthmup import DepthMupError
from flax_depthmup.identity import difference

_PACKAGES = ("jax", "flax", "optax", "numpy")


class Workdir:
  """One run's directory. Claimed by its config: another config is refused.

  Attributes:
    path: the directory.
  """

  def __init__(self, path: str | None, config: Mapping[str, Any], claim: bool = True):
    """Makes or reopens the directory.

    Args:
      path: where it is.
      config: what the run is, for JSON.
      claim: write the config at once; else `claim` does, when all else that can be
        wrong has been found right.

    Raises:
      DepthMupError: no path, the path is a file, or holds a run with another
        config.
    """
    if not path:
      raise DepthMupError("--workdir is missing: give a folder for results, --workdir=DIR")
    self.path = pathlib.Path(path)
    self._config = config = json.loads(json.dumps(config))
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      reason = error.strerror
      raise DepthMupError(f"--workdir={path} cannot be made: {reason}") from None
    if not (self.path / "config.json").exists():
      left = [n for n in ("summary.json", "results.jsonl") if (self.path / n).exists()]
      if left:
        raise DepthMupError(
          f"--workdir={path} holds {left[0]} but no config.json, so nobody knows of which "
          "run; give another --workdir, or delete that one"
        )
      if claim:
        self.claim()
      return
    found = self.read("config.json")
    found.pop("versions", None)
    if differs := difference(found, config):
      raise DepthMupError(
        f"--workdir={path} holds another run: {differs}; give another --workdir, or delete "
        "that one"
      )

  def claim(self) -> None:
    """Writes config.json, which makes the directory this run's."""
    if not (self.path / "config.json").exists():
      versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
      config = {**self._config, "versions": versions}
      self._write("config.json", json.dumps(config, indent=1))

  def read(self, name: str) -> Any:
    """A JSON file of the directory.

    Raises:
      DepthMupError: it is damaged.
    """
    path = self.path / name
    try:
      found = json.loads(path.read_text())
    except ValueError:
      found = None
    if not isinstance(found, dict) or not found:
      raise DepthMupError(
        f"{path} is damaged: no JSON object; delete the whole folder and run again"
      )
    return found

  def summary(self) -> Any | None:
    """The summary of a finished run; None before."""
    return self.read("summary.json") if (self.path / "summary.json").exists() else None

  def write_results(self, records: Iterable[Mapping[str, Any]]) -> None:
    """results.jsonl, one record a line; nan and inf become null."""
    lines = [json.dumps({k: _plain(v) for k, v in r.items()}) for r in records]
    self._write("results.jsonl", "".join(line + "\n" for line in lines))

  def results(self) -> list[dict[str, Any]]:
    """The records of results.jsonl."""
    path = self.path / "results.jsonl"
    try:
      return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError:
      raise DepthMupError(
        f"{path} is damaged: no JSON lines; delete it and run again"
      ) from None

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    """summary.json; its presence says that the run is done."""
    self._write("summary.json", json.dumps(summary, indent=1, allow_nan=False))

  def _write(self, name: str, text: str) -> None:
    if jax.process_index() > 0:
      return  # one process speaks for all
    temporary = self.path / f"{name}.tmp"
    temporary.write_text(text)
    os.replace(temporary, self.path / name)


def _plain(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value
