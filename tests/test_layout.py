"""The order of the modules: no module imports one that comes later."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nat4xr

PACKAGE = Path(nat4xr.__file__).parent

# From the ground up. Modules on one line do not import each other.
ROOMS = [
    ["errors"],
    ["extras", "chunks", "schema"],
    ["io.writing", "io.limits", "io.labels", "io.notes"],
    ["io.tables", "io.raster", "io.direct"],
    ["io.registry", "io.nems"],
    ["io.download"],
    ["io.release", "io.engine"],
    ["io.trials"],
    ["io.assemble"],
    ["io.netcdf"],
    ["io.ragged"],
    ["io.cache"],
    ["index", "coverage"],
    ["bins"],
    ["recordings", "spikes", "waveforms"],
    ["area", "results"],
    ["shifts", "sums"],
    ["metrics", "population", "preprocess"],
    ["strf", "plot"],
    ["accessor"],
    ["benchmark"],
    ["models", "bridges"],
    ["runs"],
    ["paper"],
    ["simulation"],
    ["verification"],
    ["cli"],
]
LEVEL = {module: level for level, modules in enumerate(ROOMS) for module in modules}


def room_of(module: str) -> str:
    """The room of a module: models and bridges are one room each."""
    first = module.partition(".")[0]
    return first if first in ("models", "bridges") else module


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__") or "." in name:
            yield name.removesuffix(".__init__"), file


def imported(module: str, file: Path) -> Iterator[str]:
    """The modules of the package that a file imports anywhere but for its types."""
    parents = module.split(".")[: -1 if file.name != "__init__.py" else None]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parents[: len(parents) - node.level + 1]
            source = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                target = ".".join([*source, alias.name])
                yield target if exists(target) else ".".join(source)


def exists(module: str) -> bool:
    path = PACKAGE.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


@pytest.mark.parametrize(("module", "file"), [m for m in modules() if m[0] != "io"])
def test_a_module_imports_only_modules_below_it(module: str, file: Path) -> None:
    room = room_of(module)
    assert room in LEVEL, f"{module} has no place in the order of rooms"
    for other in filter(None, imported(module, file)):
        below = room_of(other)
        assert below == room or LEVEL[below] < LEVEL[room], f"{module} imports {other}"


def test_no_module_has_the_name_of_a_public_function() -> None:
    functions = {
        name for name in dir(nat4xr) if not isinstance(getattr(nat4xr, name), type(nat4xr))
    }
    assert not functions & {name.rpartition(".")[2] for name, _ in modules()}
