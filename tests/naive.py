"""Slow, obviously correct NumPy twins of the fast functions: what the tests compare with."""

import itertools
import math
import zlib
from fractions import Fraction

import numpy as np

# ---- codes, scan and buckets: Hamming search ---------------------------------------


def hamming_distances(queries, codes):
    """All distances (q, n) of codes whose pad bits are zero."""
    return np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=-1, dtype=np.int64)


def hamming_knn(queries, codes, k, allowed=None):
    """Distances and rows (q, k) by a stable sort of every distance."""
    distances = np.full((len(queries), k), np.iinfo(np.int32).max, np.int32)
    rows = np.full((len(queries), k), -1, np.int64)
    candidates = np.arange(len(codes)) if allowed is None else np.flatnonzero(allowed)
    full = hamming_distances(queries, codes[candidates])
    for query, row in enumerate(full):
        order = np.argsort(row, kind="stable")[:k]
        distances[query, : len(order)] = row[order]
        rows[query, : len(order)] = candidates[order]
    return distances, rows


def hamming_radius(queries, codes, radius, allowed=None):
    """Offsets, distances and rows of all codes within `radius`, one number or one a query."""
    radii = np.broadcast_to(radius, len(queries))
    all_distances, all_rows = hamming_knn(queries, codes, len(codes), allowed)
    inside = (all_rows >= 0) & (all_distances <= radii[:, None])
    offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return offsets, all_distances[inside], all_rows[inside]


# ---- ranking measures: search.measures.ranking, search.measures.listed -------------


def shares_label(query_labels: np.ndarray, database_labels: np.ndarray) -> np.ndarray:
    """bool (q, n): whether query and item have a label in common."""
    if query_labels.ndim == 1:
        return query_labels[:, None] == database_labels[None, :]
    return np.array([[(a & b).any() for b in database_labels] for a in query_labels], bool).reshape(
        len(query_labels), len(database_labels)
    )


def average_precision(relevant: list[bool], top: int, denominator: str) -> float:
    """Average precision of one ordered list."""
    head = relevant[:top]
    precisions = [sum(head[: i + 1]) / (i + 1) for i, hit in enumerate(head) if hit]
    count = sum(head) if denominator == "retrieved" else min(top, sum(relevant))
    return sum(precisions) / count if count else 0.0


def over_tie_orders(distances: np.ndarray, relevant: np.ndarray, function) -> float:
    """Mean of `function(ordered relevance)` over every order that keeps distances ascending."""
    ties = [[bool(r) for r in relevant[distances == d]] for d in np.unique(distances)]
    orders = itertools.product(*(itertools.permutations(tie) for tie in ties))
    values = [function([r for tie in order for r in tie]) for order in orders]
    return sum(values) / len(values)


def expected_average_precision(counts: list[tuple[int, int]], top: int, denominator: str) -> float:
    """Expected average precision of ties [(items, relevant), ...], in exact fractions.

    Position by position, and over every number of relevant items that the cut tie can give.
    """

    def one_tie(before: int, relevant_before: int, items: int, relevant: int) -> Fraction:
        total = Fraction(0)
        for place in range(items):
            chance = Fraction(relevant, items)
            ahead = Fraction(place * (relevant - 1), items - 1) if items > 1 else Fraction(0)
            total += chance * (relevant_before + 1 + ahead) / (before + place + 1)
        return total

    possible = min(top, sum(relevant for _, relevant in counts))
    before, relevant_before, done = 0, 0, Fraction(0)
    for items, relevant in counts:
        taken = min(items, top - before)
        if taken < items:
            break
        done += one_tie(before, relevant_before, items, relevant) if relevant else 0
        before, relevant_before = before + items, relevant_before + relevant
    else:
        taken, items, relevant = 0, 0, 0
    expected = Fraction(0)
    for number in range(min(taken, relevant) + 1):
        ways = math.comb(relevant, number) * math.comb(items - relevant, taken - number)
        value = done + (one_tie(before, relevant_before, taken, number) if number else 0)
        count = relevant_before + number if denominator == "retrieved" else possible
        if ways and count:
            expected += Fraction(ways, math.comb(items, taken)) * value / count
    return float(expected)


# ---- exhaustive Euclidean search: search.fine.exhaustive ---------------------------


