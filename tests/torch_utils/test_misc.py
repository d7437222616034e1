import torch

from torch_utils.misc import layout


def test_layout_is_contiguous_on_a_gpu_and_for_evaluation_in_float32():
    assert layout('cuda', 'fp32') == layout(torch.device('cuda', 1), 'bf16', training=True) == torch.contiguous_format
    assert layout('cpu', 'fp32') == torch.contiguous_format
    assert {layout('cpu', 'bf16'), layout('cpu', 'fp32', training=True)} == {torch.channels_last}
