"""Docstrings in the API reference: their references, links, and the signatures of Keras' classes."""

import inspect
import re

from sphinx.domains.python import PyObject
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.nodes import make_refnode


def _list_references(app, kind, name, value, options, lines):
    """Turns `#### References` and the lines `[1]: ...` below it into a heading and a list."""
    if "#### References" in lines:
        start = lines.index("#### References")
        references = [re.sub(r"^\[(\d+)\]: ", r"| [\1] ", line.strip()) for line in lines[start + 1 :]]
        # What continues a line of a line block is indented.
        references = [line if line.startswith("|") or not line else f"  {line}" for line in references]
        lines[start:] = [".. rubric:: References", *references, ""]


def _skip_fields(app, kind, name, value, skip, options):
    """Leaves out the fields of named tuples, which their class describes under Attributes."""
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def _sign(app, kind, name, value, options, text, return_annotation):
    """Gives a Keras class the signature of its constructor: Keras has a `__new__` that takes anything."""
    if kind != "class" or text != "(*args, **kwargs)":
        return None
    constructor = signature(value.__init__, bound_method=True)
    constructor = constructor.replace(return_annotation=inspect.Signature.empty)
    return stringify_signature(constructor, unqualified_typehints=True), None


def _find_class(app, env, node, text):
    """Links the name of a class to the page that describes it, whatever module the docstring is in."""
    target = node.get("reftarget", "")
    objects = env.domains["py"].objects
    found = [name for name, entry in objects.items() if name.endswith(f".{target}") and entry.objtype == "class"]
    if node.get("refdomain") != "py" or not found:
        return None
    entry = objects[min(found, key=len)]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text)


def setup(app):
    app.connect("autodoc-process-docstring", _list_references)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("autodoc-process-signature", _sign)
    app.connect("missing-reference", _find_class)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
