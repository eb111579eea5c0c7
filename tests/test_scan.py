"""The scan against its NumPy twin: every width, every edge of the layout, every thread count."""

import itertools
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from search import threads
from search.hamming import scan
from search.hamming.blocks import BLOCK, Blocks, arrange, restore, take
from search.hamming.dealing import ABREAST
from search.kernels.hamming import LANES
from search.kernels.registers import Registers

REPOSITORY = Path(__file__).resolve().parent.parent

# A processor of this kind that can do least. It takes half as long to compile for level 1; in a
# folder of its own, as numba does not keep apart what it compiles for each level.
GENERIC = {  # on x86 one that looks distances up, as all have for long been able to
    "NUMBA_CPU_NAME": "x86-64-v2" if platform.machine() in ("x86_64", "AMD64") else "generic",
    "NUMBA_CPU_FEATURES": "",
    "NUMBA_OPT": "1",
    "NUMBA_CACHE_DIR": str(REPOSITORY / ".cache" / "numba-1"),
}


def draw_codes(rng, count, bits, kind="uniform"):
    """Codes of one character: spread out, around few centres, or all the same."""
    if kind == "uniform":
        truth = rng.integers(0, 2, (count, bits))
    elif kind == "equal":
        truth = np.broadcast_to(rng.integers(0, 2, bits), (count, bits))
    else:
        centres = rng.integers(0, 2, (3, bits))
        truth = centres[rng.integers(0, 3, count)] ^ (rng.random((count, bits)) < 0.03)
    return search.pack(truth)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


