import json
import re
from functools import partial

import click
import numpy as np
import PIL.Image
import pytest
import torch

import train
from cli.command import with_options
from dataset_utils.__main__ import main as dataset_utils_main
from dnnlib.util import ArgumentError
from tests.helpers import TINY, failure_of, invoke
from tests.training.edm_pickles import pickle_of
from training import training_loop
from training.architectures import ARCHITECTURES
from training.config import resolve
from training.dataset import Dataset, StreamedDataset, describe_dataset, load_dataset
from training.held_out_loss import HeldOutLoss
from training.networks import MODEL_TYPES
from training.snapshot import list_snapshots, list_states, load_network, read_info
from training.trainer import Trainer
from training.training_options import RunOptions
from training.training_run import with_seed

run = partial(invoke, train.main)
failure = partial(failure_of, train.main, '--outdir=unused', '--dry-run')


def dry_run(*arguments):
    """Values printed by a dry run, by the name before the colon."""
    result = run('--outdir=unused', '--dry-run', *arguments)
    assert result.exit_code == 0, result.output
    return dict(re.split(r':\s+', line, maxsplit=1) for line in result.output.splitlines() if ': ' in line)


@pytest.fixture(scope='module')
def color_16(tmp_path_factory):
    """A folder of eight unlabelled RGB images of 16x16 pixels."""
    folder = tmp_path_factory.mktemp('color')
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        PIL.Image.fromarray(image).save(folder / f'{index}.png')
    return folder


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch):
    monkeypatch.setattr('training.cost.SECONDS_MEASURED', 0.0)


def test_a_dry_run_shows_large_numbers_without_an_exponent(digits_20):
    length = '--epochs=100000000', '--snapshots=2', '--warmup=60000000', '--ema=3000000', '--lr=0.5'
    result = run('--outdir=unused', '--dry-run', f'--data={digits_20}', *TINY, *length)
    for text in (
        'Length:         100,000,000 epochs = 2,000,000,000 images',
        'warm-up 60,000,000 epochs (1,200,000 kimg)',
        'half-life 1,200,000 kimg',
    ):
        assert text in result.output
    assert 'e+' not in result.output


@pytest.mark.parametrize(('largest', 'is_suspicious'), [(1_000_000, True), (9_999, False)])
def test_labels_that_would_make_a_huge_network_give_a_warning(tmp_path, largest, is_suspicious):
    images, labels = np.zeros([3, 8, 8, 1], np.uint8), np.array([0, 1, largest])
    np.savez(tmp_path / 'data.npz', images=images, labels=labels)
    options = '--epochs=1', '--snapshots=1', *TINY
    result = run('--outdir=unused', '--dry-run', f'--data={tmp_path}/data.npz', '--cond=1', *options)
    assert result.exit_code == 0, result.output
    warning = (
        'Warning: the network has an input for each of 1,000,001 classes, because the largest label is 1,000,000, but '
        'there are only 3 training images; number the classes from 0 without gaps.'
    )
    assert (warning in result.output) == is_suspicious
    unlabelled = run('--outdir=unused', '--dry-run', f'--data={tmp_path}/data.npz', *options)
    assert 'Warning' not in unlabelled.output


def test_a_dry_run_shows_the_cost_and_the_resolutions_with_attention(digits_20):
    lines = dry_run(f'--data={digits_20}', *TINY, '--epochs=100', '--snapshots=2')
    assert lines['Time'].startswith('about ')
    assert lines['Memory'].startswith('about ')
    assert '2 snapshots and the newest 2 training states' in lines['Disk']
    assert lines['Attention'] == 'at 4x4'
    assert dry_run(f'--data={digits_20}', '--preset=paper')['Attention'].startswith('NONE: attn_resolutions is')


def test_a_dry_run_warns_if_training_needs_more_memory_than_is_free(digits_20, monkeypatch):
    arguments = [f'--data={digits_20}', *TINY, '--batch=1000']
    assert 'Warning' not in dry_run(*arguments)
    monkeypatch.setattr('training.cost.free_bytes', lambda device: 10**7)
    assert dry_run(*arguments)['Warning'] == 'only 10 MB of memory is free for each rank; lower --batch-gpu'
    assert 'Warning' not in dry_run(*arguments, '--batch-gpu=10')


