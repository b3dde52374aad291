"""
Sphinx: Markdown through MyST, the theme furo, nothing from the network.
"""

import importlib.metadata
import warnings


project = "nameko-eventlog"
author = "nameko-eventlog contributors"
copyright = author
release = importlib.metadata.version("nameko-eventlog")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
# The examples are code that the pages quote.
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = f"nameko-eventlog {release}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
# Single backquotes in docstrings name something of ours.
default_role = "py:obj"
nitpicky = False
# eventlet says on import that it is deprecated; that is no news about the docs.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
