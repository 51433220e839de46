"""Sphinx configuration.

One command builds the site, from the root of the repository:

    python -m sphinx -W -b html docs docs/_build/html

Whatever the pages and the gallery compute is computed while the site is built, on a simulated
release that is kept in docs/_build/simulated. Building needs no network, and neither does reading:
formulas are drawn here, and links to other projects come from docs/inventories.
"""

import os
import re
import sys
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.intersphinx import missing_reference
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

import nat4xr
from nat4xr import schema

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import figures

BUILD = HERE / "_build"
RELEASE = BUILD / "simulated"
os.environ["NAT4XR_DATA_DIR"] = str(RELEASE)
os.environ["NAT4XR_ZENODO_URL"] = "http://127.0.0.1:9"  # nothing is ever downloaded
os.environ["MATPLOTLIBRC"] = str(HERE / "figures.mplstyle")
os.environ["IPYTHONDIR"] = str(BUILD / "ipython")

project = "nat4xr"
author = "the nat4xr developers"
copyright = "the nat4xr developers; BSD-3-Clause"
version = release = nat4xr.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "notfound.extension",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "inventories", "jupyter_execute", "examples", "gallery/*.ipynb"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!nat4xr\b).*")]  # types in words, and other packages
show_warning_types = True

# -- Pages ------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True  # what a page writes, it writes elsewhere
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # a page that warns its reader is a page to be mended
nb_mime_priority_overrides = [("html", "text/html", 0)]

copybutton_exclude = ".linenos, .gp, .go"  # prompts and outputs
copybutton_prompt_text = "$ "

# -- API --------------------------------------------------------------------------------

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_mock_imports = ["pynapple", "pynwb", "safetensors", "torch"]  # too large for a reference
autodoc_typehints = "none"  # the docstrings say it in the field's terms
autosummary_generate = False
default_role = "py:obj"  # what single backticks mean in docstrings
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 90

# Lists of the names that these pages link to, in the first format of inventories, which is text.
intersphinx_mapping = {
    name: (address, f"inventories/{name}.txt")
    for name, address in {
        "python": "https://docs.python.org/3/",
        "xarray": "https://docs.xarray.dev/en/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "pandas": "https://pandas.pydata.org/docs/",
        "dask": "https://docs.dask.org/en/stable/",
        "matplotlib": "https://matplotlib.org/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    }.items()
}
SHORT_NAMES = {
    "Dataset": "xarray.Dataset",
    "DataArray": "xarray.DataArray",
    "path-like": "os.PathLike",
}

# -- Gallery ----------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "show_memory": False,
    "min_reported_time": 60,
    "only_warn_on_example_error": False,
    "abort_on_example_error": True,
    "matplotlib_animations": False,
    "image_scrapers": ("figures.scrape",),
    "reset_modules": ("figures.reset_style",),
    "doc_module": ("nat4xr",),
    "backreferences_dir": "gallery/uses",
}

# -- HTML -------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"nat4xr {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["custom.js"]
html_show_sourcelink = False
html_math_renderer = "drawn"
html_theme_options = {
    "announcement": "Outputs of code and figures on this site are of <b>simulated</b> data.",
}


def simulate_release(app: Sphinx, config: object) -> None:
    """Make what the pages read, once, and convert it, so that no page shows that it happens."""
    if not (RELEASE / "wav.zip").exists():
        nat4xr.simulate(RELEASE, scale=0.1, sound_scale=0.3)
    for area in ("A1", "PEG"):
        nat4xr.open_area(area, progressbar=False)
        nat4xr.open_spikes(area, progressbar=False)


def draw_figures(app: Sphinx) -> None:
    """Draw the figures of the reference, and tell IPython to draw those of pages as SVG."""
    figures.draw_reference(BUILD / "figures")
    profile = BUILD / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text("c.InlineBackend.figure_formats = ['svg']\n")


def show_uses(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list) -> None:
    """Show the figure of a function that draws one, and the examples that use a function."""
    function = name.rpartition(".")[2]
    if name == f"nat4xr.plot.{function}" and function in figures.REFERENCE:
        end = lines.index("") if "" in lines else len(lines)
        image = [f".. image:: /_build/figures/{function}.svg"]
        lines[end:end] = ["", *image, f"   :alt: {figures.REFERENCE[function]}", ""]
    examples = HERE / "gallery" / "uses" / f"{name}.examples"
    if what in ("function", "class") and examples.exists() and examples.stat().st_size:
        lines += ["", ".. rubric:: In the gallery", "", f".. minigallery:: {name}", ""]


def draw_math(self: HTML5Translator, node: nodes.Element) -> None:
    """Draw a formula, which then needs no script and no font."""
    latex = node.astext()
    inline = isinstance(node, nodes.math)
    formula = ziamath.Latex(latex, size=17, inline=inline)
    label = escape(latex, quote=True)
    svg = formula.svg().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    if inline:
        down = f"vertical-align:{formula.getyofst():.2f}px"
        self.body.append(f'<span class="formula" style="{down}">{svg}</span>')
    else:
        self.body.append(f'<div class="formula">{svg}</div>')
    raise nodes.SkipNode


