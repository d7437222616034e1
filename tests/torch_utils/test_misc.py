import torch

from torch_utils.misc import layout


def test_float32_is_contiguous_on_a_gpu_only():
    assert layout('cuda', 'fp32') == layout(torch.device('cuda', 1), 'tf32') == torch.contiguous_format
    assert {layout('cuda', 'bf16'), layout('cuda', 'fp16'), layout('cpu', 'fp32')} == {torch.channels_last}
