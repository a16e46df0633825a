"""Attention graphs, their divergence and what heads collect."""

import numpy as np
import pytest
import torch

from mmkd_graph.graph import attend, attention_graphs, graph_divergence


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_graphs_and_what_they_collect_against_loops():
    keys, queries, values = random(4, 6), random(4, 6, seed=1), random(4, 3, seed=2)
    graphs = attention_graphs(keys, queries, heads=2)
    collected = attend(graphs, values, torch.tensor([False, True]))
    for h in range(2):
        for i in range(4):
            part = slice(3 * h, 3 * h + 3)
            row = np.array([keys[i, part].numpy() @ queries[j, part].numpy() for j in range(4)])
            np.testing.assert_allclose(graphs[h, i].numpy(), row)
            wanted = h * softmax(row) @ values.numpy()
            np.testing.assert_allclose(collected[i, part].numpy(), wanted)


def test_divergence_against_loops_and_its_gradient():
    student, teacher = random(2, 3, 3), random(2, 3, 3, seed=1)
    found = graph_divergence(student, teacher)
    for h in range(2):
        for i in range(3):
            p, q = softmax(np.tanh(student[h, i].numpy())), softmax(np.tanh(teacher[h, i].numpy()))
            assert found[h, i].item() == pytest.approx((p * np.log(p / q)).sum())
    assert not graph_divergence(teacher, teacher).any()
    assert torch.autograd.gradcheck(lambda g: graph_divergence(g, teacher), student.requires_grad_())
    teacher.requires_grad_()
    graph_divergence(student, teacher).sum().backward()
    assert teacher.grad is None


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='heads: got 0'):
        attention_graphs(random(2, 4), random(2, 4), 0)
    with pytest.raises(ValueError, match=r'keys.*3 \* D'):
        attention_graphs(random(2, 4), random(2, 4), 3)
    with pytest.raises(ValueError, match='queries'):
        attention_graphs(random(2, 4), random(3, 4), 2)
    with pytest.raises(ValueError, match='teacher'):
        graph_divergence(random(2, 3, 3), random(2, 2, 2))
    with pytest.raises(ValueError, match='graphs, values, kept'):
        attend(random(2, 3, 3), random(2, 4), torch.ones(2, dtype=torch.bool))
