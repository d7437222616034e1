import inspect
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dnnlib.util import UserError
from tests.helpers import DATA
from tests.training.published import Case
from training.sampling import (
    SamplerOptions,
    StackedRandomGenerator,
    ablation_sampler,
    edm_sampler,
    generate_images,
    rho_schedule,
    sample,
    seed_batches,
    to_uint8,
)
from training.snapshot import NetworkConfig

RUNS = [
    ('vp_ddpmpp_16x16', 'heun18'),
    ('vp_ddpmpp_16x16', 'heun7_churn'),
    ('vp_ddpmpp_16x16', 'ablation_vp_euler'),
    ('vp_ddpmpp_16x16', 'ablation_iddpm_heun'),
    ('edm_ddpmpp_16x16_cond_augment', 'heun18_random_classes'),
]


def test_seeds_that_would_duplicate_images_are_refused():
    assert seed_batches([0, 2**32 - 1], 1) == [[0], [2**32 - 1]]
    for seed in (2**32, -1):
        with pytest.raises(UserError, match=f'{seed} is not an integer from 0 to 4294967295'):
            seed_batches([0, seed], 1)


@pytest.mark.parametrize(('network', 'run'), RUNS)
def test_images_match_edm(network, run):
    options = json.loads((DATA / 'sampling' / f'{network}.json').read_text())['runs'][run]
    data = np.load(DATA / 'sampling' / f'{network}.npz')
    seeds, sampler = options.pop('seeds'), options.pop('sampler')
    chosen = SamplerOptions(**options)
    assert chosen.name == sampler
    (batch,) = generate_images(Case(network).net, [seeds], chosen, 'cpu')
    assert int((batch.images.int() - torch.from_numpy(data[f'{run}.images_uint8']).int()).abs().max()) <= 1
    if batch.class_labels is not None:
        assert batch.class_labels.tolist() == data[f'{run}.class_labels'].argmax(axis=1).tolist()


@pytest.mark.parametrize(('network', 'run'), [('vp_ddpmpp_16x16', 'heun18'), ('vp_ddpmpp_16x16', 'ablation_vp_euler')])
def test_float64_images_match_edm(network, run):
    options = json.loads((DATA / 'sampling' / f'{network}.json').read_text())['runs'][run]
    data = np.load(DATA / 'sampling' / f'{network}.npz')
    options.pop('seeds'), options.pop('sampler')
    with torch.no_grad():
        chosen = SamplerOptions(**options)
        images = sample(chosen, Case(network).net, torch.from_numpy(data[f'{run}.latents']), None, torch.randn_like)
    expected = torch.from_numpy(data[f'{run}.images_float'])
    assert images.dtype == torch.float64
    assert float((images - expected).norm() / expected.norm()) < 1e-3


class GaussianDenoiser:
    """The ideal denoiser for data from N(0, variance): D(x; sigma) = x / (1 + sigma² / variance)."""

    variance = 1.0

    img_channels, img_resolution, label_dim = 1, 4, 0
    sigma_min, sigma_max = 0.0, math.inf

    def __call__(self, x, sigma, class_labels=None):
        return x / (1 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2 / self.variance)

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)


@pytest.mark.parametrize('schedule', ['vp', 've', 'linear'])
@pytest.mark.parametrize('scaling', ['vp', 'none'])
@pytest.mark.parametrize('discretization', ['vp', 've', 'iddpm', 'edm'])
def test_every_choice_of_schedule_and_scaling_solves_the_gaussian_case(schedule, scaling, discretization):
    """For standard normal data, the exact ODE solution keeps x / sqrt(1 + sigma²) constant."""
    latents = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {'discretization': discretization, 'schedule': schedule, 'scaling': scaling, 'sigma_max': 20.0}
    images = ablation_sampler(GaussianDenoiser(), latents, num_steps=250, sigma_min=0.01, **options)
    expected = latents.double() * 20 / math.sqrt(1 + 20**2)
    assert float((images - expected).abs().max()) < 0.02


def test_the_ablation_sampler_with_its_defaults_equals_the_edm_sampler():
    latents = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = edm_sampler(GaussianDenoiser(), latents)
    torch.testing.assert_close(ablation_sampler(GaussianDenoiser(), latents), expected, rtol=1e-10, atol=1e-12)


