"""Attention graphs between samples: how strongly each sample attends to each, one graph per head."""

from torch import Tensor

from .arguments import argument_error, check_integer, check_same_shape
from .precision import in_full_precision
from .samples import kl_divergence


@in_full_precision
def attention_graphs(keys: Tensor, queries: Tensor, heads: int, scaled: bool = False) -> Tensor:
    """Inner products of all keys with all queries, in each head.

    Args:
        keys: (K, heads · D) projections of the samples at the next layer.
        queries: (K, heads · D) projections of the same samples at the previous layer.
        heads: number of heads, >= 1.
        scaled: divide by the square root of D.

    Returns:
        (heads, K, K), a row per key; float32, or float64 for float64 input.

    Raises:
        ValueError: If the shapes do not fit.

    Source: MHGD, arXiv 1907.02226, which does not divide; the division is of arXiv 1706.03762.

    Example:
        >>> import torch
        >>> attention_graphs(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), heads=2)
        tensor([[[1., 3.],
                 [0., 0.]],
        <BLANKLINE>
                [[0., 0.],
                 [2., 4.]]])
    """
    check_integer('heads', heads, 1)
    if keys.dim() != 2 or keys.shape[1] % heads:
        raise argument_error('keys', f'shape {tuple(keys.shape)}', f'(K, {heads} * D)')
    check_same_shape('queries', queries, 'keys', keys)
    keys, queries = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in (keys, queries))
    graphs = keys @ queries.mT
    return graphs / keys.shape[-1] ** 0.5 if scaled else graphs


@in_full_precision
def graph_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(softmax(tanh G_S) ‖ softmax(tanh G_T))`` over the queries, per head and key.

    Args:
        student: (heads, K, K) attention graphs.
        teacher: (heads, K, K). Passes no gradient.

    Returns:
        (heads, K), each >= 0.

    Raises:
        ValueError: If the shapes differ.

    Source: MHGD, arXiv 1907.02226; the direction is that of the authors' code.

    Example:
        >>> import torch
        >>> graph_divergence(torch.tensor([[[9.0, -9.0]]]), torch.zeros(1, 1, 2)).round(decimals=4)
        tensor([[0.3278]])
    """
    check_same_shape('teacher', teacher, 'student', student)
    return kl_divergence(student.tanh().log_softmax(-1), teacher.detach().tanh().log_softmax(-1))


@in_full_precision
def attend(graphs: Tensor, values: Tensor, kept: Tensor) -> Tensor:
    """Mean of the values under each head's softmax, heads side by side; heads that are not kept give zeros.

    Args:
        graphs: (heads, K, K), a row per key.
        values: (K, D), a row per query.
        kept: (heads,) booleans.

    Returns:
        (K, heads · D).

    Raises:
        ValueError: If the shapes do not fit.

    Source: MHGD, arXiv 1907.02226.

    Example:
        >>> import torch
        >>> values = torch.tensor([[0.0], [4.0]])
        >>> attend(torch.zeros(2, 2, 2), values, kept=torch.tensor([True, False]))
        tensor([[2., 0.],
                [2., 0.]])
    """
    if graphs.dim() != 3 or values.dim() != 2 or graphs.shape[2] != len(values) or kept.shape != graphs.shape[:1]:
        given = f'shapes {tuple(graphs.shape)}, {tuple(values.shape)} and {tuple(kept.shape)}'
        raise argument_error('graphs, values, kept', given, '(heads, K, K), (K, D) and (heads,)')
    weights = graphs.softmax(-1) * kept.view(-1, 1, 1)
    return (weights @ values).transpose(0, 1).flatten(1)
