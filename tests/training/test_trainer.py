"""`Trainer`, compared with naive training in float64, on one rank and on two."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dnnlib.util import UserError
from tests.helpers import run_script
from torch_utils import distributed
from torch_utils.misc import seed_everything
from training.config import TrainingConfig
from training.dataset import Dataset, DatasetInfo, ImageOrder, load_dataset
from training.schedule import EMA_MODES, Schedule
from training.snapshot import NetworkConfig
from training.trainer import Trainer
from training.training_options import TrainingOptions

STEPS, BATCH = 4, 4096
# The gradients are large, so only a large weight decay has a visible effect.
OPTIONS = TrainingOptions(optimizer='SGD', lr=2e-5, weight_decay=500.0, augment=0, seed=7)
ADAM = {'optimizer': 'Adam', 'lr': 0.02}


class TinyNet(nn.Module):
    """A network with few weights that computes in the precision of these weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.out = nn.Conv2d(3, 1, 1)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 10))

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor, augment_labels: None = None) -> Tensor:
        return self.out(torch.tanh(self.conv(x / (1 + sigma)))) * self.scale[labels, None, None, None]

    def set_precision(self, precision: str) -> None:
        self.precision = precision


class TinyNetwork(NetworkConfig, frozen=True):
    def build(self, device: torch.device | str = 'cpu') -> TinyNet:  # type: ignore[override]
        return TinyNet()


def make_config(**changes) -> TrainingConfig:
    """Configuration of a training run on the built-in digits.

    changes: new values for fields of the configuration, of its schedule or of its options.
    """
    network = TinyNetwork('EDMPrecond', {'img_resolution': 8, 'img_channels': 1})
    schedule = Schedule(
        dataset_size=25_000, batch_size=BATCH, total_images=10**6, rampup_images=2 * BATCH + 100, ema_mode='mode1',
        ema_halflife_images=4000, final_ema=0.9, ema_rampup_ratio=0.4,
    )  # fmt: skip
    config = TrainingConfig(
        options=OPTIONS, dataset=DatasetInfo('digits', 'digits', 1797, 8, 1, 10), network=network, schedule=schedule,
        precision='fp32', batch_gpu=BATCH, snapshots=[], states=[],
    )  # fmt: skip
    for name, value in changes.items():
        if name in vars(config):
            config = dataclasses.replace(config, **{name: value})
        elif hasattr(schedule, name):
            config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, **{name: value}))
        else:
            config = dataclasses.replace(config, options=dataclasses.replace(config.options, **{name: value}))
    return config


CASES = {
    'sgd': make_config(),
    'adam': make_config(**ADAM),
    'sgd with accumulation': make_config(batch_gpu=900),
    'adam with accumulation': make_config(**ADAM, batch_gpu=900),
    'no warm-up': make_config(rampup_images=0),
    'scaled loss': make_config(ls=3.0),
    'mirror images': make_config(xflip=True),
    **{mode: make_config(ema_mode=mode) for mode in EMA_MODES},
}


