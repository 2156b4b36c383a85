# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The command ``torchgeo-specdm``: what TorchGeo's command line has no verb for."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from . import __version__
from . import verbs as run

try:
    shtab: Any = import_module('shtab')
except ImportError:
    shtab = None

#: Help and refusal of an option.
_COMPLETION = 'shell completion, which needs the package shtab'
_INTERRUPTED, _CLOSED_PIPE, _TERMINATED = 130, 141, 143
#: What a user can mend; anything else is a fault of ours and shows its traceback.
_EXPECTED = (ValueError, OSError, RuntimeError, TypeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments: Command line without the program's name; the process's own if None.

    Returns:
        The exit code: 0, 1 with a sentence on stderr, 130 after Ctrl-C, 141 when
        whoever reads the output stops, or 143 after SIGTERM; argparse exits with 2.
    """
    options = make_parser().parse_args(arguments)
    try:
        with _quiet():
            options.verb(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever reads has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except (KeyboardInterrupt, SystemExit) as stop:
        # of Lightning's own by its name: importing Lightning takes seconds
        terminated = type(stop).__name__ == 'SIGTERMException'
        # Lightning makes an exit of its own of Ctrl-C
        interrupted = KeyboardInterrupt in (type(stop), type(stop.__context__))
        if not (terminated or interrupted):
            raise
        print('\nInterrupted. The same command goes on from here.', file=sys.stderr)
        return _TERMINATED if terminated else _INTERRUPTED
    except Exception as error:
        misconfigured = type(error).__name__ == 'MisconfigurationException'
        if options.debug or not (misconfigured or isinstance(error, _EXPECTED)):
            raise
        print(f'torchgeo-specdm: {error}', file=sys.stderr)
        return 1
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what Lightning says at every start, and warnings that repeat themselves."""
    # which sets the levels of its loggers
    import_module('lightning.pytorch')
    once = _Once()
    # which prints warnings where nobody asked for another way
    printer: Any = logging.lastResort
    loggers = [logging.getLogger(f'lightning.{name}') for name in ('pytorch', 'fabric')]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            printer.addFilter(once)
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            printer.removeFilter(once)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Once(logging.Filter):
    """Lets each message pass once: a folder is opened many times in one run."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        fresh = text not in self.said
        self.said.add(text)
        return fresh


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows a default where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """A parser, and those of its verbs, with such help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{'formatter_class': _Help} | settings)


class _NeedsShtab(argparse.Action):
    """Says what completion needs, where that is not installed."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        parser.error(f'{_COMPLETION}: pip install shtab')


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, for completion and for the documentation."""
    parser = _Parser(
        prog='torchgeo-specdm',
        description='Learn, draw and judge labelled satellite image patches.',
        epilog='Begin with quickstart, which needs no data. VERB --help shows the '
        'options of a verb.',
    )
    parser.add_argument('--version', action='version', version=__version__)
    if shtab is None:
        parser.add_argument('--print-completion', action=_NeedsShtab, help=_COMPLETION)
    else:
        shtab.add_argument_to(parser, '--print-completion')
    parser.add_argument(
        '--debug', action='store_true', help='show the whole traceback of an error'
    )
    verbs = parser.add_subparsers(required=True, metavar='VERB')
    for add in (
        _add_quickstart,
        _add_scenes,
        _add_describe,
        _add_export,
        _add_overlap,
        _add_study,
        _add_generate,
        _add_filter,
        _add_report,
        _add_publish,
        _add_convert,
        _add_reproduce,
    ):
        add(verbs)
    return parser


def _add_quickstart(verbs: Any) -> None:
    quick = verbs.add_parser(
        'quickstart', help='the whole path on two cores: learn, draw, measure, compare'
    )
    quick.add_argument('--out', default='specdm-quickstart', help='folder of results')
    quick.add_argument(
        '--data',
        help='your folder of pairs, or YAML of a datamodule; demo scenes if left out',
    )
    quick.add_argument(
        '--task',
        choices=('segmentation', 'change'),
        default='segmentation',
        help='classes of one image, or change between two dates',
    )
    quick.add_argument(
        '--minutes', type=float, default=12, help='about how long it may take'
    )
    quick.add_argument('--seed', type=seed, default=0, help='seed of everything')
    quick.add_argument(
        '--codec',
        choices=('auto', 'two_stream', 'pixels'),
        default='auto',
        help='auto takes pixels for images of one date and at most 24 bands, and else '
        'two_stream if it gets masks back well enough',
    )
    _add_bands(quick)
    quick.add_argument(
        '--unlabelled',
        help='folder of images without labels, from which the generator learns, too',
    )
    quick.set_defaults(verb=run.quickstart)


