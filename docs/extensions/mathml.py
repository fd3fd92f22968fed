"""Formulas as MathML, which browsers draw without a script and without a network."""

import functools

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

# docutils sets log as a variable, without space around it.
_LOG = '<mo form="prefix" lspace="0.1667em" rspace="0.1667em">log</mo>'


def _append(translator, node, as_block):
    try:
        formula = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s", error, location=node)
        formula = translator.encode(node.astext())
    translator.body.append(formula.replace("<mi>log</mi>", _LOG))
    raise nodes.SkipNode


def setup(app):
    inline, block = (functools.partial(_append, as_block=as_block) for as_block in (False, True))
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
