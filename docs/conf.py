"""Sphinx: the guides as they stand, the reference from docstrings, the commands from their parsers.

`make docs` builds the site into docs/_site.
"""

import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

import vggnet
from vggnet.cli import COMMANDS, parser

project = "vggnet"
author = "the authors of vggnet"
version = release = vggnet.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_site"]

# Docstrings are Google's style, with code in single backticks, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "both"
autodoc_typehints_description_target = "documented"
maximum_signature_line_length = 88
# Types such as bytes, which attributes of ours are called too.
suppress_warnings = ["ref.python"]
autodoc_default_options = {"members": True}
add_module_names = False
python_display_short_literal_types = True

myst_heading_anchors = 3
html_theme = "furo"
html_title = f"vggnet {release}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


class Commands(Directive):
    """Every command with its help, as it is printed on a terminal of 88 columns."""

    def run(self) -> list[nodes.Node]:
        os.environ["COLUMNS"] = "88"
        found: list[nodes.Node] = []
        for name in COMMANDS:
            section = nodes.section(ids=[name], names=[name])
            section += nodes.title(text=f"vggnet {name}")
            text = _help(name)
            section += nodes.literal_block(text, text, language="text")
            found.append(section)
        return found


def _help(name: str) -> str:
    (commands,) = (action for action in parser()._actions if action.dest == "command")
    choices: Any = commands.choices
    text: str = choices[name].format_help()
    return text.rstrip()


def sections(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Args, Returns and Raises of a docstring; napoleon by itself would take what stands before the
    first colon of an attribute's docstring for its type."""
    if what not in ("attribute", "data", "property"):
        config = Config(napoleon_use_rtype=False)
        lines[:] = GoogleDocstring(lines, config, app, what, name, found, options).lines()


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    app.connect("autodoc-process-docstring", sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
