import graphlib

import pytest
from PIL import Image

from . import house


def test_imports_go_down():
    order = {package: place for place, package in enumerate(house.PACKAGES)}
    up = [
        f"{module} imports {other or 'patchnet_tf'}"
        for module, others in house.imports().items()
        for other in others
        if module and not order[module.partition(".")[0]] >= order.get(other.partition(".")[0], len(order))
    ]
    assert sorted(up) == []


def test_no_module_imports_itself_by_a_detour():
    try:
        graphlib.TopologicalSorter(house.imports()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_imports_can_be_read():
    assert house.imports_by_string() == []


def test_every_module_stands_on_a_floor():
    packages = {module.partition(".")[0] for module in house.modules()}
    assert packages - {""} == set(house.PACKAGES)


def test_imports_as_they_are_written(tmp_path):
    """In a module `work.here`: relative and absolute, of modules and names, in functions, for types alone."""
    lines = {
        "import numpy": [],
        "import patchnet_tf": [""],
        "import patchnet_tf.files as f": ["files"],
        "from patchnet_tf import files, PatchNet": ["files", ""],
        "from patchnet_tf.work import other": ["work.other"],
        "from . import other, name": ["work.other", "work"],
        "from .other import name": ["work.other"],
        "from .. import files": ["files"],
        "from ..files import name": ["files"],
        "def f():\n    from ..files import name": ["files"],
        "if TYPE_CHECKING:\n    from ..files import name": ["files"],
    }
    path = tmp_path / "here.py"
    files = dict.fromkeys(("", "files", "work", "work.here", "work.other"), path)
    for line, expected in lines.items():
        path.write_text(line)
        assert list(house.imported("work.here", path, files)) == expected, line
    path = tmp_path / "__init__.py"
    path.write_text("from .other import name\nfrom ..files import name")
    assert list(house.imported("work", path, files)) == ["work.other", "files"]


def test_picture(tmp_path):
    house.draw(tmp_path / "house.png")
    with Image.open(tmp_path / "house.png") as picture:
        assert min(picture.size) > 500
