"""Python code that is read and never run: constants, type aliases and the fields of classes, across modules."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

BUILTIN = ("bool", "int", "float", "str", "dict", "list", "tuple", "set", "None")


class NotUnderstood(Exception):
    """The code is written in a way that this reader does not know."""


@dataclass(frozen=True)
class Literal:
    """The type ``Literal[...]``."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Generic:
    """A type by its name, with its arguments: ``list[int]``, ``int``; "other" for a class of the program's own."""

    name: str
    arguments: tuple[frozenset["Type"], ...] = ()


Type = Literal | Generic


class Module:
    """One file of a source tree."""

    def __init__(self, tree: "Tree", name: str, text: str) -> None:
        """``name``: as in an import."""
        self.tree, self.name = tree, name
        self.body = ast.parse(text).body

    @cached_property
    def names(self) -> Mapping[str, ast.expr | ast.ClassDef | ast.FunctionDef | tuple[str, str]]:
        """What each name of the module is; one that is imported: where from. The last definition counts."""
        found: dict[str, ast.expr | ast.ClassDef | ast.FunctionDef | tuple[str, str]] = {}
        for statement in _module_statements(self.body):
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    found[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name] = value
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    found[name] = statement
                case ast.ImportFrom(module=str(module), names=aliases, level=0):
                    found |= {alias.asname or alias.name: (module, alias.name) for alias in aliases}
        return found

    def lookup(self, name: str) -> "tuple[Module, ast.expr | ast.ClassDef | ast.FunctionDef] | None":
        """Return the definition of a name and the module that has it, None for one from outside the tree."""
        found = self.names.get(name)
        if isinstance(found, tuple):
            module = self.tree.module(found[0])
            return module.lookup(found[1]) if module else None
        return (self, found) if found is not None else None

    def class_of(self, name: str) -> "tuple[Module, ast.ClassDef]":
        """Return a class that the module defines or imports."""
        found = self.lookup(name)
        if found is None or not isinstance(found[1], ast.ClassDef):
            raise NotUnderstood(f"{self.name} has no class {name}")
        return found[0], found[1]

    def fields(self, class_name: str) -> "dict[str, tuple[Module, ast.AnnAssign]]":
        """Return the annotated fields of a class and of its bases, in the order of a dataclass."""
        module, definition = self.class_of(class_name)
        found: dict[str, tuple[Module, ast.AnnAssign]] = {}
        for base in reversed(definition.bases):
            if isinstance(base, ast.Name) and module.lookup(base.id):
                found |= module.fields(base.id)
        for statement in definition.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found[name] = (module, statement)
        return found

    def method(self, class_name: str, name: str) -> ast.FunctionDef:
        """Return a method of a class, which must define it itself."""
        _, definition = self.class_of(class_name)
        for statement in definition.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return statement
        raise NotUnderstood(f"{self.name}: {class_name} has no method {name}")

    def constant(self, node: ast.expr) -> Any:
        """Return the value of an expression of constants, names of constants and lists of them."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                values: list[Any] = []
                for element in elements:
                    starred = isinstance(element, ast.Starred)
                    value = self.constant(element.value if isinstance(element, ast.Starred) else element)
                    values += value if starred else [value]
                return values
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.constant(left) + self.constant(right)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.constant(operand)
            case ast.Name(id=name) if (found := self.lookup(name)) and isinstance(found[1], ast.expr):
                return found[0].constant(found[1])
            case ast.Call(func=ast.Name(id="get_args"), args=[alias]):
                return [value for one in self.types(alias) if isinstance(one, Literal) for value in one.values]
        raise NotUnderstood(f"{self.name}: {ast.unparse(node)}")

    def types(self, node: ast.expr) -> frozenset[Type]:
        """Return the members of a type: of a union each, of an alias what it stands for."""
        match node:
            case ast.Constant(value=None):
                return frozenset({Generic("None")})
            case ast.Constant(value=str(text)):
                return self.types(ast.parse(text, mode="eval").body)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.types(left) | self.types(right)
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                elements = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return frozenset({Literal(tuple(self._literals(elements)))})
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[first, *_])):
                return self.types(first)
            case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
                return self.types(inner) | {Generic("None")}
            case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=elements)):
                return frozenset().union(*map(self.types, elements))
            case ast.Subscript(value=ast.Name(id=name), slice=inner) if name.lower() in BUILTIN:
                elements = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return frozenset({Generic(name.lower(), tuple(map(self.types, elements)))})
            case ast.Name(id=name) if name in BUILTIN:
                return frozenset({Generic(name)})
            case ast.Name(id=name) if (found := self.lookup(name)) and isinstance(found[1], ast.expr):
                return found[0].types(found[1])
        return frozenset({Generic("other")})

    def _literals(self, elements: list[ast.expr]) -> Iterator[Any]:
        for element in elements:
            if isinstance(element, ast.Constant):
                yield element.value
            else:  # an alias of further ones
                yield from (value for one in self.types(element) if isinstance(one, Literal) for value in one.values)


class Tree:
    """A directory of Python packages."""

    def __init__(self, root: Path, altered: Mapping[str, str] | None = None) -> None:
        """``altered``: module -> text to read instead of the file's, as if upstream had changed it."""
        self.root, self._altered = root, altered or {}
        self._modules: dict[str, Module | None] = {}

    def text(self, name: str) -> str | None:
        """Return the text of a module, None for one that is not here."""
        if name in self._altered:
            return self._altered[name]
        base = self.root.joinpath(*name.split("."))
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file():
                return path.read_text(encoding="utf-8")
        return None

    def module(self, name: str) -> Module | None:
        """Return a module by its dotted name, None for one that is not here."""
        if name not in self._modules:
            text = self.text(name)
            self._modules[name] = None if text is None else Module(self, name, text)
        return self._modules[name]

    def __getitem__(self, name: str) -> Module:
        """Return a module that must be here."""
        module = self.module(name)
        if module is None:
            raise NotUnderstood(f"no module {name} in {self.root}")
        return module


def _module_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the statements of a module as it runs; what only a type checker sees comes first, so that it yields."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _module_statements(statement.body)
            yield from _module_statements(statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _module_statements(statement.body)
        else:
            yield statement
