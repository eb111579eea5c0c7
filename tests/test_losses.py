"""Every loss of the table against its twin, and on the batches that break losses."""

import functools

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_vjp

from jaxhash.losses import dhih, dlbhc, dsh, hashnet, mhcln, talr
from jaxhash.losses.centres import aims, centres, tie_break
from jaxhash.losses.relevance import check, similar, targets
from jaxhash.method import METHODS
from jaxhash.nets import Outputs

N, BITS, CLASSES = 12, 7, 12  # as many classes as items: a batch can hold no positive pair

# A method's loss -> its twin. A newcomer adds one line here and one function to naive.py.
TWINS = {
    "dlbhc": naive.dlbhc,
    "ssdh": naive.ssdh,
    "dsh": naive.dsh,
    "dhih": naive.dhih,
    "dhih-r2": functools.partial(naive.dhih, reading="angular"),
    "dhih-r3": functools.partial(naive.dhih, reading="cosine"),
    "dhih-r4": functools.partial(naive.dhih, reading="temperature"),
    "mhcln": naive.mhcln,
    "mhcln-semihard": functools.partial(naive.mhcln, triplets="semi-hard"),
    "mhcln-paper": functools.partial(naive.mhcln, triplets="rows"),
    "hashnet": naive.hashnet,
    "greedyhash": naive.greedyhash,
    "csq": naive.csq,
    "dpn": naive.dpn,
    "orthohash": naive.orthohash,
    "talr": naive.talr,
}

# Options off their defaults, each checked against the twin given the same ones.
OPTIONS = [
    ("dlbhc", {"label_smoothing": 0.1}),
    ("dlbhc", {"multilabel": "binary", "label_smoothing": 0.1}),
    ("ssdh", {"push_weight": 3.0, "balance_weight": 0.5}),
    ("dsh", {"margin": 5.0, "alpha": 0.3}),
    ("dhih", {"factor": 0.5, "normalise": "kernel", "scale": 3.0, "label_smoothing": 0.1}),
    ("dhih-r2", {"multiple": 3}),
    ("dhih-r2", {"multiple": 4, "normalise": "both"}),
    ("dhih-r3", {"margin": 0.4, "beta": 0.0}),
    ("mhcln", {"alpha": 1.0, "push_weight": 2.0, "balance_weight": 0.1}),
    ("hashnet", {"alpha": 0.5, "growth": 3.0}),
    ("greedyhash", {"alpha": 2.0, "label_smoothing": 0.1}),
    ("csq", {"quantisation_weight": 1.0}),
    ("dpn", {"margin": 0.3}),
    ("orthohash", {"margin": 0.4, "scale": 2.0, "label_smoothing": 0.1}),
    ("talr", {"gamma": 0.5, "bins": 3}),
]

# The choice of the negative jumps where two are equally far.
NOT_SMOOTH = {"mhcln-semihard"}
# The order of the rows says which are anchors.
ORDERED = {"mhcln-paper"}

everyone = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def strict_dtypes():
    """No silent promotion inside a loss."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def batch(rng, name, n=N, multilabel=False):
    """Latents within the method's range, logits, labels and class weights, all NumPy."""
    latent = rng.normal(size=(n, BITS)).astype(np.float32)
    if METHODS[name].activation == "sigmoid":
        latent = 1 / (1 + np.exp(-2 * latent))
    elif METHODS[name].activation == "tanh":
        latent = np.tanh(latent)
    logits = rng.normal(size=(n, CLASSES)).astype(np.float32)
    kernel = rng.normal(size=(BITS, CLASSES)).astype(np.float32)
    labels = rng.integers(4, size=n).astype(np.int32)
    if multilabel:
        labels = rng.random((n, CLASSES)) < 0.1
        labels[0] = False  # nobody labelled this one
    return latent, logits, labels, kernel


def loss(name, latent, logits, labels, kernel, progress=1.0, **options):
    outputs = Outputs(latent, latent, logits)
    return METHODS[name].loss(
        outputs, labels, kernel, classes=CLASSES, progress=progress, **options
    )


@functools.cache
def compiled(name):
    """(latent, logits, labels, kernel) -> ((loss, terms), gradients by the three floats)."""

    def of(latent, logits, labels, kernel):
        return loss(name, latent, logits, labels, kernel)

    return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 3), has_aux=True))


def test_every_loss_has_a_twin():
    assert set(TWINS) == set(METHODS)


