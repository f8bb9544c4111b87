"""deploys -> roles.<role> -> roles.common -> pyinfra; roles never import each other; inventories hold data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "deploy.py").exists())
WHOLE_HOST = {"declaration.py", "docs.py", "sources.py"}
"""Modules of roles/ that see all roles, because they speak of a whole host."""


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("role", ["common", *ROLES])
def test_a_role_imports_only_itself_and_common(role: str) -> None:
    for path in sorted((ROOT / "roles" / role).rglob("*.py")):
        for module in imported(path):
            top, *rest = module.split(".")
            assert top not in {"deploys", "inventories", "tests", "benchmarks"}, f"{path} imports {module}"
            if top == "roles":
                assert rest, f"{path} imports roles as a whole"
                assert rest[0] in {"common", role}, f"{path} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "roles").rglob("options.py")), ids=lambda p: p.parent.name)
def test_options_import_only_common(path: Path) -> None:
    for module in imported(path):
        if module.startswith("roles."):
            assert module.startswith("roles.common"), f"{path} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "inventories").glob("*.py")), ids=lambda p: p.stem)
def test_an_inventory_is_plain_data(path: Path) -> None:
    ours = [m for m in imported(path) if m.split(".")[0] in {"roles", "deploys", "tests", "benchmarks", "pyinfra"}]
    assert not ours, f"{path} imports {ours}"


def test_what_sees_all_roles_is_known() -> None:
    found = {p.name for p in (ROOT / "roles").glob("*.py") if any(m.startswith("roles.") for m in imported(p))}
    assert found <= WHOLE_HOST
