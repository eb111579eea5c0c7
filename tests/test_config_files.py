"""Options from files: what they give, what the command line changes, what is refused."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxhash import cli, runs
from jaxhash.cli import options, train
from jaxhash.cli.command import Command, parse
from jaxhash.config import Config, to_json


@dataclass(frozen=True)
class Choice:
    """Options of a made-up command."""

    out: Path
    bits: int = 48
    share: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    mirror: bool = False
    note: str | None = None
    margins: dict[str, bool | int | float] = field(default_factory=dict)


def choose(*words: object) -> Choice | None:
    """The options of a made-up command."""
    command = Command("made up", "A command.", Choice, print, either=(("bits", "note"),))
    return parse(command, [*map(str, words)])


def test_a_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(
        'out = "a.json"\nbits = 12\nshare = 1\nsizes = [3]\nmirror = true\n'
        "margins = {alpha = 0.5, hard = true}\n"
    )
    read = Choice(Path("a.json"), 12, 1, (3,), True, None, {"alpha": 0.5, "hard": True})
    assert choose("--config", file) == read
    assert choose(f"--config={file}", "--bits", 16).bits == 16
    assert choose("--bits", 16, "--config", file).bits == 16
    assert choose("--config", file, "--no-mirror").mirror is False
    assert choose("--config", file, "--margins", "beta", 2).margins == {"beta": 2}
    # Of two options that exclude each other the file's gives way.
    assert choose("--config", file, "--note", "x") == replace(read, bits=48, note="x")
    # Dashes as on the command line, and what a later file says over an earlier one.
    later = tmp_path / "later.json"
    later.write_text('{"bits": 24, "note": null}')
    assert choose("--config", file, "--config", later) == replace(read, bits=24)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bist = 12", "unknown field 'bist' (did you mean bits"),
        ('bits = "many"', "bits = 'many'; it has to be int"),
        ("bits = true", "it has to be int"),
        ("sizes = [1, 2.5]", "a list of int"),
        ("bits = 12\nbits = 13", "is not TOML"),
        ("bits =", "is not TOML"),
        ("no-te = 1\nno_te = 2", "gives no_te twice"),
        ("out = 3", "out = 3; it has to be a path"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"some\.toml") as caught:
        choose("--config", file)
    assert message in str(caught.value)


def test_a_file_of_options_has_to_be_there_and_of_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file of options"):
        choose("--config", tmp_path / "none.toml")
    (tmp_path / "some.yaml").write_text("bits: 12")
    with pytest.raises(ValueError, match=r"named \.toml or \.json"):
        choose("--config", tmp_path / "some.yaml")
    for words in (["--config"], ["--config", "--bits"]):
        with pytest.raises(ValueError, match="--config needs a file"):
            choose(*words)


@settings(max_examples=50)
@given(
    bits=st.integers(-(2**40), 2**40),
    share=st.floats(allow_nan=False),
    sizes=st.lists(st.integers(0, 9)).map(tuple),
    mirror=st.booleans(),
    note=st.none() | st.text(st.characters(codec="utf-8")),
    margins=st.dictionaries(st.text(st.characters(codec="utf-8")), st.booleans() | st.integers(0)),
)
def test_printed_options_are_read_back(tmp_path_factory, **values) -> None:
    file = tmp_path_factory.getbasetemp() / "printed.toml"
    chosen = Choice(Path("a/b.json"), **values)
    file.write_text(options.to_toml(chosen), encoding="utf-8", newline="")
    read = options.read(file, Choice)
    assert options.with_values(Choice, read, None, source="it") == chosen


def test_print_config_prints_and_does_nothing(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--bits", "12", "--drops", "0.5", "0.75", "--options", "alpha", "0.01"]
    cli.main(["train", *words, "--print-config"])
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "again.toml").write_text(printed)
    cli.main(["train", "--config", "again.toml", "--print-config"])
    assert capsys.readouterr().out == printed
    chosen = parse(train.COMMAND, ["--config", "again.toml"])
    assert chosen.config == Config(bits=12, drops=(0.5, 0.75), options={"alpha": 0.01})
    # config.json of a run is such a file too.
    runs.write_json(tmp_path / "config.json", to_json(chosen.config))
    assert parse(train.COMMAND, ["--config", "config.json"]).config == chosen.config