cases = st.fixed_dictionaries(
    {
        "bits": st.one_of(
            st.integers(1, 130), st.sampled_from([192, 247, 248, 249, 255, 256, 257, 511, 1025])
        ),
        "count": st.one_of(
            st.integers(0, 70), st.sampled_from([255, 256, 257, 511, 513, 1500, 4097])
        ),
        "queries": st.integers(0, 11),
        "kind": st.sampled_from(["uniform", "clustered", "equal"]),
        "threads": st.sampled_from([1, 2, 7]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def draw_case(case):
    rng = np.random.default_rng(case["seed"])
    codes = draw_codes(rng, case["count"], case["bits"], case["kind"])
    queries = draw_codes(rng, case["queries"], case["bits"])
    if case["count"] and case["queries"]:
        queries[0] = codes[-1]
    if case["count"] and case["queries"] > 1:
        # The complement of a code: distances as large as they get.
        queries[1] = search.pack(1 - search.unpack(codes[:1], case["bits"]))
    return rng, codes, queries


@settings(max_examples=80, deadline=None)
@given(cases, st.sampled_from([0, 1, 2, 10, 100, 700]))
def test_knn_is_the_stable_sort(case, k):
    _, codes, queries = draw_case(case)
    found = search.hamming_knn(queries, codes, k, bits=case["bits"], threads=case["threads"])
    assert [array.dtype for array in found] == [np.int32, np.int64]
    assert_same(found, naive.hamming_knn(queries, codes, k))


@settings(max_examples=50, deadline=None)
@given(cases, st.floats(0, 1))
def test_radius_is_every_code_within(case, share):
    _, codes, queries = draw_case(case)
    radius = round(share * case["bits"])
    found = search.hamming_radius(
        queries, codes, radius, bits=case["bits"], threads=case["threads"]
    )
    assert [array.dtype for array in found] == [np.int64, np.int32, np.int64]
    assert_same(found, naive.hamming_radius(queries, codes, radius))


@settings(max_examples=50, deadline=None)
@given(cases, st.sampled_from([0.0, 0.01, 0.1, 0.9, 1.0]), st.sampled_from([1, 10, 300]))
def test_filter_is_the_filtered_ranking(case, share, k):
    rng, codes, queries = draw_case(case)
    allowed = rng.random(len(codes)) < share
    blocks = arrange(codes, case["bits"])
    options = {"allowed": allowed, "threads": case["threads"]}
    assert_same(
        scan.knn(blocks, queries, k, **options), naive.hamming_knn(queries, codes, k, allowed)
    )
    radius = case["bits"] // 2
    assert_same(
        scan.radius(blocks, queries, radius, **options),
        naive.hamming_radius(queries, codes, radius, allowed),
    )


def test_many_ties_over_many_blocks_and_threads(rng):
    """Enough codes to split, to fill the buffer of candidates again and again, and to tie."""
    codes = draw_codes(rng, 30_000, 16)
    queries = draw_codes(rng, 70, 16)
    blocks = arrange(codes)
    for k in (1, 300, 3000):
        expected = naive.hamming_knn(queries, codes, k)
        for count in (1, 2, 7):
            assert_same(scan.knn(blocks, queries, k, threads=count), expected)
        one = scan.knn(blocks, queries[5:6], k, threads=3)
        assert_same(one, [array[5:6] for array in expected])


def test_distances_fall_with_the_rows(rng):
    """The worst order: every code is nearer than all before it, so every one is a candidate."""
    bits = 256
    steps = np.sort(rng.integers(0, bits + 1, 5000))[::-1]
    codes = search.pack(np.arange(bits) < steps[:, None])
    queries = np.zeros((5, bits // 8), np.uint8)
    for k in (1, 50):
        assert_same(search.hamming_knn(queries, codes, k), naive.hamming_knn(queries, codes, k))


def test_distances_that_overflow_a_byte_are_those_of_their_own_query(rng):
    """Sums over 256 bits wrap round at distances of 255 and 256, and are made again."""
    queries = draw_codes(rng, 9, 256)
    nearly = ~queries
    nearly[:, 5] ^= 4
    almost = nearly ^ (np.arange(32) == 9).astype(np.uint8)  # a sum of 255 is the last that fits
    codes = np.concatenate([queries, ~queries, nearly, almost, draw_codes(rng, 600, 256)])
    codes = codes[rng.permutation(len(codes))]
    for k in (1, len(codes)):
        assert_same(search.hamming_knn(queries, codes, k), naive.hamming_knn(queries, codes, k))
    for radius in (0, 253, 254, 255, 256):
        found = search.hamming_radius(queries, codes, radius)
        assert_same(found, naive.hamming_radius(queries, codes, radius))


@pytest.mark.parametrize("count", [1, 2, 64])
@pytest.mark.parametrize("by_table", [False, True])
@pytest.mark.parametrize(("bytes_each", "kind"), [(32, np.uint8), (33, np.uint16)])
def test_the_kernel_takes_a_block_at_a_time_and_no_more(
    count, by_table, bytes_each, kind, monkeypatch
):
    """Of other shapes it would read past the codes, which shows in no answer."""
    monkeypatch.setattr(scan, "registers", lambda: Registers(32, 16, by_table))
    shape, sums = scan.scratch(count, bytes_each)
    abreast = 1 if count == 1 else 8 if by_table else ABREAST
    assert divmod(len(shape), 8) == (abreast, BLOCK // LANES)
    assert (sums.shape, sums.dtype) == ((abreast * BLOCK,), kind)


def test_the_sample_misleads(rng):
    """Equal codes exactly where the kernel samples: it guesses a bound too low and must go back."""
    codes = draw_codes(rng, 64 * 256, 64)
    queries = draw_codes(rng, 9, 64)
    codes[:256] = codes[32 * 256 : 33 * 256] = queries[4]
    blocks = arrange(codes)
    for part in (queries, queries[4:5]):
        for k in (500, 512, 513, 600):
            found = scan.knn(blocks, part, k, threads=1)
            assert_same(found, naive.hamming_knn(part, codes, k))


def test_what_a_guess_left_out_is_found_however_far_it_is(rng):
    """The scan goes back for the misled query alone: of the other nothing is found twice."""
    misled = draw_codes(rng, 1, 64)
    codes = np.repeat(~misled, 64 * 256, axis=0)
    codes[:256] = codes[32 * 256 : 33 * 256] = misled  # where it samples; all others are at 64
    other = ~misled
    other[0, 3] ^= 0x81
    codes[40 * 256] = other
    queries = np.concatenate([misled, other])
    for k in (500, 600):
        found = scan.knn(arrange(codes), queries, k, threads=1)
        assert_same(found, naive.hamming_knn(queries, codes, k))


def test_radius_of_every_query_its_own(rng):
    codes, queries = draw_codes(rng, 3000, 24), draw_codes(rng, 5, 24)
    radii = np.array([-1, 0, 6, 12, 24])
    found = scan.radius(arrange(codes), queries, radii)
    assert_same(found, naive.hamming_radius(queries, codes, radii))


@pytest.mark.parametrize("bits", [64, 128, 256])
def test_codes_are_near_in_their_first_bytes_or_their_last(rng, bits):
    """The kernel leaves codes that are too far after some bytes, and no others."""
    codes, queries = draw_codes(rng, 6000, bits), draw_codes(rng, 9, bits)
    for row, (query, plane, flips) in enumerate(itertools.product(range(9), (0, -1), (7, 255))):
        codes[160 * row + query] = queries[query]
        codes[160 * row + query, plane] ^= flips
    for radius in (2, 3, 7, 8, np.arange(9)):
        found = scan.radius(arrange(codes), queries, radius, threads=1)
        assert_same(found, naive.hamming_radius(queries, codes, radius))


def test_codes_of_which_a_block_is_more_than_a_stretch(rng):
    codes, queries = draw_codes(rng, 600, 1025), draw_codes(rng, 2, 1025)
    found = search.hamming_radius(queries, codes, 500, bits=1025)
    assert_same(found, naive.hamming_radius(queries, codes, 500))


def test_radius_of_more_queries_than_a_tile(rng):
    codes, queries = draw_codes(rng, 300, 16), draw_codes(rng, 150, 16)
    for threads_used in (1, 3):
        found = scan.radius(arrange(codes), queries, 4, threads=threads_used)
        assert_same(found, naive.hamming_radius(queries, codes, 4))


def test_radius_with_more_results_than_a_call_returns(rng):
    codes, queries = draw_codes(rng, 40_000, 8), draw_codes(rng, 6, 8)
    found = search.hamming_radius(queries, codes, 8, threads=2)
    assert_same(found, naive.hamming_radius(queries, codes, 8))


@settings(max_examples=25, deadline=None)
@given(cases)
def test_xor_and_permutation_leave_distances(case):
    rng, codes, queries = draw_case(case)
    bits = case["bits"]
    plain = search.hamming_knn(queries, codes, 20, bits=bits)
    constant = draw_codes(rng, 1, bits)
    assert_same(search.hamming_knn(queries ^ constant, codes ^ constant, 20, bits=bits), plain)
    order = rng.permutation(bits)
    shuffled = [search.pack(search.unpack(array, bits)[:, order]) for array in (queries, codes)]
    assert_same(search.hamming_knn(*shuffled, 20, bits=bits), plain)


def test_pad_bits_are_masked(rng):
    codes, queries = draw_codes(rng, 500, 13), draw_codes(rng, 3, 13)
    dirty = [array | np.array([0, 7], np.uint8) for array in (queries, codes)]
    before = [array.copy() for array in dirty]
    assert_same(search.hamming_knn(*dirty, 40, bits=13), naive.hamming_knn(queries, codes, 40))
    assert_same(dirty, before)


def test_strided_and_read_only_input(rng):
    codes, queries = draw_codes(rng, 2000, 96), draw_codes(rng, 12, 96)
    codes.flags.writeable = queries.flags.writeable = False
    part, asked = codes[::-3, 2:8], queries[::2, 2:8]
    expected = naive.hamming_knn(asked, part, 9)
    assert_same(search.hamming_knn(asked, part, 9), expected)
    fortran = np.asfortranarray(part)
    assert_same(search.hamming_knn(np.asfortranarray(asked), fortran, 9), expected)


def test_blocks_from_a_memory_map(rng, tmp_path):
    codes, queries = draw_codes(rng, 1000, 40), draw_codes(rng, 6, 40)
    blocks = arrange(codes)
    blocks.planes.tofile(tmp_path / "planes")
    mapped = np.memmap(tmp_path / "planes", np.uint8, "r", shape=blocks.planes.shape)
    opened = Blocks(mapped, 1000, 40)
    assert opened.planes.ctypes.data == mapped.ctypes.data
    assert_same(scan.knn(opened, queries, 8), scan.knn(blocks, queries, 8))
    np.testing.assert_array_equal(restore(opened), codes)


@settings(max_examples=25, deadline=None)
@given(cases, st.data())
def test_restore_and_take_invert_arrange(case, data):
    _, codes, _ = draw_case(case)
    blocks = arrange(codes, case["bits"], threads=case["threads"])
    np.testing.assert_array_equal(restore(blocks), codes)
    start, stop = data.draw(st.tuples(st.integers(0, len(codes)), st.integers(0, len(codes))))
    np.testing.assert_array_equal(restore(blocks, start, stop), codes[start:stop])
    rows = np.arange(len(codes))[::-2]
    np.testing.assert_array_equal(take(blocks, rows), codes[rows])


def test_arrange_writes_where_it_is_told(rng):
    codes = draw_codes(rng, 700, 16)
    out = np.full((3, 2, 256), 9, np.uint8)
    assert arrange(codes, out=out).planes.ctypes.data == out.ctypes.data
    np.testing.assert_array_equal(out, arrange(codes).planes)
    assert not out[2, :, 700 - 512 :].any()
    with pytest.raises(ValueError, match="out must be"):
        arrange(codes, out=out[:2])


def test_blocks_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="planes must be"):
        Blocks(np.zeros((1, 8, 256), np.uint8), 257, 64)
    with pytest.raises(ValueError, match="planes must be"):
        Blocks(np.zeros((1, 8, 256), np.int8), 100, 64)


def test_sixteen_callers_agree(rng):
    codes, queries = draw_codes(rng, 20_000, 48), draw_codes(rng, 9, 48)
    blocks = arrange(codes)
    expected = naive.hamming_knn(queries, codes, 30)
    results = [None] * 16

    def call(position):
        for _ in range(5):
            results[position] = scan.knn(blocks, queries, 30, threads=3)

    callers = [threading.Thread(target=call, args=(position,)) for position in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for result in results:
        assert_same(result, expected)


@pytest.mark.parametrize(
    ("change", "kind", "problem"),
    [
        ({"k": -1}, ValueError, "k must not be negative"),
        ({"k": 1.5}, TypeError, "k must be a whole number"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"threads": 1.0}, TypeError, "threads must be"),
        ({"bits": 9}, ValueError, "codes must have 2 bytes"),
        ({"queries": np.zeros((2, 3), np.uint8)}, ValueError, "queries must have 1 bytes"),
        ({"queries": np.zeros((2, 1), np.int64)}, TypeError, "queries must be a NumPy array"),
        ({"codes": np.zeros((2, 1, 1), np.uint8)}, ValueError, "codes must have the shape"),
    ],
)
def test_knn_refuses(change, kind, problem):
    arguments = {
        "queries": np.zeros((2, 1), np.uint8),
        "codes": np.zeros((5, 1), np.uint8),
        "k": 1,
        **change,
    }
    with pytest.raises(kind, match=problem):
        search.hamming_knn(**arguments)


def test_radius_and_filter_refuse():
    blocks = arrange(np.zeros((5, 1), np.uint8))
    queries = np.zeros((2, 1), np.uint8)
    with pytest.raises(ValueError, match="radius must not be negative"):
        scan.radius(blocks, queries, -1)
    with pytest.raises(ValueError, match="radius must be a whole number or one for each"):
        scan.radius(blocks, queries, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="radius must not be negative"):
        scan.radius(blocks, queries, np.array([0, -2]))
    with pytest.raises(TypeError, match="allowed must be"):
        scan.knn(blocks, queries, 1, allowed=np.ones(5, np.int8))
    with pytest.raises(ValueError, match="allowed must have the shape"):
        scan.knn(blocks, queries, 1, allowed=np.ones(4, bool))


def test_pool_keeps_order_and_raises_the_first_failure():
    assert threads.run(pow, [(2, n) for n in range(50)], 7) == [2**n for n in range(50)]
    done = []

    def fail(number):
        done.append(number)
        if number % 3 == 1:
            raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match="task 1"):
        threads.run(fail, [(n,) for n in range(10)], 3)
    assert sorted(done) == list(range(10))


def test_pool_may_be_used_by_its_own_tasks():
    def nested(number):
        return sum(threads.run(pow, [(number, 2)] * 4, 4))

    assert threads.run(nested, [(n,) for n in range(8)], 4) == [4 * n * n for n in range(8)]


IN_ANOTHER_PROCESS = """
import itertools, sys
sys.path[:0] = [{tests!r}, {root!r}]
import naive, numba, numpy as np, search
from search.hamming import buckets, cells
from search.hamming.blocks import arrange
rng = np.random.default_rng(3)
for bits in {widths}:
    codes = search.pack(rng.integers(0, 2, (300, bits)))
    codes[9] = search.pack(1 - np.eye(1, bits, dtype=int))  # 255 bits from where no query is
    queries = search.pack(rng.integers(0, 2, (5, bits)))
    queries[0] = codes[7] ^ search.pack(np.ones((1, bits)))[0]
    queries[1] = codes[64]  # the first of a vector, and often the only one within
    for part in (queries, queries[:1]):
        for k in (1, 290):
            found = search.hamming_knn(part, codes, k, bits=bits, threads=2)
            for one, other in zip(found, naive.hamming_knn(part, codes, k)):
                np.testing.assert_array_equal(one, other)
        for radius in (0, bits // 2):
            found = search.hamming_radius(part, codes, radius, bits=bits)
            for one, other in zip(found, naive.hamming_radius(part, codes, radius)):
                np.testing.assert_array_equal(one, other)
    if not numba.config.DISABLE_JIT:
        if bits == 64:  # all the cells that there are, of which each query wants its own
            index = cells.build(arrange(codes, bits), cells=5)
            found, _ = index.knn(codes[:11], 9, probes=len(index.centres))
            np.testing.assert_array_equal(found, naive.hamming_knn(codes[:11], codes, 9)[0])
        continue  # the other kernels have no vectors of their own
    repeated = codes[rng.integers(0, 20, 60)]
    index = buckets.build(arrange(repeated, bits), tables=bits < 100)
    found = index.knn(queries, 9)
    for one, other in zip(found, naive.hamming_knn(queries, repeated, 9)):
        np.testing.assert_array_equal(one, other)
    found = index.radius(queries, 3)
    for one, other in zip(found, naive.hamming_radius(queries, repeated, 3)):
        np.testing.assert_array_equal(one, other)
    if bits != 64:
        continue
    both = np.concatenate([codes, codes[:5]])
    for own, gone in itertools.product((None, np.arange(300) * 2), ([], [3, 301])):
        several, left = search.HashIndex(codes, ids=own), np.delete(np.arange(305), gone)
        several.add(codes[:5])
        several.remove(several.ids[gone])
        for some in (slice(None), slice(0, None, 2), slice(1, 9)):
            wanted = several.ids[some]
            found = several.search(queries, 9, where=wanted, threads=2)
            distances, rows = naive.hamming_knn(queries, both[left[some]], 9)
            np.testing.assert_array_equal(found[0], distances)
            np.testing.assert_array_equal(found[1], np.where(rows < 0, -1, wanted[rows]))
assert "jax" not in sys.modules
"""


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({"NUMBA_DISABLE_JIT": "1"}, (5, 64, 256, 264)),
        (GENERIC, (5, 64, 256, 264)),
    ],
    ids=["plain-python", "generic-processor"],
)
def test_kernels_elsewhere(settings, widths):
    """Without the compiler, and compiled for a processor of this kind that can do least.

    What lies between is in tests/test_vectors.py, form by form.
    """
    code = IN_ANOTHER_PROCESS.format(
        tests=str(REPOSITORY / "tests"), root=str(REPOSITORY), widths=widths
    )
    environment = {**os.environ, **settings}  # numba keeps apart what it compiles for each
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_a_forked_child_searches():
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, search\n"
        "codes = np.arange(100_000, dtype=np.uint32).view(np.uint8).reshape(-1, 4)\n"
        "search.hamming_knn(codes[:1], codes, 3, threads=2)\n"
        "child = os.fork()\n"
        "_, ids = search.hamming_knn(codes[5:6], codes, 1, threads=2)\n"
        "if child == 0: os._exit(int(ids[0, 0] != 5))\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", code, str(REPOSITORY)], check=True, timeout=120)
