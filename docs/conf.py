"""How Sphinx builds these pages: `./run_local.sh docs`. Nothing is fetched."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from ge2e_transforms import __version__  # noqa: E402 (found by the line above)

project = "ge2e-features"
author = "the authors of ge2e-features"
copyright = "Apache 2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"  # docstrings mark names and shapes by single backticks
smartquotes = False  # quoted values are to be copied
html_theme = "furo"
html_title = f"ge2e-features {__version__}"
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["_build"]

myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
# Names in signatures that lie in other projects: their pages are not fetched, so there is nothing to link to.
nitpick_ignore_regex = [
    (r"py:.*", r"Path|(collections\.abc|pathlib|np|npt|numpy|tf|torch|apache_beam|typing_extensions)\..*"),
    # What signatures take from the inside of the library, or give and what is used without its name.
    (
        r"py:.*",
        r"(ge2e_transforms\.\w+\.)?(Dataset|LoaderOptions|Position|Sampler|SpeakerOrder|Stream|TorchBatches|Values)",
    ),
]

# Files of the repository that are pages here by inclusion: links to the file lead to the page.
PAGES = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/README.md": "benchmarks",
    "benchmarks/training.md": "training",
    "examples/train_ge2e/README.md": "guides/training",
    "deploy/flink/README.md": "guides/flink",
    "deploy/dataflow/README.md": "guides/dataflow",
}


# A field or several, as docstrings of this project name them in front of what they are.
FIELD = re.compile(r"((?:[a-z_0-9]+, )*[a-z_0-9]+): ")


def links_to_pages(app: Sphinx, doctree: nodes.document) -> None:
    """Lets links to files that are included here lead to the page that includes them."""
    files = {str((ROOT / path).with_suffix("")): page for path, page in PAGES.items()}
    for link in doctree.findall(pending_xref):
        link["reftarget"] = files.get(link["reftarget"], link["reftarget"])


def bare_names(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Finds what docstrings name without its module, or by another one than the page."""
    if node.get("refdomain") != "py":
        return None
    node["refspecific"] = True  # looks for the end of a name, too
    name = node["reftarget"].rpartition(".")[2]
    return env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def plain_docstrings(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Fields of a class become a list, also several in one entry; a colon of a property ends no type."""
    if what == "property":
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ", 1)
    fields = [number for number, line in enumerate(lines) if FIELD.match(line) and not lines[number - 1].strip()]
    headed = lines.index("Attributes:") + 1 if "Attributes:" in lines else 0
    if what != "class" or not (fields or headed):
        return
    start = headed or fields[0]
    end = lines.index("", start) if "" in lines[start:] else len(lines)
    entries = textwrap.dedent("\n".join(lines[start:end])).split("\n")
    entries = [
        FIELD.sub("* **\\1** \N{EN DASH} ", line) if FIELD.match(line) else f"  {line.strip()}" for line in entries
    ]
    lines[start - bool(headed) : end] = ["", *entries]


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("doctree-read", links_to_pages)
    app.connect("missing-reference", bare_names)
    app.connect("autodoc-process-docstring", plain_docstrings, priority=400)  # before napoleon, which is at 500
