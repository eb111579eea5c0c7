"""Answers that the memory could not hold are refused at the edge, before they are made."""

import math

import numpy as np
import pytest

import search
from search import HashIndex, memory
from search.collection.views import View
from search.fine.exhaustive import euclidean_knn
from search.hamming import buckets, scan, tables
from search.hamming.blocks import arrange
from search.scattered import search_shards

CODES = np.arange(256, dtype=np.uint8)[:, None]
FEATURES = np.arange(256, dtype=np.float32)[:, None]
IDS = np.arange(256)[None]
INDEX = HashIndex(CODES, features=FEATURES)
SEGMENTS = HashIndex(CODES[:200])
SEGMENTS.add(CODES[200:])
LATENTS = np.full((1, 8), 0.25)
FINE = {"query_features": FEATURES[:1]}

# Ways to ask for k results of one query.
WAYS = {
    "index": lambda k: INDEX.search(CODES[:1], k),
    "a single query": lambda k: INDEX.search(CODES[0], k),
    "two segments": lambda k: SEGMENTS.search(CODES[:1], k),
    "a recall": lambda k: INDEX.search(CODES[:1], k, recall=0.5),
    "a filter": lambda k: INDEX.search(CODES[:1], k, where=[1, 2]),
    "coarse to fine": lambda k: INDEX.search(CODES[:1], k, pool=10, **FINE),
    "a radius": lambda k: INDEX.search(CODES[:1], k, radius=1, **FINE),
    "latents": lambda k: INDEX.search(CODES[:1], k, pool=10, query_latents=LATENTS),
    "candidates": lambda k: INDEX.rerank(FEATURES[:1], IDS, k),
    "shards": lambda k: search_shards([INDEX], CODES[:1], k),
    "codes": lambda k: search.hamming_knn(CODES[:1], CODES, k),
    "features": lambda k: euclidean_knn(FEATURES[:1], FEATURES, k),
    "rerank": lambda k: search.rerank(FEATURES[:1], FEATURES, IDS, k),
    "asymmetric": lambda k: search.asymmetric(LATENTS, CODES, IDS, k),
}


@pytest.fixture
def little(monkeypatch):
    """Memory for an answer of a thousand results, and for no more."""
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "limit", lambda: 2 * 1000 * memory.RESULT)


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_larger_than_half_of_the_memory_is_refused(little, way):
    distances, ids = WAYS[way](1000)
    assert distances.shape[-1] == ids.shape[-1] == 1000
    assert (ids[..., 256:] == -1).all()
    for k in (1001, 1 << 31, 1 << 70):
        with pytest.raises(ValueError, match=f"k is {k:,}, .* a smaller k, or fewer queries"):
            WAYS[way](k)


def test_what_the_refusal_says(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 24e9)
    with pytest.raises(ValueError, match="k is") as error:
        INDEX.search(CODES[:3], 1 << 31)
    assert str(error.value) == (
        "k is 2,147,483,648, and that many results for 3 queries would take 77.31 GB, more than "
        "half of the 24.00 GB of memory there is; give a smaller k, or fewer queries at once"
    )


@pytest.mark.parametrize("kind", ["index", "codes", "buckets", "tables"])
def test_what_lies_within_a_radius_is_refused_before_all_is_found(monkeypatch, kind):
    monkeypatch.setattr(scan, "_FOUND", 1)
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "limit", lambda: 2 * 20_000 * memory.RESULT)
    codes = np.repeat(CODES, 300, axis=0)
    within = {
        "index": HashIndex(codes).within,
        "codes": lambda queries, radius: search.hamming_radius(queries, codes, radius),
        "buckets": buckets.build(arrange(codes)).radius,
        "tables": tables.build(arrange(codes)).radius,
    }[kind]
    assert len(within(CODES[:1], 2)[1]) == 37 * 300
    for queries, radius in ((CODES[:1], 8), (CODES, 2)):
        with pytest.raises(ValueError, match=r"radius: [\d,]+ results or more .*a smaller radius"):
            within(queries, radius)
    if kind == "codes":
        with pytest.raises(ValueError, match="radius") as error:
            within(CODES[:1], 8)
        assert 20_000 < int(str(error.value).split()[1].replace(",", "")) < len(codes)


def test_no_step_reserves_more_results_than_there_are_items(monkeypatch):
    asked, knn = [], View.knn

    def noted(self, queries, k, threads):
        asked.append(k)
        return knn(self, queries, k, threads)

    monkeypatch.setattr(View, "knn", noted)
    distances, ids = SEGMENTS.search(CODES[:2], 1000)
    assert asked == [256, 256]
    assert (distances[:, 256:] == np.iinfo(np.int32).max).all()
    assert (ids[:, 256:] == -1).all()


def test_small_answers_do_not_ask_for_the_memory(monkeypatch):
    def never():
        raise AssertionError

    monkeypatch.setattr(memory, "limit", never)
    INDEX.search(CODES, 1000)
    with pytest.raises(AssertionError):
        INDEX.search(CODES, 30_000)


GIB = 1 << 30
V2, V1 = "0::/", "4:cpu,cpuacct:/elsewhere\n9:memory:/"
LIMITS = {
    "nothing there": ("", {}, 8),
    "version 2": (V2, {"memory.max": f"{2 * GIB}\n"}, 2),
    "no limit": (V2, {"memory.max": "max\n"}, 8),
    "more than the machine": (V2, {"memory.max": f"{99 * GIB}\n"}, 8),
    "a group around it": (V2 + "a/b", {"a/b/memory.max": "max", "a/memory.max": f"{GIB}"}, 1),
    "a path of the host": (V2 + "docker/1", {"memory.max": f"{3 * GIB}"}, 3),
    "version 1": (V1 + "a", {"memory/a/memory.limit_in_bytes": f"{GIB}\n"}, 1),
    "version 1, no limit": (
        V1, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_control_groups(tmp_path, monkeypatch, name):
    groups, files, expected = LIMITS[name]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{groups}\n" if groups else "")
    for file, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(memory, "_installed", lambda: 8 * GIB)
    assert memory.limit(tmp_path) == expected * GIB


def test_a_machine_that_does_not_tell_its_memory(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sysconf", raising=False)
    assert memory.limit(tmp_path) == math.inf
