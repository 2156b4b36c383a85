# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The verbs of ``torchgeo-specdm``, from options to what they print.

Each imports what it needs when it runs, so that help needs no network.
"""

import inspect
import json
import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

#: Entries of a list of which a terminal shows all.
_MOST_SHOWN = 20


def quickstart(options: Namespace) -> None:
    """Run the whole path and write its report."""
    from .locking import alone_in
    from .quickstart import Quickstart

    quickstart = Quickstart(
        out=Path(options.out),
        data=None if options.data is None else Path(options.data),
        task=options.task,
        minutes=options.minutes,
        seed=options.seed,
        codec=options.codec,
        bands=_bands(options),
        unlabelled=None if options.unlabelled is None else Path(options.unlabelled),
    )
    with alone_in(quickstart.out):
        quickstart.run()


def scenes(options: Namespace) -> None:
    """Write procedural demo scenes."""
    from .scenes.writing import write_scenes

    held_out = round(0.2 * options.count)
    counts = (options.count - 2 * held_out, held_out, held_out)
    write_scenes(
        options.out, counts, options.size, options.seed, options.hard, options.change
    )
    print(f'{options.count} scenes are in {options.out}.')


def describe(options: Namespace) -> None:
    """Check a folder of pairs and print what it holds."""
    from .bands import channel
    from .datamodules.pairs import PairFolderDataModule
    from .datasets.pairs import PairFolder
    from .pairs.layout import BANDS, DESCRIPTION, PLACES

    folder = PairFolder(
        options.folder, bands=_bands(options), no_label=options.no_label
    )
    folder.verify()
    found, spec = _found_in(folder), folder.spec
    # a line for each entry: hundreds of bands still fit on a screen
    show = _shorten if sys.stdout.isatty() else json.dumps
    entries = (f'  {json.dumps(key)}: {show(found[key])}' for key in found)
    print('{\n' + ',\n'.join(entries) + '\n}')
    shown = [spec.bands[i] for i in spec.rgb]
    known = [channel(spec.wavelengths, name) for name in ('red', 'green', 'blue')]
    if spec.num_bands > 2 and None in known:
        # once there, it goes before the table
        described = options.write or (folder.root / DESCRIPTION).exists()
        print(
            f'Pictures show {", ".join(shown)} as red, green and blue, since neither '
            'wavelengths nor names of bands tell these. Write either into '
            f'{DESCRIPTION if described else BANDS} to change that.',
            file=sys.stderr,
        )
    absent = [name for name in spec.classes if not found['class_percent'][name]]
    if absent:
        print(f'No mask has a pixel of {", ".join(absent)}.', file=sys.stderr)
    if not found['splits']:
        by = f'by the places of {PLACES}'
        if not (folder.root / PLACES).exists():
            by = (
                'at random. Where patches are neighbours, scores are then too good: '
                f'give neighbours the same place in {PLACES}'
            )
        print(f'There is no train.txt, so patches are split {by}.', file=sys.stderr)
    if options.write:
        print(f'Written to {folder.write_description()}.', file=sys.stderr)
    try:
        PairFolderDataModule(options.folder).split_ids(folder)
    except ValueError as error:
        # the folder may be for other things than training
        print(error, file=sys.stderr)


def _found_in(folder: Any) -> dict[str, Any]:
    """Content of a folder of pairs, as JSON has it."""
    from .datamodules.support.preparation import measure_moments

    moments = measure_moments(folder)
    seen = moments.pixels > 0
    sizes = (folder.size(index) for index in range(len(folder)))
    pixels = folder.spec.dates * sum(height * width for height, width in sizes)
    missing = [float(f'{x:.4g}') for x in 100 * (1 - moments.pixels / pixels)]
    return {
        **folder.spec.to_dict(),
        'samples': len(folder),
        'splits': folder.count_splits(),
        'shape': list(folder[0]['image'].shape),
        'dead_bands': folder.dead_bands(),
        # one number if all bands are alike
        'missing_percent': missing if len({*missing}) > 1 else missing[0],
        'mean': _rounded(moments.mean, seen),
        'std': _rounded(moments.std, seen),
        'class_percent': folder.measure_classes(),
    }


def _shorten(value: Any) -> str:
    """JSON of a value, but just the ends of a long list."""
    text = json.dumps(value)
    if isinstance(value, list | tuple) and len(value) > _MOST_SHOWN:
        ends = json.dumps(value[:3])[:-1], json.dumps(value[-1:])[1:]
        text = f'{ends[0]}, ... {len(value)} in all ..., {ends[1]}'
    return text


def _bands(options: Namespace) -> Any:
    """Bands to load, as data sets take them."""
    return 'live' if options.bands == ['live'] else options.bands


def _rounded(values: Any, seen: Any) -> list[float | None]:
    """Numbers for a person; None where nothing was seen."""
    pairs = zip(values.tolist(), seen.tolist(), strict=True)
    return [float(f'{value:.6g}') if known else None for value, known in pairs]


def export(options: Namespace) -> None:
    """Write a datamodule, or a scene and its labels, as a folder of pairs."""
    if (options.data is None) == (options.images is None):
        raise ValueError(
            f'data={options.data} and --images {options.images}: give one, the YAML of '
            'a datamodule or a scene.'
        )
    out = Path(options.out)
    export = _export_scene if options.data is None else _export_samples
    count = export(options, out)
    print(f'{count} pairs are in {out}. Look at them: torchgeo-specdm describe {out}')


def _export_scene(options: Namespace, out: Path) -> int:
    from .pairs.cutting import export_scene

    if options.labels is None or options.tile is None:
        raise ValueError('--images needs --labels and --tile. Give all three.')
    return export_scene(
        Path(options.images),
        Path(options.labels),
        out,
        options.tile,
        options.stride,
        options.attribute,
        options.background,
    )


def _export_samples(options: Namespace, out: Path) -> int:
    from torchgeo.datamodules import BaseDataModule

    from .datamodules.support.exporting import export_datamodule
    from .files import read_yaml
    from .objects import make_object
    from .pairs.manifest import read_manifest
    from .trust.measuring import real_config

    path, bands = Path(options.data), _bands(options)
    config = real_config(options.data, batch_size=1)
    if path.is_dir() and bands is not None:
        # it measures its bands, and refuses dead ones
        config['init_args']['bands'], bands = bands, None
    datamodule = make_object(config, BaseDataModule)
    spec = read_yaml(path).get('spec') if path.is_file() else None
    export_datamodule(
        datamodule, out, options.split, options.tile, options.stride, spec, bands
    )
    return sum(row['accepted'] for row in read_manifest(out))


def overlap(options: Namespace) -> None:
    """Refuse splits that show one place."""
    from torchgeo.datamodules import BaseDataModule

    from .objects import make_object
    from .trust.measuring import real_config
    from .trust.overlap import describe_overlaps, overlaps_between_splits

    # a loader is not needed, and a batch of one fits any split
    config = real_config(options.data, batch_size=1)
    datamodule = make_object(config, BaseDataModule)
    found = overlaps_between_splits(datamodule)
    print(describe_overlaps(datamodule, found))
    count = sum(map(len, found.values()))
    if count:
        raise ValueError(
            f'{options.data} has {count} pairs of samples in two splits that show one '
            'place, but scores are fair only without. Write places.csv so that '
            'overlapping patches share a place, and remove the lists of the splits.'
        )


def study(options: Namespace) -> None:
    """Run a grid of trainings and write its tables."""
    from .locking import alone_in
    from .reporting.study import write_study
    from .study.design import Study
    from .study.engine import Engine
    from .study.estimate import describe_grid
    from .tasks.support.progress import StepProgressBar

    study = Study.read(options.config)
    engine = Engine(study, lambda title: [StepProgressBar(title)])
    cells = study.cells()
    if options.dry_run:
        print(describe_grid(engine, cells))
        return
    with alone_in(study.out):
        runs = _run_study(engine, cells, options)
        path = write_study(study, runs)
    print(path.read_text(encoding='utf-8'))
    failed = [run for run in runs if run.reason]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(runs)} runs failed, the first: '
            f'{failed[0].cell.title}: {failed[0].reason} All are in '
            f'{study.out / "runs.csv"}; --retry does them again.'
        )


def _run_study(engine: Any, cells: Any, options: Namespace) -> Any:
    """Run a study in this process, or in those of a Dask cluster."""
    from torch import cuda

    gpus, trainer = cuda.device_count(), engine.study.trainer
    alone = 'devices' in trainer or trainer.get('accelerator') == 'cpu'
    few = min(gpus, len(engine.missing(cells, options.retry))) < 2
    if options.scheduler is None and (alone or few):
        return engine.run(cells, options.retry)
    try:
        from .study.cluster import open_cluster, run_on_cluster
    except ModuleNotFoundError as error:
        if error.name not in ('dask', 'distributed'):
            raise
        remedy = 'install it: pip install distributed'
        if options.scheduler is not None:
            raise RuntimeError(
                f'--scheduler {options.scheduler} needs the package distributed; '
                f'{remedy}.'
            ) from error
        print(f'One of {gpus} GPUs is used. For all, {remedy}.', file=sys.stderr)
        return engine.run(cells, options.retry)
    with open_cluster(options.scheduler, gpus) as client:
        return run_on_cluster(client, engine, cells, options.retry)


def generate(options: Namespace) -> None:
    """Draw labelled samples."""
    from lightning.pytorch import Trainer

    from .tasks.specdm import SpecDMTask
    from .tasks.support.drawing import describe_samples
    from .tasks.support.progress import StepProgressBar

    asked = {} if options.guidance is None else {'guidance': options.guidance}
    task = SpecDMTask(
        'diffusion', generator=options.generator, settings={'sampling': asked}
    )
    datamodule = _what_to_draw(options)
    trainer = Trainer(
        devices=options.devices, logger=False, callbacks=[StepProgressBar('generating')]
    )
    processes, cores = trainer.num_devices, os.cpu_count() or 1
    if trainer.strategy.root_device.type == 'cpu' and processes > cores:
        raise ValueError(
            f'--devices {options.devices} asks for {processes} processes on {cores} '
            f'cores. Give a number from 1 to {cores}.'
        )
    trainer.predict(task, datamodule=datamodule, return_predictions=False)
    if trainer.is_global_zero:
        print(describe_samples(datamodule.out))
        if options.images is None:
            out = shlex.quote(options.out)
            print(f'Measure them: torchgeo-specdm report {out} --real FOLDER')


def _what_to_draw(options: Namespace) -> Any:
    """The datamodule of what is drawn, with the options that it takes."""
    from .datamodules.generation import GenerationDataModule
    from .datamodules.labelling import LabellingDataModule
    from .datamodules.painting import ChangeDataModule
    from .datamodules.shares import ShareDataModule

    names = (
        *('out', 'count', 'seed', 'batch_size', 'masks', 'vary', 'images', 'draws'),
        *('change', 'first_outside', 'strength', 'augment', 'size', 'class_share'),
    )
    values = {name: getattr(options, name) for name in names}
    # what was not asked for is left to the datamodule
    given = {n: v for n, v in values.items() if v is not None and v is not False}
    kind: Any = GenerationDataModule
    if options.images is not None:
        kind = LabellingDataModule
    elif options.change is not None:
        kind = ChangeDataModule
    elif options.class_share is not None:
        kind, given['class_share'] = ShareDataModule, _shares(options.class_share)
    unknown = sorted(given.keys() - inspect.signature(kind).parameters.keys())
    if unknown:
        flags = [f'--{name.replace("_", "-")}' for name in unknown]
        raise ValueError(
            f'{", ".join(flags)} cannot be used with what is drawn here: --draws goes '
            'with --images, which takes no --count, or with --class-share, which takes '
            'nothing given; --first-outside goes with --change, and neither --size nor '
            '--augment with what is given whole. Leave it out.'
        )
    return kind(**given)


def _shares(given: list[tuple[str, float]]) -> dict[str, float]:
    """Shares of classes by their names, each once."""
    shares = dict(given)
    if len(shares) < len(given):
        raise ValueError(
            f'--class-share has {[name for name, _ in given]}, but a class has one '
            'share. Name each once.'
        )
    return shares


def filter_pairs(options: Namespace) -> None:
    """Write the generated samples that can be trusted."""
    from .trust.filter_summary import summary_text
    from .trust.measuring import filter_folder

    folder = Path(options.folder)
    found = filter_folder(
        folder,
        _real(options.real, folder),
        Path(options.out),
        Path(options.trust or f'{folder}-trust'),
        options.updates,
        options.pixels,
        quantile=options.quantile,
        balance=options.balance,
        by=options.by,
    )
    print(summary_text(found))


def report(options: Namespace) -> None:
    """Write the report of a run or a generated folder."""
    from .reporting.folder import report_folder

    path = Path(options.path)
    given = {
        name: None if value is None else Path(value)
        for name, value in vars(options).items()
        if name in ('trust', 'generator', 'study')
    }
    real = None if options.real is None else _real(options.real, path)
    print(f'Report: {report_folder(path, real, updates=options.updates, **given)}')


def publish(options: Namespace) -> None:
    """Write what others find and load a folder of pairs by."""
    from .datasets.publishing import publish

    root = Path(options.folder)
    written = publish(root, options.licence, options.url)
    print(f'Written to {root}: {", ".join(path.name for path in written)}.')


def convert(options: Namespace) -> None:
    """Convert published weights of a network."""
    from .models.convert import convert_file

    convert_file(options.network, Path(options.checkpoint), Path(options.out))
    print(f'The weights are in {options.out}.')


def reproduce(options: Namespace) -> None:
    """Make a table or figure of the paper."""
    from .reproduce import reproduce
    from .tasks.support.progress import StepProgressBar

    path = reproduce(
        Path(options.table),
        options.on,
        options.features,
        lambda title: [StepProgressBar(title)],
    )
    print(path.read_text(encoding='utf-8'))


def _real(source: str, folder: Path) -> Any:
    """The real datamodule, with training crops as large as the generated patches."""
    from .datasets.pairs import PairFolder
    from .trust.measuring import real_config

    pairs = folder / 'synthetic' if (folder / 'synthetic').is_dir() else folder
    return real_config(source, min(PairFolder(pairs)[0]['mask'].shape[-2:]))
