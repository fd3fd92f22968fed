import html
import re

import hypothesis
import hypothesis.strategies as st

from iwae_tf.report import markdown

TEXTS = st.text(st.sampled_from("ab1 |\\`*_[]()<>&~$#!\n\r\t\x1b\x85\u2028\ud800.-+") | st.characters(), max_size=12)


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(TEXTS)
def test_an_escaped_text_is_one_line_without_markup_that_shows_the_text(text):
    escaped = markdown.escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not re.search(r"[<>]", escaped)
    assert not re.search(r"[`*_\[\]|~$#!]", re.sub(r"\\.", "", escaped))
    assert re.sub(r"\\([\W_])", r"\1", html.unescape(escaped)) == markdown.printable(text)
    escaped.encode()


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1, max_size=3))
def test_a_table_has_exactly_its_cells(rows):
    header, rule, *lines = markdown.table(["a", "b"], rows)
    assert header == "| a | b |"
    assert re.fullmatch(r"\| -?-[-:] \| -?-[-:] \|", rule)
    assert len(lines) == len(rows)
    assert all(len(re.sub(r"\\.", "", line).split("|")) == 4 for line in lines)


def test_columns_of_numbers_are_aligned_right():
    rows = [["1", "3: IWAE", "-", "+0.1 of 2", "7 b"], ["", "12: VAE", "-2", "4", "b"]]
    assert markdown.table(list("abcde"), rows)[1] == "| --: | --- | --: | --: | --- |"


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.text("a`\n~", max_size=9), max_size=3))
def test_backticks_in_code_do_not_end_the_block(lines):
    first, *inner, last = markdown.code(lines)
    assert first == last
    assert re.fullmatch("`{3,}", first)
    assert inner == [markdown.printable(line) for line in lines]
    assert not any(first in line for line in inner)


def test_a_picture_with_its_caption():
    assert markdown.picture("a.png", "First [x]. Second.") == [
        r"![First \[x\]](a.png)",
        "",
        r"*First \[x\]. Second.*",
    ]


def test_a_table_for_a_console():
    lines = markdown.text_table(["run", "NLL"], [["a long one", "86"], ["b\x1b\n", ""]])
    assert lines == ["run         NLL", "a long one  86", "b\ufffd\ufffd"]
