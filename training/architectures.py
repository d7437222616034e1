"""The architectures that can be trained: `ARCHITECTURES`, keyed by name, holds the arguments that define each network.

The entry `model_type` is a key of `training.networks.MODEL_TYPES`. The training options add further arguments; see
`training.config.make_network`. This module does not import torch.
"""

from typing import Any

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'ddpmpp': {
        'model_type': 'SongUNet',
        'channel_mult': [2, 2, 2],
        'encoder_type': 'standard',
        'decoder_type': 'standard',
        'channel_mult_noise': 1,
        'resample_filter': [1, 1],
    },
    'ncsnpp': {
        'model_type': 'SongUNet',
        'channel_mult': [2, 2, 2],
        'encoder_type': 'residual',
        'decoder_type': 'standard',
        'channel_mult_noise': 2,
        'resample_filter': [1, 3, 3, 1],
    },
    'adm': {'model_type': 'DhariwalUNet', 'model_channels': 192, 'channel_mult': [1, 2, 3, 4]},
}
