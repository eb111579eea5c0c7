"""The documentation site builds without a warning, holds what it should, and its code runs."""

import html.parser
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_library import METHOD, NETWORK

import jaxhash
import search

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
needs_mkdocs = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("mkdocs", "material", "mkdocstrings_handlers", "mkdocs_jupyter")
    ),
    reason="the site needs the extra `docs`",
)
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; notebooks are shown as they are kept, without being run."""
    folder = tmp_path_factory.mktemp("site")
    environment = {k: v for k, v in os.environ.items() if k != "JAXHASH_DOCS_EXECUTE"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=environment | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """Collects the addresses that a page loads, rather than only links to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"link": "href", "script": "src", "img": "src", "iframe": "src"}.get(tag)
        self.addresses += [value for key, value in attrs if key == name and value]


@needs_mkdocs
def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        found = Loaded()
        found.feed(page.read_text(encoding="utf-8"))
        others = [one for one in found.addresses if re.match(r"(https?:)?//", one)]
        assert not others, f"{page.name} loads {others}"


@needs_mkdocs
@pytest.mark.parametrize("package", [jaxhash, search])
def test_the_site_explains_every_public_name(site: Path, package: object) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    page = (site / "api" / f"{name}.html").read_text(encoding="utf-8")
    shown = set(re.findall(rf'id="{name}\.(\w+)"', page))
    assert set(package.__all__) <= shown  # type: ignore[attr-defined]


@needs_mkdocs
def test_examples_are_shown_as_code(site: Path) -> None:
    page = (site / "api" / "search.html").read_text(encoding="utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert "Example:" not in page


def blocks(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return CODE.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/search-alone.md", "docs/coming-from-faiss.md", "docs/measures.md"],
)
def test_code_about_searching_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codes.faiss").write_bytes(flat_index(np.arange(16, dtype=np.uint8).reshape(2, 8)))
    code = "\n".join(block for block in blocks(page) if "import jaxhash" not in block)
    assert code
    code = code.replace("1_000_000", "2_000").replace("100_000", "2_000")
    exec(compile(code, page, "exec"), {})


def flat_index(codes: np.ndarray) -> bytes:
    """An `IndexBinaryFlat` as FAISS writes it."""
    count, width = codes.shape
    header = np.array([8 * width, width], "<i4").tobytes() + np.array([count], "<i8").tobytes()
    header += b"\x01" + np.array([1], "<i4").tobytes()
    return b"IBxF" + header + np.array([codes.size], "<u8").tobytes() + codes.tobytes()


def test_the_loss_and_network_of_the_page_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page about one's own parts, on so few steps that nothing is learned."""
    from jaxhash import data, method, nets

    monkeypatch.setattr(data, "EMBEDDED", dict(data.EMBEDDED))
    for table, name in ((method.METHODS, "contrastive"), (nets.NETWORKS, "tiny")):
        monkeypatch.setitem(table, name, None)  # type: ignore[arg-type]  # taken out at the end
        del table[name]
    loss, network, dataset = blocks("docs/own-parts.md")
    head, call = loss.split("\n\n\nmodel", 1)
    short = "steps=2, batch_size=32"
    names: dict[str, Any] = {}
    # The network first: the loss is tried on it too, as it compiles faster than the default one.
    for part in (
        head,
        network.replace("epochs=2", short),
        "model" + call.replace("epochs=2", f"{short}, network=network"),
        dataset,
    ):
        exec(compile(part, "docs/own-parts.md", "exec"), names)
    assert names["model"].spec.method == "contrastive"
    assert len(data.load("cats-and-dogs")) == 100


def test_the_readme_names_every_method_and_network() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    of_tests = {METHOD.name, NETWORK.name}  # known here after a test that trains them
    names = {*jaxhash.methods(), *jaxhash.networks()} - of_tests
    assert not [name for name in names if "-" not in name and f"`{name}`" not in text]


def test_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+/[\w.]+\.(?:py|md))`", text))
    assert len(named) > 20
    missing = {name for name in named if not (ROOT / name).exists() and "mine.py" not in name}
    # `losses/options.py` and its like are named from within the package.
    assert not {name for name in missing if not (ROOT / "jaxhash" / name).exists()}


def test_links_between_pages_lead_somewhere() -> None:
    """Also those that the site leaves out: of README.md, and to files of the repository."""
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
