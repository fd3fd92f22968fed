"""Compares runs with each other and with the paper: `python -m iwae_tf.report runs/*`.

The report is report.md, its tables as LaTeX in report.tex, and its pictures. The runs may be unfinished or copied from
elsewhere; they are not changed.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

from iwae_tf.errors import UserError
from iwae_tf.experiment.command import run_command
from iwae_tf.experiment.flags import figure_format_flag, flag, parse_folder
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.report import folder, reported_run, rows, text
from iwae_tf.runtime import console, files


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The flags of this command."""

    out: str = flag(
        "runs/report",
        "The folder for report.md and its pictures; or a file such as docs/results.md, whose pictures are in "
        "docs/results/.",
        parse=parse_folder,
    )
    figure_format: tuple[str, ...] = figure_format_flag()
    json: bool = flag(False, "Also write the contents of the report as JSON, beside its text.")


_command_line = CommandLine(ReportOptions, __doc__, takes_words=True)


def main(argv: Sequence[str]) -> None:
    """Reads the runs, writes the report, and prints its tables."""
    options, run_dirs = _parse(argv)
    place = folder.Place.of(options.out)
    runs = reported_run.read(run_dirs)
    with place.refusing_failures():
        place.check(run_dirs)
    from iwae_tf.report.pictures import report_pictures  # Importing matplotlib takes a while.

    groups = reported_run.group_seeds(runs)
    content = rows.contents(runs, groups)
    pictures = report_pictures(runs, groups)
    with place.refusing_failures():
        place.pictures.mkdir(parents=True, exist_ok=True)
    # The text is written first: it marks the place as a report, should the drawing be interrupted.
    files.write_atomically(place.text, text.report_text(content, pictures, place.link).encode())
    # The text shows PNG files.
    formats = dict.fromkeys(("png", *options.figure_format))
    drawn = {
        draw: [(place.pictures / name).with_suffix(f".{form}") for form in formats]
        for _, _, name, draw in pictures
        if draw
    }
    place.remove_old({path.name for paths in drawn.values() for path in paths})
    files.write_atomically(place.latex, text.latex_text(content).encode())
    for draw, paths in drawn.items():
        draw(paths)
    if options.json:
        captions = [{"heading": p.heading, "caption": p.caption, "file": p.name or None} for p in pictures]
        content |= {"pictures": captions}
        files.write_atomically(place.json, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    print("\n".join(text.console_lines(content)))
    console.note(f"the report is {place.text}")


def _parse(argv: Sequence[str]) -> tuple[ReportOptions, list[str]]:
    """Returns the options and the run directories; raises a UserError if one of them is missing."""
    options, _, words = _command_line.parse(argv)
    # The last report may match runs/* too.
    folders = [os.path.expanduser(word) for word in words]
    run_dirs = [path for path in folders if not folder.Place.of(path).is_report()]
    if not run_dirs:
        raise UserError("No run directory was given; give those to report on, such as runs/*.")
    if not options.out:
        raise UserError("--out= is empty; give the folder for the report, such as runs/report.")
    return options, run_dirs


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    run_command(main, "the same command writes the report again", argv)
