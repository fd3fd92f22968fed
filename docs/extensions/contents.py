"""Appends the contents of the site, `contents` in conf.py, to its root page."""

import fnmatch

_TOCTREE = """
```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""


def _append(app, docname, source):
    if docname == app.config.root_doc:
        for caption, pages in app.config.contents.items():
            source[0] += _TOCTREE.format(caption=caption, pages="\n".join(_expanded(pages, app.env.found_docs)))


def _expanded(pages, found):
    """The pages, with the documents that match in place of a pattern; there may be none."""
    for page in pages:
        yield from sorted(fnmatch.filter(found, page)) if "*" in page else [page]


def setup(app):
    app.add_config_value("contents", {}, "env", dict)
    app.connect("source-read", _append)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
