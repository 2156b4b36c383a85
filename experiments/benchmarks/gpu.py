# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Rates that a GPU gives, and the part of them that the bare networks use.

python experiments/benchmarks/gpu.py PART --out FOLDER (gpu.sh runs all of them)

rates     copies, a matrix product, and the convolutions of the denoiser by themselves
bare      steps of the bare networks of both stages, with one rule more in each row
compiled  steps of the bare denoiser by torch.compile
table     prints what these, and gpu_product.py, have found

Parts may run side by side: they start and compile at once, and take turns in what is
timed. Each writes FOLDER/PART.json as it goes on, so one that is stopped loses the rest
alone.
"""

import argparse
import copy
import fcntl
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion.generator import Generator
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.presets import generator_settings, load_preset

#: Rules of the rows of ``bare``, each with those of the row before.
RULES = ('tf32', 'bf16', 'channels last', 'fused AdamW', 'CUDA graph')
SPEC = SampleSpec(TEN_BANDS, tuple(f'class {i}' for i in range(13)), scale=1e-4)


class Network(NamedTuple):
    """A network with a loss on random data of one batch."""

    module: nn.Module
    loss: Callable[[], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(__doc__, PARTS, arguments)
    PARTS[options.part](options)


def read_options(
    about: str | None, parts: Collection[str], arguments: Sequence[str] | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('part', choices=parts)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--preset', default='small')
    parser.add_argument('--size', type=int, default=128, help='pixels of a side')
    parser.add_argument('--patches', type=int, default=512, help='to learn from')
    parser.add_argument('--batch', type=int, default=64, help='of stage 1')
    parser.add_argument('--latents', type=int, default=256, help='a batch of stage 2')
    parser.add_argument('--steps', type=int, default=16, help='that are timed, in all')
    parser.add_argument('--matrix', type=int, default=8192, help='side of the product')
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def device() -> torch.device:
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def turn(out: Path) -> Iterator[None]:
    """Time nothing while another part does."""
    with (out / 'lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def note(options: argparse.Namespace, **found: Any) -> None:
    """Add to what a part has found."""
    path = options.out / f'{options.part}.json'
    there = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(there | found, indent=2))
    print(json.dumps(found), flush=True)


def seconds(step: Callable[[], Any], count: int) -> float:
    """Seconds of a step: the median of three rounds, after a warm-up."""
    for _ in range(3):
        step()
    rounds = []
    for _ in range(3):
        wait()
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        rounds.append((time.perf_counter() - started) / count)
    return median(rounds)


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as a CUDA graph, which one call launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def make_networks(options: argparse.Namespace, times: int = 1) -> dict[str, Network]:
    """The networks of both stages, on batches so many times as large."""
    preset = load_preset(options.preset)
    codec = make_codec('two_stream', SPEC, preset['two_stream']['codec'])
    config = generator_settings(preset, 'two_stream')
    config['patch_size'] = [options.size] * 2
    generator = Generator.build(codec, config)
    for parameter in generator.parameters():
        # what begins at zero would be computed faster than what has learned
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    generator.to(device())
    denoiser, streams = generator.denoiser, len(codec.streams)
    cells = codec.latent_size(options.size, options.size)
    count = times * options.latents
    latent = torch.randn(count, codec.latent_channels, *cells, device=device())
    noise, noised = torch.randn_like(latent), torch.full((count, streams), 500)
    noised = noised.to(device())
    shape = times * options.batch, -1, options.size, options.size
    branches: Any = nn.ModuleList([codec.image_branch, codec.mask_branch])
    inputs = [
        torch.randn(shape[0], channels, *shape[2:], device=device())
        for channels in (SPEC.num_bands, SPEC.num_classes)
    ]

    def denoising() -> Tensor:
        return (denoiser(latent, noised) - noise).square().mean()

    def reconstruction() -> Tensor:
        made = [b.decode(b.encode(x).sample()) for b, x in zip(branches, inputs)]
        return sum((m - x).abs().mean() for m, x in zip(made, inputs))

    return {
        'autoencoder': Network(branches, reconstruction),
        'diffusion': Network(denoiser, denoising),
    }


def make_step(
    network: Network, rules: Sequence[str], run: Callable[..., Any] | None = None
) -> Callable[[], Any]:
    """A training step without any of the product around it."""
    graph, tf32 = 'CUDA graph' in rules, 'tf32' in rules
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if 'channels last' in rules:
        network.module.to(memory_format=torch.channels_last)
    optimizer = AdamW(
        network.module.parameters(),
        1e-5,
        fused='fused AdamW' in rules or None,
        capturable=graph,
    )
    loss = run or network.loss

    def step() -> None:
        with torch.autocast(
            device().type, torch.bfloat16, 'bf16' in rules, cache_enabled=not graph
        ):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return captured(step) if graph else step


def count_operations(network: Network) -> float:
    """Floating-point operations of a step forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        network.loss().backward()
    network.module.zero_grad()
    return counter.get_total_flops()


def measure_rates(options: argparse.Namespace) -> None:
    """Rates that copies, a matrix product and the convolutions reach by themselves."""
    side = options.matrix
    left, right = torch.randn(2, side, side, device=device(), dtype=torch.bfloat16)
    large, other = torch.randn(2, 4 * side * side, device=device())
    with turn(options.out):
        taken = seconds(lambda: left @ right, 10)
        note(options, product=2 * side**3 / taken / 1e12)
        taken = seconds(lambda: other.copy_(large), 10)
        note(options, copy=2 * large.nbytes / taken / 1e9)
    network = make_networks(options)['diffusion']
    shapes = convolution_shapes(network)
    for layout in ('channels last', 'channels first'):
        with turn(options.out):
            note(options, **{layout: convolution_rate(shapes, layout)})