def euclidean_knn(query_features, features, k):
    """Distances (q, k) and rows (q, k) by (distance, row), from direct differences in float64."""
    best = np.full((len(query_features), k), np.inf, np.float32)
    found = np.full((len(query_features), k), -1)
    for i, query in enumerate(np.asarray(query_features, np.float64)):
        distances = np.sqrt(((np.asarray(features, np.float64) - query) ** 2).sum(axis=1))
        order = np.argsort(distances, kind="stable")[:k]
        best[i, : order.size] = distances[order]
        found[i, : order.size] = order
    return best, found


# ---- losses ------------------------------------------------------------------------


def classes_of(labels, i):
    """The set of classes of item i, from int (n,) or bool (n, classes) labels."""
    return {int(labels[i])} if labels.ndim == 1 else set(np.flatnonzero(labels[i]).tolist())


def share_a_class(labels, i, j):
    return bool(classes_of(labels, i) & classes_of(labels, j))


def class_targets(labels, classes, smoothing=0.0):
    rows = np.zeros((len(labels), classes))
    for i in range(len(labels)):
        own = [c for c in classes_of(labels, i) if 0 <= c < classes]
        for c in own:
            rows[i, c] = 1 / len(own)
        if own:
            rows[i] = (1 - smoothing) * rows[i] + smoothing / classes
    return rows


def softmax_cross_entropy(logits, rows):
    cost = 0.0
    for z, t in zip(logits.astype(np.float64), rows, strict=True):
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        cost -= (t * log_p).sum()
    return cost / len(logits)


def sigmoid_cross_entropy(logits, labels, smoothing=0.0):
    cost = 0.0
    for z, t in zip(logits.astype(np.float64).ravel(), labels.ravel(), strict=True):
        p = 1 / (1 + np.exp(-z))
        t = (1 - smoothing) * t + smoothing / 2
        cost -= t * np.log(p) + (1 - t) * np.log(1 - p)
    return cost / logits.size


def push(latent):
    n, bits = latent.shape
    return -sum(((a - 0.5) ** 2).sum() for a in latent.astype(np.float64)) / (n * bits)


def balance(latent):
    return sum((a.mean() - 0.5) ** 2 for a in latent.astype(np.float64)) / len(latent)


def dlbhc(latent, logits, labels, kernel, label_smoothing=0.0, multilabel="share"):
    if labels.ndim == 2 and multilabel == "binary":
        return sigmoid_cross_entropy(logits, labels, label_smoothing)
    rows = class_targets(labels, logits.shape[1], label_smoothing)
    return softmax_cross_entropy(logits, rows)


def ssdh(latent, logits, labels, kernel, push_weight=1.0, balance_weight=1.0):
    n, bits = latent.shape
    decided = ((latent.astype(np.float64) - 0.5) ** 2).sum() / (2 * n * bits)
    even = ((latent.astype(np.float64).mean(axis=1) - 0.5) ** 2).sum() / (2 * n)
    cost = dlbhc(latent, logits, labels, kernel)
    return cost - push_weight * decided + balance_weight * even


def dsh(latent, logits, labels, kernel, margin=None, alpha=0.01):
    """The mean over unordered pairs of equation 3, with each pair's own two regularisers."""
    n, bits = latent.shape
    b = latent.astype(np.float64)
    margin = 2 * bits if margin is None else margin
    if n == 1:
        return 2 * alpha * np.abs(np.abs(b) - 1).sum()
    cost = 0.0
    for i in range(n):
        for j in range(i + 1, n):
            distance = ((b[i] - b[j]) ** 2).sum()
            alike = share_a_class(labels, i, j)
            cost += distance / 2 if alike else max(margin - distance, 0) / 2
            cost += alpha * (np.abs(np.abs(b[i]) - 1).sum() + np.abs(np.abs(b[j]) - 1).sum())
    return cost / (n * (n - 1) / 2)


def dsh_gradient(latent, labels, margin, alpha):
    """Equations 5 and 6 added up over the unordered pairs, divided by their number."""
    n = len(latent)
    gradient = np.zeros(latent.shape)

    def delta(x):
        return np.where(((x >= -1) & (x <= 0)) | (x >= 1), 1.0, -1.0)

    for i in range(n):
        for j in range(i + 1, n):
            difference = latent[i] - latent[j]
            if share_a_class(labels, i, j):
                gradient[i] += difference
                gradient[j] -= difference
            elif (difference**2).sum() < margin:
                gradient[i] -= difference
                gradient[j] += difference
            gradient[i] += alpha * delta(latent[i])
            gradient[j] += alpha * delta(latent[j])
    return gradient / (n * (n - 1) / 2)


