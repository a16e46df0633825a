"""The pictures show the arrays they are given, and say what is in them."""

import matplotlib
import numpy as np
import pytest
import torch

from mmkd_graph.graph import cut_windows, unit_rows
from mmkd_graph.visualization import (
    laplacian_spectrum,
    plot_affinities,
    plot_losses,
    plot_spectra,
    spectral_order,
    window_affinity,
)
from mmkd_graph.visualization.canvas import change


@pytest.fixture
def graphs() -> list[torch.Tensor]:
    """Unit rows (4, 12, 9) of before, after, teacher: the student is nearer to the teacher after than before."""
    generator = torch.Generator().manual_seed(0)
    teacher, noise = torch.randn(2, 1, 12, 6, 6, generator=generator)
    return [unit_rows(cut_windows(x, 3)).flatten(0, 1) for x in (noise, 0.8 * teacher + 0.2 * noise, teacher)]


@pytest.fixture
def affinities(graphs) -> list[np.ndarray]:
    """Before, after, teacher: (12, 12) each; the student is nearer to the teacher after than before."""
    return [window_affinity(rows) for rows in graphs]


def test_the_affinity_of_windows_is_the_mean_of_theirs(graphs):
    wanted = np.mean([rows @ rows.T for rows in graphs[0].double().numpy()], axis=0)
    np.testing.assert_allclose(window_affinity(graphs[0]), wanted, atol=1e-6)


def test_affinities_draws_the_given_matrices_on_one_scale(affinities):
    before, after, teacher = affinities
    order = np.arange(12)[::-1]
    figure = plot_affinities(before, after, teacher, name='level 3', labels=('first', 'last'), order=order)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    shown = np.ix_(order, order)
    expected = (before, teacher, after, np.abs(before - teacher), np.abs(after - teacher))
    for image, matrix in zip(images, expected, strict=True):
        np.testing.assert_allclose(image.get_array(), matrix[shown], atol=1e-6)
    assert len({image.get_clim() for image in images[:3]}) == 1
    assert len({image.get_clim() for image in images[3:]}) == 1
    low, high = images[0].get_clim()
    assert low == -high


def test_affinities_title_states_the_mean_difference_off_the_diagonal(affinities):
    before, after, teacher = affinities
    edges = ~np.eye(12, dtype=bool)
    means = [np.abs(matrix - teacher)[edges].mean() for matrix in (before, after)]
    figure = plot_affinities(before, after, teacher, name='level 3')
    assert f'falls from {means[0]:.3g} to {means[1]:.3g}' in figure.get_suptitle()
    assert 'level 3' in figure.get_suptitle()
    reverse = plot_affinities(after, before, teacher)
    assert 'rises' in reverse.get_suptitle()


def test_affinities_has_labels_titles_colour_bars_and_a_legend(affinities):
    figure = plot_affinities(*affinities, labels=('at iteration 0', 'at iteration 9'))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 6
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in panels)
    assert {'affinity of two channels', '|difference| of affinities'} <= {a.get_ylabel() for a in figure.axes}
    legends = [axes.get_legend() for axes in panels if axes.get_legend()]
    texts = [text.get_text() for text in legends[0].get_texts()]
    assert 'student at iteration 0' in texts
    assert 'student at iteration 9' in texts


@pytest.mark.parametrize('shape', [(12, 11), (5, 5), (12,)])
def test_affinities_refuses_other_shapes(affinities, shape):
    with pytest.raises(ValueError, match='square matrices of one size'):
        plot_affinities(affinities[0], np.zeros(shape), affinities[2])


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_tiny_graphs_can_be_drawn(channels, tmp_path):
    matrices = [np.eye(channels)] * 3
    plot_affinities(*matrices).savefig(tmp_path / 'affinity.png')
    values = laplacian_spectrum(torch.eye(channels).unsqueeze(0))
    assert values.shape == (channels,)
    plot_spectra(values, values, values).savefig(tmp_path / 'spectra.png')


def test_spectral_order_puts_groups_together_and_dead_channels_last():
    group = np.arange(20) % 2
    affinity = np.where(group[:, None] == group[None], 0.9, 0.1)
    affinity[7, :] = affinity[:, 7] = 0.0
    order = spectral_order(affinity)
    assert sorted(order) == list(range(20))
    assert order[-1] == 7
    assert (np.diff(group[order[:-1]]) != 0).sum() == 1
    assert group[order[0]] == group[0]


