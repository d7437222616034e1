"""The U-Nets of EDM: `SongUNet` (DDPM++, NCSN++) and `DhariwalUNet` (ADM).

Each has an encoder and a decoder of residual blocks, joined by skip connections. The two differ in the settings of
their blocks, the noise-level and label embedding, and the output layers. Parameters have the same names, shapes and
meaning as in EDM's published networks, so weights are interchangeable.

Sources: Song et al. 2021 (arXiv 2011.13456), Dhariwal and Nichol 2021 (arXiv 2105.05233), Karras et al. 2022
(arXiv 2206.00364).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
    embed_labels,
)


@dataclass(frozen=True)
class BlockOptions:
    """Settings shared by all residual blocks of a U-Net; see `UNetBlock`."""

    emb_channels: int
    init: Init
    init_zero: Init
    init_attn: Init
    dropout: float
    eps: float
    channels_per_head: int | None = None  # None: one attention head
    skip_scale: float = 1.0
    adaptive_scale: bool = True
    resample_proj: bool = False
    resample_filter: Sequence[float] = (1, 1)


class UNetBlock(nn.Module):
    """Residual block conditioned on the noise-level and label embedding, with optional self-attention.

    Maps [B, in_channels, H, W] and an embedding [B, emb_channels] to [B, out_channels, H, W], with H and W halved
    (`down`) or doubled (`up`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: BlockOptions,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.dropout, self.skip_scale, self.adaptive_scale = options.dropout, options.skip_scale, options.adaptive_scale
        self.num_heads = 0
        if attention:
            self.num_heads = out_channels // options.channels_per_head if options.channels_per_head else 1
        init = options.init
        resampling: dict[str, Any] = {'up': up, 'down': down, 'resample_filter': options.resample_filter}

        self.norm0 = GroupNorm(in_channels, options.eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, init, **resampling)
        self.affine = Linear(options.emb_channels, out_channels * (2 if options.adaptive_scale else 1), init)
        self.norm1 = GroupNorm(out_channels, options.eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, options.init_zero)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if options.resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, init, **resampling)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, options.eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, options.init_attn)
            self.proj = Conv2d(out_channels, out_channels, 1, options.init_zero)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shortcut = x if self.skip is None else self.skip(x)
        x = self.conv0(self.norm0.with_silu(x))
        params = self.affine(emb)[:, :, None, None].to(x.dtype)
        if self.adaptive_scale:
            scale, shift = params.chunk(2, dim=1)
            x = F.silu(torch.addcmul(shift, self.norm1(x), scale + 1))
        else:
            x = self.norm1.with_silu(x + params)
        x = self.conv1(F.dropout(x, self.dropout, self.training))
        x = (x + shortcut) * self.skip_scale
        return (x + self.attend(x)) * self.skip_scale if self.num_heads else x

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over pixels, computed in float32 whatever the dtype of x."""
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm2(x)).permute(0, 2, 3, 1)  # [B, H, W, 3 C]
        # Channels are ordered by head, then channel within the head, then q, k, v.
        qkv = qkv.reshape(B, H * W, self.num_heads, C // self.num_heads, 3).permute(4, 0, 2, 1, 3)
        q, k, v = qkv.to(torch.float32, memory_format=torch.contiguous_format)  # [B, heads, H * W, C / heads]
        a = F.scaled_dot_product_attention(q, k, v).to(x.dtype)
        return self.proj(a.transpose(1, 2).reshape(B, H, W, C).permute(0, 3, 1, 2))


class UNet(nn.Module):
    """Base class of both U-Nets. It contains the encoder, the decoder and the skip connections between them.

    img_resolution: image side in pixels; it must be divisible by 2 once for each level after the first.
    channels: width of each level, from the highest resolution down.
    skip_connections: a 0 or 1 for each skip connection, in encoder order; each level has num_blocks + 1 connections. A
        connection set to 0 carries zeros. None enables all.
    Raises ValueError if img_resolution or skip_connections does not fit.
    """

    argument_limits: ClassVar = {'num_blocks': 256, 'channel_mult': 12, 'attn_resolutions': 12, 'resample_filter': 12}
    map_label: Linear | None
    label_dropout: float

    def __init__(
        self, img_resolution: int, channels: Sequence[int], num_blocks: int, skip_connections: Sequence[int] | None
    ):
        super().__init__()
        if img_resolution % 2 ** (len(channels) - 1):
            raise ValueError(f'a resolution of {img_resolution} cannot be halved {len(channels) - 1} times')
        num_skips = len(channels) * (num_blocks + 1)
        mask = [1] * num_skips if skip_connections is None else list(skip_connections)
        if len(mask) != num_skips:
            raise ValueError(
                f'skip_connections has {len(mask)} values, but this network has {num_skips} skip connections'
            )
        if not set(mask) <= {0, 1}:
            raise ValueError(f'skip_connections takes only 0 and 1, not {sorted(set(mask) - {0, 1})[0]}')
        self.channels, self.num_blocks = list(channels), num_blocks
        self.resolutions = [img_resolution >> level for level in range(len(channels))]
        self.skip_mask = tuple(bool(bit) for bit in mask)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

    def add_blocks(
        self,
        in_channels: int,
        stem_channels: int,
        options: BlockOptions,
        attends: Callable[[int, int, bool], bool],
        after_down: Callable[[int], None] = lambda level: None,
        after_level: Callable[[int], None] = lambda level: None,
    ) -> None:
        """Make the blocks of the encoder and decoder.

        attends(resolution, index, in_decoder): whether a block has self-attention.
        after_down(level): called after an encoder level's downsampling block, to add further modules.
        after_level(level): called at the end of a decoder level, for the same purpose.
        """
        skips = []
        for level, (resolution, out_channels) in enumerate(zip(self.resolutions, self.channels, strict=True)):
            name = f'{resolution}x{resolution}'
            if level == 0:
                width = stem_channels
                self.enc[f'{name}_conv'] = Conv2d(in_channels, width, 3, options.init)
            else:
                self.enc[f'{name}_down'] = UNetBlock(width, width, options, down=True)
                after_down(level)
            skips.append(width)
            for index in range(self.num_blocks):
                attention = attends(resolution, index, False)
                self.enc[f'{name}_block{index}'] = UNetBlock(width, out_channels, options, attention=attention)
                width = out_channels
                skips.append(width)

        for level in reversed(range(len(self.channels))):
            resolution, out_channels = self.resolutions[level], self.channels[level]
            name = f'{resolution}x{resolution}'
            if level == len(self.channels) - 1:
                self.dec[f'{name}_in0'] = UNetBlock(width, width, options, attention=True)
                self.dec[f'{name}_in1'] = UNetBlock(width, width, options)
            else:
                self.dec[f'{name}_up'] = UNetBlock(width, width, options, up=True)
            for index in range(self.num_blocks + 1):
                attention = attends(resolution, index, True)
                block = UNetBlock(width + skips.pop(), out_channels, options, attention=attention)
                self.dec[f'{name}_block{index}'] = block
                width = out_channels
            after_level(level)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Map images [B, in_channels, R, R] and noise levels [B] to [B, out_channels, R, R].

        class_labels: see `embed_labels`. augment_labels: [B, augment_dim] or None.
        """
        emb = self.embed(noise_labels, class_labels, augment_labels)
        return self.decode(self.encode(x, emb), emb)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The embedding passed to every block, [B, emb_channels]."""
        raise NotImplementedError

    def embed_class(self, batch_size: int, class_labels: Tensor | None, scale: float = 1.0) -> Tensor:
        """The label embedding; during training, each label is dropped with probability `label_dropout`."""
        assert self.map_label is not None
        labels = embed_labels(self.map_label, class_labels, scale)
        if self.training and self.label_dropout:
            kept = torch.rand([batch_size, 1], device=labels.device) >= self.label_dropout
            labels = torch.where(kept, labels, embed_labels(self.map_label, None))
        return labels

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The features for all skip connections; the decoder starts from the last."""
        aux, skips = x, list[Tensor]()
        for name, block in self.enc.items():
            if name.endswith('_aux_down'):
                aux = block(aux)
            elif name.endswith('_aux_skip'):
                skips[-1] = skips[-1] + block(aux)
            elif name.endswith('_aux_residual'):
                skips[-1] = aux = (skips[-1] + block(aux)) * math.sqrt(0.5)
            else:
                source = skips[-1] if skips else x
                skips.append(block(source, emb) if isinstance(block, UNetBlock) else block(source))
        return skips

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        raise NotImplementedError

    def masked(self, skips: list[Tensor]) -> list[Tensor]:
        """The features for the skip connections, with zeros for disabled connections."""
        return [x if on else torch.zeros_like(x) for x, on in zip(skips, self.skip_mask, strict=True)]


