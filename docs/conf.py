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
autodoc_typehints_description_target = "documented_params"
# Single backquotes in docstrings name something of ours.
default_role = "py:obj"
nitpicky = True
# Names of others, which link nowhere: no inventory is fetched when the documentation is built.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections\.abc|contextlib|datetime|logging|typing)\..*"),
    (r"py:exc", r"ConfigurationError"),  # nameko.exceptions
]
# eventlet's deprecation warning at import says nothing about the docs.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
