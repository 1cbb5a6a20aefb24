"""A hook of MkDocs: the repository's other pages join the site, and links between files stay links there.

The files of `docs` link to others as GitHub shows them, `../REPORTS.md`. In the site such a page is built too, and its
links lead back; a link to a file that is not in the site, such as code, becomes its text. A link to nothing is left to
MkDocs, which ends a strict build with it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OTHERS = ("REPORTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "experiments/results/**/*.*")
SHOWN = {".md", ".png", ".svg"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's other pages, and the figures in them."""
    for pattern in OTHERS:
        for path in sorted(ROOT.glob(pattern)):
            if path.suffix in SHOWN:
                files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead every link between two files to where the second one is in the site."""
    if page.file.abs_src_path is None:  # a page of the reference
        return markdown
    here = Path(page.file.abs_src_path).parent.relative_to(ROOT).as_posix()

    def led(match: re.Match[str]) -> str:
        image, text, link, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join(here, link))
        target = "index.md" if path == "README.md" else path.removeprefix("docs/")
        if files.get_file_from_path(target) is not None:
            link = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        elif (ROOT / path).exists():
            return text
        return f"{image}[{LINK.sub(led, text)}]({link}{anchor})"

    return LINK.sub(led, markdown)