def test_the_paper_preset_gives_the_papers_basic_run(digits_20):
    lines = dry_run(f'--data={digits_20}', '--preset=paper')
    assert lines['Training set'] == 'digits-20: 20 images, 8x8, grey, unconditional'
    assert lines['Length'] == '40,000 epochs = 800,000 images = 1,563 steps of 512 on 1 rank'
    assert lines['Optimizer'] == 'Adam, learning rate 0.0002, warm-up 200 epochs (4 kimg), weight decay 0'
    assert lines['Seed'] == '1024'


def test_a_dry_run_reports_a_warm_up_longer_than_the_run(digits_20):
    lines = dry_run(
        f'--data={digits_20}', *TINY, '--epochs=100', '--lr=0.0002'
    )  # 2,000 images; the warm-up takes 4,000
    assert 'warm-up 200 epochs (4 kimg), longer than the run; the run ends at 50 % of the' in lines['Optimizer']


def test_options_override_the_preset(digits_20):
    lines = dry_run(f'--data={digits_20}', '--preset=paper', '--lr=0.5', '--epochs=10', '--seed=3')
    assert 'learning rate 0.5' in lines['Optimizer']
    assert lines['Length'].startswith('10 epochs = 200 images')
    assert lines['Seed'] == '3'


def test_the_papers_training_command_works_unchanged(color_16):
    command = (
        '--cond=False --arch=ddpmpp --precond=vp --duration=2000 --batch=512 --batch-gpu=64 --cbase=128 --cres=2,2,2 '
        '--lr=2e-4 --ema=0.5 --dropout=0.13 --augment=0 --xflip=False --window-size=0.0 --num-blocks=2 '
        '--embed=positional --attn-resolutions=16 --ema_mode=mode2 --skip-connections=1,1,1,1,1,1,1,1,0 '
        '--weight-decay=0 --final-ema=0.99929 --optimizer=Adam --momentum=0.9 --fp16=False --ls=1 --bench=True '
        '--cache=True --workers=1 --desc=x --tick=50 --snap=50 --dump=500 --seed=1024'
    )
    lines = dry_run(f'--data={color_16}', *command.split())
    assert lines['Network'].startswith('VPPrecond, ')
    assert lines['Seed'] == '1024'


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (['--arch=ddpmpp', '--precond=vp'], ('VPPrecond', 'VPLoss', 'SongUNet', [1, 1], 'positional', 128)),
        (['--arch=ncsnpp', '--precond=ve', '--embed=fourier'],
         ('VEPrecond', 'VELoss', 'SongUNet', [1, 3, 3, 1], 'fourier', 128)),
        (['--arch=adm', '--precond=edm'], ('EDMPrecond', 'EDMLoss', 'DhariwalUNet', None, None, 192)),
        (['--arch=adm', '--num-channels=64'], ('EDMPrecond', 'EDMLoss', 'DhariwalUNet', None, None, 64)),
    ],
)  # fmt: skip
def test_options_choose_architecture_preconditioning_and_loss_as_in_the_paper(color_16, options, expected):
    config = resolved(f'--data={color_16}', *options)
    arguments = config.network.arguments
    found = (config.network.class_name, config.loss, arguments['model_type'], arguments.get('resample_filter'),
             arguments.get('embedding_type'), arguments['model_channels'])  # fmt: skip
    assert found == expected