def test_churn_draws_noise_at_every_step_and_no_churn_draws_none():
    calls = []

    def randn_like(x):
        calls.append(x.dtype)
        return torch.randn(x.shape, dtype=x.dtype)

    latents = torch.zeros(1, 1, 4, 4)
    edm_sampler(GaussianDenoiser(), latents, randn_like=randn_like, num_steps=5)
    ablation_sampler(GaussianDenoiser(), latents, randn_like=randn_like, num_steps=5)
    assert not calls
    edm_sampler(GaussianDenoiser(), latents, randn_like=randn_like, num_steps=5, S_churn=3, S_min=1, S_max=2)
    assert calls == [torch.float64] * 5


class NoFloat64(TorchDispatchMode):
    """Makes the meta device raise TypeError for float64 tensors, like a device without float64 (Apple's GPUs)."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.is_meta and value.dtype == torch.float64:
                raise TypeError('float64 on a device without it')
        return result


@pytest.mark.parametrize('sampler', [edm_sampler, ablation_sampler])
@pytest.mark.parametrize('name', ['VPPrecond', 'EDMPrecond'])
@pytest.mark.parametrize('churn', [0, 5])
def test_samplers_work_on_a_device_without_float64(sampler, name, churn):
    arguments = {'model_type': 'SongUNet', 'model_channels': 8, 'channel_mult': [1], 'num_blocks': 1}
    net = NetworkConfig(name, {'img_resolution': 8, 'img_channels': 1, **arguments}).build('meta')
    with NoFloat64(), pytest.raises(TypeError, match='without it'):
        torch.empty(1, device='meta').double()
    with NoFloat64():
        images = sampler(net, torch.empty(2, 1, 8, 8, device='meta'), num_steps=4, S_churn=churn)
    assert images.dtype == torch.float32


@pytest.mark.parametrize(('network', 'run'), [run for run in RUNS if 'churn' not in run[1]])
def test_float32_images_match_edm(network, run, monkeypatch):
    """On a simulated device without float64; runs with churn are omitted, because their noise would be float32."""
    monkeypatch.setattr('training.sampling.widest_float', lambda device: torch.float32)
    test_images_match_edm(network, run)


def test_images_that_are_not_finite_are_refused():
    class Broken(GaussianDenoiser):
        def __call__(self, x, sigma, class_labels=None):
            return x * torch.nan

    with pytest.raises(UserError, match='images for the seeds 3 to 5 are not finite'):
        list(generate_images(Broken(), [[3, 4, 5]], SamplerOptions(num_steps=2), 'cpu'))


def naive_churned(latents, noise, levels, curves, solver, alpha, churn, inside):
    """The sampler of Karras et al. 2022, algorithm 2, with a general schedule and numerical derivatives."""
    sigma, scale, time_of = curves

    def slope(x, t):
        step = 1e-6 * t
        d_sigma, d_scale = ((f(t + step) - f(t - step)) / (2 * step) for f in (sigma, scale))
        denoised = x / scale(t) / (1 + sigma(t) ** 2 / 0.25)
        return (d_sigma / sigma(t) + d_scale / scale(t)) * x - d_sigma * scale(t) / sigma(t) * denoised

    times = [*map(time_of, levels), 0.0]
    x = latents.double() * sigma(times[0]) * scale(times[0])
    for step, (t, t_next) in enumerate(itertools.pairwise(times)):
        gamma = min(churn / len(levels), math.sqrt(2) - 1) if step in inside else 0.0
        t_hat = time_of(sigma(t) * (1 + gamma))
        added = math.sqrt(max(sigma(t_hat) ** 2 - sigma(t) ** 2, 0.0))
        x = x * scale(t_hat) / scale(t) + added * scale(t_hat) * 1.1 * noise[step]
        first = slope(x, t_hat)
        x_next = x + (t_next - t_hat) * first
        if solver == 'heun' and step < len(levels) - 1:
            middle = t_hat + alpha * (t_next - t_hat)
            second = slope(x + (middle - t_hat) * first, middle)
            x_next = x + (t_next - t_hat) * ((1 - 0.5 / alpha) * first + 0.5 / alpha * second)
        x = x_next
    return x


def curves(schedule, scaling, low, high, epsilon=1e-3):
    if schedule == 'vp':
        matrix = np.array([[epsilon**2 / 2, epsilon], [0.5, 1.0]])
        beta_d, beta_min = np.linalg.solve(matrix, np.log1p(np.square([low, high])))
        sigma = lambda t: math.sqrt(math.expm1(beta_d * t**2 / 2 + beta_min * t))  # noqa: E731
        time_of = lambda s: max(np.roots([beta_d / 2, beta_min, -math.log1p(s**2)]))  # noqa: E731
    else:
        sigma, time_of = (math.sqrt, lambda s: s**2) if schedule == 've' else (lambda t: t, lambda s: s)
    scale = (lambda t: 1 / math.sqrt(1 + sigma(t) ** 2)) if scaling == 'vp' else (lambda t: 1.0)
    return sigma, scale, time_of


@pytest.mark.parametrize(('schedule', 'scaling'), [('linear', 'none'), ('vp', 'vp'), ('ve', 'none')])
@pytest.mark.parametrize(('solver', 'alpha'), [('euler', 1.0), ('heun', 1.0), ('heun', 0.6)])
@pytest.mark.parametrize('churn', [2.0, 30.0])
def test_churn_follows_the_published_algorithm(schedule, scaling, solver, alpha, churn):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 1, 4, 4, generator=generator)
    noise = torch.randn(6, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    levels = [(20 ** (1 / 7) + step / 5 * (0.01 ** (1 / 7) - 20 ** (1 / 7))) ** 7 for step in range(6)]
    # S_min and S_max equal the noise levels of two steps, to test that both ends of the interval are churned. For
    # schedules whose noise levels have rounding errors, the interval is slightly wider.
    exact = rho_schedule(0.01, 20.0, 6, 7).tolist()
    margin = 1 if schedule == 'linear' else 1.001
    options = {
        'num_steps': 6, 'sigma_min': 0.01, 'sigma_max': 20.0, 'S_churn': churn, 'S_min': exact[3] / margin,
        'S_max': exact[1] * margin, 'S_noise': 1.1,
    }  # fmt: skip
    net = GaussianDenoiser()
    net.variance = 0.25  # with variance 1, all paths would be straight lines for scaling='vp'
    found = ablation_sampler(
        net, latents, randn_like=fixed(noise), solver=solver, alpha=alpha, schedule=schedule,
        scaling=scaling, **options,
    )  # fmt: skip
    expected = naive_churned(
        latents, noise, levels, curves(schedule, scaling, 0.01, 20), solver, alpha, churn, {1, 2, 3}
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    if (schedule, solver, alpha) == ('linear', 'heun', 1.0):
        found = edm_sampler(net, latents, randn_like=fixed(noise), **options)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def fixed(noise):
    """A replacement for randn_like that returns the entries of `noise` one after the other."""
    steps = iter(noise)
    return lambda x: next(steps)


def test_the_samplers_defaults_match_edm():
    edm = {'num_steps': 18, 'sigma_min': 0.002, 'sigma_max': 80, 'rho': 7, 'S_churn': 0, 'S_min': 0, 'S_max': math.inf,
           'S_noise': 1}  # fmt: skip
    general = {'sigma_min': None, 'sigma_max': None, 'solver': 'heun', 'discretization': 'edm', 'schedule': 'linear',
               'scaling': 'none', 'epsilon_s': 1e-3, 'C_1': 0.001, 'C_2': 0.008, 'M': 1000, 'alpha': 1}  # fmt: skip
    for sampler, expected in ((edm_sampler, edm), (ablation_sampler, {**edm, **general})):
        found = {name: parameter.default for name, parameter in inspect.signature(sampler).parameters.items()}
        assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ('discretization', 'low', 'high'),
    [('vp', 0.0105, 152.167), ('ve', 0.02, 100), ('iddpm', 0.00642, 81), ('edm', 0.002, 80)],
)
def test_the_default_noise_levels_match_each_method(discretization, low, high):
    asked = []

    class Watched(GaussianDenoiser):
        def __call__(self, x, sigma, class_labels=None):
            asked.append(float(sigma))
            return super().__call__(x, sigma)

    ablation_sampler(Watched(), torch.zeros(1, 1, 4, 4), discretization=discretization, solver='euler')
    # iDDPM chooses from a fixed list of noise levels, so it uses the given limits only approximately.
    tolerance = 0.02 if discretization == 'iddpm' else 2e-3
    assert (asked[-1], asked[0]) == (pytest.approx(low, rel=tolerance), pytest.approx(high, rel=tolerance))


@pytest.mark.parametrize('sampler', [edm_sampler, ablation_sampler])
@pytest.mark.parametrize(
    ('given', 'own'), [((200, None), (0, 152)), ((None, 0.5), (1, 80)), ((90, None), (0, math.inf))]
)
def test_a_range_of_noise_levels_that_the_denoiser_does_not_have_is_refused(sampler, given, own):
    net = GaussianDenoiser()
    net.sigma_min, net.sigma_max = own
    low, high = given
    limits = {} if low is None else {'sigma_min': low}
    limits |= {} if high is None else {'sigma_max': high}
    with pytest.raises(UserError, match=r'`sigma_min`=.* to `sigma_max`=.*: the denoiser is defined only from'):
        sampler(net, torch.zeros(1, 1, 4, 4), **limits)


def test_a_range_between_two_of_iddpms_noise_levels_is_refused():
    options = SamplerOptions(sigma_min=70, sigma_max=70.001, discretization='iddpm')
    with pytest.raises(UserError, match=r"`sigma_min`=70 to `sigma_max`=70.001: none of iDDPM's noise levels"):
        sample(options, GaussianDenoiser(), torch.zeros(1, 1, 4, 4), None, torch.randn_like)


def test_an_images_random_numbers_depend_only_on_its_seed():
    both, one = StackedRandomGenerator('cpu', [3, 2**32 + 7]), StackedRandomGenerator('cpu', [7])
    assert torch.equal(both.randn([2, 4])[1], one.randn([1, 4])[0])
    assert torch.equal(both.randint(1000, [2, 5])[1], one.randint(1000, [1, 5])[0])
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.equal(both.randn_like(x)[1], one.randn_like(x[:1])[0])


def test_seeds_are_split_into_batches_before_batches_go_to_ranks():
    assert seed_batches(range(7), 2) == [[0, 1], [2, 3], [4, 5], [6]]
    assert seed_batches(range(7), 2, rank=1, world_size=3) == [[2, 3]]
    assert seed_batches(range(1), 2, rank=1, world_size=3) == []


def test_a_requested_class_replaces_the_randomly_drawn_class():
    net = GaussianDenoiser()
    net.label_dim = 10
    (batch,) = generate_images(net, [[0, 1]], SamplerOptions(num_steps=2), 'cpu', class_index=4)
    assert batch.class_labels.tolist() == [4, 4]


def test_a_class_is_drawn_from_the_given_classes_with_the_same_random_number():
    net = GaussianDenoiser()
    net.label_dim = 4
    (batch,) = generate_images(net, [range(40)], SamplerOptions(num_steps=2), 'cpu')
    net.label_dim = 10
    (other,) = generate_images(net, [range(40)], SamplerOptions(num_steps=2), 'cpu', classes=[1, 5, 6, 9])
    assert set(batch.class_labels.tolist()) == {0, 1, 2, 3}
    assert other.class_labels.tolist() == [[1, 5, 6, 9][place] for place in batch.class_labels.tolist()]


def test_classes_are_drawn_with_probability_proportional_to_their_counts():
    """Expected classes from a naive loop: each seed draws its latents and then an integer below the total count."""
    net = GaussianDenoiser()
    net.label_dim = 10
    counts = {2: 3, 5: 1, 9: 2}
    (batch,) = generate_images(net, [range(40)], SamplerOptions(num_steps=2), 'cpu', classes=counts)
    expected = []
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        torch.randn([1, net.img_channels, net.img_resolution, net.img_resolution], generator=random)
        number = int(torch.randint(6, [], generator=random))
        expected.append([2, 2, 2, 5, 9, 9][number])
    assert batch.class_labels.tolist() == expected
    assert set(expected) == {2, 5, 9}


def test_pixels_are_scaled_clipped_and_truncated():
    values = torch.tensor([-2, -1, -1 + 1 / 127.5, 0, 0.999, 1, 2], dtype=torch.float64)
    assert to_uint8(values).tolist() == [0, 0, 1, 128, 255, 255, 255]
