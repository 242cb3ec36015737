"What a report has to say about the images it is asked of, and the bar that shows how far it is"
from fastai.callback.core import event
from fastai.callback.progress import ProgressCallback
from fastprogress.fastprogress import progress_bar
from fastrobust.basics import plain_dl, robust_warn
from fastrobust.data.apart import share_items

__all__ = []

def warn_callbacks(learn, who):
    "Callbacks of the user's own that work on batches or predictions in validation too are not run here"
    at = [event.before_batch, event.after_pred]
    for cb in learn.cbs:
        ours = type(cb).__module__.startswith(('fastai.', 'fastrobust.'))
        if ours or not cb.run_valid: continue
        used = [e for e in at if callable(getattr(type(cb), e, vars(cb).get(e)))]
        if used:
            robust_warn(f"{who} runs the model without callbacks, but {type(cb).__name__} has "
                        f"{used[0]}. If it changes images or predictions in validation, the "
                        "numbers here are not those of `learn.validate()`.")

def noisy_labels_note(learn, dl, who):
    "A warning, and a note for the report, if the validation labels are known to be noisy"
    valid = getattr(getattr(learn.dls, 'noise', None), 'valid', None)
    if valid is None or dl is not None and dl is not learn.dls.valid: return []
    note = (f"{valid.realised_rate:.1%} of these validation labels are wrong on purpose "
            "(noisy_valid): right answers count as errors. Give a `dl` with clean labels.")
    robust_warn(f"{who}: {note}")
    return [note]

def trained_note(learn, dl, who):
    "A warning, and a note, where a report is asked of the images the network has trained on"
    if dl is None or not len(learn.dls.loaders): return []
    if not share_items(plain_dl(dl), plain_dl(learn.dls.train)): return []
    note = ("These are images of the training set, of which the network knows the answers: "
            "elsewhere it is less often right and less sure with reason. Give a `dl` of other "
            "images.")
    robust_warn(f"{who}: {note}")
    return [note]

class Bar:
    "Progress of a report, silent where the learner's own bars are"
    def __init__(self, learn, total):
        show = total and any(isinstance(cb, ProgressCallback) for cb in learn.cbs)
        self.i,self.bar = 0,None
        if show:
            self.bar = progress_bar(range(total), leave=False)
            self.bar.update(0)

    def name(self, name):
        if self.bar is not None: self.bar.comment = name

    def tick(self, n=1):
        self.i += n
        if self.bar is not None: self.bar.update(min(self.i, self.bar.total))
