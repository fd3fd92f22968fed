"""Plain text -> Markdown that shows it as it is, whatever it contains."""

import re
from collections.abc import Iterable, Sequence


def escape(text: object) -> str:
    """Returns Markdown that shows a text as it is, in one line."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", escaped)


def printable(text: object) -> str:
    """Replaces characters that would move a cursor, end a line, or cannot be written as UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines.

    Args:
      header: the names of the columns, plain text.
      rows: the cells of each row, plain text. Columns of numbers are aligned right.
    """
    rule = ["--:" if is_number else "---" for is_number in number_columns(header, rows)]
    escaped = [[escape(cell) for cell in row] for row in (header, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (escaped[0], rule, *escaped[1:])]


def number_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column of a table has nothing but numbers."""
    # "3: IWAE" begins with a number, but is not one.
    return [all(re.match(r"[-+]?\d(?!\d*:)|$|-$", row[i]) for row in rows) for i in range(len(header))]


def code(lines: Iterable[str]) -> list[str]:
    """A block of code or output, as lines."""
    lines = [printable(line) for line in lines]
    # The fence has to be longer than any backticks in the lines.
    fence = "`" * max([3, *(len(ticks) + 1 for line in lines for ticks in re.findall("`+", line))])
    return [fence, *lines, fence]


def picture(name: str, caption: str) -> list[str]:
    """A picture and its caption, as lines.

    Args:
      name: the file, in the folder of the text.
      caption: plain text; its first sentence is also the alternative text.
    """
    return [f"![{escape(caption.partition('.')[0])}]({name})", "", f"*{escape(caption)}*"]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines for a console."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
