"""What the documents say can be typed: configurations are read, links lead somewhere, the README is one screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
import yaml

from search.config.load import load_config
from search.space.choices import names

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mlruns/README.md")),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("benchmarks/**/README.md"),
    *ROOT.glob("search/**/README.md"),
]
PAGES = sorted(path for path in ROOT.glob("docs/*.md") if path.name != "README.md")
SNIPPETS = [
    pytest.param(text, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_configuration_in_a_document_is_one(snippet: str, tmp_path: Path) -> None:
    """Whole ones are read beside a model and data of their names; of others each section is laid over the default."""
    content = yaml.safe_load(snippet)
    file = tmp_path / "config.yaml"
    if "model" in content:
        tiny.classifier(tmp_path / "my-bert")
        for name in ("train", "dev", "test", "corpus"):
            (tmp_path / f"{name}.csv").write_text("sentence,label\na film,good\na bore,bad\n")
        file.write_text(snippet)
        assert load_config(file, [], names()).task == content["task"]
        return
    sections = re.split(r"(?m)^(?=\w+:)", (ROOT / "search" / "quickstart" / "config.yaml").read_text())
    others = [section for section in sections if section.partition(":")[0] not in content]
    assert content and len(others) < len(sections) + len(content)
    data = ROOT / "search" / "quickstart" / "movie_reviews"
    file.write_text("".join([*others, "\n", snippet]).replace("movie_reviews/", f"{data}/"))
    read = load_config(file, [], names()).to_mapping()
    assert set(content) <= set(read)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    gone = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not gone


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_section_leads_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", path.read_text())
    targets = [(path.parent / file if file else path, section) for file, section in links if "://" not in file]
    assert not [section for file, section in targets if section not in sections_of(file)]


def sections_of(path: Path) -> list[str]:
    """The names by which links reach the headings of a page, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text())
    return [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


def test_every_page_is_in_the_index_and_the_readme() -> None:
    assert PAGES
    index, readme = (path.read_text() for path in (ROOT / "docs" / "README.md", ROOT / "README.md"))
    assert not [path.name for path in PAGES if f"({path.name})" not in index or f"(docs/{path.name})" not in readme]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_named_by_its_question_in_the_index_too(path: Path) -> None:
    title = path.read_text().splitlines()[0].removeprefix("# ")
    assert title.endswith("?")
    assert f"- [{title}]({path.name})" in (ROOT / "docs" / "README.md").read_text()


def test_the_readme_is_one_screen() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 60
    assert not [line for line in lines if len(line) > 120]
