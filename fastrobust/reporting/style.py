"One look for all pictures: colours that everybody can tell apart, axes without ornament, and how a figure is shown"
# The colours are those of Okabe and Ito, told apart with any colour vision; dashes, hatches and
# markers do the same in grey. Every picture of the package is a Figure: `plot()` of reports and
# callbacks, `plot_*`, `show_*` return one.
import io
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

__all__ = []

# --- colours --------------------------------------------------------------------------------------
BLUE,VERMILION,GREEN,ORANGE,PURPLE,SKY = '#0072B2','#D55E00','#009E73','#E69F00','#CC79A7','#56B4E9'
INK,DARK,GREY,PALE = '#000000','#666666','#999999','#bbbbbb'
WINE,BROWN,OLIVE = '#AA4499','#8B6B00','#8C8C00'    # where six are not enough
RIGHT,WRONG = BLUE,VERMILION                        # labels; in all pictures of noise
LEARNERS = BLUE,ORANGE,GREEN,PURPLE,SKY,VERMILION   # beside each other in one chart
DASHES  = ('-', '--', '-.', ':')
HATCHES = ('', '///', '...', 'xxx', '\\\\\\', '++')
MARKERS = 'os^DvP'

# --- figures --------------------------------------------------------------------------------------
class Picture(Figure):
    "A figure that a notebook shows once: as the value of its cell, or at the cell's end; a script by `plt.show()`"
    def _repr_png_(self):
        buf = io.BytesIO()
        self.savefig(buf, format='png', bbox_inches='tight', pil_kwargs=dict(optimize=True))
        return buf.getvalue()

    def _ipython_display_(self):
        from IPython.display import Image, display
        display(Image(self._repr_png_()))
        if 'inline' in plt.get_backend():
            plt.close(self)       # which would show it again at the end of the cell

def new_figure(
    figsize,            # Size in inches
    layout='constrained'
)->Picture:
    "An empty figure of pyplot's"
    fig = plt.figure(figsize=figsize, layout=layout, FigureClass=Picture)
    return fig  # type: ignore[return-value]

def figure_of(o):
    "The figure of axes, of an array of them, or the figure itself"
    while not hasattr(o, 'savefig') and not hasattr(o, 'figure'): o = o[0]
    return o if hasattr(o, 'savefig') else o.figure

def save_figure(o, path, dpi=150):
    "Write the figure of `o` (axes, an array of them, or a Figure) as PNG and close it"
    fig = figure_of(o)
    try: fig.savefig(path, dpi=dpi)
    finally: plt.close(fig)

# --- axes -----------------------------------------------------------------------------------------
def axes_on(
    ax,         # Axes to draw on; None: those of a new figure
    figsize     # Of that figure, in inches
):
    "Axes to draw on"
    return new_figure(figsize).add_subplot() if ax is None else ax

def tidy(
    ax,             # Axes
    grid='y',       # 'x', 'y', 'both', or None
    behind=True     # The grid behind bars?
):
    "Lines on the left and below only, a faint grid; returns `ax`"
    ax.spines[['top', 'right']].set_visible(False)
    if grid is not None: ax.grid(axis=grid, alpha=.25)
    if behind: ax.set_axisbelow(True)
    return ax

def bare(ax):
    "No ticks: for images; returns `ax`"
    ax.set(xticks=[], yticks=[])
    return ax

def whole_numbers(axis):
    "Ticks at whole numbers only"
    axis.get_major_locator().set_params(integer=True)

def legend_below(
    ax,         # Axes
    ncols=1,    # Columns
    y=-.16,     # Where, in heights of the axes
    **kwargs    # More for `ax.legend`
):
    "The legend under the axis labels"
    ax.legend(loc='upper center', bbox_to_anchor=(.5, y), ncols=ncols, frameon=False, **kwargs)

def figure_legend(
    fig,        # Figure
    ax,         # Axes whose labels are shown
    **kwargs    # More for `fig.legend`, such as `ncols`
):
    "The legend under all axes of a figure"
    fig.legend(*ax.get_legend_handles_labels(), loc='outside lower center', frameon=False, **kwargs)