def link_own_names(app: Sphinx, env: object, node: nodes.Node, contnode: nodes.Node) -> object:
    """Link names that are written short: `open_area`; Dataset; :func:`fit` in a table of modules.

    Other names in single backticks, of parameters for example, are literals.
    """
    if node.get("refdomain") != "py":
        return None
    if node["reftarget"] in SHORT_NAMES:
        node["reftarget"] = SHORT_NAMES[node["reftarget"]]
        return missing_reference(app, env, node, contnode)
    target, objects = node["reftarget"], env.get_domain("py").objects
    found = [f"nat4xr.{target}"] if f"nat4xr.{target}" in objects else []
    if not found and node["reftype"] in ("func", "meth"):
        found = [name for name in objects if name.endswith(f".{target}")]
    if len(found) == 1:
        entry = objects[found[0]]
        uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        return nodes.reference(
            "", "", contnode, refuri=f"{uri}#{entry.node_id}", internal=True, reftitle=found[0]
        )
    return contnode if node["reftype"] == "obj" or len(found) > 1 else None


class Contract(SphinxDirective):
    """A table of variables or coordinates, from the module that they are made by.

    Columns that have the same in each row, such as the dims of labels, are left out.
    """

    required_arguments = 1  # the name of a table of nat4xr.schema

    def run(self) -> list[nodes.Node]:
        fields: Mapping[str, schema.Field] = getattr(schema, self.arguments[0])
        columns = {
            "name": [f"`{name}`" for name in fields],
            "dims": [", ".join(field.dims) for field in fields.values()],
            "dtype": [field.dtype for field in fields.values()],
            "units": [field.units for field in fields.values()],
            "meaning": ["; ".join(filter(None, field[2:5:2])) for field in fields.values()],
        }
        columns = {head: column for head, column in columns.items() if len(set(column)) > 1}
        rows = [columns, ["---"] * len(columns), *zip(*columns.values(), strict=True)]
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(row)} |" for row in rows))


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, object], doctree: nodes.document
) -> None:
    """Give each page a description for search engines: its first paragraph."""
    paragraph = next(iter(doctree.findall(nodes.paragraph)), None) if doctree else None
    if paragraph:
        text = " ".join(paragraph.astext().split())
        context["metatags"] += f'<meta name="description" content="{escape(text)}">'


def polish(file: Path) -> str:
    """Repair what the theme and Sphinx write that readers of screens stumble over."""
    html = file.read_text(encoding="utf-8")
    html = html.replace('class="caption" role="heading"', 'class="caption"')
    html = html.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    asides = {"announcement-content": "Note", "sidebar-drawer": "Site", "toc-drawer": "Page"}
    for name, label in asides.items():
        html = html.replace(f'<aside class="{name}', f'<aside aria-label="{label}" class="{name}')
    html = re.sub(  # lines of a signature are no definitions
        r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>",
        lambda dl: re.sub("<dd>(.*)</dd>", r'<span class="sig-line">\1</span>', dl[1]),
        html,
    )
    file.write_text(html, encoding="utf-8")
    return html


def values(html: str, attributes: str) -> list[str]:
    """List the values of some attributes of a page."""
    matches = re.finditer(rf"""\s(?:{attributes})=(["'])(.+?)\1""", html)
    return [unescape(match[2]) for match in matches]


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Finish figures and pages, and warn of every link within the site that leads nowhere."""
    if exception or app.builder.format != "html":
        return
    root = Path(app.outdir).resolve()
    for file in root.rglob("*.svg"):
        figures.darken(file)
    pages = {file: polish(file) for file in root.rglob("*.html")}
    anchors = {file: set(values(html, "id")) for file, html in pages.items()}
    for file, html in pages.items():
        if file.name == "404.html" or "_modules" in file.parts:  # not written by us
            continue
        for link in values(html, "href|src"):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            anchor = unquote(url.fragment)
            broken = not target.exists() or (
                anchor and target in anchors and anchor not in anchors[target]
            )
            if broken:
                where = file.relative_to(root)
                logging.getLogger(__name__).warning("%s links to %s: not there", where, link)


def setup(app: Sphinx) -> None:
    """Hook in what this site needs."""
    app.add_directive("contract", Contract)
    app.add_html_math_renderer("drawn", (draw_math, None), (draw_math, None))
    app.connect("config-inited", simulate_release, priority=100)
    app.connect("builder-inited", draw_figures, priority=100)
    app.connect("autodoc-process-docstring", show_uses, priority=900)
    app.connect("html-page-context", describe)
    app.connect("missing-reference", link_own_names)
    app.connect("build-finished", finish)
