"""Any set of work directories as one HTML page.

  python -m experiments.report --workdirs=DIR,DIR --output=report.html

A folder that is no work directory stands for all work directories below it, in the
order of their names, so that --workdirs=work gathers everything under work. Wildcards
are not expanded, hidden folders not looked into.

The page needs no server, no network and no script: figures and styles are inside. It
holds, for each run, the verdicts (seen, not seen, cannot tell; transfers or not), the
figures, the other numbers of summary.json, what is in results.jsonl, the config and the
versions. A run without summary.json is shown as not finished. A damaged file is an
error that names it. The same directories give the same page, byte for byte.

Writes --output, over an older report only.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from experiments._lib import app, described, report_page, report_runs
from experiments._lib.report_text import count
from flax_depthmup import DepthMupError

_WORKDIRS = flags.DEFINE_list("workdirs", [], "Work directories, or folders of them.")
_OUTPUT = flags.DEFINE_string("output", "report.html", "The page to write.")


def check_output(path: pathlib.Path) -> None:
  """Refuses to write over what is no report.

  Raises:
    DepthMupError: `path` is a folder, no .html, or a file that is no report.
  """
  if path.suffix not in (".html", ".htm"):
    raise DepthMupError(f"--output={path}: expected a name that ends in .html")
  if path.is_dir():
    raise DepthMupError(f"--output={path} is a folder; give the name of a file in it")
  if path.exists() and report_page.MARK.encode() not in path.read_bytes():
    raise DepthMupError(
      f"--output={path} exists and is no report; give another name, or delete it"
    )


def write(path: pathlib.Path, page: str) -> None:
  """Writes a page whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.tmp")
  try:
    # JSON can hold halves of surrogate pairs, which no encoding can.
    temporary.write_bytes(page.encode(errors="replace"))
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def main(argv: Sequence[str]) -> None:
  """Writes the report of the work directories that the flags name."""
  del argv
  instead = "it reads the results of others and makes no net"
  if described.stops_without("report", instead):
    return
  output = pathlib.Path(_OUTPUT.value)
  check_output(output)
  runs = [report_runs.read(folder) for folder in report_runs.find(_WORKDIRS.value)]
  sections = [report_page.section(run) for run in runs]
  write(output, report_page.render(sections))
  for section in sections:
    print(f"{section.run.folder}: {section.line}")
  print(f"report: {output}, {count(len(runs), 'run')}, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
  app.run(main)
