"""Settings of the book's website; `docs/build.py` runs Sphinx with them."""

import inspect
import os
import re
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_llm

project = "keras_llm"
author = "the keras_llm contributors"
version = release = keras_llm.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
]
exclude_patterns = ["**/.ipynb_checkpoints", "docs/_templates"]
templates_path = [str(Path(__file__).parent / "_templates")]

# Chapters are shown as they were committed, with their outputs. A progress bar is a widget, whose
# script would come from outside: it is left out.
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
nb_ipywidgets_js = {}
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "dollarmath"]
myst_heading_anchors = 3

# MathJax 3, from the package sphinx-mathjax-offline. An unknown command is an error, not red text.
mathjax3_config = {
    "options": {"enableMenu": False},
    "tex": {"packages": {"[-]": ["noundefined"]}},
}

# The reference: what each room names in `__all__`, with the members that it documents itself.
autosummary_ignore_module_all = False
autodoc_default_options = {
    "members": True,
    "exclude-members": "build, compute_output_shape, get_config",  # Keras calls them, not a reader
    "member-order": "bysource",
    "show-inheritance": True,
}
autodoc_inherit_docstrings = False  # Keras' own are written in another markup
autodoc_typehints = "none"  # the docstrings say more
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style")]
default_role = "py:obj"  # `name` becomes a link where it names something public
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "keras_llm"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_domain_indices = False
html_sidebars = {"index": [], "README": [], "CHANGELOG": [], "CONTRIBUTING": []}
html_theme_options = {
    "logo": {"text": "keras_llm"},
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
copyright = "the keras_llm contributors. Apache License 2.0"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def typeset(app, what, name, obj, options, lines):
    """Turns the dollars of a docstring into formulas, and sets its lists apart from the text."""

    def display(match):
        return f"\n{match[1]}.. math:: {' '.join(match[2].split())}\n"

    text = "\n".join(lines)
    text = re.sub(r"^( *)\$\$(.+?)\$\$$", display, text, flags=re.M | re.S)
    text = re.sub(r"(?<![\\`$\w])\$([^$\n]+)\$", r":math:`\1`", text)
    text = re.sub(r"^(?! *- )(.*\S)\n( *- )", r"\1\n\n\2", text, flags=re.M)
    lines[:] = text.splitlines()


def constructor(app, what, name, obj, options, signature, returns):
    """Gives a class the signature of its constructor: Keras' `__new__` takes anything."""
    if what != "class":
        return None
    of_init = inspect.signature(obj.__init__)
    parameters = list(of_init.parameters.values())[1:]  # without self
    return str(of_init.replace(parameters=parameters, return_annotation=of_init.empty)), returns


def setup(app):
    """Connects the above, before Napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", typeset, priority=400)
    app.connect("autodoc-process-signature", constructor)
