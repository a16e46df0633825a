"""The room as a whole: what it imports, precision, and the global random generator."""

import ast
import sys
from pathlib import Path

import pytest
import torch

from mmkd_graph import graph

FOLDER = Path(graph.__file__).parent


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.py')), ids=lambda path: path.name)
def test_imports_torch_and_the_standard_library_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f'{path.name} imports from outside its room'
            names = [] if node.level else [node.module]
        else:
            continue
        for name in names:
            top = name.split('.')[0]
            assert top == 'torch' or top in sys.stdlib_module_names, f'{path.name} imports {name}'


def test_everything_public_is_there_and_documented():
    for name in graph.__all__:
        documentation = getattr(graph, name).__doc__
        assert documentation and '>>>' in documentation, name


def run_all(features):
    """Every public function once, on one pyramid level."""
    results = [graph.spatial_attention(features), graph.channel_attention(features)]
    results += [graph.low_pass(features, scale) for scale in (1, 2, 3, 8)]
    units = graph.unit_length(features)
    results += [units, graph.kl_divergence(units, units.flip(0)), graph.mean_of_samples(features[:, 0, 0, 0])]
    results += [graph.info_nce(features[:, :, 0, 0], features[:, :, 1, 1])]
    rows, others = (graph.unit_rows(graph.cut_windows(x, 4)) for x in (features, features.flip(1)))
    results += [rows, *graph.edge_distance(rows, others), *graph.spectral_distance(rows, others)]
    results += [*graph.spectrum(rows.flatten(0, 1))]
    embeddings, labels = features[0].flatten(1), torch.arange(features.shape[1]) % 4
    tuples = graph.semihard_tuples(embeddings, labels, margin=0.5)
    results += [graph.pairwise_distance(embeddings), graph.tuple_divergence(embeddings, embeddings.flip(0), tuples)]
    results += [graph.center_divergence(embeddings[:, :4], embeddings, embeddings[:4])]
    vectors = graph.leading_vectors(features, k=4)
    results += [vectors, graph.align_vectors(vectors, vectors[:, 0])]
    graphs = graph.attention_graphs(embeddings[:, :32], embeddings[:, 4:], heads=4)
    results += [graphs, graph.graph_divergence(graphs, graphs.flip(1))]
    results += [graph.attend(graphs, embeddings, torch.tensor([True, False, True, True]))]
    return results


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_half_inputs_and_autocast(half):
    features = torch.randn(2, 40, 6, 6, generator=torch.Generator().manual_seed(0)).to(half)
    wanted = run_all(features.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run_all(features)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_float64_stays_float64():
    features = torch.randn(2, 40, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert all(result.dtype == torch.float64 for result in run_all(features))


def test_mixed_types_meet_in_the_wider_one():
    rows = torch.eye(4)
    assert graph.edge_distance(rows.half(), rows.double())[0].dtype == torch.float64


def test_global_random_generator_is_left_alone():
    features = torch.randn(2, 40, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    state = torch.get_rng_state()
    results = run_all(features)
    sum(result.sum() for result in results if result.requires_grad).backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_are_not_changed():
    features = torch.randn(2, 40, 6, 6, generator=torch.Generator().manual_seed(0))
    before = features.clone()
    run_all(features)
    assert torch.equal(features, before)
