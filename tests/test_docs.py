"""The pages that are generated, and the claims that can be checked."""

import re
from pathlib import Path

from roles import docs

ROOT = Path(__file__).parents[1]


def test_options_md_is_what_the_code_says() -> None:
    assert docs.TARGET.read_text() == docs.page(), "docs/options.md is stale: run ./run docs"


def test_models_md_is_what_the_catalogue_says() -> None:
    assert docs.MODELS.read_text() == docs.models_page(), "docs/models.md is stale: run ./run docs"


def test_every_option_has_a_meaning() -> None:
    empty = [line for line in docs.page().splitlines() if re.match(r"\| `.*\|\s*\|$", line)]
    assert not empty, empty


def test_every_path_that_the_readme_names_exists() -> None:
    for page in ("README.md", "README.zh.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{page} names {target}"