@everyone
@pytest.mark.parametrize("multilabel", [False, True])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_its_twin(name, multilabel, seed):
    given_ = batch(np.random.default_rng(seed), name, multilabel=multilabel)
    (value, terms), _ = compiled(name)(*given_)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    np.testing.assert_allclose(value, TWINS[name](*given_), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(value, sum(terms.values()), rtol=1e-6)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("multilabel", [False, True])
def test_options_equal_the_twins(name, options, multilabel, rng):
    given_ = batch(rng, name, multilabel=multilabel)
    value, _ = jax.jit(functools.partial(loss, name, **options))(*given_)
    np.testing.assert_allclose(value, TWINS[name](*given_, **options), rtol=2e-5, atol=1e-5)


@everyone
def test_compiled_equals_eager(name, rng):
    given_ = tuple(map(jnp.asarray, batch(rng, name)))
    (value, terms), _ = compiled(name)(*given_)
    eager_value, eager_terms = loss(name, *given_)
    np.testing.assert_allclose(value, eager_value, rtol=1e-5)
    assert terms.keys() == eager_terms.keys()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ORDERED])
def test_order_of_the_batch_is_of_no_account(name, rng):
    latent, logits, labels, kernel = batch(rng, name)
    order = rng.permutation(N)
    (value, _), (slope, _, _) = compiled(name)(latent, logits, labels, kernel)
    (other, _), (moved, _, _) = compiled(name)(latent[order], logits[order], labels[order], kernel)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    np.testing.assert_allclose(slope[order], moved, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_SMOOTH])
def test_gradient(name, rng):
    latent, logits, labels, kernel = batch(rng, name)

    def of(latent, logits, kernel):
        return compiled(name)(latent, logits, labels, kernel)[0][0]

    def pull_back(latent, logits, kernel):
        (value, _), slopes = compiled(name)(latent, logits, labels, kernel)
        return value, lambda slope: tuple(slope * each for each in slopes)

    check_vjp(of, pull_back, (latent, logits, kernel), atol=0.02, rtol=0.02, eps=1e-3)


CASES = ["no positive pair", "one class", "identical", "zeros", "decided"]


@everyone
@pytest.mark.parametrize(
    ("case", "multilabel"), [(c, m) for c in CASES for m in (False, True)] + [("one item", False)]
)
def test_finite_on_degenerate_batches(name, case, multilabel, rng):
    if case == "one item" and name in ORDERED:
        pytest.skip("a triplet is three items")
    latent, logits, _, kernel = batch(rng, name, n=1 if case == "one item" else N)
    n = len(latent)
    labels = np.arange(n, dtype=np.int32)
    if case in ("zeros", "decided"):
        labels //= 2
    if case == "one class":
        labels = np.full(n, 2, np.int32)
    elif case == "identical":
        latent, labels = np.repeat(latent[:1], n, axis=0), labels // 2
    elif case == "zeros":
        latent, kernel = np.zeros_like(latent), np.zeros_like(kernel)
    elif case == "decided":
        latent = np.sign(latent) if latent.min() < 0 else np.round(latent)
    if multilabel:
        labels = np.eye(CLASSES, dtype=bool)[labels]
        labels[-1] = False
    (value, _), slopes = compiled(name)(latent, logits, labels, kernel)
    assert np.isfinite(value)
    for slope in slopes:
        assert np.isfinite(slope).all()
        # A direction that fades out, instead of one that turns infinitely fast.
        assert np.abs(slope).max() < 1e3


@everyone
def test_bfloat16_in_float32_out(name, rng):
    given_ = [x.astype(jnp.bfloat16) if x.dtype == np.float32 else x for x in batch(rng, name)]
    value, terms = jax.eval_shape(functools.partial(loss, name), *given_)
    assert {leaf.dtype for leaf in (value, *terms.values())} == {np.dtype(np.float32)}


# ---- relevance --------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), multilabel=st.booleans())
def test_similar_and_targets(seed, multilabel):
    _, _, labels, _ = batch(np.random.default_rng(seed), "dlbhc", multilabel=multilabel)
    wanted = [[naive.share_a_class(labels, i, j) for j in range(N)] for i in range(N)]
    np.testing.assert_array_equal(similar(jnp.asarray(labels)), wanted)
    rows = targets(jnp.asarray(labels), CLASSES, 0.2)
    np.testing.assert_allclose(rows, naive.class_targets(labels, CLASSES, 0.2), rtol=1e-6)


def test_labels_outside_the_classes_aim_at_nothing():
    rows = targets(jnp.array([-1, 4, 1]), 4, smoothing=0.5)
    np.testing.assert_allclose(rows.sum(axis=1), [0, 0, 1])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros(3, np.float32), TypeError, "int32"),
        (np.zeros((3, 4), np.int32), TypeError, "bool"),
        (np.zeros(2, np.int32), ValueError, "for 3 items"),
        (np.zeros((3, 4, 1), bool), ValueError, "for 3 items"),
    ],
)
def test_wrong_labels_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        check(jnp.asarray(labels), 3)