def dhih(
    latent,
    logits,
    labels,
    kernel,
    progress=1.0,
    reading="scale",
    scale=None,
    factor=0.8,
    multiple=2,
    margin=0.2,
    normalise=None,
    beta=0.1,
    label_smoothing=0.0,
):
    """Every logit on its own, from the angle between the item and the class's weights."""
    h, w = latent.astype(np.float64), kernel.astype(np.float64)
    n, classes = len(h), w.shape[1]
    if scale is None:
        scale = {"scale": 1.0, "angular": 1.0, "temperature": 2.0}.get(reading)
    if scale is None:
        scale = max(np.sqrt(2) * np.log(classes - 1), 1.0)
    normalise = normalise or ("both" if reading == "cosine" else "none")
    mix = 1000 * (0.1 / 1000) ** progress
    z = np.zeros((n, classes))
    for i in range(n):
        for j in range(classes):
            length, weight = np.linalg.norm(h[i]), np.linalg.norm(w[:, j])
            cos = h[i] @ w[:, j] / (length * weight)
            psi = cos
            if j in classes_of(labels, i):
                if reading == "scale":
                    psi = cos * factor if cos > 0 else cos / factor
                elif reading == "angular":
                    theta = np.arccos(np.clip(cos, -1, 1))
                    q = min(int(theta * multiple / np.pi), multiple - 1)
                    psi = (-1) ** q * np.cos(multiple * theta) - 2 * q
                    psi = (mix * cos + psi) / (1 + mix)
                elif reading == "cosine":
                    psi = cos - margin
            z[i, j] = scale * psi
            z[i, j] *= 1 if normalise == "both" else length
            z[i, j] *= weight if normalise == "none" else 1
    rows = class_targets(labels, classes, label_smoothing)
    return softmax_cross_entropy(z, rows) + beta * np.abs(np.abs(h) - 1).mean()


def triplet_costs(latent, labels, alpha, triplets):
    u = latent.astype(np.float64)
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    n = len(u)

    def distance(i, j):
        return ((u[i] - u[j]) ** 2).sum()

    if triplets == "rows":
        t = n // 3
        return [max(0, distance(i, t + i) - distance(i, 2 * t + i) + alpha) for i in range(t)]
    costs = []
    for a in range(n):
        negatives = [k for k in range(n) if not share_a_class(labels, a, k)]
        for p in range(n):
            if p == a or not share_a_class(labels, a, p):
                continue
            far = sorted(distance(a, k) for k in negatives)
            if triplets == "semi-hard" and far:
                farther = [d for d in far if d > distance(a, p)]
                far = farther[:1] or far[-1:]
            costs += [max(0, distance(a, p) - d + alpha) for d in far]
    return costs


def mhcln(
    latent,
    logits,
    labels,
    kernel,
    triplets="batch-all",
    alpha=0.2,
    push_weight=0.001,
    balance_weight=1.0,
):
    costs = triplet_costs(latent, labels, alpha, triplets)
    metric = sum(costs) / len(costs) if costs else 0.0
    return metric + push_weight * push(latent) + balance_weight * balance(latent)


def class_centre(labels, i, classes, bits):
    """Bit by bit the majority of the centres of item i's classes; None without any class."""
    from jaxhash.losses.centres import centres, tie_break  # here: the search is tested without jax

    own = [c for c in classes_of(labels, i) if 0 <= c < classes]
    if not own:
        return None
    code = []
    for bit in range(bits):
        votes = sum(int(centres(classes, bits)[c, bit]) for c in own)
        code.append(np.sign(votes) if votes else tie_break(bits)[bit])
    return np.array(code, np.float64)


