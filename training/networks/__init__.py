"""The networks that preconditioning can wrap: `MODEL_TYPES`, keyed by the name that a snapshot stores.

To add a network, write a module here and add its class to the table. The constructor takes img_resolution,
in_channels, out_channels, label_dim and further arguments. A network is called as
`network(x, noise_labels, class_labels, augment_labels)`. The class attribute `argument_limits` gives the largest
number, or the greatest length of a list, that an argument accepts. Without these limits, a file could request a network
that takes hours to build.

To train the network, also add an entry to `training.architectures.ARCHITECTURES`. The constructor must then take
`dropout`, and `augment_dim` unless augmentation is off. Options such as `num_blocks` are passed to it only if they are
given, and an option that it does not take is refused. On a GPU, the kernels of a network are recorded and replayed
(`torch_utils.cuda_graphs.Replay`), so its results must not depend on values on the CPU that change between calls.
"""

from torch import nn

from training.networks.unet import DhariwalUNet, SongUNet

MODEL_TYPES: dict[str, type[nn.Module]] = {'SongUNet': SongUNet, 'DhariwalUNet': DhariwalUNet}
