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


def test_every_page_is_in_the_index_and_the_readme() -> None:
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages
    index, readme = (path.read_text() for path in (ROOT / "docs" / "README.md", ROOT / "README.md"))
    assert not [page for page in pages if f"({page})" not in index or f"(docs/{page})" not in readme]


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80
