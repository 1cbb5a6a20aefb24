"""README and docs: links, code, sweeps, numbers of networks; what was measured is in test_experiments_benchmarks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import flaxvision as fv
from tests.models.test_models_named import PUBLISHED

pytestmark = pytest.mark.quick
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), ROOT / "experiments" / "README.md"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text_of(name), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_is_short():
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 150
    speed = lines[lines.index("## Speed") : lines.index("## More")]
    assert sum(line.startswith("|") for line in speed) <= 15
    assert lines.index("## Your network") < lines.index("## Your images")  # first thing after the two commands
    heads = [line for line in lines if line.startswith("## ")]
    assert heads[:2] == ["## Two commands", "## Your network"]


def test_every_page_is_in_the_sites_menu():
    menu = text_of("mkdocs.yml").partition("\nnav:")[2]
    assert [page.name for page in DOCS.glob("*.md") if f"- {page.name}\n" not in menu] == []


def sentences(page: Path) -> set[str]:
    """The longer sentences of a page's prose."""
    text = re.sub(r"```.*?```|<!--.*?here -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    prose = " ".join(line for line in text.splitlines() if not line.startswith(("    ", "|", "#")))
    return {" ".join(part.split()) for part in re.split(r"(?<=[.:;])\s", prose) if len(part) > 50}


def test_nothing_is_said_twice():
    said = sentences(ROOT / "README.md")
    assert len(said) > 20
    assert [(page.name, twice) for page in DOCS.glob("*.md") if (twice := said & sentences(page))] == []


@pytest.mark.slow
def test_the_python_of_the_pages_runs(tmp_path, monkeypatch, capsys, torch):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(*blocks("README.md", "python"), space)
    assert space["result"].history["test_top1"][-1] > 0.5
    assert (tmp_path / "digits.safetensors").exists()
    assert len(space["table"].cells) == 2
    assert "parameters: 337,674" in capsys.readouterr().out
    exec(*blocks("docs/exports.md", "python"), {})
    assert "| ONNX |" in capsys.readouterr().out

    (network,) = blocks("docs/networks.md", "python")
    (tmp_path / "my_networks.py").write_text(network)
    monkeypatch.syspath_prepend(tmp_path)
    assert fv.models.create("my_networks:small", width=2).output_shape == (10,)


@pytest.mark.parametrize(
    ("page", "keys", "published"),
    [
        ("README.md", ("learning_rate", "optimizer"), 0),
        ("docs/sweeps.md", ("learning_rate", "optimizer"), 1),
        ("docs/lab.md", ("learning_rate",), 0),
        ("docs/search.md", ("optimizer", "learning_rate", "momentum", "hidden", "batch_size"), 0),
    ],
)
def test_the_sweeps_of_the_pages_are_valid(tmp_path, page, keys, published):
    (spec,) = blocks(page, "toml")
    (tmp_path / "own.toml").write_text(spec)
    loaded = fv.sweep.load_spec(tmp_path / "own.toml")
    assert (loaded.keys, len(loaded.published)) == (keys, published)


def test_the_labs_changes_are_valid(tmp_path):
    (spec,) = blocks("docs/lab.md", "toml")
    (tmp_path / "lab.toml").write_text(spec)
    varied = {}
    for line in re.findall(r"^    flaxvision sweep lab.toml (.*--set .*)", text_of("docs/lab.md"), re.MULTILINE):
        words = shlex.split(line)
        changes = words[words.index("--set") + 1 :]
        varied[words[1]] = fv.sweep.override(fv.sweep.load_spec(tmp_path / "lab.toml"), settings=changes).keys
    assert set(varied["runs/momentum"]) == {"learning_rate", "momentum"}
    assert set(varied["runs/batches"]) == {"learning_rate", "batch_size"}


def test_the_docs_list_every_sweep():
    assert [name for name in fv.sweep.list_specs() if f"`{name}`" not in text_of("docs/sweeps.md")] == []


def test_the_docs_list_every_command():
    from flaxvision.cli.main import COMMANDS

    table = text_of("docs/commands.md")
    assert [name for name in COMMANDS if f"| `{name}" not in table] == []


def test_the_networks_have_the_parameters_that_the_docs_say():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", text_of("docs/networks.md"), re.MULTILINE)
    said = {name: int(count.replace(",", "")) for name, count in rows}
    assert set(said) == {name for name, *_ in PUBLISHED}
    for name, arguments, published in PUBLISHED:  # which test_models_named counts
        if not arguments:
            digits = len(published.partition(".")[2]) - 1 if isinstance(published, str) else 0
            assert published in (said[name], f"{said[name] / 1e6:.{digits}f}M"), name