class Convolution(torch.nn.Module):
    """A network of one convolution."""

    def __init__(self, img_resolution, in_channels, out_channels, label_dim, size, dropout, model_channels=1):
        super().__init__()
        self.layer = torch.nn.Conv2d(in_channels, out_channels, size, padding=size // 2)

    def forward(self, x, noise_labels, class_labels, augment_labels=None):
        return self.layer(x)


def test_a_registered_architecture_can_be_trained(digits_20, tmp_path, monkeypatch):
    monkeypatch.setitem(MODEL_TYPES, 'Convolution', Convolution)
    monkeypatch.setitem(ARCHITECTURES, 'convolution', {'model_type': 'Convolution', 'size': 3})
    options = [f'--data={digits_20}', '--arch=convolution', '--augment=0']
    result = run(
        f'--outdir={tmp_path}', '--nosubdir', *options, '--epochs=2', '--batch=10', '--warmup=0', '--samples=0'
    )
    assert result.exit_code == 0, result.output
    net = load_network(list_snapshots(tmp_path)[-1][1])
    assert isinstance(net.model, Convolution)
    assert net.model.layer.kernel_size == (3, 3)
    assert resolved(*options, '--num-channels=7').network.arguments['model_channels'] == 7
    assert '--embed does not apply to --arch=convolution' in failure(*options, '--embed=fourier', status=2)
    assert "unexpected keyword argument 'num_blocks'" in failure(*options, '--num-blocks=2', status=2)
    assert "unexpected keyword argument 'augment_dim'" in failure(*options[:2], status=2)


def resolved(*arguments, world_size=1):
    """The training configuration for a command line."""
    found = []

    @click.command()
    @with_options(RunOptions)
    def command(options):
        found.append(resolve(with_seed(options), describe_dataset(options.data), world_size))

    command.main(['--outdir=unused', *arguments], standalone_mode=False)
    return found[0]


def test_defaults_match_the_papers_code(color_16):
    config = resolved(f'--data={color_16}')
    assert (config.options.augment, config.options.lr, config.batch_gpu) == (0.12, 1e-3, 512)
    assert config.options.window_size == 0.5
    assert config.network.arguments['num_blocks'] == 4
    assert config.network.arguments['augment_dim'] == 9
    assert config.network.arguments['skip_connections'] == [1] * 15
    assert config.snapshots[0] == 0
    assert config.schedule.total_images == 32_000


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--batch=0'], '--batch'),
        (['--skip-connections=1,1'], '--skip-connections has 2 values, but this network has 15'),
        (['--skip-connections=' + ','.join(['1'] * 14 + ['2'])], '--skip-connections takes only 0 and 1, not 2'),
        (['--skip-connections=1,x'], 'list of integers'),
        (['--arch=adm', '--embed=fourier'], '--embed does not apply to --arch=adm'),
        (['--arch=adm', '--skip-connections=1'], '--skip-connections does not apply to --arch=adm'),
        (['--duration=2', '--epochs=3'], '--duration and --epochs'),
        (['--snap=2', '--snapshots=3'], '--snap and --snapshots'),
        (['--epochs=10', '--snapshots=3'], 'both be at 0.512 kimg; save less often'),
        (['--fp16=1', '--precision=bf16'], '--fp16=True and --precision=bf16 contradict each other'),
        (['--cbase=32', '--num-channels=64'], '--cbase and --num-channels'),
        (['--cres=1,1,1,1,1,1'], 'cannot be halved'),
        (['--cres=0'], 'change the options of the network'),
        (['--cres=-1'], 'change the options of the network'),
        (['--num-channels=5', '--num-blocks=1'], '--num-channels=5 must be even'),
        (['--num-channels=6', '--num-blocks=1'], '--num-channels: with this width, a layer has'),
        (['--num-channels=999999999999'], 'model_channels must be a number of at most 1,000,000,000'),
        (['--preset=nonsense'], '--preset'),
    ],
)
def test_contradictory_options_are_named_in_the_error(color_16, options, message):
    assert message in failure(f'--data={color_16}', *options, status=2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--cond=1'], 'has none; add labels, or remove --cond'),
        (['--device=cuda:99'], '--device=cuda:99'),
        (['--device=nonsense'], '--device=nonsense'),
        (['--resume=nowhere'], '--resume=nowhere: no such file or folder'),
    ],
)
def test_options_that_do_not_match_the_machine_or_data_are_named_in_the_error(color_16, options, message):
    assert message in failure(f'--data={color_16}', *options, status=1)


def test_float16_training_on_a_cpu_is_refused(digits_20, tmp_path):
    result = run(f'--outdir={tmp_path}/run', f'--data={digits_20}', *TINY, '--fp16=1', '--device=cpu')
    assert result.exit_code == 1
    assert '--precision=fp16 requires a GPU' in result.stderr
    assert not (tmp_path / 'run').exists()


def test_a_missing_training_set_gives_a_one_sentence_error():
    assert failure('--data=nowhere.zip', status=1).startswith('Error: --data=nowhere.zip')


def test_images_with_only_the_values_0_and_1_are_reported(tmp_path):
    np.save(tmp_path / 'divided.npy', np.eye(8, dtype=np.uint8)[None, :, :, None].repeat(5, axis=0))
    result = run(f'--outdir={tmp_path}/run', f'--data={tmp_path}/divided.npy', *TINY, '--epochs=1', '--batch=5')
    assert 'divided.npy are only 0 and 1, of 0 to 255' in result.output