def _add_scenes(verbs: Any) -> None:
    scenes = verbs.add_parser('scenes', help='write procedural demo scenes')
    scenes.add_argument('--out', required=True, help='folder to write')
    scenes.add_argument('--count', type=int, default=240, help='number of scenes')
    scenes.add_argument('--size', type=int, default=64, help='side in pixels')
    scenes.add_argument('--seed', type=seed, default=0, help='seed of the scenes')
    kind = scenes.add_mutually_exclusive_group()
    kind.add_argument('--hard', action='store_true', help='13 classes instead of 6')
    kind.add_argument(
        '--change', action='store_true', help='two dates and a mask of what changed'
    )
    scenes.set_defaults(verb=run.scenes)


def _add_describe(verbs: Any) -> None:
    describe = verbs.add_parser(
        'describe', help='check a folder of pairs and show what it holds'
    )
    describe.add_argument('folder', help='folder of pairs')
    describe.add_argument(
        '--write', action='store_true', help='write what was found to dataset.json'
    )
    describe.add_argument(
        '--no-label', type=int, help='value in the masks of pixels without a label'
    )
    _add_bands(describe)
    describe.set_defaults(verb=run.describe)


def _add_export(verbs: Any) -> None:
    export = verbs.add_parser(
        'export', help='write any datamodule, or a scene and its labels, as pairs'
    )
    export.add_argument(
        'data', nargs='?', help='YAML of a datamodule (class_path, init_args)'
    )
    export.add_argument('--out', required=True, help='folder to write')
    export.add_argument('--images', help='georaster of a scene')
    export.add_argument(
        '--labels', help='georaster of class codes, or polygons (GeoPackage, ...)'
    )
    export.add_argument(
        '--attribute',
        help='column with the class of each polygon; the only one if left out',
    )
    export.add_argument('--background', help='name of the class outside of polygons')
    export.add_argument(
        '--tile',
        type=int,
        help='side of a tile in pixels; whole samples of a datamodule if left out',
    )
    export.add_argument('--stride', type=int, help='pixels from tile to tile')
    export.add_argument(
        '--split',
        nargs='+',
        default=['train', 'val', 'test'],
        choices=('train', 'val', 'test'),
        help='splits of the datamodule to write',
    )
    _add_bands(export)
    export.set_defaults(verb=run.export)


def _add_overlap(verbs: Any) -> None:
    overlap = verbs.add_parser(
        'overlap', help='find patches of one place in two splits by what they show'
    )
    overlap.add_argument(
        'data', help='folder of pairs, or YAML of a datamodule (class_path, init_args)'
    )
    overlap.set_defaults(verb=run.overlap)


def _add_study(verbs: Any) -> None:
    study = verbs.add_parser(
        'study', help='a grid of trainings that says whether synthetic data help'
    )
    study.add_argument('config', help='YAML of the study')
    study.add_argument(
        '--dry-run', action='store_true', help='show the grid and how long it takes'
    )
    study.add_argument(
        '--scheduler',
        help='address of a Dask scheduler, whose workers share the folder; one process '
        'for each GPU here if left out',
    )
    study.add_argument('--retry', action='store_true', help='do failed runs again')
    study.set_defaults(verb=run.study)


def _add_generate(verbs: Any) -> None:
    generate = verbs.add_parser('generate', help='draw labelled samples')
    generate.add_argument('--generator', required=True, help='folder of stage 2')
    generate.add_argument('--out', required=True, help='folder to write')
    generate.add_argument(
        '--count', type=int, help='number of samples; one of each given one if left out'
    )
    generate.add_argument('--seed', type=seed, default=0, help='seed of the samples')
    generate.add_argument(
        '--batch-size', type=int, default=16, help='samples that are drawn at a time'
    )
    given = generate.add_mutually_exclusive_group()
    given.add_argument(
        '--masks', help='folder of masks, or of pairs: draw images for the masks'
    )
    given.add_argument('--vary', help='folder of pairs: vary its images, keep masks')
    given.add_argument(
        '--images', help='folder of images: draw masks for them, and how sure they are'
    )
    generate.add_argument(
        '--draws',
        type=int,
        help='masks drawn for each of --images, or to choose from with --class-share; 8 '
        'if left out',
    )
    generate.add_argument(
        '--class-share',
        type=class_share,
        nargs='+',
        action='extend',
        metavar='CLASS=SHARE',
        help='share of the area of all masks of classes by name or code, such as '
        'built-up=0.2; masks are chosen for it',
    )
    generate.add_argument(
        '--change',
        help='folder of pairs of two dates, or of images: paint change into second '
        'dates, inside moved masks of --masks or of the folder itself',
    )
    generate.add_argument(
        '--first-outside',
        action='store_true',
        help='second dates of --change are the first ones outside of what is painted',
    )
    generate.add_argument(
        '--strength',
        type=float,
        help='how far --vary (0.6 if left out) and --change (1) go: 0 keeps the image, '
        '1 forgets it',
    )
    generate.add_argument(
        '--guidance',
        type=float,
        help='how much further what is given is followed; 0 if left out',
    )
    generate.add_argument(
        '--augment',
        action='store_true',
        help='crop, flip and turn what --masks or --vary give, for more samples',
    )
    generate.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='pixels of samples larger than the patches of training',
    )
    generate.add_argument(
        '--devices',
        default='auto',
        help="number of devices, as Lightning's trainer takes",
    )
    generate.set_defaults(verb=run.generate)