def hashnet(latent, logits, labels, kernel, progress=1.0, alpha=None, growth=50.0):
    n, bits = latent.shape
    z = np.tanh(np.sqrt(1 + growth * progress) * latent.astype(np.float64))
    costs = {True: [], False: []}
    for i, j in itertools.combinations(range(n), 2):
        theta = (10 / bits if alpha is None else alpha) * (z[i] @ z[j])
        alike = share_a_class(labels, i, j)
        costs[alike].append(np.log(1 + np.exp(theta)) - (theta if alike else 0))
    return sum(sum(each) / len(each) for each in costs.values() if each)


def greedyhash(latent, logits, labels, kernel, alpha=0.1, label_smoothing=0.0):
    u = latent.astype(np.float64)
    error = (np.abs(u - np.where(u > 0, 1, -1)) ** 3).mean()
    return dlbhc(latent, logits, labels, kernel, label_smoothing) + alpha * error


def csq(latent, logits, labels, kernel, quantisation_weight=1e-4):
    """Binary cross-entropy of every bit on its own."""
    n, bits = latent.shape
    tanh = np.tanh(latent.astype(np.float64))
    cost = 0.0
    for i in range(n):
        centre = class_centre(labels, i, logits.shape[1], bits)
        for bit in range(0 if centre is None else bits):
            p, c = (1 + tanh[i, bit]) / 2, centre[bit]
            cost -= np.log(p) if c > 0 else np.log(1 - p)
    return cost / (n * bits) + quantisation_weight * ((np.abs(tanh) - 1) ** 2).mean()


def dpn(latent, logits, labels, kernel, margin=1.0):
    n, bits = latent.shape
    cost = 0.0
    for i in range(n):
        centre = class_centre(labels, i, logits.shape[1], bits)
        for bit in range(0 if centre is None else bits):
            cost += max(margin - float(latent[i, bit]) * centre[bit], 0)
    return cost / (n * bits)


def orthohash(latent, logits, labels, kernel, margin=0.2, scale=None, label_smoothing=0.0):
    from jaxhash.losses.centres import centres  # here: the search is tested without jax

    n, bits = latent.shape
    classes = logits.shape[1]
    scale = np.sqrt(bits) if scale is None else scale
    z = np.zeros((n, classes))
    for i in range(n):
        u = latent[i].astype(np.float64)
        for j, centre in enumerate(centres(classes, bits).astype(np.float64)):
            cos = u @ centre / (np.linalg.norm(u) * np.linalg.norm(centre))
            z[i, j] = scale * (cos - (margin if j in classes_of(labels, i) else 0))
    return softmax_cross_entropy(z, class_targets(labels, classes, label_smoothing))


