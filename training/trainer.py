"""The state of a training run (network, weight average, optimizer), which can be saved and restored exactly.

A step's random numbers depend only on the seed, the rank, the number of images seen and the round of gradient
accumulation, so no random state has to be saved.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dnnlib.util import UserError
from torch_utils import distributed
from torch_utils.cuda_graphs import Replay
from torch_utils.flat_parameters import FlatParameters, GradientReducer
from torch_utils.misc import layout, place, seed_everything
from torch_utils.training_stats import Collector
from training.augment import AugmentPipe
from training.config import TrainingConfig
from training.dataset import Dataset, ImageOrder, StreamedDataset, to_float
from training.loss import DenoisingLoss, EDMLoss, VELoss, VPLoss
from training.preconditioning import Preconditioned
from training.snapshot import FORMAT_VERSION, load_network
from training.training_options import TrainingOptions

LOSSES: dict[str, type[DenoisingLoss]] = {cls.__name__: cls for cls in (VPLoss, VELoss, EDMLoss)}
# EDM's augmentation probabilities as multiples of `augment`; Karras et al. 2022, table 6.
AUGMENTATIONS = {'xflip': 1e8, 'yflip': 1, 'scale': 1, 'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}
GRADIENT_LIMIT = 1e5
_NO_STEP = torch.iinfo(torch.int64).max


# The entries of a training state and their types.
STATE_PARTS = {'images': int, 'steps': int, 'dataset_sha256': str, 'net': dict, 'ema': dict, 'optimizer': dict}
LARGEST_COUNT = 2**53


class Trainer:
    """The state of a training run between steps.

    images: number of training images seen so far, over all ranks. steps: number of steps completed.
    """

    def __init__(self, config: TrainingConfig, dataset: Dataset | StreamedDataset, device: torch.device):
        self.config, self.device, self.dataset = config, device, dataset
        options = config.options
        assert options.seed is not None
        self.seed: int = options.seed
        self.images = self.steps = 0
        seed_everything(self.seed)
        self.net = config.network.build()
        place(self.net, device, config.precision, training=True)
        self.net.set_precision(config.precision)
        if options.transfer is not None:
            transfer_weights(options.transfer, self.net)
        self.ema = copy.deepcopy(self.net).eval()
        self.ema.class_sizes = dataset.class_sizes if config.label_dim else None
        self.flat, self.flat_ema = FlatParameters(self.net), FlatParameters(self.ema)
        self.flat.attach_gradients()
        if distributed.world_size() > 1:
            torch.distributed.broadcast(self.flat.values.data, src=0)
            self.flat_ema.values.data.copy_(self.flat.values.data)
        self.reducer = GradientReducer(self.flat) if distributed.world_size() > 1 else None
        self.optimizer = make_optimizer(options, self.flat.values)
        self.forward = torch.compile(self.net) if options.compile else self.net
        self.loss = LOSSES[config.loss]()
        replays = device.type == 'cuda' and distributed.world_size() == 1 and not options.compile
        self.replay = Replay() if replays else None
        self.augment = AugmentPipe(p=options.augment, **AUGMENTATIONS) if options.augment else None
        self.stats = Collector()
        self.first_bad_step = torch.tensor(_NO_STEP, device=device)
        self.batches: Iterator[tuple[Tensor, Tensor | None]] | None = None

    def step(self) -> None:
        """Draw a batch, then update the network and the weight average."""
        config = self.config
        if self.batches is None:
            self.batches = self.draw_batches()
        images, labels = next(self.batches)
        rounds = -(-len(images) // config.batch_gpu)
        assert self.flat.gradients is not None
        self.flat.gradients.zero_()
        for index in range(rounds):
            part = slice(index * config.batch_gpu, (index + 1) * config.batch_gpu)
            seed_everything(self.seed, distributed.rank(), self.images, index)
            if self.reducer and index == rounds - 1:
                self.reducer.start()
            self.accumulate(images[part], None if labels is None else labels[part])
        if self.reducer:
            self.reducer.finish()
        self.update()

    def accumulate(self, images: Tensor, labels: Tensor | None) -> None:
        if self.replay is None:
            loss, total = self.add_gradients(images, labels)
        else:
            loss, total = self.replay(self.add_gradients, images, labels)
        self.stats.report('Loss/loss', loss)
        here = torch.where(torch.isfinite(total), _NO_STEP, self.steps)
        self.first_bad_step = torch.minimum(self.first_bad_step, here)

    def add_gradients(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add the gradients of the loss; return the loss of each pixel, [B, C, R, R], and its sum."""
        clean = to_float(images).to(memory_format=layout(self.device, self.config.precision, training=True))
        loss = self.loss(self.forward, clean, labels, self.augment)
        total = loss.sum()
        (total * (self.config.options.ls / self.config.schedule.batch_size)).backward()
        return loss.detach(), total.detach()

    def update(self) -> None:
        config, gradients = self.config, self.flat.gradients
        assert gradients is not None
        if config.precision == 'fp16':
            self.stats.report('Loss/nonfinite_gradients', (~torch.isfinite(gradients)).sum(dtype=torch.float32))
        torch.nan_to_num(gradients, nan=0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT, out=gradients)
        group = self.optimizer.param_groups[0]
        group['lr'] = config.options.lr * config.schedule.lr_multiplier(self.images)
        self.optimizer.step()
        self.flat_ema.values.lerp_(self.flat.values, 1 - config.schedule.ema_beta(self.images))
        self.images += config.schedule.batch_size
        self.steps += 1

    def draw_batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield this rank's images (uint8, on the device) and labels for each step, starting at the current step."""
        rank, world_size, batch_size = distributed.rank(), distributed.world_size(), self.config.schedule.batch_size
        options, versions = self.config.options, 2 if self.config.options.xflip else 1
        order = ImageOrder(self.config.dataset.size * versions, self.seed, options.window_size)
        order.skip(self.images)
        indices = (order.take(batch_size)[rank::world_size] for _ in itertools.count())
        return self.dataset.batches(indices, self.device, options.xflip)

    def is_finite(self) -> bool:
        """Whether all weights and averaged weights are finite."""
        return all(bool(torch.isfinite(flat.values).all()) for flat in (self.flat, self.flat_ema))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly, as CPU tensors, numbers and strings."""
        (state,) = self.optimizer.state.values() or [{}]
        return {
            'format': FORMAT_VERSION,
            'images': self.images,
            'steps': self.steps,
            'dataset_sha256': self.dataset.sha256,
            'net': _copies(self.net.state_dict()),
            'ema': _copies(self.ema.state_dict()),
            'optimizer': {key: self._by_name(value) for key, value in state.items() if value is not None},
        }

    def _by_name(self, value: Tensor) -> Tensor | dict[str, Tensor]:
        if value.shape != self.flat.values.shape:
            return value.detach().cpu().clone()
        names = [name for name, _ in self.net.named_parameters()]
        return _copies(dict(zip(names, self.flat.views(value), strict=True)))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state. Raises UserError if the state belongs to another network, optimizer or training set."""
        require_same_set(checked_state(state), self.dataset.sha256, self.config.dataset.path)
        try:
            self.net.load_state_dict(state['net'])
            self.ema.load_state_dict(state['ema'])
            self.optimizer.state[self.flat.values] = {
                key: self._from_names(value) for key, value in state['optimizer'].items()
            }
        except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
            reason = str(error).split('\n')[0]
            raise UserError(f'the training state belongs to a different architecture ({reason})') from error
        self.images, self.steps = state['images'], state['steps']
        self.batches = None

    def _from_names(self, value: Tensor | dict[str, Tensor]) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(self.device, copy=True)
        flat = torch.zeros_like(self.flat.values)
        for view, (name, _) in zip(self.flat.views(flat), self.net.named_parameters(), strict=True):
            view.copy_(value[name])
        return flat


