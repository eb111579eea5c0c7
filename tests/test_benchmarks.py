"""The benchmarks run, at sizes that say nothing about speed."""

import contextlib
import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest
import tyro
from PIL import Image

from jaxhash import cli, models, nets
from jaxhash.cli.command import parse, run
from jaxhash.nets.cpu import foreign
from jaxhash.spec import ModelSpec

BENCHMARKS = Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"
# FAISS's own extension modules warn when Python 3.12 loads them.
swig = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
Benchmark = Callable[[str], ModuleType]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """A function that imports a benchmark by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def call(module: ModuleType, *words: object) -> None:
    """Run a benchmark with these words on its command line."""
    run(module.COMMAND, [*map(str, words)])


def test_every_benchmark_explains_itself() -> None:
    helpers = {"avx2", "fuzz_seeds", "kills", "limits", "mutations"}
    helpers |= {"mutant_constants", "mutant_tests"}
    for path in BENCHMARKS.glob("*.py"):
        head = path.read_text(encoding="utf-8").partition('"""\n\n')[0]
        assert path.stem in helpers or f"scripts/benchmarks/{path.name}" in head, path


@swig
def test_the_search_beside_faiss(benchmark: Benchmark, rng: np.random.Generator, capsys) -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    hamming = benchmark("hamming")
    options = hamming.Faiss(runs=1, threads=1)
    database, queries = hamming.uniform(rng, 1500, 64), hamming.uniform(rng, 1000, 64)
    limits = {"comparisons": 1e9}
    rows = hamming.compare(faiss, options, limits, "uniform", 64, database, queries)
    assert len(rows) == 9 + 2
    assert all(row["same"] for row in rows)
    assert "uniform" in capsys.readouterr().out


