"""The pages in a real browser: Debian's chromium, or the one that JAXHASH_CHROMIUM names."""

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_service import COLOURS, make_photos, make_results, make_run, network_known, picture
from test_serve_attacks import bomb

import jaxhash
from jaxhash.serve import app
from jaxhash.serve.service import Service

playwright = pytest.importorskip("playwright.sync_api", reason="the pages' tests need playwright")
uvicorn = pytest.importorskip("uvicorn", reason="the service needs the extra `serve`")
CHROMIUM = os.environ.get("JAXHASH_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the pages' tests need chromium")
ODD = "<img src=x onerror=document.title='hacked'>.png"
PHONE = {"width": 375, "height": 740}


class Served:
    """A small index behind a real server on a free port."""

    def __init__(self, root: Path, **options: Any) -> None:
        photos = make_photos(root / "photos", each=5)
        (photos / "red" / ODD).write_bytes(picture(COLOURS["red"], 77))
        self.run = make_run(root / "run")
        self.index = jaxhash.index(jaxhash.load(self.run), photos, root / "photos.index")
        make_results(self.run, self.index)
        service = Service(self.run, root / "photos.index")
        service.warm()
        config = uvicorn.Config(
            app.build(service, **options), log_config=None, lifespan="on", ws="none"
        )
        self.server = uvicorn.Server(config)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with network_known():
        here = Served(tmp_path_factory.mktemp("page"))
        yield here
        here.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as manager:
        # As root, Chromium has no sandbox of its own.
        words = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = manager.chromium.launch(executable_path=CHROMIUM, args=words)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Callable[..., Any]]:
    """A function that opens a page; at the end, none of them complained or asked another host."""
    complaints: list[str] = []
    hosts: set[str] = set()
    contexts = []

    def open_page(path: str = "/", **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add("/".join(request.url.split("/")[:3])))
        page.goto(served.address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # A refusal of the service is a line in the console, and no fault of the page.
    refusals = ("Failed to load resource: the server responded with a status of 4",)
    assert not [one for one in complaints if not one.startswith(refusals)]
    assert {one for one in hosts if not one.startswith("blob:")} == {served.address}


def cards(page: Any) -> Any:
    return page.locator(".card")


def found(page: Any) -> list[float]:
    """The distances of the results, once there are some."""
    page.wait_for_selector("#results:not(.waiting) .card .distance:not(:empty)")
    return [float(text.split()[0]) for text in page.locator(".card .distance").all_inner_texts()]


def hand_over(page: Any, event: str, name: str, data: bytes, kind: str = "image/png") -> None:
    """Drop a file on the page, or paste it."""
    page.evaluate(
        """([event, name, data, kind]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], name, { type: kind }));
            const made = event === "paste"
              ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
              : new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(made);
        }""",
        [event, name, list(data), kind],
    )


def test_a_sample_greets_and_a_click_searches_on(opened: Callable, served: Served) -> None:
    page = opened()
    page.wait_for_selector(".card")
    assert cards(page).count() == 16
    page.wait_for_selector("#status:has-text('random sample')")
    assert "16 pictures · 19 bits" in page.inner_text("#about")
    for image in page.locator(".card img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.locator(".card button.pick").nth(3).click()
    distances = found(page)
    assert distances == sorted(distances)
    assert distances[0] == 0
    first = page.evaluate("() => location.hash")
    assert re.fullmatch(r"#item=\d+", first)
    assert page.locator("#own-bits rect").count() == 19
    page.locator(".card button.pick").nth(2).click()
    page.wait_for_url(re.compile(rf"#item=(?!{first[6:]}$)"))
    assert found(page)[0] == 0
    page.go_back()
    page.wait_for_url(re.compile(f"{first}$"))
    assert found(page)[0] == 0


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(opened: Callable, event: str) -> None:
    page = opened()
    page.wait_for_selector(".card")
    if event == "drop":
        hand_over(page, "dragover", "red.png", b"")
        assert page.locator("#drop").is_visible()
    hand_over(page, event, "mine.png", picture(COLOURS["red"], 123))
    distances = found(page)
    assert distances == sorted(distances)
    assert page.locator(".card .label").first.inner_text() == "red"
    assert page.inner_text("#query-name") == "mine.png"
    assert not page.locator("#drop").is_visible()
    assert page.locator("#query-picture").evaluate("image => image.naturalWidth") == 32
    times = page.inner_text("#times")
    assert "Network" in times
    assert re.search(r"Coarse to fine\s+[\d.]+ ms", times)


def test_a_picture_is_chosen_and_coarse_to_fine_is_switched(
    opened: Callable, tmp_path: Path
) -> None:
    (tmp_path / "blue.png").write_bytes(picture(COLOURS["blue"], 5))
    page = opened()
    page.wait_for_selector(".card")
    page.set_input_files("#file", tmp_path / "blue.png")
    assert any(distance % 1 for distance in found(page))
    page.locator("#fine").click()
    page.wait_for_selector(".card .distance:has-text('bits')")
    coarse = found(page)
    assert all(distance % 1 == 0 for distance in coarse)
    assert re.search(r"Codes alone\s+[\d.]+ ms", page.inner_text("#times"))
    assert re.search(r"Coarse to fine\s+[\d.]+ ms", page.inner_text("#times")), "of before"
    page.fill("#k", "3")
    page.keyboard.press("Tab")
    page.wait_for_selector("#status:has-text('3 nearest')")
    assert cards(page).count() == 3
    page.fill("#label", "green")
    page.keyboard.press("Tab")
    page.wait_for_selector(".card .label:has-text('green')")
    assert set(page.locator(".card .label").all_inner_texts()) == {"green"}


def test_a_recall_is_asked_for_and_one_label_is_searched_exactly(opened: Callable) -> None:
    page = opened("/#item=0")
    exact = found(page)
    with page.expect_request("**/search") as sent:
        page.select_option("#recall", "0.95")
    assert sent.value.post_data_json["recall"] == 0.95
    assert found(page) == exact, "so few are searched exactly"
    page.fill("#label", "green")
    assert page.locator("#recall").is_disabled()
    with page.expect_request("**/search") as sent:
        page.keyboard.press("Tab")
    assert "recall" not in sent.value.post_data_json
    page.wait_for_selector(".card .label:has-text('green')")
    page.fill("#label", "")
    assert page.locator("#recall").is_enabled()


def test_bits_that_differ_are_marked(opened: Callable, served: Served) -> None:
    page = opened("/#item=0")
    distances = found(page)
    card = cards(page).nth(len(distances) - 1)
    card.hover()
    title = page.inner_text("#other-title")
    count = int(title.split()[0])
    marked = page.locator("#other-bits .differs, #other-bits .hollow").count()
    assert count == marked > 0
    last = int(page.evaluate("() => document.querySelectorAll('.card').length")) - 1
    ids = served.index.codes.search(
        served.index.codes.get([0])[0],
        16,
        query_features=served.index.codes.get([0])[1].astype("float32"),
        pool=16,
    )[1][0]
    own, other = served.index.codes.get([0, int(ids[last])])[0]
    assert marked == sum(int(byte).bit_count() for byte in own ^ other)


def test_keys_do_what_clicks_do(opened: Callable) -> None:
    page = opened()
    page.wait_for_selector(".card")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    place = "() => [...document.querySelectorAll('.pick')].indexOf(document.activeElement)"
    assert page.evaluate(place) > 1
    page.keyboard.press(" ")
    assert page.locator("#viewer").is_visible()
    before = page.inner_text("#viewer-name")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") != before
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.keyboard.press("Enter")
    assert found(page)[0] == 0
    page.keyboard.press("c")
    page.wait_for_selector(".card .distance:has-text('bits')")
    page.keyboard.press("r")
    page.wait_for_selector("#status:has-text('random sample')")


def test_what_cannot_be_a_query_is_said(opened: Callable) -> None:
    page = opened()
    page.wait_for_selector(".card")
    hand_over(page, "drop", "notes.png", b"no picture")
    page.wait_for_selector(".status.bad:has-text('notes.png: not an image of a known format')")
    hand_over(page, "drop", "huge.png", bomb(10_000))
    page.wait_for_selector(".status.bad:has-text('huge.png: '):has-text('pixels')")
    hand_over(page, "drop", ODD, b"no picture")
    page.wait_for_selector(".status.bad:has-text('<img src=x')")
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(22_000_000)], "film.png"));
            const made = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
            document.body.dispatchEvent(made);
        }"""
    )
    page.wait_for_selector(".status.bad:has-text('film.png has 22 MB')")
    hand_over(page, "drop", "green.png", picture(COLOURS["green"], 5))
    found(page)
    assert page.locator(".status.bad").count() == 0
    assert page.title() == "jaxhash"


def test_a_name_with_markup_is_text(opened: Callable, served: Served) -> None:
    paths = [Path(path).name for path in served.index.items.paths or ()]
    page = opened(f"/#item={paths.index(ODD)}")
    found(page)
    assert ODD in page.locator(".card .name").all_inner_texts()
    page.locator(".card").first.hover()
    assert ODD in page.inner_text("#other-title")
    page.locator(".card .large").first.click()
    page.wait_for_selector("#viewer[open]")
    assert ODD in page.inner_text("#viewer-name")
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "jaxhash"


def test_a_phone_shows_all_of_it(opened: Callable) -> None:
    page = opened("/#item=0", viewport=PHONE, has_touch=True, is_mobile=True)
    found(page)
    sizes = "() => [document.documentElement.scrollWidth, innerWidth]"
    width, window = page.evaluate(sizes)
    assert width <= window == PHONE["width"]
    tops = [card.bounding_box()["y"] for card in cards(page).all()[:6]]
    assert len(set(tops)) < 6, "several in a row"
    for name in ("label[for=file]", "#random", "#fine", "#k", "#recall"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= window
        assert box["height"] >= 24
    page.locator(".card .large").first.tap()
    page.wait_for_selector("#viewer[open]")
    box = page.locator("#viewer").bounding_box()
    assert box["width"] <= window
    run = opened("/run", viewport=PHONE)
    run.wait_for_selector("#balance svg")
    width, window = run.evaluate(sizes)
    assert width <= window


def test_light_and_dark(opened: Callable) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    colours = []
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        page.wait_for_selector(".card")
        colours.append(page.evaluate(ground))
    assert colours[0] != colours[1]
    page.locator("#theme").click()
    assert page.evaluate(ground) == colours[0]
    page.reload()
    page.wait_for_selector(".card")
    assert page.evaluate(ground) == colours[0], "it is remembered"


def test_the_page_of_a_run(opened: Callable) -> None:
    page = opened("/run")
    page.wait_for_selector("#right .strip-row, #wrong .strip-row")
    assert page.locator("#rankings tbody tr").count() == 3
    for name in ("curve", "training", "balance"):
        assert page.locator(f"#{name} svg.chart").count() >= 1, name
    assert page.locator("#correlation canvas").count() == 1
    assert page.locator("#balance rect").count() == 19
    path = page.locator("#training path").first.get_attribute("d")
    assert "NaN" not in path
    assert 100 < path.count("L") <= 200
    assert "independent ones of 19" in page.inner_text("#correlation")
    page.locator("nav a", has_text="Search").click()
    page.wait_for_selector(".card")


def test_the_token_opens_the_page(browser: Any, tmp_path: Path) -> None:
    with network_known():
        served = Served(tmp_path, token="secret")
    try:
        context = browser.new_context()
        page = context.new_page()
        assert page.goto(served.address).status == 401
        page.goto(f"{served.address}/?token=secret")
        page.wait_for_selector(".card")
        assert "token" not in page.url
        page.wait_for_selector(".card img")
        loaded = "image => image.decode().then(() => image.naturalWidth)"
        assert page.locator(".card img").first.evaluate(loaded) > 0
        assert page.evaluate("() => document.cookie") == ""
        context.close()
    finally:
        served.end()
