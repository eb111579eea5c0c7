"""What a HashIndex refuses, by the name of the argument, and that it is then as it was."""

import inspect

import numpy as np
import pytest

import search
from search import HashIndex, Writer, merge, pack, ranked_measure, rerank, unpack
from search.collection.ids import some
from search.hamming import scan
from search.hamming.blocks import arrange


def good():
    return {
        "codes": np.zeros((3, 2), np.uint8),
        "bits": 12,
        "features": np.zeros((3, 2), np.float32),
        "ids": np.array([4, 2, 9]),
        "attachments": {"a": b"b"},
    }


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"codes": np.zeros((3, 2), int)}, TypeError, "codes"),
        ({"codes": np.zeros(3, np.uint8)}, ValueError, "codes"),
        ({"bits": 17}, ValueError, "codes"),
        ({"bits": 0}, ValueError, "bits"),
        ({"bits": 12.0}, TypeError, "bits"),
        ({"features": np.zeros((2, 2), np.float32)}, ValueError, "features must have 3 rows"),
        ({"features": np.zeros((3, 2))}, TypeError, "features"),
        ({"features": np.full((3, 2), np.nan, np.float32)}, ValueError, "features"),
        ({"ids": np.array([4, 2, 4])}, ValueError, "ids must be unique"),
        ({"ids": np.array([4, -1, 3])}, ValueError, "ids must not be -1"),
        ({"ids": np.array([4, 3])}, ValueError, "ids"),
        ({"ids": np.array([4.0, 3, 2])}, TypeError, "ids"),
        ({"ids": np.array([1 << 63, 3, 2], np.uint64)}, ValueError, "ids must fit"),
        ({"attachments": {"a": "b"}}, TypeError, "attachments"),
        ({"attachments": {3: b""}}, TypeError, "attachments"),
        ({"attachments": {"": b""}}, ValueError, "attachments"),
    ],
)
def test_the_constructor_names_the_argument_that_is_wrong(change, error, words):
    HashIndex(**good())
    with pytest.raises(error, match=words):
        HashIndex(**(good() | change))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"queries": np.zeros((1, 3), np.uint8)}, ValueError, "queries"),
        ({"queries": np.zeros((1, 2), np.int8)}, TypeError, "queries"),
        ({"k": -1}, ValueError, "k "),
        ({"k": 1.0}, TypeError, "k "),
        ({"pool": -1}, ValueError, "pool"),
        ({"pool": 3, "query_features": None}, ValueError, "pool needs query_features"),
        (
            {"query_latents": np.zeros((1, 12))},
            ValueError,
            "query_latents and query_features are both",
        ),
        ({"query_features": None, "query_latents": np.zeros((1, 11))}, ValueError, "query_latents"),
        (
            {"query_features": None, "query_latents": np.full((1, 12), np.nan)},
            ValueError,
            "query_l",
        ),
        (
            {"query_features": None, "query_latents": np.zeros((1, 12)), "threshold": np.nan},
            ValueError,
            "threshold",
        ),
        ({"radius": -1}, ValueError, "radius"),
        ({"radius": 1.5}, TypeError, "radius"),
        ({"threads": 0}, ValueError, "threads"),
        ({"pool": None}, ValueError, "pool, radius or both"),
        ({"query_features": np.zeros((2, 2))}, ValueError, "query_features"),
        ({"query_features": np.zeros((1, 3))}, ValueError, "query_features"),
        ({"query_features": np.full((1, 2), np.nan)}, ValueError, "query_features"),
        ({"where": np.ones(4, bool)}, ValueError, "where must have the shape"),
        ({"where": np.ones(3)}, TypeError, "where"),
        ({"where": [4, 5]}, ValueError, r"where: 1 ids \(5\) not in the index"),
        ({"where": [[4]]}, TypeError, "where"),
        ({"where": 4}, TypeError, "where"),
    ],
)
def test_a_search_names_the_argument_that_is_wrong(change, error, words):
    arguments = {
        "queries": np.zeros((1, 2), np.uint8),
        "k": 2,
        "query_features": np.zeros((1, 2)),
        "pool": 2,
    }
    index = HashIndex(**good())
    index.search(**arguments)
    with pytest.raises(error, match=words):
        index.search(**(arguments | change))