def test_a_batch_that_the_ranks_do_not_divide_is_refused(color_16):
    with pytest.raises(ArgumentError, match=r'`batch`=64 must be a multiple of the number of ranks \(3\), such as 63'):
        resolved(f'--data={color_16}', '--batch=64', world_size=3)


def test_a_run_writes_snapshots_states_and_logs(digits_20, tmp_path):
    arguments = [f'--data={digits_20}', *TINY, '--cond=1', '--batch=16', '--epochs=100', '--snapshots=2', '--seed=5']
    for desc in ('first', 'second'):
        result = run(f'--outdir={tmp_path}', f'--desc={desc}', *arguments)
        assert result.exit_code == 0, result.output
    runs = sorted(path.name for path in tmp_path.iterdir())
    assert runs == [
        '00000-digits-20-cond-ddpmpp-vp-gpus1-batch16-fp32-first',
        '00001-digits-20-cond-ddpmpp-vp-gpus1-batch16-fp32-second',
    ]
    run_dir = tmp_path / runs[0]
    assert [kimg for kimg, _ in list_snapshots(run_dir)] == [1, 2]
    assert [kimg for kimg, _ in list_states(run_dir)] == [1, 2]
    assert json.loads((run_dir / 'training_options.json').read_text())['options']['seed'] == 5
    assert 'tick 1 ' in (run_dir / 'log.txt').read_text()
    stats = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    # One status line every 100 images, rounded up to steps of 16 images.
    assert [1000 * line['Progress/kimg'] for line in stats] == sorted({-(-100 * n // 16) * 16 for n in range(1, 21)})
    assert [path.name for path in sorted(run_dir.glob('*.png'))] == [
        'network-snapshot-000001.png', 'network-snapshot-000002.png',
    ]  # fmt: skip
    assert all(line['Loss/loss']['num'] > 0 for line in stats)
    info = read_info(list_snapshots(run_dir)[-1][1])
    assert (info.dataset, info.dataset_size, info.images) == ('digits-20', 20, 2000)
    assert str(tmp_path) not in list_snapshots(run_dir)[0][1].read_bytes().decode('latin1')
    assert list_snapshots(run_dir)[-1][1].read_bytes() == list_snapshots(tmp_path / runs[1])[-1][1].read_bytes()


def test_training_lowers_the_loss(digits_20, tmp_path):
    result = run(
        f'--outdir={tmp_path}', '--nosubdir', f'--data={digits_20}', *TINY, '--dropout=0', '--batch=20', '--lr=5e-3',
        '--epochs=300', '--snapshots=3', '--warmup=0', '--seed=5',
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    losses = [json.loads(line)['Loss/loss']['mean'] for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert losses[2] < 0.7 * losses[0]


@pytest.mark.parametrize('kind', ['snapshot', 'pickle'])
def test_transfer_starts_from_the_weights_of_the_given_network(digits_20, tmp_path, kind):
    common = [f'--data={digits_20}', *TINY, '--batch=20', '--nosubdir', '--seed=5', '--warmup=0']
    assert run(f'--outdir={tmp_path}/a', *common, '--epochs=100').exit_code == 0
    source = list_snapshots(tmp_path / 'a')[-1][1]
    if kind == 'pickle':
        (tmp_path / 'network.pkl').write_bytes(pickle_of(source))
        source = tmp_path / 'network.pkl'
    # With a learning rate of 0 and an average that never changes, the weights stay as loaded.
    result = run(
        f'--outdir={tmp_path}/b',
        *common,
        '--epochs=50',
        '--lr=0',
        f'--transfer={source}',
        '--ema_mode=mode3',
    )
    assert result.exit_code == 0, result.output
    first, second = (load_network(list_snapshots(tmp_path / name)[-1][1]).state_dict() for name in 'ab')
    assert all(torch.allclose(first[name], second[name], atol=1e-7) for name in first)
    other = run(f'--outdir={tmp_path}/c', *common, '--epochs=50', f'--transfer={source}', '--num-channels=16')
    assert other.exit_code == 1
    assert 'differs from the architecture' in other.stderr


def test_a_non_finite_loss_stops_the_run_and_keeps_the_good_files(digits_20, tmp_path):
    arguments = [f'--outdir={tmp_path}', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--seed=5']
    assert run(*arguments, '--epochs=50').exit_code == 0
    kept = {path.name: path.read_bytes() for path in tmp_path.glob('*.pt')}
    # A weight that overflows makes the loss NaN from the next step on.
    state_path = next(tmp_path.glob('training-state-*.pt'))
    state = torch.load(state_path, weights_only=True)
    state['net']['model.map_layer0.weight'] += 3e38
    torch.save(state, state_path)
    kept[state_path.name] = state_path.read_bytes()
    result = run(*arguments, '--epochs=200')
    assert result.exit_code == 1
    assert f'not been finite since step 50 (1 kimg); the last good state is {state_path.name}' in result.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.glob('*.pt')} == kept
    assert len(list_snapshots(tmp_path)) == 2


class WatchedTrainer(Trainer):
    """A trainer that records its optimizer and data-set types, its dtypes and its augmentation."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.ways = {type(self.optimizer).__name__, type(self.dataset).__name__}
        self.rounds = []
        self.net.model.register_forward_pre_hook(self.watch, with_kwargs=True)

    def watch(self, model, arguments, options):
        self.ways.add(str(arguments[0].dtype))
        if options['augment_labels'] is not None and options['augment_labels'].any():
            self.ways.add('augmented')

    def accumulate(self, images, labels):
        self.rounds.append(len(images))
        originals = self.dataset.source.load() if isinstance(self.dataset, StreamedDataset) else self.dataset.images
        if not {image.numpy().tobytes() for image in images} <= {np.asarray(image).tobytes() for image in originals}:
            self.ways.add('mirrored')
        super().accumulate(images, labels)


@pytest.mark.parametrize(
    ('extra', 'new', 'rounds'),
    [
        ([], set(), [10]),
        (['--optimizer=SGD', '--lr=1e-4'], {'SGD'}, [10]),
        (['--precision=bf16'], {'torch.bfloat16'}, [10]),
        (['--augment=0.5'], {'augmented'}, [10]),
        (['--xflip=1'], {'mirrored'}, [10]),
        (['--cache=0', '--workers=2'], {'StreamedDataset'}, [10]),
        (['--batch-gpu=3'], set(), [3, 3, 3, 1]),
    ],
)
def test_training_works_with_every_optimizer_precision_and_data_option(
    digits_20, tmp_path, monkeypatch, extra, new, rounds
):
    trainers = []

    def watched(*arguments):
        trainers.append(WatchedTrainer(*arguments))
        return trainers[-1]

    monkeypatch.setattr(training_loop, 'Trainer', watched)
    result = run(
        f'--outdir={tmp_path}',
        '--nosubdir',
        f'--data={digits_20}',
        *TINY,
        '--batch=10',
        '--epochs=2',
        *extra,
    )
    assert result.exit_code == 0, result.output
    (trainer,) = trainers
    assert trainer.ways - {'Adam', 'Dataset', 'torch.float32'} == new
    assert trainer.rounds == 4 * rounds
    net = load_network(list_snapshots(tmp_path)[-1][1])
    torch.testing.assert_close(net.state_dict(), trainer.ema.state_dict(), rtol=0, atol=0, check_stride=False)


def test_streaming_the_training_set_gives_the_same_network(digits_20, tmp_path):
    for name, extra in (('cached', []), ('streamed', ['--cache=0', '--workers=2'])):
        arguments = [f'--outdir={tmp_path}/{name}', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=10']
        assert run(*arguments, '--epochs=2', '--warmup=0', '--seed=1', *extra).exit_code == 0
    cached, streamed = (load_network(list_snapshots(tmp_path / name)[-1][1]) for name in ('cached', 'streamed'))
    torch.testing.assert_close(cached.state_dict(), streamed.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(('first', 'second'), [(0, 1), (1, 0)])
def test_a_run_resumed_with_another_cache_ends_with_the_same_bytes(digits_20, tmp_path, first, second):
    common = [f'--data={digits_20}', '--nosubdir', *TINY, '--batch=10', '--warmup=0', '--seed=1', '--xflip=1']
    for name, caches in (('resumed', (first, second)), ('straight', (1, 1))):
        for epochs, cache in zip((2, 4), caches, strict=True):
            result = run(f'--outdir={tmp_path}/{name}', *common, f'--epochs={epochs}', f'--cache={cache}')
            assert result.exit_code == 0, result.output
        assert 'Resuming from' in result.output
    resumed, straight = (list_snapshots(tmp_path / name)[-1][1].read_bytes() for name in ('resumed', 'straight'))
    assert resumed == straight


def test_held_out_loss_is_reported_at_every_tick_without_changing_the_weights(digits_20, tmp_path):
    common = [
        '--nosubdir',
        f'--data={digits_20}',
        *TINY,
        '--batch=20',
        '--seed=5',
        '--warmup=0',
        '--tick=1',
        '--snap=1',
    ]
    held_out = tmp_path / 'held-out.zip'
    arguments = ['size', '--source=digits', f'--dest={held_out}', '--max-images=30', '--seed=1']
    dataset_utils_main(arguments, standalone_mode=False)
    reporting = [f'--test-data={held_out}', '--test-images=10']
    assert run(f'--outdir={tmp_path}/plain', *common, '--epochs=150').exit_code == 0
    result = run(f'--outdir={tmp_path}/whole', *common, *reporting, '--epochs=150')
    assert result.exit_code == 0, result.output
    assert re.search(r'train \d+\.\d+ +test \d+\.\d+', result.output)
    assert run(f'--outdir={tmp_path}/resumed', *common, *reporting, '--epochs=100').exit_code == 0
    assert run(f'--outdir={tmp_path}/resumed', *common, *reporting, '--epochs=150').exit_code == 0
    plain, whole, resumed = (list_snapshots(tmp_path / name)[-1][1] for name in ('plain', 'whole', 'resumed'))
    assert plain.read_bytes() == whole.read_bytes() == resumed.read_bytes()
    losses = []
    for name in ('whole', 'resumed'):
        lines = [json.loads(line) for line in (tmp_path / name / 'stats.jsonl').read_text().splitlines()]
        losses.append([{key: line[key] for key in line if re.match('Loss/(train|test)', key)} for line in lines])
    assert losses[0] == losses[1]
    assert [len(line) for line in losses[0]] == [10, 10, 10]
    # Use the last snapshot to compute the losses of the first ten training and held-out images again.
    training, test = (Dataset('', load_dataset(str(path)).images[:10], None, '') for path in (digits_20, held_out))
    evaluator = HeldOutLoss(training, test, torch.device('cpu'))
    evaluated = evaluator.evaluate(load_network(whole))
    assert evaluated == pytest.approx(losses[0][-1], rel=1e-4)


def test_snapshots_are_spaced_logarithmically(digits_20, tmp_path):
    arguments = [f'--outdir={tmp_path}', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--seed=5']
    result = run(*arguments, '--epochs=400', '--snapshots=log:4', '--dry-run')
    assert 'Snapshots:      4, at kimg 1, 2, 4, 8' in result.output
    assert 'is not a number of snapshots' in failure(*arguments, '--snapshots=log:none', status=2)


@pytest.mark.parametrize('cache', [True, False])
def test_a_held_out_set_that_shares_images_with_the_training_set_is_refused(digits_20, tmp_path, cache):
    held_out = tmp_path / 'held-out.zip'  # contains the 20 training images
    dataset_utils_main(['size', '--source=digits', f'--dest={held_out}', '--max-images=30'], standalone_mode=False)
    arguments = [f'--outdir={tmp_path}/run', '--nosubdir', f'--data={digits_20}', *TINY, '--batch=20', '--epochs=1']
    arguments += [f'--cache={cache}', f'--test-data={held_out}', '--tick=1']
    assert f'--test-data={held_out}: 20 of its 30 images are also in the training set' in failure_of(
        train.main, *arguments
    )
    assert not (tmp_path / 'run').exists()
    assert run(*arguments, '--allow-overlap').exit_code == 0


def test_a_held_out_set_with_another_image_shape_is_refused(digits_20, tmp_path):
    large = tmp_path / 'large.zip'
    arguments = ['resolution', '--source=digits', f'--dest={large}', '--max-images=10', '--resolution=16x16']
    dataset_utils_main(arguments, standalone_mode=False)
    message = failure_of(train.main, f'--outdir={tmp_path}/run', f'--data={digits_20}', *TINY, f'--test-data={large}')
    assert '--test-data' in message
    assert not (tmp_path / 'run').exists()
    assert '16x16 with 1 channel, but training images are 8x8' in message
