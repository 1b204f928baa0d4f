import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from metarl.learner_figures import Products


def recorded(piece):
    with Products() as products:
        piece()
    return [(tuple(left), tuple(right)) for left, right in products.shapes], products


def test_products_of_a_linear_layer_forwards_and_backwards():
    linear, x = nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)
    shapes, products = recorded(lambda: linear(x).sum().backward())
    # x W^T; then the gradients by x and by W
    assert sorted(shapes) == sorted([((7, 3), (3, 5)), ((7, 5), (5, 3)), ((5, 7), (7, 3))])
    products.replayed()()


def test_products_of_batches_and_of_those_that_write_where_they_stand():
    x, y = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    assert recorded(lambda: torch.baddbmm(torch.zeros(2, 3, 5), x, y))[0] == [((2, 3, 4), (2, 4, 5))]
    assert recorded(lambda: torch.zeros(3, 5).addmm_(x[0], y[0]))[0] == [((3, 4), (4, 5))]
    assert recorded(lambda: torch.addmm(torch.zeros(5), x[0], y[0], out=torch.zeros(3, 5)))[0] == [((3, 4), (4, 5))]


def test_products_of_attention():
    query, key = torch.randn(2, 1, 6, 4, requires_grad=True), torch.randn(2, 1, 8, 4)
    shapes, products = recorded(lambda: scaled_dot_product_attention(query, key, key).sum().backward())
    assert shapes == [((2, 1, 6, 4), (2, 1, 4, 8))] * 6  # two forwards, four backwards
    products.replayed()()
