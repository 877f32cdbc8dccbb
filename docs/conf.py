"""The configuration of Sphinx, with which `sitegen` builds the site."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

project = "asyncmgr"
author = "The asyncmgr authors"
copyright = author  # noqa: A001 - Sphinx calls it so
release = version = version_of("asyncmgr")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["files/**"]
nitpicky = True

html_theme = "furo"
html_title = "asyncmgr"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
smartquotes = False  # an option is --option
pygments_style = "default"
pygments_dark_style = "github-dark"


def _name_twin(app: Any, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Tell programs where the Markdown of a page is."""
    if doctree is not None:
        name = page.rpartition("/")[2]
        context["metatags"] += f'<link rel="alternate" type="text/markdown" href="{name}.md">\n'


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", _name_twin)
