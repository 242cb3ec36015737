"fastai's widget for cleaning images, in the order of a report"
import numpy as np
from fastrobust.data.editing import given_labels
from fastrobust.data.reading import codes
from fastrobust.labels.reviewing import by_position, class_names, read_review

__all__ = []

class _Suspicion:
    "What fastai's cleaner asks of a learner: the files, their classes, and suspicion in place of the loss"
    def __init__(self, dls, score): self.dls,self.score = dls,score
    def get_preds(self, dl=None, **kwargs):
        train = dl.dataset is self.dls.train_ds
        y = given_labels(self.dls) if train else codes(dl.dataset, 'the validation set')
        score = list(self.score) if train else [0.]*len(y)
        return None,y,None,score

def to_cleaner(
    learn,      # Learner, or DataLoaders, whose items are image files
    report,     # `noise_report(..)`, its table, or a CSV of it
    max_n=30,   # Images shown of each class, the most suspicious first
    **kwargs    # More for fastai's `ImagesCleaner`: height, width
):
    "fastai's `ImageClassifierCleaner` in the report's order; `.review()` gives its choices as a table for `fix_labels`"
    try: from fastai.vision.widgets import ImageClassifierCleaner
    except ImportError as e:
        raise ImportError("expected the package ipywidgets for fastai's cleaner, got none. Install "
                          "it, or go without: look with `plot_label_issues(report, dls)`, edit the "
                          "CSV of `report.save(dir)`, and give it to `fix_labels`.") from e
    dls = getattr(learn, 'dls', learn)
    y,names = given_labels(dls),class_names(dls)
    t = by_position(read_review(report, names), dls, y, names)
    files = list(dls.train_ds.items)
    if not hasattr(files[0], 'suffix'):
        raise TypeError("expected items that are image files (Path), got "
                        f"{type(files[0]).__name__}. Look at the rest with "
                        "`plot_label_issues(report, dls)`.")
    score = np.zeros(len(y))
    score[t.item] = len(t)-np.arange(len(t))

    class Cleaner(ImageClassifierCleaner):
        "fastai's, but it remembers its choices when another class is shown"
        def __init__(self, *args, **kw):
            self.chosen = {}
            super().__init__(*args, **kw)

        def remember(self):
            shown = zip(getattr(self.iw, 'fns', ()), self.iw.values())
            self.chosen.update({fn: v for fn,v in shown if v != '<Keep>' or fn in self.chosen})

        def on_change_ds(self, change=None):
            self.remember()
            super().on_change_ds(change)
            for fn,box in zip(self.iw.fns, self.iw.widget.children):
                box.children[1].value = self.chosen.get(fn, '<Keep>')

        def review(self):
            "The report's table with the choices made so far as `decision`"
            self.remember()
            say = {'<Delete>': 'drop', '<Keep>': 'keep'}
            said = [self.chosen.get(files[i], '') for i in t.item]
            decision = [say.get(o, str(o)) for o in said]
            return t.rename(columns=dict(name_='name')).assign(decision=decision)
    return Cleaner(_Suspicion(dls, score), max_n=max_n, **kwargs)