def test_changes_name_the_argument_that_is_wrong_and_change_nothing():
    index = HashIndex(**good())
    codes, features = np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.float32)
    state = index._state
    for arguments, error, words in [
        ((codes, features, np.array([7, 2])), ValueError, r"ids: 1 ids \(2\) in the index already"),
        ((codes, features, np.array([7, 7])), ValueError, "ids must be unique"),
        ((codes, None), ValueError, "features are missing"),
        ((codes, features[:, :1]), ValueError, "features"),
        ((codes, features.astype(np.float16)), ValueError, "features"),
        ((codes, np.full((2, 2), np.inf, np.float32)), ValueError, "features"),
        ((codes[:, :1], features), ValueError, "codes"),
        ((codes, features, [7, 8]), TypeError, "ids"),
    ]:
        with pytest.raises(error, match=words):
            index.add(*arguments)
    for ids, error, words in [
        ([4, 5], ValueError, r"ids: 1 ids \(5\) not in the index"),
        (np.array([True]), TypeError, "ids"),
        ([1.5], TypeError, "ids"),
        (4, TypeError, "ids"),
    ]:
        with pytest.raises(error, match=words):
            index.remove(ids)
    assert index._state is state
    with pytest.raises(ValueError, match="features: the index has none"):
        HashIndex(codes).add(codes, features)
    with pytest.raises(ValueError, match="no features"):
        HashIndex(codes).search(codes, 1, query_features=np.zeros((2, 2)), pool=1)
    full = HashIndex(codes[:1], ids=np.array([(1 << 63) - 1]))
    with pytest.raises(ValueError, match="none are left"):
        full.add(codes)


def swapped(values):
    """Unsigned numbers with the highest byte first."""
    return np.array(values, ">u8")


@pytest.mark.parametrize(
    "refuse",
    [
        lambda ids: HashIndex(np.zeros((len(ids), 1), np.uint8), ids=ids),
        lambda ids: HashIndex(np.zeros((1, 1), np.uint8)).add(
            np.zeros((len(ids), 1), np.uint8), ids=ids
        ),
        lambda ids: HashIndex(np.zeros((9, 1), np.uint8)).remove(ids),
        lambda ids: HashIndex(np.zeros((9, 1), np.uint8)).search(
            np.zeros((1, 1), np.uint8), 1, where=ids
        ),
        lambda ids: rerank(np.zeros((1, 1)), np.zeros((9, 1), np.float32), ids[None], 1),
    ],
)
@pytest.mark.parametrize("order", ["<u8", ">u8"])
def test_unsigned_ids_that_do_not_fit_are_refused_in_any_byte_order(refuse, order):
    for wrong in ((1 << 63) + 5, (1 << 64) - 4):
        with pytest.raises(ValueError, match=r"(ids|where) must"):
            refuse(np.array([wrong, 3], order))