def test_the_search_of_growing_databases(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    hamming, folder = benchmark("hamming"), tmp_path / "files"
    report = hamming.scale_table(hamming.Scale(folder, counts=(3000,), distinct=50, runs=1))
    assert {(row["codes"], row["by"]) for row in report["rows"]} >= {
        ("uniform", "scan"),
        ("learned-like", "scan"),
    }
    assert list(folder.iterdir()) == []
    # The figure is drawn from what the benchmark wrote.
    (tmp_path / "scale.json").write_text(json.dumps(report))
    call(benchmark("figures"), "--scale", tmp_path / "scale.json", "--out", tmp_path)
    with Image.open(tmp_path / "scale.png") as picture:
        assert picture.width > 100


def test_rerank(benchmark: Benchmark, tmp_path: Path, monkeypatch, capsys) -> None:
    rerank = benchmark("rerank")
    monkeypatch.setattr(rerank, "memory_bandwidth", lambda threads: 1e9)  # it reads a GiB
    out = tmp_path / "rerank.json"
    rerank.main(
        rerank.Config(
            items=600, dimensions=16, bits=32, queries=3, pools=(20, 100), k=5, runs=1,
            long_runs=1, classes=5, folder=tmp_path, out=out,
        )
    )  # fmt: skip
    found = json.loads(out.read_text())
    assert len(found["rerank"]) == 4
    assert {row["case"] for row in found["searches"]} >= {"codes only", "pool 20", "pool 100"}
    assert [path.name for path in tmp_path.iterdir()] == ["rerank.json"]


def test_ranking(benchmark: Benchmark, capsys) -> None:
    ranking = benchmark("ranking")
    config = ranking.Config(bits=16, runs=1)
    rng = np.random.default_rng(0)
    ranking.report("small", np.arange(20) % 3, np.arange(2000) % 3, top=10, config=config, rng=rng)
    assert capsys.readouterr().out.startswith("| small | 20 | 2,000 | ")


def test_training_beside_pytorch(benchmark: Benchmark, capsys) -> None:
    pytest.importorskip("torch")
    training = benchmark("training")
    config = training.Config(network="resnet-small", size=16, batch_size=4, rounds=1)
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    differences = training.compare(config, images, np.arange(4))
    assert max(differences.values()) < config.tolerance


def test_encoding(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    words = ["--network", "resnet-tiny", "--size", 16, "--items", 16, "--batch-size", 8]
    words += ["--rounds", 1, "--files", 4, "--file-size", 32, "--memory-items", 32]
    call(benchmark("encoding"), *words, "--out", tmp_path / "encoding.json")
    found = json.loads((tmp_path / "encoding.json").read_text())
    assert len(found["images_per_second"]) == 5
    assert found["memory"]["images"] == 32


def test_accelerator(benchmark: Benchmark, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    words = ["--cases", "dsh:8", "--batch-sizes", 8, "--precisions", "float32", "--steps", 1]
    call(benchmark("accelerator"), *words, "--rounds", 1, "--out", tmp_path / "rates.json")
    (row,) = json.loads((tmp_path / "rates.json").read_text())["rows"]
    assert row["images_per_second"]["best"] > 0
    with pytest.raises(SystemExit) as stopped:
        call(benchmark("accelerator"), "--cases", "dsh")
    assert "give a network and a size" in str(stopped.value.code)


def test_device_search(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    words = ["--codes", 500, "--bits", 16, "--queries", 2, "--k", 3, "--rounds", 1]
    call(benchmark("device_search"), *words, "--out", tmp_path / "rates.json")
    rows = json.loads((tmp_path / "rates.json").read_text())["rows"]
    assert [row["by"] for row in rows] == ["products", "counts", "processor"]


@swig
def test_latency(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    latency, out = benchmark("latency"), tmp_path / "latency.json"
    latency.main(latency.Options(counts=(500,), runs=1, threads=1, graph=0, out=out))
    (row,) = json.loads(out.read_text())["rows"]
    assert row["search"]["least"] > 0
    assert row.get("same", True)
    assert "floor: hand-over" in capsys.readouterr().out
    latency.main(latency.Options(counts=(500,), runs=1, threads=1, pauses=True, out=out))
    (row,) = json.loads(out.read_text())["rows"]
    assert row["20 ms spinning, 1 threads"]["least"] > 0


@swig
def test_five_minutes(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    five = benchmark("five_minutes")
    monkeypatch.setattr(five, "comparison_rate", lambda threads: 1e9)
    monkeypatch.setattr(five, "bandwidth", lambda size, threads: 1e9)
    monkeypatch.setattr(five, "SIDE", 64)
    commands: list[list[str]] = []
    monkeypatch.setattr(
        five, "subprocess", SimpleNamespace(run=lambda words, check: commands.append(words))
    )
    five.main(five.Options(count=500, bits=(16,), runs=1, threads=1))
    assert [Path(words[1]).stem for words in commands] == ["accelerator", "encoding", "startup"]
    assert all(Path(words[1]).is_file() for words in commands)
    printed = capsys.readouterr().out
    assert "compared in registers" in printed
    assert "1000 queries" in printed
    assert "DIFFERENT" not in printed
    with pytest.raises(SystemExit, match="no part is called 'all'"):
        five.main(five.Options(parts=("all",)))


@swig
def test_approximate(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    approximate = benchmark("approximate")
    beside = ("ivf",) if importlib.util.find_spec("faiss") else ()
    out = tmp_path / "approximate.json"
    approximate.main(
        approximate.Options(
            count=70_000, codes=("clustered",), recalls=(0.9,), beside=beside, queries=50,
            lists=16, runs=1, threads=1, out=out,
        )
    )  # fmt: skip
    exact, ours, *theirs = json.loads(out.read_text())["rows"]
    assert exact["recall"] == 1
    assert ours["recall"] > 0.8
    assert len(theirs) == len(beside)


def test_startup(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    startup = benchmark("startup")
    startup.measure(startup.Options(run=tmp_path / "none", runs=1))
    printed = capsys.readouterr().out
    assert printed.startswith("no query: ")
    assert "\njaxhash train --help " in printed


def test_exports(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("pyarrow")
    exports = benchmark("exports")
    monkeypatch.setattr(exports.importlib.util, "find_spec", lambda name: None)
    exports.report(exports.Config(items=50, bits=12, dimensions=3, runs=1))
    printed = capsys.readouterr().out
    assert printed.count("to Parquet") == printed.count("from Parquet") == 2
    assert "pgvector" not in printed


def test_the_defaults(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    defaults, out = benchmark("defaults"), tmp_path / "defaults.jsonl"
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", features=rng.random((600, 4)), labels=np.arange(600) % 3)
    words = ["--data", tmp_path / "d.npz", "--network", "mhcln", "--validation", 0.25]
    words += ["--epochs", 1, "--lengths", 8, "--methods", "csq"]
    call(defaults, *words, "--out", out)
    call(defaults, "--table", "--out", out)
    printed = capsys.readouterr().out
    assert "| csq | by default |" in printed
    assert len(out.read_text().splitlines()) == 1


def test_living(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnx", reason="needs the extra onnx")
    living = benchmark("living")

    def here(*words: object, until: Path | None = None) -> tuple[str, SimpleNamespace]:
        """A command in this process: one of its own would take seconds to start."""
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            cli.main([*map(str, words)])  # one that fails ends the test
        return out.getvalue(), SimpleNamespace(ru_utime=0.0, ru_stime=0.0, ru_maxrss=0)

    monkeypatch.setattr(living, "run", here)
    monkeypatch.setattr(living, "FEATURES", 64)  # ITQ looks at their covariances
    monkeypatch.setattr("sys.argv", ["living.py", "--files", "120", "--new", "6"])
    living.main()
    _, trained, first, *nothing, new, touched, query, filtered, _ = (
        capsys.readouterr().out.splitlines()
    )
    assert trained.startswith("train, 120 files ")
    assert first.endswith(": 119 added, 1 left out")  # number 99 is cut short
    assert len(nothing) == 4
    assert all(line.endswith(": 119 unchanged, 1 left out") for line in nothing)
    assert new.endswith(": 6 added, 119 unchanged, 1 left out")
    assert touched.endswith(": 125 unchanged, 1 left out")
    assert query.startswith("a query ")
    assert filtered.endswith("1.jpg")


def test_intake(benchmark: Benchmark, tmp_path: Path, monkeypatch, capsys) -> None:
    intake = benchmark("intake")
    indexed: list[list[Path]] = []
    monkeypatch.setattr(intake, "SIZE", (40, 30))

    def see(words: list[str], **options: object) -> None:
        indexed.append(sorted(Path(words[7]).iterdir()))

    monkeypatch.setattr(intake, "subprocess", SimpleNamespace(run=see))
    for at in range(3):
        Image.new("RGB", (8, 8), (50 * at, 90, 200)).save(tmp_path / f"{at}.jpg")
    large = tmp_path / "large"
    intake.main(tmp_path, tmp_path, files=5, folder=large)
    assert [path.name for path in indexed[0]] == [f"{at:05}.jpg" for at in range(5)]
    assert len({path.read_bytes() for path in large.iterdir()}) == 5
    first, encoded, decoded = capsys.readouterr().out.splitlines()
    assert first.startswith("5 files, ")
    assert encoded.startswith("jaxhash encode: ")
    assert decoded.startswith("decoding alone: ")


def test_enlarging(benchmark: Benchmark, monkeypatch, capsys) -> None:
    enlarging = benchmark("enlarging")
    monkeypatch.setattr(enlarging, "keep_memory", lambda: None)
    spec = SimpleNamespace(side=24, params=dict)
    monkeypatch.setattr(enlarging.backbones, "choose", lambda config: spec)
    monkeypatch.setattr(enlarging.kept_features, "spec_of", lambda eye: eye)
    read: list[np.ndarray] = []

    def encode(model: object, items: np.ndarray, *, rows: np.ndarray, **options: object) -> None:
        read.append(items[rows])

    monkeypatch.setattr(enlarging.encoding, "encode", encode)
    enlarging.main("digits", encoded=4)
    assert read[0].shape == (4, 24, 24, 1)
    start, loaded, features = capsys.readouterr().out.splitlines()
    assert start.startswith("start: ")
    assert loaded.startswith("loaded, (1797, 24, 24, 1): ")
    assert features.startswith("features of 4 images: ")


def test_shards(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    shards = benchmark("shards")
    config = shards.Config(codes=1000, shards=3, bits=64, queries=4, runs=1, folder=tmp_path)
    assert {"write", "open", "one query"} <= set(shards.main(config))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_encoding_into_shards(benchmark: Benchmark, tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("array_record")
    shards = benchmark("encode_shards")
    monkeypatch.setattr(shards, "BLOCK", 100)
    # The benchmark looks for the very bits that its processes wrote, which have a single device.
    monkeypatch.setattr(foreign, "usable", lambda array: array.dtype == np.float32)
    jax.clear_caches()
    config = shards.Config(images=200, files=2, shards=3, kill=False, folder=tmp_path)
    report = shards.main(config)
    assert report["images"] == 200
    assert report["rows"][-1]["end"] == 0
    assert list(tmp_path.iterdir()) == []


def test_the_backbone_in_both_programs(benchmark: Benchmark, monkeypatch, capsys) -> None:
    """The same weights by onnxruntime, on small images and without their package."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    module = benchmark("backbone")
    trunk = module.efficientnet_lite.lite0()
    shapes = jax.eval_shape(
        lambda: trunk.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), train=False)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda one: rng.normal(0, np.prod(one.shape[:-1]) ** -0.5, one.shape).astype(np.float32),
        shapes["params"],
    )
    monkeypatch.setattr(module, "SIDE", 32)
    row = SimpleNamespace(params=lambda: params)
    monkeypatch.setattr(module, "BACKBONES", {"efficientnet-lite0": row})
    monkeypatch.setattr(sys, "argv", ["backbone.py", "--rounds", "1", "--batches", "2"])
    module.main()
    printed = capsys.readouterr().out
    assert printed.count("CPU ms an image") == 2
    assert float(re.findall("at most ([^;]*);", printed)[0]) < 1e-4


def test_few_labels(benchmark: Benchmark, tmp_path: Path, monkeypatch, capsys) -> None:
    few = benchmark("few_labels")
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 3).astype(np.int32)
    items = (rng.normal(size=(60, 12)) + labels[:, None]).astype(np.float32)
    data = few.Dataset("blobs", "features", items, labels, {"all": np.arange(60)}, ("a", "b", "c"))
    monkeypatch.setattr(few, "load", lambda folder: data)
    options = ["--labels", 2, "--seeds", 0, "--bits", 4, "--method", "dlbhc"]
    call(few, "--run", tmp_path, *options)
    assert "| 2 | itq of all, with labels | " in capsys.readouterr().out


def test_codes_without_labels(benchmark: Benchmark, tmp_path: Path, monkeypatch, capsys) -> None:
    unlabelled = benchmark("unlabelled")
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 3).astype(np.int32)
    items = (rng.normal(size=(60, 12)) + 4 * np.eye(3, 12)[labels]).astype(np.float32)
    data = unlabelled.Dataset(
        "b", "features", items, labels, {"all": np.arange(60)}, ("a", "b", "c")
    )
    monkeypatch.setattr(unlabelled, "load", lambda folder: data)
    config = unlabelled.Config(protocol="fraction")
    monkeypatch.setattr(unlabelled.runs, "load_config", lambda folder: config)
    words = ["--run", tmp_path, "--methods", "itq", "--lengths", 8, "--seeds", 0, 1, "--pool", 20]
    call(unlabelled, *words)
    head, _, itq, exact = capsys.readouterr().out.splitlines()
    assert head == "| ranked by | P@1 | P@10 | mAP | recall@10 | recall@20 |"
    assert itq.startswith("| itq, 8 bits | ")
    assert float(exact.split("|")[4].split()[0]) > 0.6

    paths = [str(tmp_path / f"{at}.png") for at in range(20)]
    for at, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), 10 * at, np.uint8)).save(path)
    data = unlabelled.Dataset("p", "features", items[:20], None, {"all": np.arange(20)}, (), paths)
    seen = SimpleNamespace(
        encode=lambda pictures, **options: SimpleNamespace(features=items[: len(pictures)])
    )
    monkeypatch.setattr(unlabelled.models, "load", lambda folder: seen)
    call(unlabelled, *words[:-1], 15)
    head, _, _, exact = capsys.readouterr().out.splitlines()
    assert head.startswith("| ranked by | P@1 mirrored | mAP mirrored | P@1 cropped | ")
    assert exact == "| exact features |" + " 1.000 ± 0.000 |" * 6 + "  |  |"


def test_the_service_ends_with_what_it_has(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    pytest.importorskip("jaxhash.serve.server", reason="needs the extra `serve`")
    serving = benchmark("serving")
    spec = ModelSpec(
        network="dsh",
        method="dsh",
        bits=16,
        classes=("a", "b"),
        item_shape=(8, 8, 3),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        activation="linear",
        classifier="none",
        threshold=0.0,
        precision="float32",
    )
    run = tmp_path / "run"
    run.mkdir()
    models.save(models.Model(spec, nets.init(spec.build(), jax.random.key(0), (1, 8, 8, 3))), run)
    options = serving.Options(
        run=run, index=tmp_path, photos=tmp_path, parts=("end",), items=3000, dimensions=8
    )
    found = serving.measure(options)["end"]
    assert (found["answered"], found["wrong"]) == (32, 0)
    rng = np.random.default_rng(0)
    assert len({serving.noise(rng, 1)[:30] for _ in range(200)}) > 10


@pytest.mark.filterwarnings("default")  # of Ray's own
def test_shards_on_ray(benchmark: Benchmark, tmp_path: Path, capsys) -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'jaxhash[ray]'")
    shards = benchmark("shards_ray")
    options = {"codes": 3000, "parts": 1, "pool": 20, "queries": 2, "seconds": 3}
    report = shards.main(shards.Config(folder=tmp_path, **options))
    assert report["answers right"] > 0
    assert (report["answers wrong"], report["folders seen"]) == (0, 2)
    options = {"codes": 1000, "shards": 2, "queries": 4, "runs": 1, "replicas": 1, "seconds": 4}
    report = benchmark("shards").main(benchmark("shards").Config(folder=tmp_path, **options))
    assert report["answers on Ray, right"] > 0
    assert report["answers on Ray, wrong"] == report["answers on Ray, errors"] == 0


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("encode_ray", ["--images", 4, "--side", 64, "--shards", 2], {"shards": 2, "workers": 2}),
        ("serve_ray", ["--images", 20, "--parts", 2], {"parts": 2, "replicas": 2, "port": 8765}),
    ],
)
def test_what_the_scripts_of_ray_start_is_a_command(
    benchmark: Benchmark, name: str, words: list, expected: dict, tmp_path: Path, monkeypatch
) -> None:
    """Without Ray they come as far as the command that is to run on the cluster."""
    script, started = benchmark(name), []

    def start(command: list[str], env: dict[str, str], **options: object) -> None:
        started.append((command, env["RAY_ADDRESS"]))
        raise InterruptedError

    monkeypatch.setattr(script, "own_cluster", lambda cpus: contextlib.nullcontext("10.0.0.1:6379"))
    monkeypatch.setattr(script.subprocess, "Popen", start)
    if name == "serve_ray":  # what it serves would take seconds to encode
        monkeypatch.setattr(script, "made", lambda *arguments: [])
        monkeypatch.setattr(script, "point", lambda pointer, folder: None)
    config = tyro.cli(script.Config, args=[*map(str, words), "--folder", str(tmp_path)])
    with pytest.raises(InterruptedError):
        script.main(config)
    [(command, address)] = started
    assert command[:3] == [sys.executable, "-m", "jaxhash"]
    assert address == "10.0.0.1:6379"
    chosen = parse(importlib.import_module(f"jaxhash.cli.{command[3]}").COMMAND, command[4:])
    assert {key: getattr(chosen, key) for key in ("ray", *expected)} == {"ray": "auto", **expected}
    assert list(tmp_path.iterdir()) == []
