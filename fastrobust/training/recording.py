"Numbers of a callback as columns of fastai's Recorder, where the progress table, CSVLogger, W&B and trackers look"
from fastcore.foundation import L
from fastai.callback.core import Callback
from fastai.learner import Recorder

__all__ = []

def fit_starts(learn):
    "Whether this `before_fit` opens a fit: `validate` and `get_preds` fire it too, but hold `learn.lock`"
    return not learn.lock.locked()

def is_export(learn):
    "Whether `learn` has no training items: `export` takes them away while it writes, and they do not come back"
    dls = getattr(learn, 'dls', None)
    return dls is not None and not len(dls.train_ds)

class QuickEvents:
    "Answers only the events it defines: fastai would look for the others in learner and model, at every batch"
    def __call__(self, event_name):
        defined = hasattr(type(self), event_name) or event_name in self.__dict__
        if event_name != 'after_fit' and not defined: return None
        return super().__call__(event_name)

class ColumnsCallback(QuickEvents, Callback):
    "A callback whose `columns()` are recorded once an epoch, after the metrics and before the time"
    # after the Recorder wrote its own names and values, before Progress and trackers read them
    remove_on_fetch,order = True,Recorder.order+1

    def columns(self):
        "Name -> number; the names must be the same from before_fit to after_fit"
        return {}

    def before_fit(self):
        recorded = fit_starts(self.learn) and hasattr(self.learn, 'recorder')
        self._names = list(self.columns()) if recorded else []
        if not self._names: return
        rec = self.recorder
        names = list(rec.metric_names)
        n = len(names) - bool(rec.add_time)
        # the same number twice is one column
        self._names = [k for k in self._names if k not in names]
        rec.metric_names = L(names[:n] + self._names + names[n:])

    def after_validate(self):
        if not self._names or getattr(self.recorder, 'cancel_valid', False): return
        cols = self.columns()
        self.recorder.log += [float(cols[k]) for k in self._names]
