"""Variants are found by name, entry point and dotted path, and whatever is wrong with one ends in one line."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from dataclasses import dataclass

import pytest

from drb.registry import Registry
from drb.variant import identity, name_of, options_of

FILES = {
    "shapes/__init__.py": """
        import abc
        from drb.options import required, setting
        from drb.variant import Variant

        class Shape(Variant):
            sides = 0

            @abc.abstractmethod
            def area(self): ...
    """,
    "shapes/square.py": """
        from shapes import Shape, required

        class Square(Shape):
            name = "square"
            sides = 4
            width: float = required(above=0)

            def area(self):
                return self.width**2
    """,
    "shapes/polygon.py": """
        from shapes import Shape, setting

        class Polygon(Shape):
            name = "polygon"
            corners: list[int] = setting([1, 2], at_least=0)
            colour: str | None = None

            def __post_init__(self):
                super().__post_init__()
                self.cache = {}

            def area(self):
                return 0.0
    """,
    "outside.py": """
        from dataclasses import dataclass
        from shapes import Shape, setting

        class Dot(Shape):
            size: int = setting(1, at_least=1)
            colour = "red"

            def area(self):
                return 0.0

        class Half(Shape):
            pass

        @dataclass
        class Twice(Dot):
            other: int = 1

        def line():
            return Dot()
    """,
    "broken.py": "raise KeyError('no')",
    "dots-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: dots\nVersion: 1.0\n",
    "dots-1.0.dist-info/entry_points.txt": "[test.shapes]\ndot = outside:Dot\nlazy = broken:Nothing\n",
}


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    import textwrap

    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("shape", importlib.import_module("shapes").Shape, "shapes", "test.shapes")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shapes", "outside", "broken")]:
        del sys.modules[name]


def test_files_and_entry_points_are_listed_without_importing_the_latter(shapes):
    assert shapes.names() == ["polygon", "square", "dot", "lazy"]
    assert "outside" not in sys.modules
    assert "broken" not in sys.modules


def test_a_variant_is_found_by_each_of_its_names(shapes):
    assert shapes.build("square", {"width": 3}).area() == 9
    dot = shapes.find("outside.Dot")
    assert shapes.find("dot") is dot
    for given in ("dot", "outside.Dot", dot):
        built = shapes.build(given, {"size": 2})
        assert (built.size, built.sides) == (2, 0)
    assert shapes.build(built) is built


def test_a_variant_states_its_name_and_options(shapes):
    assert identity(shapes.build("dot")) == {"name": "outside.Dot", "size": 1}
    assert name_of(shapes.find("outside.Dot")) == "outside.Dot"
    polygon = shapes.build("polygon")
    assert list(options_of(polygon)) == ["corners", "colour"]
    assert polygon.corners is not shapes.build("polygon").corners
    polygon.corners = object()
    with pytest.raises(
        ValueError, match="the option corners of shapes.polygon.Polygon must be a number, a string, None"
    ):
        identity(polygon)


WRONG = [
    (
        "squar",
        {},
        "unknown shape 'squar'; did you mean square? choose polygon, square, dot or lazy, or give",
    ),
    ("square", {}, "the shape shapes.square.Square needs the option width"),
    ("square", {"widht": 1}, "has no option widht; did you mean width? it has width"),
    ("square", {"width": 0}, "Square.width must be above 0, got 0"),
    ("square", {"width": "a"}, "Square.width must be a number, got 'a'"),
    ("polygon", {"corners": 3}, "Polygon.corners must be a list, each item an integer, got 3"),
    ("polygon", {"colour": 3}, "Polygon.colour must be a string or None, got 3"),
    ("nowhere.at.All", {}, "the shape nowhere.at.All cannot be imported: No module named 'nowhere'"),
    ("broken.Shape", {}, "the shape broken.Shape cannot be imported: broken raises KeyError: 'no'"),
    ("lazy", {}, r"the shape lazy \(broken:Nothing\) cannot be imported: broken raises KeyError"),
    ("outside.Dott", {}, "outside has no Dott; did you mean Dot? expected a class derived from shapes.Shape"),
    ("outside.line", {}, "outside.line is no shape but a function; expected a class derived from shapes.Shape"),
    ("outside.dataclass", {}, "outside.dataclass is no shape but a function"),
    ("json.JSONDecoder", {}, "json.JSONDecoder is no shape; expected a class derived from shapes.Shape"),
    ("outside.Shape", {}, "outside.Shape is no shape; expected a class derived from"),
    ("outside.Half", {}, "the shape outside.Half is incomplete: it does not define area"),
    ("outside.Twice", {}, "outside.Twice is decorated with @dataclass, which a shape is already; remove that line"),
    (
        "dot",
        {"colour": "blue"},
        "has no option colour; Dot.colour is a plain attribute: annotate it .colour: str = 'red'",
    ),
    ("dot", {"area": 1}, "the shape outside.Dot has no option area; it has size"),
    (3, {}, "the shape must be a name, or a class derived from shapes.Shape or an object of one; got 3"),
    (dict, {}, "builtins.dict is no shape; expected a class derived from shapes.Shape"),
]


@pytest.mark.parametrize(("given", "options", "line"), WRONG, ids=lambda value: str(value)[:24])
def test_one_line_says_what_is_wrong(shapes, given, options, line):
    with pytest.raises(ValueError, match=line.replace("?", r"\?")) as raised:
        shapes.build(given, options)
    assert "\n" not in str(raised.value)


def test_an_object_has_its_options_already(shapes):
    with pytest.raises(ValueError, match="is given as an object and has its options already; set size there"):
        shapes.build(shapes.build("dot"), {"size": 2})


@pytest.mark.parametrize(
    ("values", "options", "line"),
    [
        ((), {"sise": 2}, "Dot has no option sise; did you mean size? it has size"),
        ((), {"colour": "blue"}, "Dot has no option colour; Dot.colour is a plain attribute: annotate it"),
        ((2,), {}, "the options of Dot are given by name, as in Dot(size=…); got 2"),
        ((), {"size": 0}, "Dot.size must be at least 1, got 0"),
    ],
)
def test_an_object_with_a_wrong_option_says_so_like_a_configuration(shapes, values, options, line):
    dot = shapes.find("dot")
    with pytest.raises(ValueError, match=re.escape(line)):
        dot(*values, **options)
    assert copy.deepcopy(dot(size=3)).size == 3


def test_an_object_without_an_option_that_it_needs_says_so(shapes):
    with pytest.raises(ValueError, match="Square needs the option width"):
        shapes.find("square")()


def test_two_distributions_with_one_name_are_refused(shapes, tmp_path):
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    importlib.invalidate_caches()
    (folder / "entry_points.txt").write_text("[test.shapes]\nsquare = outside:Half\n")
    with pytest.raises(ValueError, match="the entry point square = outside:Half in the group test.shapes has the name"):
        shapes.names()
    assert shapes.find("square").sides == 4  # drb's own is never replaced


def test_name_is_no_option():
    from drb.variant import Variant

    with pytest.raises(TypeError, match="name must not be annotated"):

        class Odd(Variant):
            name: str = "odd"


def test_a_dataclass_is_recognised_as_such():
    @dataclass
    class Plain:
        size: int = 1

    from drb.options import check_settings

    check_settings(Plain())
    with pytest.raises(ValueError, match="size must be an integer, got 1.5"):
        check_settings(Plain(1.5))
