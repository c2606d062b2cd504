"""Settings of the documentation: `sphinx-build -W docs site` builds it."""

import pathlib
from typing import Any

from sphinx.util.inspect import signature, stringify_signature

import keras_renorm

project = "keras_renorm"
author = "The keras_renorm authors"
copyright = author  # noqa: A001
version = release = keras_renorm.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_generated"]
suppress_warnings = ["myst.xref_missing"]

html_theme = "furo"
html_title = "keras_renorm"
html_theme_options = {"sidebar_hide_name": False, "top_of_page_buttons": []}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
# Notebooks are committed with what a run shows; `tools/run_notebooks.py` writes it.
nb_execution_mode = "off"
# Headings of pages can be linked to, as on GitHub.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# Tensors are of the backend that is in use.
autodoc_type_aliases = {"Tensor": "Tensor"}
napoleon_custom_sections = [("Call arguments", "params_style")]
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# Single backquotes in docstrings are code.
default_role = "code"
# A block that names no language is a formula or a command line.
highlight_language = "none"


def literal_blocks(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Turns the fenced blocks and tables of docstrings, which are Markdown, into literal blocks."""
    del app, what, name, obj, options
    written: list[str] = []
    fenced, before = False, ""
    for line in lines:
        fence, row = line.strip() == "```", line.startswith("|")
        begins = (fence and not fenced) or (row and not before.startswith("|"))
        fenced ^= fence
        if begins:
            written += ["", "::", ""]
        if not fence:
            written.append(f"    {line}" if fenced or row else line)
        else:
            written.append("")
        before = line
    lines[:] = written


def is_field(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which the class describes."""
    del app, what, name, skip, options
    return True if type(obj).__name__ == "_tuplegetter" else None


def of_constructor(
    app: Any, what: str, name: str, obj: Any, options: Any, given: str | None, returns: Any
) -> tuple[str, None] | None:
    """Shows the arguments of a layer's own constructor: Keras's `__new__` takes any."""
    del app, name, options, returns
    if what != "class" or given != "(*args, **kwargs)":
        return None
    own = signature(obj.__init__, bound_method=True)
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), None


def config_keys(app: Any) -> None:
    """Writes the tables of the config keys, for reference/programs.md."""
    from zoo.training.keys import GROUPS

    lines: list[str] = []
    for title, group in GROUPS.items():
        lines += [f"### {title}", "", "| key | default | what |", "|---|---|---|"]
        lines += [
            f"| `{key.name}` | `{key.written}` | {key.comment.replace('*', chr(92) + '*')} |"
            for key in group
        ]
        lines.append("")
    folder = pathlib.Path(app.srcdir, "_generated")
    folder.mkdir(exist_ok=True)
    (folder / "keys.md").write_text("\n".join(lines), encoding="utf-8")


def setup(app: Any) -> None:
    """Connects the functions above. Docstrings are changed before Napoleon reads their sections."""
    app.connect("builder-inited", config_keys)
    app.connect("autodoc-process-docstring", literal_blocks, priority=100)
    app.connect("autodoc-skip-member", is_field)
    app.connect("autodoc-process-signature", of_constructor)
