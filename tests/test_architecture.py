"""The house stands as CONTRIBUTING.md says: files are small and documented, and every name is used once.

Style, types and the import contracts are checked by ruff, mypy and import-linter, in pre-commit and in CI.
"""

import ast
import importlib
import inspect
import re
from collections import Counter

from tests.conftest import ROOT

SOURCES = {path.relative_to(ROOT): path.read_text() for path in sorted((ROOT / "ldm").rglob("*.py"))}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}
FRAGMENTS = ("What", "Of", "Those", "Whether", "From", "As", "That", "Which", "Where", "How", "Who")
"""Words with which a docstring would begin that makes no sense without the name below it."""


def documented(tree):
    """Yield the nodes of a module that have docstrings, with those."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            yield node, text


def test_files_are_small():
    assert [str(path) for path, text in SOURCES.items() if len(text.splitlines()) >= 340] == []


def test_few_files_lie_at_the_top():
    assert len(list((ROOT / "ldm").glob("*.py"))) <= 6


def test_no_class_name_occurs_twice():
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_docstring_begins_with_a_fragment():
    found = [
        f"{path}: {text.splitlines()[0]}"
        for path, tree in TREES.items()
        for _, text in documented(tree)
        if text.split()[0] in FRAGMENTS
    ]
    assert found == []


def classes_of(path):
    """Return the public classes of a module that are made by choosing values: no protocols, tuples, dicts or errors."""
    module = importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    found = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return [value for value in found if not value.__name__.startswith("_") and not _is_record(value)]


def _is_record(value):
    return issubclass(value, (tuple, dict, Exception)) or getattr(value, "_is_protocol", False)


def test_docstrings_of_classes_name_their_parameters():
    """In the class, in a base class of ours, or where it says that its options are "those of" another class."""
    public = {value.__name__: value for path in SOURCES if path.stem != "__main__" for value in classes_of(path)}

    def documented(parameter, texts):
        """Return whether docstrings name a parameter, or its type does: a class of ours that is called as it is."""
        ours = re.findall(r"\b[A-Z]\w+", str(parameter.annotation))
        same = parameter.name.replace("_", "") in [name.lower() for name in ours if name in public]
        return same or any(re.search(rf"\b{parameter.name}\b", text) for text in texts)

    undocumented = []
    for value in public.values():
        texts = [inspect.cleandoc(base.__doc__ or "") for base in value.__mro__ if base.__module__.startswith("ldm.")]
        texts += [public[name].__doc__ for name in re.findall(r"those of (\w+)", texts[0]) if name in public]
        undocumented += [
            f"{value.__name__}: {parameter.name}"
            for parameter in inspect.signature(value).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and not documented(parameter, texts)
        ]
    assert undocumented == []
