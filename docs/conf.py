"""Sphinx's settings for the documentation site, which `./run.sh docs` builds.

The pages are the Markdown files of the repository, which link to each other by their paths, so the source folder is
that of the repository. What only the site has is here: the contents, and the API pages, made from docstrings.
"""

import pathlib
import sys

from iwae_tf.version import __version__

sys.path.insert(0, str(pathlib.Path(__file__).parent / "extensions"))

project = "iwae_tf"
version = release = __version__
author = "the authors of iwae_tf"

extensions = [
    "myst_nb",  # The notebook, and with it myst_parser for the other pages.
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "contents",
    "docstrings",
    "mathml",
]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/api/*.rst", "examples/*.md", "examples/*.ipynb"]
include_patterns += ["iwae_tf/datasets/mnist/README.md"]
# The first is a list of the pages for readers of Markdown; the others are never entered.
exclude_patterns = ["docs/README.md", ".*", "build", "dist", "models", "runs", "tests"]

# The caption of a part of the sidebar -> its pages. "self" is the README.
contents = {
    "Getting started": ["Overview and quick start <self>", "A notebook <examples/quickstart>", "examples/README"],
    "How-to": [
        "docs/runs",
        "docs/keras",
        "Python API <docs/python>",
        "docs/own_data",
        "docs/data",
    ],
    "Understanding": [
        "Objectives and estimators <docs/objectives>",
        "docs/diagnostics",
        "Annealed importance sampling <docs/annealing>",
        "Comparison at equal budget <docs/comparison>",
        "docs/maths",
    ],
    "Results": ["The published table <docs/results>", "docs/experiments"],
    "Reference": [
        "docs/api/index",
        "CHANGELOG",
        "CONTRIBUTING",
        "SECURITY",
        "Licence of MNIST <iwae_tf/datasets/mnist/README>",
    ],
}

# As code hosting sites do: `#headings` as targets of links, and formulas between dollar signs.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
# The notebook is shown with the outputs that it holds.
nb_execution_mode = "off"
# Blocks without a language are what programs print.
highlight_language = "none"
# Long dashes, but quotes as they are.
smartquotes_action = "D"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
# Keeps the last character of names such as `model_`.
strip_signature_backslash = True
# `names` in docstrings are links where the site describes them.
default_role = "py:obj"
maximum_signature_line_length = 150

html_theme = "furo"
html_title = f"iwae_tf {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
# The page that opens a folder: it leads to the README.
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