def convolution_shapes(network: Network) -> Counter[tuple[nn.Conv2d, torch.Size]]:
    """The different convolutions of a network, with the shapes that enter them."""
    shapes: Counter[Any] = Counter()
    kept: dict[str, nn.Conv2d] = {}

    def look(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        shapes[kept.setdefault(str(layer), layer), inputs[0].shape] += 1

    layers = [x for x in network.module.modules() if isinstance(x, nn.Conv2d)]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    with torch.no_grad():
        network.loss()
    for hook in hooks:
        hook.remove()
    return shapes


def convolution_rate(shapes: Counter[Any], layout: str) -> float:
    """Rate in TFLOP/s of all convolutions in bf16, forwards and backwards."""
    form = torch.channels_last if layout == 'channels last' else torch.contiguous_format
    work = taken = 0.0
    for (layer, shape), count in shapes.items():
        step, operations = convolution_step(layer, shape, form)
        taken += count * seconds(step, 5)
        work += count * operations
    return work / taken / 1e12


def convolution_step(
    layer: nn.Conv2d, shape: torch.Size, form: torch.memory_format
) -> tuple[Callable[[], Any], int]:
    """One convolution in bf16 forwards and backwards, and its operations."""
    like: Any = {'device': device(), 'dtype': torch.bfloat16}
    alone = copy.deepcopy(layer).to(**like).to(memory_format=form)
    pixels = torch.randn(shape, **like).to(memory_format=form).requires_grad_()
    wanted = [pixels, *alone.parameters()]
    with torch.no_grad():
        slope = torch.randn_like(alone(pixels))

    def both() -> None:
        torch.autograd.grad(alone(pixels), wanted, slope)

    step = captured(both) if device().type == 'cuda' else both
    return step, 3 * 2 * slope.numel() * layer.weight[0].numel()


def measure_bare(options: argparse.Namespace) -> None:
    """Steps of the bare networks."""
    for stage in ('diffusion', 'autoencoder'):
        network = make_networks(options)[stage]
        note(options, **{f'{stage} operations': count_operations(network)})
        for number in range(len(RULES) + 1):
            rules = RULES[:number]
            attempt(options, stage, network, rules, ' + '.join(rules) or 'float32')
        # a card that waits for Python does four times the work in the same time
        large = make_networks(options, times=4)[stage]
        attempt(options, stage, large, RULES[:4], '4 x the batch, no graph')
        del large, network


def attempt(
    options: argparse.Namespace,
    stage: str,
    network: Network,
    rules: Sequence[str],
    row: str,
    run: Callable[..., Any] | None = None,
) -> None:
    """Time steps; what fails loses its row alone."""
    try:
        with turn(options.out):
            count = max(options.steps // 3, 1)
            found: Any = seconds(make_step(network, rules, run), count)
    except RuntimeError as error:
        found = str(error).splitlines()[0]
    if torch.cuda.is_available():
        # other parts need the memory, too
        torch.cuda.empty_cache()
    note(options, **{f'{stage}, {row}': found})


def measure_compiled(options: argparse.Namespace) -> None:
    """Steps of the bare denoiser by torch.compile; compiling takes no turn."""
    network = make_networks(options)['diffusion']
    run = torch.compile(network.loss)
    step, started = make_step(network, RULES[:4], run), time.perf_counter()
    step()
    wait()
    taken = time.perf_counter() - started
    note(options, **{'s to compile the denoiser and its backward': taken})
    attempt(options, 'diffusion', network, RULES[:4], 'compiled', run)


def print_table(options: argparse.Namespace) -> None:
    """Print all parts beside what they are measured against."""
    found = {}
    for part in ('rates', 'bare', 'compiled', 'product'):
        path = options.out / f'{part}.json'
        found[part] = json.loads(path.read_text()) if path.exists() else {}
    rates, bare, product = found['rates'], found['bare'], found['product']
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    print(f'{card}, PyTorch {torch.__version__}, preset {options.preset}')
    for name, unit in {
        'product': f'TFLOP/s, bf16 product of {options.matrix}',
        'copy': 'GB/s, copy (read + written)',
        'channels last': 'TFLOP/s, bf16 convolutions alone, channels last',
        'channels first': 'TFLOP/s, bf16 convolutions alone, channels first',
    }.items():
        print(f'{rates.get(name, float("nan")):10.1f} {unit}')
    convolutions = max(rates.get('channels last', 0), rates.get('channels first', 0))
    print('\n| step | ms | TFLOP/s | of the product | of the convolutions |')
    print('|---|---|---|---|---|')
    for row, taken in {**bare, **found['compiled'], **product}.items():
        work = bare.get(f'{row.split(",")[0]} operations')
        if work is None:
            continue
        if isinstance(taken, str):
            print(f'| {row} | failed: {taken} | | | |')
            continue
        rate = work * (4 if '4 x' in row else 1) / taken / 1e12
        shares = [
            f'{rate / ceiling:.1%}' if ceiling else '-'
            for ceiling in (rates.get('product'), convolutions)
        ]
        print(f'| {row} | {1000 * taken:.1f} | {rate:.1f} | {" | ".join(shares)} |')
    print()
    for name, value in {**found['compiled'], **product}.items():
        if not name.startswith(('diffusion, ', 'autoencoder, ')):
            print(f'{value:10.3f} {name}')
    for path in sorted(options.out.glob('profile-*.txt')):
        print(f'\n{path.stem}\n{path.read_text()}')


PARTS = {
    'rates': measure_rates,
    'bare': measure_bare,
    'compiled': measure_compiled,
    'table': print_table,
}

if __name__ == '__main__':
    main()
