"Every picture is a Figure, and a notebook shows it once"
import importlib, inspect
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure
from house import modules
from fastrobust.labels.pictures import plot_disagreement
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import Picture, axes_on, figure_of, new_figure, save_figure, tidy, whole_numbers
from test_nbs import JUPYTER

def drawing():
    "Every function and method of the package that draws, by name"
    for me in modules():
        if me in ('all', '__main__'): continue
        mod = importlib.import_module(f'fastrobust.{me}')
        places = [mod, *[o for _,o in inspect.getmembers(mod, inspect.isclass) if o.__module__ == mod.__name__]]
        for o in places:
            for k,f in vars(o).items():
                if k in ('show_batch', 'show_results'): continue    # fastai's, which show and return nothing
                if k.startswith(('plot', 'show_')) and inspect.isfunction(f) and f.__module__ == mod.__name__:
                    yield f'{me}.{f.__qualname__}',f

@pytest.mark.parametrize('f', [pytest.param(f, id=k) for k,f in drawing()])
def test_it_says_that_it_returns_a_figure(f):
    assert inspect.signature(f).return_annotation is Figure

def test_there_are_many(): assert len(dict(drawing())) > 25

# --- figures ---------------------------------------------------------------------------------------------------------
def test_reports_return_figures_whatever_draws_them():
    def one(_rep, ax=None): return axes_on(ax, (3, 2))
    def many(_rep): return plt.subplots(2, 2)[1]
    def whole(_rep): return new_figure((3, 2))
    for draw in (one, many, whole): assert isinstance(Report(pd.DataFrame(), draw=draw).plot(), Figure)
    fig,ax = plt.subplots()
    assert Report(pd.DataFrame(), draw=one).plot(ax) is fig and figure_of([[ax]]) is fig
    with pytest.raises(ValueError, match="'report', which has none"): Report(pd.DataFrame()).plot()
    plt.close('all')

def test_pictures_are_of_pyplot_and_closed_when_saved(tmp_path):
    fig = plot_disagreement([.3, .2])
    assert isinstance(fig, Picture) and plt.get_fignums() == [fig.number]
    save_figure(fig.axes[0], tmp_path/'a.png', dpi=50)
    assert (tmp_path/'a.png').stat().st_size > 1000 and not plt.get_fignums()
    fig = plot_disagreement([.3, .2])
    with pytest.raises(FileNotFoundError): save_figure(fig, tmp_path/'none'/'a.png')
    assert not plt.get_fignums()

def test_axes_without_ornament():
    ax = axes_on(None, (3, 2))
    assert tidy(ax, behind=False) is ax and axes_on(ax, (9, 9)) is ax
    assert [k for k,o in ax.spines.items() if o.get_visible()] == ['left', 'bottom']
    ax.plot([1, 2, 3], [0, 1, 2])
    whole_numbers(ax.xaxis)
    assert all(t == round(t) for t in ax.get_xticks())
    plt.close('all')

@pytest.mark.skipif(not JUPYTER, reason='needs nbclient, nbformat, ipykernel')
@pytest.mark.slow
def test_a_notebook_shows_a_picture_once(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook
    from test_nbs import refresh
    import nbformat
    draw = "from fastrobust.labels.pictures import plot_disagreement\n"
    cells = [draw+"plot_disagreement([.3, .2])",                     # the value of its cell
             "plot_disagreement([.3, .2]);",
             "fig = plot_disagreement([.3, .2])\n1+1",               # at the cell's end
             "fig"]                                                  # shown when asked for again
    nbformat.write(new_notebook(cells=[new_code_cell(o) for o in cells]), tmp_path/'a.ipynb')
    got = refresh.execute(tmp_path/'a.ipynb').cells
    shown = [sum('image/png' in o.get('data', {}) for o in c.outputs) for c in got]
    assert shown == [1, 1, 1, 1]