def test_wrong_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="4 columns for 3 classes"):
        targets(jnp.zeros((2, 4), bool), 3)


# ---- one by one -------------------------------------------------------------------------------


def test_dsh_subgradients_at_their_corners():
    """Equations 5 and 6, with activations on the corners and one pair exactly at the margin."""
    latent = np.array([[-1, 0], [1, 0], [0.5, -0.5], [-1, -2], [1, 2]], np.float32)
    labels = np.array([0, 1, 0, 1, 2], np.int32)
    margin = 4.0  # the squared distance of the first two, and they are dissimilar
    slope = jax.jit(jax.grad(lambda b: dsh.dsh(b, labels, margin=margin, alpha=0.25)[0]))(latent)
    wanted = naive.dsh_gradient(latent, labels, margin, 0.25)
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)


def test_dsh_margin_is_twice_the_bits():
    """Opposite codes are 4 bits apart in squared distance; half of them differing is enough."""
    of = jax.jit(lambda codes: dsh.dsh(codes, jnp.array([0, 1]))[0])
    half = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
    assert float(of(half)) == 0
    one_less = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, -1.0]])
    assert float(of(one_less)) == 2


def test_squared_distances_are_never_negative(rng):
    x = np.repeat(100 + rng.normal(size=(1, 33)).astype(np.float32), 5, axis=0)
    distances = np.asarray(jax.jit(dsh.squared_distances)(x))
    assert (distances >= 0).all()
    assert (np.diag(distances) == 0).all()


def test_dhih_with_nothing_held_back_is_a_softmax(rng):
    """Every reading has a setting that is plain cross-entropy of latent @ kernel."""
    latent, _, labels, kernel = batch(rng, "dhih")
    plain = dlbhc.classification(jnp.asarray(latent @ kernel), jnp.asarray(labels))
    for options in (
        {"reading": "scale", "factor": 1.0},
        {"reading": "angular", "multiple": 1},
        {"reading": "temperature", "scale": 1.0},
        {"reading": "cosine", "margin": 0.0, "normalise": "none", "scale": 1.0},
    ):
        value, _ = dhih.dhih(latent, labels, kernel, beta=0.0, **options)
        np.testing.assert_allclose(value, plain, rtol=1e-5)


def test_dhih_angular_starts_as_a_softmax(rng):
    """At progress 0 the margin weighs a thousandth, at 1 ten parts of eleven."""
    latent, logits, labels, kernel = batch(rng, "dhih-r2")
    for progress in (0.0, 0.5, 1.0):
        value, _ = loss("dhih-r2", latent, logits, labels, kernel, progress=progress)
        wanted = naive.dhih(latent, logits, labels, kernel, progress, reading="angular")
        np.testing.assert_allclose(value, wanted, rtol=2e-5)


@pytest.mark.parametrize("multiple", [1, 2, 3, 4])
def test_dhih_angle_falls_without_a_jump(multiple):
    theta = np.linspace(0, np.pi, 400)
    psi = np.asarray(dhih.angular(jnp.cos(jnp.asarray(theta, jnp.float32)), multiple))
    assert (np.diff(psi) < 1e-4).all()
    assert np.abs(np.diff(psi)).max() < 1.1 * multiple * theta[1]
    np.testing.assert_allclose(psi[[0, -1]], [1, 1 - 2 * multiple], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reading": "r1"}, "reading is 'r1'.*angular"),
        ({"normalise": "rows"}, "normalise is 'rows'"),
        ({"factor": 0.0}, "factor is 0.0"),
        ({"multiple": 0}, "multiple is 0"),
    ],
)
def test_dhih_wrong_switches(options, message, rng):
    latent, logits, labels, kernel = batch(rng, "dhih")
    with pytest.raises(ValueError, match=message):
        loss("dhih", latent, logits, labels, kernel, **options)


def test_multilabel_choice_is_one_of_two():
    with pytest.raises(ValueError, match="share or binary"):
        dlbhc.classification(jnp.zeros((2, 3)), jnp.array([0, 1]), multilabel="sum")


def test_triplets_are_one_of_three():
    with pytest.raises(ValueError, match="batch-all, semi-hard, rows"):
        mhcln.mhcln(jnp.zeros((3, 2)), jnp.array([0, 0, 1]), triplets="hard")
    with pytest.raises(ValueError, match="a batch of 4"):
        mhcln.mhcln(jnp.zeros((4, 2)), jnp.array([0, 0, 1, 1]), triplets="rows")


