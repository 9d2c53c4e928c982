"""The site: ``make docs``. The pages are the same files that a code host shows."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

project = "fastblur"
author = "the fastblur authors"
release = version = version_of("fastblur")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["conf.py", "figures/*.py"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}

autodoc_mock_imports = ["composer", "fastai", "lightning", "pytorch_lightning"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]
copybutton_exclude = ".linenos, .gp, .go"
highlight_language = "text"

html_theme = "furo"
html_title = "fastblur"
html_logo = "figures/logo.svg"
html_favicon = "figures/logo.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f6f8b", "color-brand-content": "#1f6f8b"},
    "dark_css_variables": {"color-brand-primary": "#7cc4dd", "color-brand-content": "#7cc4dd"},
}

ROOT = Path(__file__).parent.parent


def math(writer, node):
    """As MathML, which browsers draw themselves: the pages load nothing from elsewhere."""
    if isinstance(node, nodes.math_block):
        formula = convert(node.astext(), display="block")
        writer.body.append(f'<div class="formula">{formula}</div>\n')
    else:
        writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def outside(_app, docname, source):
    """Links that lead out of docs/, to sources, become their names: the site has no sources."""

    def name(match):
        inside = (ROOT / "docs" / match[2].partition("#")[0]).resolve()
        if "://" in match[2] or not inside.exists() or inside.is_relative_to(ROOT / "docs"):
            return match[0]
        path = str(inside.relative_to(ROOT))
        return match[1] if path in match[1] else f"{match[1]} (`{path}`)"

    source[0] = re.sub(r"(?<!!)\[([^\]]*)\]\(([^)]+)\)", name, source[0])


def setup(app):
    app.add_html_math_renderer("mathml", (math, None), (math, None))
    app.connect("source-read", outside)
