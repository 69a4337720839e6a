"""Two additions to the site at build time: API pages of all packages, and the configs on the page about options.

MkDocs calls the `on_...` functions. Nothing of `ldm` is imported: mkdocstrings reads the sources.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = next(folder for folder in (ROOT / "configs", ROOT / "ldm" / "configs") if folder.is_dir())
MARKER = re.compile(r"^<!-- configs: (?P<name>[\w/.]+) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Put the API pages into the navigation."""
    pages = ["api/index.md", *({name: uri} for name, uri, _ in api_pages())]
    config.nav = [{"API": pages} if "API" in item else item for item in config.nav or []]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the API pages, one for each package, and a table of them."""
    table = ["# API", "", "| Package | |", "| --- | --- |"]
    for name, uri, modules in api_pages():
        about = summary(name)
        directives = "\n\n".join(f"::: {module}" for module in modules)
        files.append(File.generated(config, uri, content=f"# {name}\n\n{about}\n\n{directives}\n"))
        table.append(f"| [`{name}`]({Path(uri).name}) | {about} |")
    files.append(File.generated(config, "api/index.md", content="\n".join(table)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace a line `<!-- configs: sampler -->` by the files of that group, `<!-- configs: pack.yaml -->` by that file."""
    return MARKER.sub(lambda found: "\n\n".join(tabs(found["name"])), markdown)


def tabs(name: str) -> Iterator[str]:
    """Yield a content tab with the text of `configs/<name>`, if that is a file, or of each file of this group.

    Raises:
        FileNotFoundError: There is no such file, or no file in such a group.
    """
    place = CONFIGS / name
    paths = [place] if place.is_file() else sorted(place.glob("*.yaml"))
    if not paths:
        raise FileNotFoundError(f"docs/ show configs/{name}, which has no .yaml file")
    for path in paths:
        text = path.read_text().rstrip()
        code = f'```yaml title="configs/{path.relative_to(CONFIGS)}"\n{text}\n```'
        yield f'=== "{path.stem}"\n\n' + "\n".join(f"    {line}".rstrip() for line in code.splitlines())


def api_pages() -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, page and modules of every package, `ldm` itself first.

    A module that begins with an underscore is private and has no entry; `__init__` stands for its package.
    """
    for folder in sorted({path.parent for path in (ROOT / "ldm").rglob("*.py")}):
        package = ".".join(folder.relative_to(ROOT).parts)
        modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
        if modules:
            yield package, f"api/{package}.md", [f"{package}.{module}" for module in modules]


def summary(package: str) -> str:
    """Return the first line of the docstring of a package; "" where there is none."""
    source = ROOT.joinpath(*package.split("."), "__init__.py")
    text = ast.get_docstring(ast.parse(source.read_text())) if source.is_file() else None
    return text.splitlines()[0] if text else ""
