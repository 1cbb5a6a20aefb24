"""A hook of MkDocs: the reference, a page for each public package with the docstrings of its public names.

The names are those of the package's stub, or of its `__init__`; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, `api/NAME.md`."""
    pages = {f"flaxvision.{name}": list(public(f"flaxvision.{name}")) for name in packages()}
    pages["export"] = list(public("export"))
    shown = {place.rpartition(".")[2]: place for places in pages.values() for place in places}
    pages["flaxvision"] = list(public("flaxvision"))
    for package, places in pages.items():
        parts = [f"# `{package}`"]
        for place in places:
            name = place.rpartition(".")[2]
            if package == "flaxvision" and name in shown:
                parts.append(f"- [`fv.{name}`][{shown[name]}]")
            elif (source := imported(place)) is not None:
                parts.append(f"## `{package}.{name}`\n\n{source}'s own.")
            elif name.isupper():  # a constant among others, which a comment explains
                continue
            else:
                parts.append(f"::: {place}\n    options:\n      heading: {package}.{name}\n      toc_label: {name}")
        uri = f"api/{package.rpartition('.')[2]}.md"
        files.append(File.generated(config, uri, content="\n\n".join(parts) + "\n"))
    return files


def packages() -> list[str]:
    """The public packages and modules of flaxvision, such as "data"."""
    stub = ast.parse((ROOT / "flaxvision" / "__init__.pyi").read_text(encoding="utf-8"))
    inner = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.module is None]
    return [alias.name for node in inner for alias in node.names]


def public(package: str) -> Iterator[str]:
    """Where each public name of a package is defined, such as "flaxvision.training._fit.fit"."""
    folder = ROOT.joinpath(*package.split("."))
    if not folder.is_dir():
        yield from listed(package)
        return
    source = next(path for name in ("__init__.pyi", "__init__.py") if (path := folder / name).exists())
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or node.module in (None, package, "__future__"):
            continue
        module = f"{package}.{node.module}" if node.level else str(node.module)
        for alias in node.names:
            yield from [f"{module}.{alias.name}"] if alias.name != "*" else listed(module)


def listed(module: str) -> Iterator[str]:
    """Where the names in a module's own `__all__` are defined."""
    for node in statements(module):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from (f"{module}.{name}" for name in ast.literal_eval(node.value))


def imported(place: str) -> str | None:
    """The package from which a module has a public name, of another library; None for what it defines itself."""
    module, _, name = place.rpartition(".")
    for node in statements(module):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return node.module
    return None


def statements(module: str) -> list[ast.stmt]:
    """The outermost statements of a module."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")).body
