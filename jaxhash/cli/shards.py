"""What `jaxhash encode` does where a folder of shards is asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxhash.cli.encode import Encode


def is_for_shards(options: "Encode") -> bool:
    """Whether shards are asked for, or were begun in the folder.

    Raises:
        ValueError: workers are asked for without them.
    """
    from jaxhash.shards import folder

    if options.shards is not None or folder.is_folder(options.out):
        return True
    for name in ("ray", "ray_resources"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for shards; give --shards too")
    if options.workers != 1:
        raise ValueError("--workers is for shards; give --shards too")
    return False


def encode_shards(options: "Encode", first: bool) -> None:
    """Encode as the options say into a folder of shards, or go on with it; `first` of all prints.

    Processes of a group begin at different shards. Otherwise they are like any others that encode
    into one folder: each takes shards that no other one is at.
    """
    import jax
    from tqdm import tqdm

    from jaxhash import models, processes
    from jaxhash.shards import folder, workers
    from jaxhash.shards.ray_encoding import encode_on_ray
    from search.shards import file_name

    if options.part is not None:
        raise ValueError("--part is for one index; shards hold all images of the data")
    if options.update or options.columns is not None:
        raise ValueError("--update and --columns are for one index file; leave --shards out")
    if options.data_dir is not None:
        raise ValueError("--data-dir is for datasets with a name; give the path of files instead")
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}; give at least 1")
    if options.ray_resources is not None and options.ray is None:
        raise ValueError("--ray-resources is for a Ray cluster; give --ray too")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}; give at least 1")
    share = 0.01 if options.max_undecodable is None else options.max_undecodable
    if not 0 <= share <= 1:
        raise ValueError(f"--max-undecodable is {share}; give a share from 0 to 1")
    model = processes.every(lambda: models.load(options.run))
    processes.check_shared(options.out)

    def begin() -> folder.Manifest:
        return folder.begin(
            options.out,
            model,
            options.data,
            options.shards or folder.load(options.out).shards,
            features=None if options.features == "none" else options.features or "float16",
            overwrite=options.overwrite,
            say=print,
        )

    processes.first(begin)  # lists the images once, also where the file system has no locks
    manifest = processes.every(begin)
    todo = folder.missing(options.out, manifest)
    if first and len(todo) < manifest.shards:
        print(f"{manifest.shards - len(todo)} of {manifest.shards} shards are done")
    total = sum(manifest.size(shard) for shard in todo)
    with tqdm(total=total, unit="image", unit_scale=True, disable=not first) as bar:
        if options.ray is not None:
            encode_on_ray(
                model,
                options.out,
                address=options.ray,
                workers=options.workers,
                resources=options.ray_resources,
                batch_size=options.batch_size,
                max_undecodable=share,
                on_shard=lambda shard: bar.update(manifest.size(shard)),
            )
        else:
            workers.encode(
                model,
                options.run,
                options.out,
                workers=options.workers,
                start=manifest.shards * jax.process_index() // jax.process_count(),
                batch_size=options.batch_size,
                max_undecodable=share,
                on_batch=bar.update,
                say=bar.write,
            )
    if not first:
        return
    from jaxhash.shards.records import Names

    names = Names(options.out, manifest)
    bad = list(folder.left_out(options.out, manifest))
    for path, reason in manifest.skipped:
        print(f"left out {path}: {reason}")
    for item, reason in bad:
        print(f"left out {names[item]}: {reason}")
    size = sum(
        (options.out / file_name(shard, manifest.shards)).stat().st_size
        for shard in range(manifest.shards)
    )
    print(
        f"{options.out}: {manifest.items - len(bad)} codes of {model.bits} bits in "
        f"{manifest.shards} shards, {size / 1e6:.1f} MB"
    )
