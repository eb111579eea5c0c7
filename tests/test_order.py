"""The order of results, decided in one place: by a pool that is given, or by an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_encoding import image_model
from test_updating import paint

import jaxhash
from jaxhash import cli, models, retrieval, runs
from jaxhash.image_index import ImageIndex
from search import HashIndex

K = 2


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageIndex:
    """Of more pictures than the usual pool holds here."""
    monkeypatch.setattr(retrieval, "POOL", 5)
    for number in range(16):
        paint(tmp_path / "photos" / f"{number:02}.png", number)
    (tmp_path / "run").mkdir()
    models.save(image_model(), tmp_path / "run")
    made = jaxhash.index(jaxhash.load(tmp_path / "run"), tmp_path / "photos", tmp_path / "a.index")
    assert isinstance(made, ImageIndex)
    return made


def evaluated(tmp_path: Path, order: str) -> None:
    runs.write_json(tmp_path / "run" / runs.RESULTS, {"order": order})


@pytest.mark.parametrize(
    ("order", "pool"), [(None, 5), ("codes", 0), ("coarse_to_fine", 5), ("features", 16)]
)
def test_library_and_command_take_the_best_one(
    order: str | None, pool: int, index: ImageIndex, tmp_path: Path, capfd
) -> None:
    if order is not None:
        evaluated(tmp_path, order)
    picture = tmp_path / "photos" / "03.png"
    assert index.order == (order or "coarse_to_fine")
    encoded = retrieval.encode_queries(index.model, [picture])
    fine = {"query_features": encoded.features, "pool": pool} if pool else {}
    distances, ids = index.codes.search(encoded.codes, K, **fine)
    found = index.query(picture, k=K)
    assert found.ids == ids[0].tolist()
    np.testing.assert_allclose(found.distances, distances[0], atol=1e-6)
    assert {type(one) for one in found.distances} == {float if pool else int}
    run, path = str(tmp_path / "run"), str(tmp_path / "a.index")
    cli.main(["query", "--run", run, "--index", path, str(picture), "-k", str(K), "--json"])
    (printed,) = json.loads(capfd.readouterr().out)
    assert printed == json.loads(json.dumps(found.to_dict()))


def test_a_pool_that_is_given_wins(index: ImageIndex, tmp_path: Path) -> None:
    picture = tmp_path / "photos" / "03.png"
    for order in runs.ORDERS:
        evaluated(tmp_path, order)
        assert isinstance(index.query(picture, k=K, pool=0).distances[0], int)
        assert isinstance(index.query(picture, k=K, pool=8).distances[0], float)


def test_an_index_without_features_has_codes_alone(index: ImageIndex, tmp_path: Path) -> None:
    evaluated(tmp_path, "features")
    plain = HashIndex(*index.codes.get(index.codes.ids)[:1], bits=index.codes.bits)
    assert retrieval.order_for(index.model, plain) == "codes"
    assert ImageIndex(index.model, plain).query(tmp_path / "photos" / "03.png").distances[0] == 0


def test_an_evaluation_that_is_newer_or_damaged(index: ImageIndex, tmp_path: Path) -> None:
    for order in ("codes", "features"):  # files of different sizes, within a tick of the clock
        evaluated(tmp_path, order)
        assert index.order == order
    for text in ("{", '{"order": "by colour"}', '{"order": 3}'):
        (tmp_path / "run" / runs.RESULTS).write_text(text)
        assert index.order == "coarse_to_fine"


def test_a_trained_model_knows_its_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items, labels = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2
    options = {"network": "features", "method": "dlbhc", "bits": 8, "steps": 1}
    model = jaxhash.train((items, labels), tmp_path / "run", **options)
    assert model.run == tmp_path / "run" == jaxhash.load(tmp_path / "run").run
    assert jaxhash.train((items, labels), None, **options).run is None