def test_push_alone_drives_bits_apart_and_balance_evens_them():
    decided, undecided = jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.5]])
    assert float(dlbhc.push_penalty(decided)) == -0.25 < float(dlbhc.push_penalty(undecided)) == 0
    assert float(dlbhc.balance_penalty(decided)) == float(dlbhc.balance_penalty(undecided)) == 0
    assert float(dlbhc.balance_penalty(jnp.ones((1, 2)))) == 0.25


def test_hashnet_turns_its_tanh_into_a_sign(rng):
    latent, logits, labels, kernel = batch(rng, "hashnet")
    for progress in (0.0, 0.5, 1.0):
        value, _ = loss("hashnet", latent, logits, labels, kernel, progress=progress)
        wanted = naive.hashnet(latent, logits, labels, kernel, progress)
        np.testing.assert_allclose(value, wanted, rtol=2e-5)
    hard, _ = hashnet.hashnet(1e4 * latent, labels, 0.0)
    np.testing.assert_allclose(hard, hashnet.hashnet(np.sign(latent) * 9, labels)[0], rtol=1e-3)


def test_talr_of_decided_codes_is_close_to_the_expected_average_precision(rng):
    """The relaxation sees ties: it is between the best and the worst order of equal distances."""
    codes = np.where(rng.random((12, 5)) < 0.5, -1.0, 1.0).astype(np.float32)
    labels = rng.integers(2, size=12).astype(np.int32)
    relaxed = 1 - float(talr.talr(50 * codes, labels)[0])
    exact = []
    for i in range(12):
        others = np.arange(12) != i
        distances = (codes[others] != codes[i]).sum(axis=1)
        alike = labels[others] == labels[i]
        counts = [((distances == d).sum(), alike[distances == d].sum()) for d in range(6)]
        counts = [(int(size), int(hits)) for size, hits in counts if size]
        exact.append(naive.expected_average_precision(counts, 11, "relevant"))
    assert relaxed == pytest.approx(np.mean(exact), abs=0.05)
    with pytest.raises(ValueError, match="bins is 0"):
        talr.talr(codes, labels, bins=0)


# ---- centres ----------------------------------------------------------------------------------


def nearest(codes):
    distances = (codes[:, None] != codes[None]).sum(axis=2)
    return distances[~np.eye(len(codes), dtype=bool)].min()


@pytest.mark.parametrize(
    ("classes", "bits", "apart"),
    [
        (2, 1, 1),
        (16, 4, 1),
        (10, 12, 5),
        (21, 48, 20),
        (100, 48, 16),
        (33, 32, 16),
        (100, 64, 32),
        (10, 512, 256),
        (65, 32, 10),
        (7, 100, 48),
    ],
)
def test_centres_are_far_apart(classes, bits, apart):
    found = centres(classes, bits)
    assert found.dtype == np.float32
    assert found.shape == (classes, bits)
    assert set(np.unique(found)) == {-1.0, 1.0}
    assert nearest(found) >= apart
    drawn = np.where(np.random.default_rng(1).random((20, classes, bits)) < 0.5, -1, 1)
    assert nearest(found) >= max(map(nearest, drawn))


def test_centres_are_distinct_and_the_same_each_time():
    for classes, bits in ((128, 7), (5000, 13), (30_000, 40)):
        assert len(np.unique(centres(classes, bits), axis=0)) == classes
    first = centres(50, 20)
    assert not first.flags.writeable
    centres.cache_clear()
    np.testing.assert_array_equal(first, centres(50, 20))
    assert not np.array_equal(first, centres(50, 20, seed=1))
    with pytest.raises(ValueError, match=r"3 bits make 8 codes, and 9 classes.*at least 4 bits"):
        centres(9, 3)


def test_aims_are_the_majority_of_the_centres():
    own = centres(4, 6)
    labels = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    found = np.asarray(jax.jit(lambda labels: aims(labels, 4, 6))(labels))
    np.testing.assert_array_equal(found[0], own[0])
    np.testing.assert_array_equal(found[1], np.sign(own[:3].sum(axis=0)))
    np.testing.assert_array_equal(found[2], np.where(own[0] == own[1], own[0], tie_break(6)))
    assert not found[3].any()
    np.testing.assert_array_equal(aims(jnp.array([2, 4]), 4, 6), [own[2], np.zeros(6)])
    with pytest.raises(ValueError, match="4 columns for 5 classes"):
        aims(jnp.asarray(labels), 5, 6)
