"What every evaluation returns: a table, its summary, a picture, and all of it saved in one call"
from html import escape
from pathlib import Path
import pandas as pd
from matplotlib.figure import Figure
from fastrobust.reporting.style import figure_of, save_figure

__all__ = ['Report']

class saving:
    "Context that turns a write error into one that says which folder failed and what to do; still an OSError"
    def __init__(self, path): self.path = path
    def __enter__(self): return self
    def __exit__(self, typ, e, tb):
        if isinstance(e, OSError):
            says = (f"could not write to {str(self.path)!r} ({e.strerror or e}). "
                    "Choose a folder you may write to, with free space")
            raise OSError(e.errno, says) from e

class Report:
    "Numbers of an evaluation: `table`, `summary`, `plot()`, `save(dir)`"
    # Of a comparison: the reports by name of their learner, and (of corruptions) these names
    reports:dict
    learners:list
    def __init__(self,
        table,        # DataFrame, one row per thing compared
        summary=None, # Series of single numbers and facts
        draw=None,    # Function (report, **kwargs) that makes the picture: -> a figure, or axes of one
        *,
        title='',     # One line above the table
        notes=(),     # Sentences a reader of the table must know
        name='report' # Stem of the files `save` writes
    ):
        self.table,self.draw,self.title,self.name = table,draw,title,name
        self.notes = list(notes)
        self.summary = pd.Series(summary, dtype=object)

    def formatted(self):
        "`table` with numbers as a reader wants them"
        show = lambda v: f'{v:.4g}' if isinstance(v, float) else v
        # DataFrame.map is younger than fastai's pandas
        return self.table.apply(lambda col: col.map(show))

    def told(self):
        "Sentences that are shown below the table"
        return self.notes

    def files(self):
        "Name -> DataFrame that `save` writes as CSV"
        summary = self.summary.rename('value').to_frame()
        return {self.name: self.table, f'{self.name}_summary': summary}

    def plot(self, *args, **kwargs)->Figure:
        "The picture of this report"
        if self.draw is None:
            raise ValueError(f"expected a report with a picture, got {self.name!r}, which has "
                             "none. Look at `.table`.")
        return figure_of(self.draw(self, *args, **kwargs))

    def save(self,
        dir         # Folder; made if missing
    ):
        "Write tables as CSV and the picture as PNG; returns the paths"
        dir = Path(dir)
        out = []
        with saving(dir):
            dir.mkdir(parents=True, exist_ok=True)
            for nm,df in self.files().items():
                df.to_csv(dir/f'{nm}.csv')
                out.append(dir/f'{nm}.csv')
            if self.draw is not None:
                out.append(dir/f'{self.name}.png')
                save_figure(self.plot(), out[-1])
        return out

    def __repr__(self):
        parts = [self.title, self.formatted().to_string(), *[f'- {n}' for n in self.told()]]
        return '\n'.join(p for p in parts if p)

    def _repr_html_(self):
        html = self.formatted().to_html()
        if self.title: html = f'<b>{escape(self.title)}</b>{html}'
        notes = ''.join(f'<li>{escape(n)}</li>' for n in self.told())
        return f'{html}<ul>{notes}</ul>' if notes else html
