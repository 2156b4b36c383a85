# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Files that the Hugging Face Hub and data catalogues read beside pairs."""

import json
from pathlib import Path
from typing import Any

from ..files import read_text, sha256, write_text
from ..pairs.layout import SPLITS
from .pairs import PairFolder

METADATA = 'metadata.jsonl'
CROISSANT = 'croissant.json'
_CARD = 'README.md'
_DATA_FILES = [METADATA, 'images/*', 'masks/*']
#: Vocabularies of the description (https://docs.mlcommons.org/croissant, version 1.0).
_CONTEXT = {
    '@language': 'en',
    '@vocab': 'https://schema.org/',
    'sc': 'https://schema.org/',
    'cr': 'http://mlcommons.org/croissant/',
    'dct': 'http://purl.org/dc/terms/',
    'citeAs': 'cr:citeAs',
    'column': 'cr:column',
    'conformsTo': 'dct:conformsTo',
    'data': {'@id': 'cr:data', '@type': '@json'},
    'dataType': {'@id': 'cr:dataType', '@type': '@vocab'},
    'extract': 'cr:extract',
    'field': 'cr:field',
    'fileObject': 'cr:fileObject',
    'fileSet': 'cr:fileSet',
    'includes': 'cr:includes',
    'key': 'cr:key',
    'recordSet': 'cr:recordSet',
    'source': 'cr:source',
}


def publish(root: Path, licence: str, url: str = '') -> list[Path]:
    """Write what others find and load a folder of pairs by.

    ``metadata.jsonl`` makes it an image folder of the library ``datasets``, with the
    columns ``image`` (or ``image_1`` ...), ``mask``, ``id`` and ``split``;
    ``croissant.json`` describes it for catalogues; the head of
    ``README.md`` is what the Hugging Face Hub reads.

    Args:
        root: A folder of pairs.
        licence: Identifier of the licence, such as ``cc-by-4.0``.
        url: Address where the folder will be found.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If the folder or its images are missing.
        ValueError: If it is no sound folder of pairs.
    """
    pairs = PairFolder(root)
    rows = _rows(pairs)
    lines = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    write_text(root / METADATA, lines)
    card = root / _CARD
    text = read_text(card) if card.exists() else f'# {root.resolve().name}\n'
    write_text(
        card, _with_head(text, licence, synthetic='settings' in pairs.provenance)
    )
    description = _croissant(pairs, rows[0], licence, url)
    write_text(root / CROISSANT, json.dumps(description, indent=2) + '\n')
    return [root / name for name in (METADATA, _CARD, CROISSANT)]


def _rows(pairs: PairFolder) -> list[dict[str, Any]]:
    """The metadata of each sample: its files, its id and its split."""
    splits = {
        name: split
        for split in SPLITS
        if (pairs.root / f'{split}.txt').exists()
        for name in pairs.choose_ids(split)
    }
    rows = []
    for name in pairs.ids:
        images = pairs.image_paths(name)
        keys = ['image'] if len(images) == 1 else _dates(len(images))
        paths = dict(zip(keys, images, strict=True)) | {'mask': pairs.mask_path(name)}
        row = {
            f'{key}_file_name': path.relative_to(pairs.root).as_posix()
            for key, path in paths.items()
        }
        split = {'split': splits.get(name, '')} if splits else {}
        rows.append(row | {'id': name} | split)
    return rows


def _dates(count: int) -> list[str]:
    return [f'image_{number}' for number in range(1, count + 1)]


def _with_head(text: str, licence: str, synthetic: bool) -> str:
    """A card whose head names licence, task and tags; an older head is replaced."""
    if text.startswith('---\n'):
        text = text.split('\n---\n', 1)[-1].lstrip('\n')
    tags = ['remote-sensing', 'multispectral', 'geospatial']
    tags += ['synthetic'] if synthetic else []
    head = {
        'license': licence,
        'task_categories': ['image-segmentation'],
        'tags': tags,
        # or lists and fingerprints beside the images would be taken for the data
        'configs': [{'config_name': 'default', 'data_files': _DATA_FILES}],
    }
    lines = ''.join(f'{key}: {json.dumps(value)}\n' for key, value in head.items())
    return f'---\n{lines}---\n\n{text}'


def _croissant(
    pairs: PairFolder, row: dict[str, Any], licence: str, url: str
) -> dict[str, Any]:
    """The folder as JSON-LD."""
    spec, name = pairs.spec, pairs.root.resolve().name
    where = f'{url}/' if url else ''
    folders = {
        folder: f'{folder}/*{Path(path).suffix}'
        for key, path in row.items()
        if key.endswith('_file_name')
        for folder in [path.partition('/')[0]]
    }
    metadata = {
        '@type': 'cr:FileObject',
        '@id': METADATA,
        'name': METADATA,
        'contentUrl': where + METADATA,
        'encodingFormat': 'application/jsonlines',
        'sha256': sha256(pairs.root / METADATA),
    }
    sets = [
        {
            '@type': 'cr:FileSet',
            '@id': folder,
            'name': folder,
            'encodingFormat': 'image/tiff',
            'includes': pattern,
        }
        for folder, pattern in folders.items()
    ]
    fields = [
        {
            '@type': 'cr:Field',
            '@id': f'pairs/{key}',
            'name': key,
            'dataType': 'sc:Text',
            'source': {'fileObject': {'@id': METADATA}, 'extract': {'column': key}},
        }
        for key in row
    ]
    codes = spec.codes or range(spec.num_classes)
    classes = [
        {'classes/code': code, 'classes/name': called}
        for code, called in zip(codes, spec.classes, strict=True)
    ]
    types = {'code': 'sc:Integer', 'name': 'sc:Text'}
    class_fields = [
        {'@type': 'cr:Field', '@id': f'classes/{key}', 'name': key, 'dataType': kind}
        for key, kind in types.items()
    ]
    made = (
        'drawn by a generative model' if 'settings' in pairs.provenance else 'labelled'
    )
    return {
        '@context': _CONTEXT,
        '@type': 'sc:Dataset',
        'conformsTo': 'http://mlcommons.org/croissant/1.0',
        'name': name,
        'description': (
            f'{len(pairs)} image patches with masks, {made}. Bands: '
            f'{", ".join(spec.bands)}. Classes: {", ".join(spec.classes)}.'
        ),
        'license': licence,
        **({'url': url} if url else {}),
        'distribution': [metadata, *sets],
        'recordSet': [
            {
                '@type': 'cr:RecordSet',
                '@id': 'pairs',
                'name': 'pairs',
                'key': {'@id': 'pairs/id'},
                'field': fields,
            },
            {
                '@type': 'cr:RecordSet',
                '@id': 'classes',
                'name': 'classes',
                'key': {'@id': 'classes/code'},
                'field': class_fields,
                'data': classes,
            },
        ],
    }