def require_same_set(state: dict[str, Any], dataset_sha256: str, path: str) -> None:
    """Raise UserError if a training state belongs to another training set. path: its path, or '' for an array."""
    if state['dataset_sha256'] != dataset_sha256:
        given = f'`data`={path} differs' if path else '`images` or `labels` differ'
        raise UserError(f'{given} from the training set that this run was started with; give the original one')


def checked_state(state: dict[str, Any]) -> dict[str, Any]:
    """Check a training state, and return it. Raises UserError if an entry is missing or invalid."""
    for name, kind in STATE_PARTS.items():
        if type(state.get(name)) is not kind or (kind is int and not 0 <= state[name] < LARGEST_COUNT):
            raise UserError(
                f'the training state has no valid entry {name}; remove the file to resume from the previous state'
            )
    return state


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def make_optimizer(options: TrainingOptions, values: torch.nn.Parameter) -> torch.optim.Optimizer:
    """Make Adam (betas 0.9 and 0.999, eps 1e-8) or SGD; weight decay is an L2 term in the gradient."""
    fused = values.device.type in ('cpu', 'cuda')
    if options.optimizer == 'Adam':
        return torch.optim.Adam([values], lr=options.lr, weight_decay=options.weight_decay, fused=fused)
    return torch.optim.SGD(
        [values], lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay, fused=fused
    )


def transfer_weights(path: str, net: Preconditioned) -> None:
    """Copy the weights of a snapshot into `net`. Raises UserError if the architectures differ."""
    try:
        net.load_state_dict(load_network(path, device=next(net.parameters()).device).state_dict())
    except RuntimeError as error:
        reason = str(error).split('\n')[1].strip() if '\n' in str(error) else str(error)
        raise UserError(
            f'`transfer`={path}: its network differs from the architecture that the options describe ({reason})'
        ) from error
