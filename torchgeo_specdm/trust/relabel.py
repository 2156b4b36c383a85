# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pseudo-labels: a folder of pairs with the masks that a network reads in it."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bars import bar
from ..datasets.pairs import PairFolder
from ..models.evaluating import evaluating
from ..pairs.copying import CopyWriter
from ..pairs.fingerprint import read_seen_samples, write_seen_samples
from ..pairs.manifest import read_manifest
from ..pairs.valid import fill_missing

_CARD = """# Relabelled image patches

{count} image patches of `{source}`, byte for byte. **The masks are not theirs: a
network read them in the images** ({by}).

They have the errors of that network, and no score on them says how good a model is.
`training_samples.txt`, where there is one, holds fingerprints of the real samples that
the generator of the images saw.
"""
#: What a manifest says of a sample that is true of its relabelled copy too.
_KEPT = ('seed', 'source')


@torch.no_grad()
def relabel(
    folder: str | Path,
    out: str | Path,
    predict: Callable[[Tensor], Tensor],
    mean: Tensor,
    std: Tensor,
    by: str,
    batch_size: int = 16,
) -> None:
    """Write a copy of a folder of pairs with the masks that a network reads in it.

    Image files are copied byte for byte, and ``training_samples.txt`` goes along, so
    that leaks are still found. Of a folder with ``train.txt`` only the samples in it
    are used. Run again, it writes what is missing.

    Args:
        folder: The folder of pairs; all patches have one size.
        out: The folder to write to.
        predict: The network, a task for instance: takes normalised images
            (B, C, H, W), or (B, T, C, H, W) with T dates, and gives class scores
            before softmax, (B, K, H, W). A module is run in evaluation mode, where it
            is.
        mean: Mean of each band that the network was trained with, (C,) or scalar.
        std: Standard deviation of each band, (C,) or scalar.
        by: Name of the network, for provenance and data card.
        batch_size: Images read at once.

    Raises:
        FileExistsError: If *out* holds something else, or was begun with another
            network, source or option.
        FileNotFoundError: If *folder* is no folder of pairs.
        ValueError: If an option does not fit, or the scores are not one finite number
            for each class and pixel.
    """
    listed = (Path(folder) / 'train.txt').exists()
    source = PairFolder(folder, 'train' if listed else None)
    _require_options(source, mean, std, batch_size)
    settings = {
        'samples': source.digest(masks=False),
        'by': by,
        'network': _fingerprint(predict, mean, std),
        # batches of another size differ by float noise
        'batch_size': batch_size,
    }
    origin = source.provenance
    provenance = {
        **origin,
        'relabelled': True,
        'relabelled_by': by,
        'relabelled_from': str(folder),
        'origin': origin.get('settings'),
    }
    writer = CopyWriter(out, source.spec, provenance, settings)
    writer.clean()
    if seen := read_seen_samples(folder):
        write_seen_samples(out, sorted(seen))
    read = partial(_read_masks, predict, mean, std, source)
    with evaluating(predict) if isinstance(predict, nn.Module) else nullcontext():
        _write_missing(writer, source, read, batch_size)
    writer.finish(_CARD.format(count=len(source), source=folder, by=by))


def _write_missing(
    writer: CopyWriter,
    source: PairFolder,
    read: Callable[[Tensor, Sequence[str]], Tensor],
    batch_size: int,
) -> None:
    """Read batch after batch, and write the samples that are not there yet."""
    done, total = writer.done(), len(source)
    rows = {row['id']: row for row in read_manifest(source.root)}
    starts = range(0, total, batch_size)
    for start in bar(starts, 'relabel', hidden=total < 100):
        batch = range(start, min(start + batch_size, total))
        if done.issuperset(batch):
            continue
        # whole, whatever is missing: the scores of an image depend on its batch
        names = source.ids[start : batch.stop]
        images = torch.stack([source[index]['image'] for index in batch])
        masks = read(images, names)
        for index, name, image, mask in zip(batch, names, images, masks, strict=True):
            if index in done:
                continue
            row = rows.get(name, {})
            record: dict[str, Any] = {key: row[key] for key in _KEPT if key in row}
            writer.copy(
                name,
                image.numpy(),
                source.image_paths(name),
                mask.numpy(),
                {'index': index} | record,
                {'RELABELLED': 'YES'},
            )


def _read_masks(
    predict: Callable[[Tensor], Tensor],
    mean: Tensor,
    std: Tensor,
    source: PairFolder,
    images: Tensor,
    names: Sequence[str],
) -> Tensor:
    """Read masks in images (B, ..., H, W) by a network: class positions (B, H, W)."""
    where = predict.parameters() if isinstance(predict, nn.Module) else iter([mean])
    images = images.to(next(where, mean).device)
    mean, std = (x.to(images).view(-1, 1, 1) for x in (mean, std))
    scores = predict(fill_missing((images - mean) / std)).float().cpu()
    wanted = (len(images), source.spec.num_classes, *images.shape[-2:])
    if scores.shape != wanted:
        raise ValueError(
            f'The network gives scores of the shape {tuple(scores.shape)} for samples '
            f'{names[0]} to {names[-1]}, but must give {wanted}: one for each class '
            'and pixel. Use a network trained on these classes.'
        )
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise ValueError(
            f'The network gives {broken} scores that are NaN or infinite for samples '
            f'{names[0]} to {names[-1]}. Use a network whose training did not fail.'
        )
    labels = scores.argmax(1)
    if (ignored := source.spec.ignore_index) is not None:
        missing = images.isnan().all(-3).cpu()
        labels[missing if missing.ndim == 3 else missing.any(1)] = ignored
    return labels


def _require_options(
    source: PairFolder, mean: Tensor, std: Tensor, batch_size: int
) -> None:
    """Refuse options that are out of range or do not fit the folder."""
    spec = source.spec
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size} must be 1 or more.')
    if not {mean.numel(), std.numel()} <= {1, spec.num_bands}:
        raise ValueError(
            f'mean and std have {mean.numel()} and {std.numel()} values, but '
            f'{source.root} has {spec.num_bands} bands: {list(spec.bands)}. Give those '
            'of the datamodule that the network was trained with.'
        )


def _fingerprint(predict: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> str:
    """Hash of what a network is, as far as its weights and statistics tell."""
    parts: list[tuple[str, Any]] = [('mean', mean), ('std', std)]
    if isinstance(predict, nn.Module):
        parts += predict.state_dict().items()
    digest = hashlib.sha256()
    for name, value in parts:
        if isinstance(value, Tensor):
            digest.update(name.encode())
            # NumPy does not know all types of tensors, but bytes
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