def test_ids_and_radii_in_another_byte_order_mean_the_same(tmp_path):
    codes = np.array([[1], [3], [7], [15]], np.uint8)
    ids = [5, 1 << 40, 7, 2]
    expected = HashIndex(codes, ids=np.array(ids))
    for order in (">u8", ">i8", ">u4", "<u8"):
        if order == ">u4":
            ids[1] = 9
            expected = HashIndex(codes, ids=np.array(ids))
        index = HashIndex(codes, ids=np.array(ids, order))
        np.testing.assert_array_equal(index.ids, sorted(ids))
        chosen = np.array([7, 2], order)
        for one, other in zip(
            index.search(codes, 3, where=chosen),
            expected.search(codes, 3, where=[2, 7]),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
        index.remove(chosen)
        assert index.ids.tolist() == sorted(set(ids) - {2, 7})
        assert index.add(codes[:1], ids=chosen[:1]).dtype == np.int64
        with Writer(tmp_path / "i", bits=8) as writer:
            writer.append(codes, ids=np.sort(np.array(ids, order)))
        assert HashIndex.open(tmp_path / "i", verify=True).ids.tolist() == sorted(ids)
    features = np.ones((4, 2), ">f4")
    with pytest.raises(TypeError, match="native byte order"):
        HashIndex(codes, features=features)
    fine = HashIndex(codes, features=features.astype(np.float32))
    found = fine.search(codes, 2, query_features=features, pool=2)
    assert not found[0].any()


def matrix(array):
    return np.asarray(array).view(np.matrix)


def masked(array):
    array = np.ma.masked_array(array)
    array[0] = np.ma.masked
    return array


@pytest.mark.parametrize(("kind", "reason"), [(matrix, "two-dimensional"), (masked, "ignored")])
def test_arrays_with_rules_of_their_own_are_refused_with_the_reason(kind, reason, tmp_path):
    codes, features = np.zeros((3, 1), np.uint8), np.zeros((3, 2), np.float32)
    index = HashIndex(codes, features=features)
    latents, ids, mask = np.zeros((3, 8), np.float32), np.array([[0, 1]] * 3), np.ones(3, bool)
    found = np.zeros((3, 2), np.int32), ids
    uses = {
        "bits": lambda: pack(kind(latents)),
        "codes": lambda: HashIndex(kind(codes)),
        "features": lambda: HashIndex(codes, features=kind(features)),
        "queries": lambda: index.search(kind(codes), 1),
        "queries ": lambda: index.within(kind(codes), 1),
        "query_features": lambda: index.search(codes, 1, query_features=kind(features), pool=2),
        "query_latents": lambda: index.search(codes, 1, query_latents=kind(latents), pool=2),
        "ids": lambda: rerank(features, features, kind(ids), 1),
        "codes ": lambda: index.add(kind(codes), features),
        "features ": lambda: index.add(codes, kind(features)),
        r"results\[1\]: distances": lambda: merge(found, (kind(found[0]), ids)),
        r"results\[1\]: ids": lambda: merge(found, (found[0], kind(ids))),
        "allowed": lambda: scan.knn(arrange(codes), codes, 1, allowed=kind(mask)),
        "radius": lambda: scan.radius(arrange(codes), codes, kind(ids[:, 0])),
        "where": lambda: index.search(codes, 1, where=kind(mask)),
        "where ": lambda: index.search(codes, 1, where=kind(ids[0])),
        "ids ": lambda: index.remove(kind(ids[0])),
        "codes  ": lambda: unpack(kind(codes)),
        "query_labels": lambda: ranked_measure(ids, kind(mask), ids[:, 0]),
        "database_labels": lambda: ranked_measure(ids, ids[:, 0], kind(ids[:, 0])),
        "ids   ": lambda: ranked_measure(kind(ids), ids[:, 0], ids[:, 0]),
        "exclude": lambda: ranked_measure(ids, ids[:, 0], ids[:, 0], exclude=kind(ids[:, 0])),
    }
    if kind is masked:  # a matrix of one dimension there is not
        uses["ids  "] = lambda: index.add(codes, features, kind(ids[:, 0] + 7))
    for name, use in uses.items():
        with pytest.raises(
            TypeError, match=f"^{name.strip()} must be a plain NumPy array.*{reason}"
        ):
            use()
    assert len(index) == 3
    with Writer(tmp_path / "i", bits=8) as writer:
        for arguments in ((kind(codes), features), (codes, kind(features))):
            with pytest.raises(TypeError, match=reason):
                writer.append(*arguments)


def test_memory_mapped_arrays_are_as_good_as_others(tmp_path):
    np.save(tmp_path / "codes.npy", np.array([[1], [2]], np.uint8))
    codes = np.load(tmp_path / "codes.npy", mmap_mode="r")
    assert HashIndex(codes).search(codes, 1)[1].tolist() == [[0], [1]]


def test_what_is_left_out_is_what_is_written():
    """The default of every argument that has one, but for None, of all that the package offers."""
    found = {}
    for name in search.__all__:
        offered = getattr(search, name)
        own = dict(inspect.getmembers(offered)) if inspect.isclass(offered) else {"": offered}
        for method, function in own.items():
            function = getattr(function, "__func__", function)
            if not inspect.isfunction(function) or (method[:1] == "_" and method != "__init__"):
                continue
            for each in inspect.signature(function).parameters.values():
                if each.default is not each.empty and each.default is not None:
                    found[f"{name}.{method}".rstrip("."), each.name] = each.default
    assert found == {
        ("HashIndex.open", "mmap"): True,
        ("HashIndex.open", "verify"): False,
        ("HashIndex.search", "threshold"): 0.5,
        ("HashIndex.rerank", "threshold"): 0.5,
        ("HashIndex.add", "replace"): False,
        ("HashIndex.prepare", "tables"): False,
        ("HashIndex.prepare", "approximate"): False,
        ("Writer.__init__", "next_id"): 0,
        ("asymmetric", "threshold"): 0.5,
        ("asymmetric", "spread"): 0.5,
        ("average_precision", "denominator"): "retrieved",
        ("measure", "at"): (),
        ("measure", "denominator"): "retrieved",
        ("measure", "radii"): (0, 1, 2),
        ("ranked_measure", "at"): (),
        ("ranked_measure", "denominator"): "retrieved",
    }


def test_a_message_names_the_first_five_ids():
    assert some(np.arange(5)) == "5 ids (0, 1, 2, 3, 4)"
    assert some(np.arange(6)) == "6 ids (0, 1, 2, 3, 4, ...)"
