"""Plain text -> LaTeX that shows it as it is, whatever it contains; tables for the package booktabs."""

import re
import textwrap
from collections.abc import Sequence

from iwae_tf.report import markdown

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    # These are other characters, or ligatures, in some of LaTeX's fonts.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # Behind the end of a row it would be a distance.
    "*": "{*}",
}
# Characters in a line of the names of columns.
_HEAD_WIDTH = 18
# What is mathematics in a cell: numbers with a sign or an error, and L_k.
_MATHS = re.compile(r"(?<![\w.])-?L_([\d,]+)|\+-|(?<![\w.])[-+](?=\d)")


def escape(text: object) -> str:
    """Returns LaTeX that shows a text as it is, in one line; other characters than ASCII need a font that has them."""
    plain = markdown.printable(text).replace("\N{REPLACEMENT CHARACTER}", "?")
    escaped = "".join(_SPECIAL.get(character, character) for character in plain)
    return re.sub("-(?=-)", "-{}", escaped)  # Two hyphens would become a dash.


def cell(text: str) -> str:
    """Returns LaTeX for a cell of a table: +-, the sign of a number and L_5,000 are set as mathematics."""
    parts, end = [], 0
    for match in _MATHS.finditer(text):
        parts += [escape(text[end : match.start()]), _maths(match)]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _maths(match):
    if match[0] == "+-":
        return r"$\pm$"
    if match[1]:
        return f"${match[0].partition('L')[0]}L_{{{match[1].replace(',', '{,}')}}}$"
    return f"${match[0]}$"


def _head(name, column):
    """The name of a column, in several lines if it is long; what follows a comma is a line of its own."""
    parts = name.split(", ") if len(name) > _HEAD_WIDTH else [name]
    lines = [cell(line) for part in parts for line in textwrap.wrap(part, _HEAD_WIDTH)]
    if len(lines) < 2:
        return "".join(lines)
    text = r" \\ ".join(lines)
    return rf"\shortstack[{column}]{{{text}}}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> list[str]:
    """A table as lines, which is shrunk to the width of the text if it is wider.

    Args:
      header: the names of the columns, plain text.
      rows: the cells of each row, plain text. Columns of numbers are aligned right.
      caption: plain text.
      label: what `\\ref` calls it; letters, digits, colons and hyphens.
    """
    columns = "".join("r" if is_number else "l" for is_number in markdown.number_columns(header, rows))
    heads = [_head(name, column) for name, column in zip(header, columns, strict=True)]
    lines = [" & ".join(cells) + r" \\" for cells in (heads, *(map(cell, row) for row in rows))]
    return [
        r"\begin{table*}",
        r"  \centering",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{4pt}",
        f"  \\caption{{{cell(caption)}}}",
        f"  \\label{{{label}}}",
        r"  \resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {lines[0]}",
        r"    \midrule",
        *(f"    {line}" for line in lines[1:]),
        r"    \bottomrule",
        r"  \end{tabular}%",
        r"  }",
        r"\end{table*}",
    ]