def talr(latent, logits, labels, kernel, gamma=1.0, bins=None):
    """Histograms filled pair by pair, running sums from their definition."""
    n, bits = latent.shape
    bins = bins or (bits if bits < 32 else bits // 2)
    z = np.tanh(gamma * latent.astype(np.float64))
    missed = []
    for query in range(n):
        positive, both = np.zeros(bins + 1), np.zeros(bins + 1)
        others = [j for j in range(n) if j != query]
        alike = [share_a_class(labels, query, j) for j in others]
        for j, hit in zip(others, alike, strict=True):
            distance = (bits - z[query] @ z[j]) / 2
            for b in range(bins + 1):
                pulse = max(0, 1 - abs(distance - b * bits / bins) / (bits / bins))
                both[b] += pulse
                positive[b] += pulse * hit
        if not any(alike):
            continue
        ap = 0.0
        for b in range(bins + 1):
            hits = positive[:b].sum() + positive[: b + 1].sum() + 1
            ap += positive[b] * hits / (both[:b].sum() + both[: b + 1].sum() + 1)
        missed.append(1 - ap / sum(alike))
    return sum(missed) / len(missed) if missed else 0.0


# ---- networks and augmentation -----------------------------------------------------


def pool_rounding_up(image, kind):
    """3 x 3 pooling of stride 2 whose last windows stick out, over (h, w); what sticks out is no
    pixel."""
    h, w = image.shape
    out = np.zeros((max(-(-(h - 3) // 2), 0) + 1, max(-(-(w - 3) // 2), 0) + 1))
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            window = image[2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
            out[y, x] = window.max() if kind == "max" else window.mean()
    return out


def pool_to(image, side):
    """Average of even parts, (h, w) -> (side, side)."""
    h, w = image.shape
    out = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            rows = slice(int(np.floor(y * h / side)), int(np.ceil((y + 1) * h / side)))
            columns = slice(int(np.floor(x * w / side)), int(np.ceil((x + 1) * w / side)))
            out[y, x] = image[rows, columns].mean()
    return out


def normalise_within_channel(image, alpha, beta):
    padded = np.pad(image.astype(np.float64), 1)
    out = np.zeros(image.shape)
    for y, x in np.ndindex(image.shape):
        energy = (padded[y : y + 3, x : x + 3] ** 2).sum() / 9
        out[y, x] = image[y, x] / (1 + alpha * energy) ** beta
    return out


def normalise_across_channels(pixel):
    """One pixel's channels (c,)."""
    out = np.zeros(len(pixel))
    for c in range(len(pixel)):
        neighbours = pixel[max(c - 2, 0) : c + 3].astype(np.float64)
        out[c] = pixel[c] / (1 + 1e-4 / 5 * (neighbours**2).sum()) ** 0.75
    return out


# ---- index, re-ranking, merging, files: the rest of search -------------------------


def ranked(pairs, k, missing):
    """The `k` first of (distance, id) pairs in order, filled up with (missing, -1)."""
    return (sorted(pairs) + [(missing, -1)] * k)[:k]


def as_arrays(rows, k, dtype):
    """Lists of (distance, id) pairs as distances and ids (q, k)."""
    distances = np.array([[d for d, _ in row] for row in rows], dtype).reshape(len(rows), k)
    ids = np.array([[i for _, i in row] for row in rows], np.int64).reshape(len(rows), k)
    return distances, ids


def rerank(query_features, features, ids, k):
    """Euclidean re-ranking, one candidate after the other in float64."""
    rows = []
    for query, candidates in zip(query_features.astype(float), ids.tolist(), strict=True):
        pairs = [
            (np.sqrt(((query - features[i].astype(float)) ** 2).sum()), i)
            for i in set(candidates) - {-1}
        ]
        rows.append(ranked(pairs, k, np.inf))
    return as_arrays(rows, k, np.float32)


def asymmetric(latents, bit_rows, ids, k, threshold, spread):
    """Re-ranking against the values that the stored bits (n, bits) stand for."""
    values = threshold + (2.0 * bit_rows - 1) * spread
    return rerank(latents, values, ids, k)


def merge(results, k):
    """Concatenate and sort."""
    rows = []
    for query in range(len(results[0][0])):
        pairs = [
            (distance, i)
            for distances, ids in results
            for distance, i in zip(distances[query].tolist(), ids[query].tolist(), strict=True)
            if i != -1
        ]
        missing = np.inf if results[0][0].dtype == np.float32 else np.iinfo(np.int32).max
        rows.append(ranked(pairs, k, missing))
    return as_arrays(rows, k, results[0][0].dtype)


class Items(dict):
    """An index as a dictionary: id -> (bits, feature vector)."""

    def search(self, queries, k, features=None, pool=None, radius=None, where=None, latents=None):
        """`HashIndex.search` for queries given as bits (q, b); threshold 0.5."""
        rows = []
        for number, query in enumerate(queries):
            coarse = sorted(
                (int((query != bits).sum()), i)
                for i, (bits, _) in self.items()
                if where is None or i in where
            )
            if radius is not None:
                coarse = [(distance, i) for distance, i in coarse if distance <= radius]
            if features is None and latents is None:
                rows.append(ranked(coarse, k, np.iinfo(np.int32).max))
                continue
            one = (latents if features is None else features)[number].astype(float)
            fine = [
                (np.sqrt(((one - self[i][0 if features is None else 1]) ** 2).sum()), i)
                for _, i in (coarse if pool is None else coarse[:pool])
            ]
            rows.append(ranked(fine, k, np.inf))
        coarse_only = features is None and latents is None
        return as_arrays(rows, k, np.int32 if coarse_only else np.float32)


def read_index_file(data):
    """An index file by the words of its format: bits, n, codes (n, width), the other sections."""
    number = lambda at, size: int.from_bytes(data[at : at + size], "little")  # noqa: E731
    assert data[:8] == bytes.fromhex("894849580d0a1a0a")
    version = number(8, 2)
    assert version in (1, 2, 3)
    assert (number(10, 2), number(24, 8)) == (0x0102, len(data))
    bits, count, table, sections = number(12, 4), number(16, 8), number(32, 8), number(40, 4)
    assert number(60, 4) == zlib.crc32(data[:60])
    assert number(44, 4) == zlib.crc32(data[table:])
    assert len(data) == table + 128 * sections
    found = {}
    for at in range(table, len(data), 128):
        name = data[at : at + 80].rstrip(b"\0").decode()
        types = [np.uint8, np.int64, np.float16, np.float32, np.uint32]
        dtype = types[number(at + 80, 4) - 1]
        shape = [number(at + 88 + 8 * i, 8) for i in range(number(at + 84, 4))]
        start = number(at + 112, 8)
        raw = data[start : start + math.prod(shape) * np.dtype(dtype).itemsize]
        assert start % 64 == 0
        assert number(at + 120, 4) == zlib.crc32(raw)
        found[name] = np.frombuffer(raw, dtype).reshape(shape)
    for name, most in (("codes", 65536), ("ids", 65536), ("features", 4096)):
        if version == 1 or name not in found:
            continue
        size, raw = max(1, most // max(1, found[name][:1].nbytes)), found[name]
        starts = range(0, len(raw) if raw.size else 0, size)
        groups = [zlib.crc32(raw[start : start + size].tobytes()) for start in starts]
        assert found.pop("checksums/" + name).tolist() == groups
    planes = found.pop("codes")
    codes = np.array([planes[i // 256, :, i % 256] for i in range(count)], np.uint8).reshape(
        count, -(-bits // 8)
    )
    assert (version == 3) == ("ids" in found and found["ids"].shape != (count,))
    if version == 3:
        found["ids"] = found["ids"] + np.arange(count)
    largest = int(found["ids"].max(initial=-1)) if "ids" in found else count - 1
    assert number(48, 8) > largest if version > 1 else number(48, 8) == 0
    return bits, count, codes, found


# ---- datasets ----------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """CRC-32C one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            odd = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0x82F63B78 if odd else 0)
    return crc ^ 0xFFFFFFFF


# ---- convolution -------------------------------------------------------------------


def convolve(images, kernel):
    """3 x 3, stride 1, zeros beyond the border: (n, h, w, c) x (3, 3, c, out) in float64."""
    n, h, w, _ = images.shape
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    output = np.zeros((n, h, w, kernel.shape[3]))
    for y in range(h):
        for x in range(w):
            for i in range(3):
                for j in range(3):
                    output[:, y, x] += padded[:, y + i, x + j] @ kernel[i, j].astype(np.float64)
    return output


def max_pool(images):
    """Maximum over 2 x 2 windows with stride 2, an odd last row or column dropped."""
    n, h, w, c = images.shape
    output = np.zeros((n, h // 2, w // 2, c), images.dtype)
    for y in range(h // 2):
        for x in range(w // 2):
            output[:, y, x] = images[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].max(axis=(1, 2))
    return output


# ---- what bits do: jaxhash.analysis.bits -------------------------------------------


def bit_entropy(column):
    """Entropy in bits of one column of zeros and ones, from the counts of either."""
    total = 0.0
    for value in (0, 1):
        count = sum(int(each) == value for each in column)
        if count:
            total += count / len(column) * math.log2(len(column) / count)
    return total


def bit_correlation(one, other):
    """Pearson's correlation of two columns of bits; NaN where one of them never changes."""
    a, b = [float(v) for v in one], [float(v) for v in other]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    square_a = sum((v - mean_a) ** 2 for v in a)
    square_b = sum((v - mean_b) ** 2 for v in b)
    if not square_a or not square_b:
        return math.nan
    shared = sum((v - mean_a) * (w - mean_b) for v, w in zip(a, b, strict=True))
    return shared / math.sqrt(square_a * square_b)


def class_distances(bits, labels):
    """Pairs within and between classes by Hamming distance, pair by pair; bits (n, b)."""
    within, between = np.zeros((2, bits.shape[1] + 1), np.int64)
    for i, j in itertools.combinations(range(len(bits)), 2):
        distance = int((bits[i] != bits[j]).sum())
        (within if share_a_class(labels, i, j) else between)[distance] += 1
    return within, between


def separation(within, between):
    """The share of all (within, between) pairs of pairs in which the first is nearer."""
    wins, all_pairs = Fraction(0), 0
    for (d, near), (e, far) in itertools.product(enumerate(within), enumerate(between)):
        all_pairs += int(near) * int(far)
        wins += int(near) * int(far) * (Fraction(1) if d < e else Fraction(int(d == e), 2))
    return float(wins / all_pairs)


# ---- rankings by real-valued features: jaxhash.comparison.baselines ----------------


def feature_order(query, features, metric, own=None):
    """Rows in the order of (distance, row) from one query, without the query's own row."""
    query, features = np.asarray(query, np.float64), np.asarray(features, np.float64)
    distances = []
    for row, one in enumerate(features):
        if metric == "euclidean":
            distance = math.sqrt(sum((one - query) ** 2))
        else:
            lengths = math.sqrt(one @ one) * math.sqrt(query @ query)
            distance = 1 - (one @ query / lengths if lengths else 0)
        distances.append((distance, row))
    return [row for _, row in sorted(distances) if row != own]


# ---- networks: EfficientNet-Lite ------------------------------------------------------


def depthwise(images, kernel, stride):
    """Each channel with its own kernel (k, k, c), zeros around, TensorFlow's SAME padding."""
    n, h, w, c = images.shape
    k = len(kernel)
    rows, columns = -(-h // stride), -(-w // stride)
    top = max((rows - 1) * stride + k - h, 0) // 2
    left = max((columns - 1) * stride + k - w, 0) // 2
    out = np.zeros((n, rows, columns, c))
    for y, x, i, j in itertools.product(range(rows), range(columns), range(k), range(k)):
        at, across = y * stride + i - top, x * stride + j - left
        if 0 <= at < h and 0 <= across < w:
            out[:, y, x] += images[:, at, across] * kernel[i, j]
    return out


def lite_block(images, params, stride):
    """A block of EfficientNet-Lite: widen, each channel alone, narrow, beside a shortcut."""
    x = images
    if "expand" in params:
        x = np.clip(x @ params["expand"]["kernel"][0, 0] + params["expand"]["bias"], 0, 6)
    x = depthwise(x, params["depthwise"]["kernel"], stride) + params["depthwise"]["bias"]
    x = np.clip(x, 0, 6) @ params["project"]["kernel"][0, 0] + params["project"]["bias"]
    return images + x if x.shape == images.shape else x


# ---- codes without labels -------------------------------------------------------------


def itq_codes(features, bits, seed, iterations):
    """Iterative quantisation by a singular value decomposition of the features: bool (n, bits)."""
    apart = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    directions = np.linalg.svd(apart, full_matrices=False)[2][:bits].T
    directions *= np.sign([column[np.abs(column).argmax()] for column in directions.T])
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, bits)))[0]
    for _ in range(iterations):
        signs = np.sign(apart @ directions @ rotation)
        left, _, right = np.linalg.svd(signs.T @ apart @ directions)
        rotation = (left @ right).T
    return apart @ directions @ rotation > 0


def neighbours_found(features, codes, queries, k, cut):
    """Expected share of each query's k nearest by features among its cut nearest codes."""
    shares = []
    for query in queries:
        others = [row for row in range(len(codes)) if row != query]
        far = {row: float(np.square(features[row] - features[query]).sum()) for row in others}
        apart = {row: int(np.bitwise_count(codes[row] ^ codes[query]).sum()) for row in others}
        for row in sorted(others, key=lambda row: (far[row], row))[:k]:
            nearer = sum(apart[other] < apart[row] for other in others)
            ties = sum(apart[other] == apart[row] for other in others)
            shares.append(min(max((cut - nearer) / ties, 0), 1))
    return sum(shares) / len(shares)


def head_on_features(features, hidden_kernel, hidden_bias, kernel, bias):
    """Sigmoid latents of a head with a hidden layer, item by item."""
    latents = []
    for x in features:
        x = x / math.sqrt(sum(one * one for one in x) / len(x))
        hidden = [max(0.0, float(x @ hidden_kernel[:, at] + b)) for at, b in enumerate(hidden_bias)]
        sums = [float(np.dot(hidden, kernel[:, at]) + b) for at, b in enumerate(bias)]
        latents.append([1 / (1 + math.exp(-one)) for one in sums])
    return np.array(latents)
