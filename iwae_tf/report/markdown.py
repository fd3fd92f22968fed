"""Plain texts -> Markdown in which they do no harm, whatever they hold."""

import re


def escape(text):
    """Writes a text so that Markdown shows it as it is, in one line."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", text)


def printable(text):
    """Replaces what would move a cursor, end a line or cannot be written as UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))


def table(header, rows):
    """A table as lines; the cells are plain texts, columns of numbers to the right."""
    # "3: IWAE" begins with a number and is none.
    right = [all(re.match(r"[-+]?\d(?!\d*:)|$|-$", row[i]) for row in rows) for i in range(len(header))]
    lines = [header, ["--:" if is_right else "---" for is_right in right], *rows]
    escaped = [[cell if i == 1 else escape(cell) for cell in line] for i, line in enumerate(lines)]
    return [f"| {' | '.join(line)} |" for line in escaped]


def code(lines):
    """Lines of code or output."""
    lines = [printable(line) for line in lines]
    # Longer than whatever the lines hold.
    fence = "`" * max([3, *(len(ticks) + 1 for line in lines for ticks in re.findall("`+", line))])
    return [fence, *lines, fence]


def picture(name, caption):
    """A picture that lies beside the text, with what it shows below it."""
    return [f"![{escape(caption.partition('.')[0])}]({name})", "", f"*{escape(caption)}*"]


def text_table(header, rows):
    """A table as lines for a console."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