def _add_filter(verbs: Any) -> None:
    chosen = verbs.add_parser(
        'filter', help='keep the generated samples that can be trusted'
    )
    chosen.add_argument('folder', help='folder of generated pairs')
    chosen.add_argument('--out', required=True, help='folder to write')
    _add_measuring(chosen, required=True)
    chosen.add_argument(
        '--quantile',
        type=float,
        default=0.1,
        help='share of real samples that each score may leave out',
    )
    chosen.add_argument(
        '--by',
        nargs='+',
        default=['agreement', 'edges', 'spectrum'],
        choices=('agreement', 'edges', 'spectrum'),
        help='scores to go by; copies are left out anyway',
    )
    chosen.add_argument(
        '--balance',
        type=int,
        help='keep so many, whose classes are as equal as possible',
    )
    chosen.add_argument(
        '--pixels', action='store_true', help='leave out doubtful pixels, not samples'
    )
    chosen.set_defaults(verb=run.filter_pairs)


def _add_report(verbs: Any) -> None:
    report = verbs.add_parser(
        'report', help='one page: looks real, labels fit, not copied, does it help'
    )
    report.add_argument('path', help='folder of a quickstart, or of generated pairs')
    _add_measuring(report, required=False)
    report.add_argument('--generator', help='folder of stage 2, to measure its codec')
    report.add_argument('--study', help='folder of a study of these pairs')
    report.set_defaults(verb=run.report)


def _add_publish(verbs: Any) -> None:
    publish = verbs.add_parser(
        'publish', help='describe a folder of pairs for the Hugging Face Hub'
    )
    publish.add_argument('folder', help='folder of pairs')
    publish.add_argument(
        '--licence', required=True, help='of the pairs, such as cc-by-4.0'
    )
    publish.add_argument('--url', default='', help='address where they will be')
    publish.set_defaults(verb=run.publish)


def _add_convert(verbs: Any) -> None:
    convert = verbs.add_parser(
        'convert', help='published weights of a network, for the tasks of this package'
    )
    convert.add_argument(
        'network',
        choices=('changeformer', 'siamcrnn', 'pfsegnet', 'ldm-unet', 'ldm-autoencoder'),
    )
    convert.add_argument('checkpoint', help='file that its authors released')
    convert.add_argument('--out', required=True, help='safetensors file to write')
    convert.set_defaults(verb=run.convert)


def _add_reproduce(verbs: Any) -> None:
    reproduce = verbs.add_parser(
        'reproduce', help="a table or figure of the paper, beside the paper's numbers"
    )
    reproduce.add_argument('table', help='YAML of experiments/paper')
    reproduce.add_argument(
        '--on', required=True, help='data of a study that the YAML names'
    )
    reproduce.add_argument(
        '--features',
        default='random',
        choices=('random', 'inception', 'sentinel2'),
        help='of images, for Frechet distances; all but random are downloaded',
    )
    reproduce.set_defaults(verb=run.reproduce)


def _add_bands(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        '--bands',
        nargs='+',
        help='names of the bands to use; live for all that say something',
    )


def _add_measuring(verb: argparse.ArgumentParser, required: bool) -> None:
    verb.add_argument(
        '--real', required=required, help='folder of real pairs, or YAML of their data'
    )
    verb.add_argument('--trust', help='folder of the measures; <folder>-trust if none')
    verb.add_argument(
        '--updates', type=int, default=1600, help='most optimiser steps of a judge'
    )


def seed(text: str) -> int:
    """A seed of the command line, of the 32 bits that all random generators take."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f'{value} must be from 0 to {2**32 - 1}')
    return value


def class_share(text: str) -> tuple[str, float]:
    """A class and its share, such as ``built-up=0.2``."""
    name, _, share = text.rpartition('=')
    try:
        return name, float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text} must be like built-up=0.2') from None
