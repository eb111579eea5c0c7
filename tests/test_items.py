"""What an index knows of its items: columns from a CSV file, filters, and results with them."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoding import image_model
from test_updating import paint

import jaxhash
from jaxhash.found import Found, Hit, rows
from jaxhash.items import columns
from jaxhash.items.where import Table
from jaxhash.models import Model
from jaxhash.updating import Changes


@pytest.fixture(scope="module")
def model() -> Model:
    return image_model()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(8):
        paint(folder / ("beach" if number % 2 else "town/old") / f"{number}.png", number)
    return folder


TABLE = """\
path,year,place,stars
beach/1.png,2019,Kiel,4.5
beach/3.png,2021,"Rome, Italy",
town/old/0.png,2022,,3
town/old/9.png,2022,nowhere,3
"""


def test_columns_come_back_and_filter(model: Model, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text(TABLE)
    index = jaxhash.index(model, photos, tmp_path / "photos.index", columns=table)
    index = jaxhash.open_index(tmp_path / "photos.index", model)
    picture = photos / "beach" / "3.png"

    def names(where: object) -> list[str]:
        found = index.query(picture, k=20, pool=20, where=where)
        return sorted(Path(path).name for path in found.paths)

    assert names("year >= 2020") == ["0.png", "3.png"]
    assert names("year >= 2020 and folder == 'beach'") == ["3.png"]
    assert names("folder == 'beach'") == ["1.png", "3.png", "5.png", "7.png"]
    assert names("folder like 'town/%' and year is null") == ["2.png", "4.png", "6.png"]
    assert names("stars > 4 or place like '%Italy'") == ["1.png", "3.png"]
    assert names("path = 'beach/1.png'") == ["1.png"]
    assert names("year > 3000") == []
    assert names(index.codes.ids < 2) == ["1.png", "3.png"]
    assert names([0]) == ["1.png"]

    found = index.query(picture, k=1, pool=20)
    assert found.hits[0].columns == {"year": 2021, "place": "Rome, Italy", "stars": None}
    assert found.to_dict()["results"][0]["columns"]["year"] == 2021
    lines = list(csv.reader(io.StringIO(found.to_csv())))
    assert lines[0] == [
        "query",
        "rank",
        "id",
        "distance",
        "path",
        "label",
        "year",
        "place",
        "stars",
    ]
    assert lines[1][6:] == ["2021", "Rome, Italy", ""]

    # They stay with their items, and other ones take their place.
    paint(photos / "new.png", 50)
    (photos / "beach" / "1.png").unlink()
    assert index.update() == Changes(added=1, removed=1, unchanged=7)
    assert names("year >= 2020") == ["0.png", "3.png"]
    assert names("year = 2019") == []
    table.write_text("path,shot by\nnew.png,Ada\n")
    index.update(columns=table)
    index = jaxhash.open_index(tmp_path / "photos.index", model)
    assert names("\"shot by\" = 'Ada'") == ["new.png"]
    with pytest.raises(ValueError, match=r"no column year; .* there are path, folder, label"):
        names("year = 2019")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'path'"),
        ("file,year\na,1\n", "has no column 'path', .* it has file, year"),
        ("path\na\n", "no column besides 'path'"),
        ("path,year\n", "no line below the names"),
        ("path,year\na.png,1,2\n", "line 2 has 3 values, and the first line 2"),
        ("path,year\na.png,1\n./a.png,2\n", "line 3: ./a.png is there twice"),
        ("path,year,Year\na.png,1,2\n", "has 'Year' twice"),
        ("path,\na.png,1\n", "'' twice, or without a name"),
        ("path,label\na.png,1\n", "cannot be called 'label'"),
        ('path,year\n"a.png,1\n', "line"),
    ],
)
def test_a_file_that_is_no_table_of_columns(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        columns.read(path)


def test_columns_of_other_images_are_refused(model: Model, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,year\nother.png,1\n")
    with pytest.raises(ValueError, match=r"none of its 1 paths is an image.*other\.png"):
        jaxhash.index(model, photos, tmp_path / "i.index", columns=tmp_path / "t.csv")
    assert not (tmp_path / "i.index").exists()


def test_types_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(
        b"\xef\xbb\xbfpath,whole,number,name,text,huge,empty\n"
        b"a,1,1.5,007,x,99999999999999999999,\n"
        b"b,-20,2e3,8,,1,\n"
        b"sub/c\xff,,,9,nan,2,\n"
    )
    found = columns.read(path)
    assert found.names == ("whole", "number", "name", "text", "huge", "empty")
    assert found.rows == {
        "a": (1, 1.5, "007", "x", "99999999999999999999", None),
        "b": (-20, 2000.0, "8", None, "1", None),
        "sub/c\udcff": (None, None, "9", "nan", "2", None),
    }


def test_absolute_paths_are_understood(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path,year\n{tmp_path}/sub/a.png,2020\n/other/b.png,2021\n")
    assert set(columns.read(tmp_path / "t.csv", str(tmp_path)).rows) == {
        "sub/a.png",
        "/other/b.png",
    }


# ---------------------------------------------------------------- expressions

values = st.lists(st.none() | st.integers(-3, 3), min_size=1, max_size=12)


@settings(deadline=None)
@given(values, st.sampled_from(["<", "<=", "=", "==", "<>", ">", ">="]), st.integers(-3, 3))
def test_a_comparison_is_python_s(numbers: list[int | None], sign: str, other: int) -> None:
    table = Table({"x": numbers}, len(numbers))
    python = {"=": "==", "<>": "!="}.get(sign, sign)
    expected = [one is not None and bool(eval(f"{one} {python} {other}")) for one in numbers]
    assert table.select(f"x {sign} {other}", np.arange(len(numbers))).tolist() == expected


@pytest.mark.parametrize(
    "expression",
    [
        "load_extension('evil')",
        "readfile('/etc/passwd') is null",
        "randomblob(1000000000) is null",
        "zeroblob(1000000000) is null",
        "printf('%.*c', 1000000000, 'x') = ''",
        "x in (select x from items)",
        "exists (select 1 from sqlite_master)",
        "1) union select id from items where (1",
        "1); drop table items; --",
        "1; delete from items",
        "replace(x, '', zeroblob(999999)) = 1",
        "(with recursive c(n) as (select 1 union all select n+1 from c) select max(n) from c)",
        "x match 'y'",
        "sqlite_version() = ''",
        "pragma_table_info('items')",
        "attach database 'x' as y",
        "x = ?",
        "x = 1 /*",
        "x = 'a\0b'",
        "x = '\udcff'",
        " ",
        "x = " + "+".join("1" * 9000),
    ],
)
def test_an_expression_can_only_look(expression: str) -> None:
    table = Table({"x": [1, 2, 3]}, 3)
    with pytest.raises(ValueError, match="where:"):
        table.select(expression, np.arange(3))
    assert table.select("x > 1", np.arange(3)).tolist() == [False, True, True], "it still works"


def test_a_misspelt_column_is_corrected() -> None:
    table = Table({"year": [1], "shot by": ["x"]}, 1)
    with pytest.raises(ValueError, match="no column yaer; did you mean year"):
        table.select("yaer = 1", np.arange(1))
    with pytest.raises(ValueError, match="no column beach; text stands in single quotes"):
        table.select("year = beach", np.arange(1))
    with pytest.raises(TypeError, match="an expression is text, not int"):
        table.select(3, np.arange(1))  # type: ignore[arg-type]


def test_ids_that_the_table_does_not_know_are_not_chosen() -> None:
    table = Table({"x": [1, 2]}, 2)
    assert table.select("x > 0", np.array([0, 1, 5, -3])).tolist() == [True, True, False, False]


def test_results_of_several_queries_are_one_table() -> None:
    found = [
        Found("a", (Hit(1, 0.5, "p", None, {"x": 1}), Hit(2, 0.6, None, "cat", {"x": None}))),
        Found("b", ()),
        Found("c", (Hit(3, 4, "q", "dog"),)),
    ]
    assert rows(found) == [
        ["query", "rank", "id", "distance", "path", "label", "x"],
        ["a", 1, 1, 0.5, "p", "", 1],
        ["a", 2, 2, 0.6, "", "cat", ""],
        ["c", 1, 3, 4, "q", "dog", ""],
    ]
    assert json.loads(json.dumps(found[2].to_dict())) == {
        "query": "c",
        "results": [{"id": 3, "distance": 4, "path": "q", "label": "dog"}],
    }