def flat(tensors) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def trained(config: TrainingConfig, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Weights and averaged weights after STEPS steps of Trainer."""
    trainer = Trainer(config, dataset, torch.device('cpu'))
    for _ in range(STEPS):
        trainer.step()
    return flat(trainer.net.parameters()), flat(trainer.ema.parameters())


def naive_training(config: TrainingConfig, dataset: Dataset, ranks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Initial, trained and averaged weights, from float64 training that processes ranks and rounds one by one."""
    options = config.options
    seed_everything(7)
    net = TinyNet().double()
    initial = flat(net.parameters())
    weights, average = initial.clone(), initial.clone()
    momentum, square = torch.zeros_like(initial), torch.zeros_like(initial)
    order = ImageOrder(1797 * (2 if options.xflip else 1), 7, options.window_size)
    for step in range(STEPS):
        indices, seen = torch.from_numpy(order.take(BATCH)), step * BATCH
        gradient = torch.zeros_like(weights)
        for rank in range(ranks):
            for number, part in enumerate(indices[rank::ranks].split(config.batch_gpu)):
                seed_everything(7, rank, seen, number)
                gradient += loss_gradient(net, dataset, part) * options.ls / BATCH
        gradient += options.weight_decay * weights
        ramp = min(seen / config.schedule.rampup_images, 1) if config.schedule.rampup_images else 1
        if options.optimizer == 'SGD':
            momentum = 0.9 * momentum + gradient
            update = momentum
        else:
            momentum = 0.9 * momentum + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            update = momentum / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        weights = weights - options.lr * ramp * update
        nn.utils.vector_to_parameters(weights, net.parameters())
        beta = config.schedule.ema_beta(seen)
        average = beta * average + (1 - beta) * weights
    return initial, weights, average


def loss_gradient(net: nn.Module, dataset: Dataset, indices: Tensor) -> Tensor:
    """Gradient of EDM's loss, summed over the images. The random numbers are drawn in this order: sigma, noise."""
    clean = torch.cat([dataset.images, dataset.images.flip(3)])[indices].double() / 127.5 - 1
    sigma = (torch.randn(len(clean), 1, 1, 1) * 1.2 - 1.2).double().exp()
    noisy = clean + sigma * torch.randn(clean.shape).double()
    assert dataset.labels is not None
    error = net(noisy, sigma, dataset.labels[indices % 1797]) - clean
    loss = ((sigma**2 + 0.5**2) / (0.5 * sigma) ** 2 * error**2).sum()
    return flat(torch.autograd.grad(loss, list(net.parameters())))


@pytest.fixture(scope='module')
def digits() -> Dataset:
    return load_dataset('digits')


@pytest.fixture(scope='module')
def trained_on_two_ranks(tmp_path_factory) -> dict[str, tuple]:
    path = tmp_path_factory.mktemp('ranks') / 'trained.pt'
    run_script('-m', 'tests.training.test_trainer', path, ranks=2)
    return torch.load(path)


def check(config: TrainingConfig, dataset: Dataset, found: tuple[Tensor, Tensor], ranks: int) -> None:
    initial, *expected = naive_training(config, dataset, ranks)
    for values, truth in zip(found, expected, strict=True):
        assert float((truth - initial).norm()) > 0.01, 'training must change the weights for this test to be meaningful'
        assert float((values - truth).norm() / (truth - initial).norm()) < 1e-4


@pytest.mark.parametrize('name', CASES)
def test_weights_and_their_average_equal_those_of_naive_training(digits, name):
    check(CASES[name], digits, trained(CASES[name], digits), ranks=1)


@pytest.mark.parametrize('name', CASES)
def test_two_ranks_train_on_the_sum_of_their_gradients(digits, trained_on_two_ranks, name):
    check(CASES[name], digits, trained_on_two_ranks[name], ranks=2)


def changes_from(gradient: Tensor, dataset: Dataset) -> tuple[Tensor, Trainer]:
    """Make one step of plain gradient descent in which this rank's gradient of `scale` is replaced.

    Returns the change of `scale` divided by the learning rate, and the trainer.
    """
    config = make_config(lr=1e-6, weight_decay=0, momentum=0, precision='fp16', rampup_images=0)
    trainer = Trainer(config, dataset, torch.device('cpu'))
    assert isinstance(trainer.net.scale, nn.Parameter)
    trainer.net.scale.register_hook(lambda _: gradient)
    before = trainer.net.scale.detach().clone()
    trainer.step()
    return (before - trainer.net.scale.detach()) / config.options.lr, trainer


def test_non_finite_gradients_are_replaced_by_0_or_1e5_and_counted(digits):
    wrong = torch.tensor([math.nan, math.inf, -math.inf, *[0.0] * 7])
    changes, trainer = changes_from(wrong, digits)
    torch.testing.assert_close(changes, torch.tensor([0, 1e5, -1e5, *[0.0] * 7]), rtol=1e-5, atol=0.1)
    counted = trainer.stats.collect()['Loss/nonfinite_gradients']
    assert (counted.num, counted.mean) == (1, 3)
    assert trainer.is_finite()
    assert trainer.net.precision == 'fp16'


# For each weight, the gradients on the two ranks and the gradient of the step. The limit of 1e5 applies to the sum.
GRADIENTS_OF_RANKS = [
    (math.inf, -math.inf, 0),
    (math.inf, math.nan, 0),
    (math.nan, 1e4, 0),
    (math.inf, math.inf, 1e5),
    (1e4, math.inf, 1e5),
    (-math.inf, -1e4, -1e5),
    (3e38, 3e38, 1e5),  # the sum exceeds the largest float32
    (-3e38, 3e38, 0),
    (1e5, 2e5, 3e5),
    (1e4, -3e4, -2e4),
]


def test_non_finite_gradients_are_replaced_after_the_sum_over_ranks(trained_on_two_ranks):
    changes, num, mean, is_finite = trained_on_two_ranks['non-finite gradients']
    expected = torch.tensor([float(total) for *_, total in GRADIENTS_OF_RANKS])
    torch.testing.assert_close(changes, expected, rtol=1e-4, atol=0.1)
    assert (num, mean) == (2, 7)
    assert is_finite


@pytest.mark.parametrize('name', ['sgd with accumulation', 'adam', 'mirror images'])
def test_a_saved_and_restored_training_run_ends_with_the_same_bits(digits, name):
    expected = trained(CASES[name], digits)
    saved = Trainer(CASES[name], digits, torch.device('cpu'))
    saved.step()
    saved.step()
    state = saved.state_dict()
    assert (state['steps'], state['images']) == (2, 2 * BATCH)
    saved.step()  # must not change `state`, which is a copy
    resumed = Trainer(CASES[name], digits, torch.device('cpu'))
    resumed.load_state_dict(state)
    resumed.step()
    resumed.step()
    assert torch.equal(flat(resumed.net.parameters()), expected[0])
    assert torch.equal(flat(resumed.ema.parameters()), expected[1])
    saved.load_state_dict(state)  # a trainer can also go back to an earlier state
    saved.step()
    saved.step()
    assert torch.equal(flat(saved.net.parameters()), expected[0])
    assert torch.equal(flat(saved.ema.parameters()), expected[1])
    with pytest.raises(UserError, match='differs from the training set that this run was started with'):
        saved.load_state_dict({**state, 'dataset_sha256': '0' * 64})
    for name in state.keys() - {'format'}:
        with pytest.raises(UserError, match=f'the training state has no valid entry {name}; remove the file'):
            saved.load_state_dict({key: value for key, value in state.items() if key != name})


def test_the_first_bad_step_is_the_first_with_a_non_finite_loss(digits):
    trainer = Trainer(make_config(batch_gpu=900, rampup_images=0), digits, torch.device('cpu'))
    trainer.step()
    assert int(trainer.first_bad_step) > trainer.steps
    assert isinstance(trainer.net.scale, nn.Parameter)
    trainer.net.scale.detach()[3] = math.inf
    trainer.step()
    trainer.step()
    assert int(trainer.first_bad_step) == 1
    assert not trainer.is_finite()


def test_the_augmentation_settings_match_edm(digits):
    """Karras et al. 2022, table 6: all augmentations have the same probability, except mirroring (always 1/2)."""
    pipe = Trainer(make_config(augment=0.12), digits, torch.device('cpu')).augment
    assert pipe is not None
    multipliers = {'xflip': 1e8, 'yflip': 1, 'scale': 1, 'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}
    assert {name: getattr(pipe, name) for name in ('p', *multipliers)} == {'p': 0.12, **multipliers}
    assert Trainer(make_config(), digits, torch.device('cpu')).augment is None


if __name__ == '__main__':
    with distributed.process_group(torch.device('cpu')):
        data = load_dataset('digits')
        results: dict[str, tuple] = {name: trained(config, data) for name, config in CASES.items()}
        changes, trainer = changes_from(torch.tensor([row[distributed.rank()] for row in GRADIENTS_OF_RANKS]), data)
        counted = trainer.stats.collect()['Loss/nonfinite_gradients']
        results['non-finite gradients'] = changes, counted.num, counted.mean, trainer.is_finite()
        if distributed.is_main():
            torch.save(results, Path(sys.argv[1]))
