import copy

import torch
from torch import nn

from torch_utils.flat_parameters import FlatParameters
from torch_utils.misc import place


def make_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Conv2d(5, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    return place(net, 'cpu', training=True)


def test_flattening_the_parameters_does_not_change_outputs():
    net, x = make_net(), torch.randn(2, 3, 4, 4)
    expected = net(x)
    FlatParameters(net)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


def test_an_adam_step_on_flat_parameters_equals_one_on_separate_parameters():
    flat_net, x = make_net(), torch.randn(4, 3, 4, 4)
    plain_net = copy.deepcopy(flat_net)
    flat = FlatParameters(flat_net)
    flat.attach_gradients()
    flat_adam = torch.optim.Adam([flat.values], lr=0.1, weight_decay=0.01)
    plain_adam = torch.optim.Adam(plain_net.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(3):
        flat.gradients.zero_()
        plain_adam.zero_grad()
        for net, adam in ((flat_net, flat_adam), (plain_net, plain_adam)):
            net(x).square().sum().backward()
            adam.step()
    for p, q in zip(flat_net.parameters(), plain_net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_views_keep_the_memory_layout_of_the_parameters():
    net = make_net()
    flat = FlatParameters(net)
    flat.attach_gradients()
    net(torch.randn(1, 3, 4, 4)).sum().backward()
    weight = net[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.grad.stride() == weight.stride()
    assert weight.grad.untyped_storage().data_ptr() == flat.gradients.untyped_storage().data_ptr()
