"""Puts runs beside each other and beside the paper: `python -m iwae_tf.report runs/*`.

It reads run directories, finished or not, from wherever they come, and changes nothing in them. What it writes is a
folder with report.md and its pictures.
"""

import json
import pathlib

from absl import flags as absl_flags

from iwae_tf.errors import UserError
from iwae_tf.experiment import options
from iwae_tf.report import folder, reported_run, tables
from iwae_tf.runtime import files

_values = absl_flags.FlagValues()
_values.set_gnu_getopt()  # Flags may follow the run directories.
absl_flags.DEFINE_string("out", "runs/report", "The folder for report.md and pictures.", flag_values=_values)
absl_flags.DEFINE_bool("json", False, "Write what report.md shows as report.json, too.", flag_values=_values)


def main(argv):
    """Reads the runs, writes the report, and prints its table."""
    paths, flags = _parse(argv)
    out = pathlib.Path(flags.out)
    of_records = reported_run.read(paths)
    with folder.refusing_failures(out):
        folder.refuse_folder(out, paths)
    from iwae_tf.report.pictures import report_pictures  # Matplotlib takes its time.

    groups = reported_run.groups(of_records)
    content = tables.contents(of_records, groups)
    pictures = report_pictures(of_records, groups)
    with folder.refusing_failures(out):
        out.mkdir(parents=True, exist_ok=True)
    # The text goes first: by it the folder is known as a report, should the drawing be interrupted.
    files.write_atomically(out / "report.md", tables.text(content, pictures).encode())
    drawn = {picture.name: picture.draw for picture in pictures if picture.draw}
    folder.remove_old(out, drawn)
    for name, draw in drawn.items():
        draw(out / name)
    if flags.json:
        captions = [{"heading": p.heading, "caption": p.caption, "file": p.name or None} for p in pictures]
        whole = content | {"pictures": captions}
        files.write_atomically(out / "report.json", (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())
    print("\n".join(tables.console_lines(content)))
    print(f"the report is {out / 'report.md'}")


def _parse(argv):
    """Returns the run directories and the flags; raises a UserError for bad ones."""
    paths = options.read(_values, argv, lambda: f"{__doc__}\n{_values.get_help()}", takes_words=True)
    # runs/* names the last report, too.
    paths = [path for path in paths if not folder.is_report(pathlib.Path(path))]
    if not paths:
        raise UserError("No run directory was given; name those to report on, such as runs/*.")
    if not _values.out:
        raise UserError("--out= names no folder; give one for the report, such as runs/report.")
    return paths, _values