class SongUNet(UNet):
    """DDPM++ (encoder and decoder 'standard') and NCSN++ (encoder 'residual', Fourier embedding) of Song et al. 2021.

    channel_mult: width at each resolution, as a multiple of model_channels.
    channel_mult_emb, channel_mult_noise: widths of the embedding and of its noise-level input, also as multiples of
    model_channels.
    attn_resolutions: resolutions with self-attention.
    dropout: dropout probability in each block. label_dropout: probability of dropping a label. Both apply only during
    training. encoder_type: 'standard', 'skip' or 'residual'. decoder_type: 'standard' or 'skip'.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0,
        embedding_type: str = 'positional',
        channel_mult_noise: int = 1,
        encoder_type: str = 'standard',
        decoder_type: str = 'standard',
        resample_filter: Sequence[float] = (1, 1),
        skip_connections: Sequence[int] | None = None,
    ):
        super().__init__(img_resolution, [model_channels * m for m in channel_mult], num_blocks, skip_connections)
        check_choice('embedding_type', embedding_type, ['positional', 'fourier'])
        check_choice('encoder_type', encoder_type, ['standard', 'skip', 'residual'])
        check_choice('decoder_type', decoder_type, ['standard', 'skip'])
        self.label_dropout = label_dropout
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        init = Init('xavier_uniform')
        init_zero = init.scaled(1e-5)
        options = BlockOptions(
            emb_channels=emb_channels,
            init=init,
            init_zero=init_zero,
            init_attn=init.scaled(math.sqrt(0.2)),
            dropout=dropout,
            eps=1e-6,
            skip_scale=math.sqrt(0.5),
            adaptive_scale=False,
            resample_proj=True,
            resample_filter=resample_filter,
        )

        self.map_noise = (
            PositionalEmbedding(noise_channels, endpoint=True)
            if embedding_type == 'positional'
            else FourierEmbedding(noise_channels)
        )
        self.map_label = Linear(label_dim, noise_channels, init) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, init, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels, init)
        self.map_layer1 = Linear(emb_channels, emb_channels, init)

        def add_aux_input(level: int) -> None:
            name = f'{self.resolutions[level]}x{self.resolutions[level]}'
            width = self.channels[level - 1]
            resampling: dict[str, Any] = {'down': True, 'resample_filter': resample_filter}
            if encoder_type == 'skip':
                self.enc[f'{name}_aux_down'] = Conv2d(in_channels, in_channels, 0, init, **resampling)
                self.enc[f'{name}_aux_skip'] = Conv2d(in_channels, width, 1, init)
            if encoder_type == 'residual':
                source = in_channels if level == 1 else self.channels[level - 2]
                self.enc[f'{name}_aux_residual'] = Conv2d(source, width, 3, init, fused=True, **resampling)

        def add_aux_output(level: int) -> None:
            if level and decoder_type == 'standard':
                return
            name = f'{self.resolutions[level]}x{self.resolutions[level]}'
            if level < len(self.channels) - 1 and decoder_type == 'skip':
                resampling: dict[str, Any] = {'up': True, 'resample_filter': resample_filter}
                self.dec[f'{name}_aux_up'] = Conv2d(out_channels, out_channels, 0, init, **resampling)
            self.dec[f'{name}_aux_norm'] = GroupNorm(self.channels[level], eps=1e-6)
            self.dec[f'{name}_aux_conv'] = Conv2d(self.channels[level], out_channels, 3, init_zero)

        def attends(resolution: int, index: int, in_decoder: bool) -> bool:
            return resolution in attn_resolutions and (not in_decoder or index == num_blocks)

        self.add_blocks(in_channels, model_channels, options, attends, add_aux_input, add_aux_output)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(noise_labels)
        emb = emb.reshape(len(emb), 2, -1).flip(1).reshape(emb.shape)  # the published networks expect sines first
        if self.map_label is not None:
            emb = emb + self.embed_class(len(emb), class_labels, math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        x, aux = skips[-1], None
        skips = self.masked(skips)
        for name, block in self.dec.items():
            if name.endswith('_aux_up'):
                aux = block(aux)
            elif isinstance(block, GroupNorm):
                features = block.with_silu(x)
            elif name.endswith('_aux_conv'):
                image = block(features)
                aux = image if aux is None else image + aux
            else:
                x = block(torch.cat([x, skips.pop()], dim=1) if '_block' in name else x, emb)
        assert aux is not None
        return aux


class DhariwalUNet(UNet):
    """ADM of Dhariwal and Nichol 2021. Arguments: see `SongUNet`."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0,
        skip_connections: Sequence[int] | None = None,
    ):
        super().__init__(img_resolution, [model_channels * m for m in channel_mult], num_blocks, skip_connections)
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        init = Init('kaiming_uniform', weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
        init_zero = init.scaled(0)
        options = BlockOptions(
            emb_channels=emb_channels,
            init=init,
            init_zero=init_zero,
            init_attn=init,
            dropout=dropout,
            eps=1e-5,
            channels_per_head=64,
        )
        label_init = Init('kaiming_normal', weight=math.sqrt(label_dim))

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, init_zero, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels, init)
        self.map_layer1 = Linear(emb_channels, emb_channels, init)
        self.map_label = Linear(label_dim, emb_channels, label_init, bias=False) if label_dim else None
        self.add_blocks(in_channels, self.channels[0], options, lambda resolution, *_: resolution in attn_resolutions)
        self.out_norm = GroupNorm(self.channels[0], eps=1e-5)
        self.out_conv = Conv2d(self.channels[0], out_channels, 3, init_zero)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.embed_class(len(emb), class_labels)
        return F.silu(emb)

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        x, skips = skips[-1], self.masked(skips)
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], dim=1) if '_block' in name else x, emb)
        return self.out_conv(self.out_norm.with_silu(x))


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(choices)}, not {value!r}')