def test_laplacian_spectrum_is_the_mean_of_the_windows_smallest_eigenvalues(graphs):
    wanted = []
    for rows in graphs[2].double().numpy():
        weights = (1 + rows @ rows.T) / 2
        root = np.sqrt(weights.sum(1))
        wanted.append(np.linalg.eigvalsh(np.eye(12) - weights / root[:, None] / root))
    wanted = np.mean(wanted, axis=0)
    values = laplacian_spectrum(graphs[2])
    assert values.shape == (10,)
    np.testing.assert_allclose(values, wanted[:10], atol=1e-5)
    np.testing.assert_allclose(wanted[10:], 1, atol=1e-10)


def test_spectra_draws_the_given_values_with_legend_and_labels():
    teacher, before, after = np.linspace(0, 1, 30), np.linspace(0, 1.5, 30), np.linspace(0, 1.1, 30)
    figure = plot_spectra(before, after, teacher, labels=('first', 'last'), smallest=8)
    whole, start = figure.axes
    for axes, count in ((whole, 30), (start, 8)):
        curves = {line.get_label().split(',')[0]: line.get_ydata() for line in axes.lines}
        np.testing.assert_array_equal(curves['teacher'], teacher[:count])
        np.testing.assert_array_equal(curves['student first'], before[:count])
        np.testing.assert_array_equal(curves['student last'], after[:count])
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert len(whole.get_legend().get_texts()) == 3
    assert 'falls from 0.25 to 0.05' in figure.get_suptitle()
    with pytest.raises(ValueError, match='vectors of one length'):
        plot_spectra(before, after[:-1], teacher)


def _history(**values: list[float]) -> dict[str, list[list[float]]]:
    return {name: [[10 * (i + 1), v] for i, v in enumerate(points)] for name, points in values.items()}


def test_losses_separates_task_and_distillation_and_keeps_the_raw_values():
    history = _history(loss=[3.0, 2.0, 1.5], loss_cls=[1.0, 0.8, 0.7], acc=[10.0, 50.0, 90.0])
    history |= _history(**{'loss_kd.crg.edge': [2.0, 1.2, 0.8]})
    figure = plot_losses(history, window=1)
    task, distillation = figure.axes
    assert [text.get_text() for text in task.get_legend().get_texts()] == [
        'loss: sum of all terms',
        'loss_cls',
    ]
    assert [text.get_text() for text in distillation.get_legend().get_texts()] == ['crg.edge']
    raw, mean = distillation.lines
    np.testing.assert_array_equal(raw.get_xydata(), history['loss_kd.crg.edge'])
    np.testing.assert_array_equal(mean.get_xydata(), history['loss_kd.crg.edge'])
    assert raw.get_alpha() < 0.5
    assert distillation.get_xlabel() == 'iteration'
    assert task.get_ylabel() == 'loss'
    assert 'falls from 2 to 0.8' in figure.get_suptitle()


def test_losses_smooths_without_moving_the_curve_and_skips_what_is_not_finite():
    values = [1.0, float('nan'), 3.0, float('inf'), 5.0]
    _, mean = plot_losses(_history(loss=values), window=3).axes[0].lines
    np.testing.assert_allclose(mean.get_ydata(), [1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.parametrize(
    ('values', 'scale'),
    [([1.0, 0.5, 0.3], 'linear'), ([1.0, 0.01, 1e-4], 'log'), ([0.0, 0.0, 0.0], 'linear')],
)
def test_losses_uses_a_log_axis_only_across_decades(values, scale):
    axes = plot_losses(_history(loss_cls=values), window=1).axes[0]
    assert axes.get_yscale() == scale
    assert ('log' in axes.get_ylabel()) == (scale == 'log')


def test_losses_names_a_term_that_a_log_axis_can_not_show():
    history = _history(**{'loss_kd.a': [1.0, 0.01, 1e-4], 'loss_kd.b': [0.0, 0.0, 0.0]})
    texts = plot_losses(history, window=1).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ['a', 'b (never above 0)']


def test_losses_accepts_short_and_unequal_curves(tmp_path):
    plot_losses({'loss': [[1, 2.0]], 'loss_kd.late': [[500, 0.1], [510, 0.2]]}).savefig(tmp_path / 'losses.png')
    with pytest.raises(ValueError, match='no loss term'):
        plot_losses({'acc': [[1, 2.0]], 'loss': []})


def test_pictures_leave_pyplot_and_its_settings_alone(affinities):
    pyplot = pytest.importorskip('matplotlib.pyplot')
    settings, numbers = dict(matplotlib.rcParams), pyplot.get_fignums()
    plot_affinities(*affinities)
    plot_losses(_history(loss=[1.0, 0.5]))
    assert dict(matplotlib.rcParams) == settings
    assert pyplot.get_fignums() == numbers


def test_change_names_direction_and_share():
    assert change(1, 0.5) == 'falls from 1 to 0.5 (-50 %)'
    assert change(0, 0.5) == 'rises from 0 to 0.5'
