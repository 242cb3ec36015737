"What a trained Learner can tell about its labels, shift, unknowns and rare classes, as pictures beside fastai's own"
from numbers import Number
from fastai.interpret import ClassificationInterpretation
from matplotlib.figure import Figure
from fastrobust.basics import need_learner
from fastrobust.calibration.charts import plot_reliability
from fastrobust.calibration.report import calibration_report
from fastrobust.inference.keys import activation_key, model_key, pixels_key
from fastrobust.labels.history import SampleHistory
from fastrobust.labels.memorisation import Memorisation, plot_memorisation
from fastrobust.labels.pictures import plot_loss_split, plot_noise_matrices
from fastrobust.labels.sheets import plot_label_issues
from fastrobust.ood.charts import plot_ood
from fastrobust.ood.logitnorms import LogitNorms
from fastrobust.ood.report import ood_report
from fastrobust.reporting.report import Report
from fastrobust.shift.charts import plot_corruption_fan
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.tails.charts import plot_tails
from fastrobust.tails.report import tail_report

__all__ = ['RobustInterpretation']

def _same(a, b):
    "The same object, or equal values; of images changed in place `pixels_key` tells"
    if a is b: return True
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    plain = isinstance(a, (str, Number)) and isinstance(b, (str, Number))
    return plain and a == b

class RobustInterpretation(ClassificationInterpretation):
    "fastai's `ClassificationInterpretation` with pictures of noise, shift, confidence; `from_learner(learn)` makes it"
    # (how, report) of the reports made so far: the images pass once for all their pictures
    _made = ()

    @classmethod
    def from_learner(cls,
        learn,          # A trained Learner
        *args,
        **kwargs        # More for fastai's, such as `dl`
    ):
        "Of a learner and its validation set, or other images (`dl`)"
        need_learner(learn)
        return super().from_learner(learn, *args, **kwargs)

    def _recorder(self, cls):
        return next((cb for cb in self.learn.cbs if isinstance(cb, cls)), None)

    def _find(self, cls, why):
        found = self._recorder(cls)
        if found is not None: return found
        raise ValueError(f"expected a learner trained with {cls.__name__}, got one without: {why} "
                         f"is not known afterwards. Train with `cbs={cls.__name__}()`.")

    @property
    def _record(self): return getattr(self.learn.dls, 'noise', None)

    def plot_memorisation(self, **kwargs)->Figure:
        "Curves of `Memorisation`, or of a `SampleHistory` on dls with known noise; `kwargs` of `plot_memorisation`"
        history = self._recorder(SampleHistory)
        if history is not None and self._recorder(Memorisation) is None:
            return plot_memorisation(history.memorisation(), **kwargs)
        return self._find(Memorisation, 'what was memorised when').plot(**kwargs)

    def plot_loss_split(self,
        last=None,  # Mean loss of so many last epochs; None: of all
        **kwargs    # More for `plot_loss_split`
    )->Figure:
        "Losses of the training items in two groups, right and wrong labels apart where `dls.noise` tells them"
        history = self._find(SampleHistory, 'the loss of every training item by epoch')
        rec = self._record
        loss = history.mean_loss(last)
        wrong = None if rec is None else rec.is_noisy | rec.is_open
        return plot_loss_split(loss, wrong, **kwargs)

    def plot_label_issues(self,
        report=None,# Result of `noise_report`, or its table; None: what a `SampleHistory` suspects
        n=12,       # How many images
        **kwargs    # More for `plot_label_issues`
    )->Figure:
        "The images whose labels look most wrong, with given and suggested label"
        if report is None: report = self._find(SampleHistory, 'which labels look wrong').table()
        return plot_label_issues(report, self.learn.dls, n, **kwargs)

    def plot_noise_matrix(self,
        estimated=None, # Estimated T (c,c), rows = true class, or a report with such a `T`
        **kwargs        # More for `plot_noise_matrices`
    )->Figure:
        "Who was taken for whom: the true noise matrix where `dls.noise` knows it, beside the estimated one"
        rec = self._record
        T = estimated.T if isinstance(estimated, Report) else estimated # type: ignore[attr-defined]
        if rec is None and T is None:
            raise ValueError("expected dls with known noise (`dls.noise`) or an estimated matrix, "
                             "got neither. Pass `noise_report(..)` as `estimated`.")
        matrices = {}
        if rec is not None: matrices['true'] = rec.T_empirical
        if T is not None: matrices['estimated'] = T
        return plot_noise_matrices(matrices, self.vocab, **kwargs)

    def plot_corruptions(self,
        report=None,# Result of `corruption_report`; None: made now, of this interpretation's images
        *,
        figsize=(9, 6), # Size in inches
        title=None, # Above the picture
        **kwargs    # More for `corruption_report` where it is made now, such as `names` or `resume`
    )->Figure:
        "Accuracy by severity under each corruption, as a fan"
        report = self._report(report, corruption_report, kwargs)
        return plot_corruption_fan(report, figsize=figsize, title=title)

    def _report(self, report, make, settings):
        "`report`, or what `make` makes of this interpretation's learner and images; kept until the network changes"
        if report is not None and settings:
            raise TypeError("expected `report`, or settings of a new one, got both "
                            f"({', '.join(settings)}). Leave one out.")
        if report is not None: return report
        now = [make, settings, pixels_key(settings), self.learn.dls, model_key(self.learn),
               activation_key(self.learn)]
        for then,made in self._made:
            if _same(then, now): return made
        made = make(self.learn, dl=self.dl, **settings)
        self._made = [*self._made, (now, made)]
        return made

    def plot_reliability(self,
        report=None,# Result of `calibration_report`; None: made now, of this interpretation's images
        *,
        figsize=None, # Size in inches; None: by the number of panels
        title=None, # Above the picture
        **kwargs    # More for `calibration_report` where it is made now, such as `n_bins` or `fit_dl`
    )->Figure:
        "Accuracy against confidence, bin by bin, as trained and temperature-scaled"
        report = self._report(report, calibration_report, kwargs)
        return plot_reliability(report, figsize=figsize, title=title)

    def plot_ood(self,
        unknown,    # Unknown images, or a dict from name to them, as for `ood_report`; or its result
        score=None, # Score to show, a name or an `OODScore`; None: the report's first, of images MSP
        *,
        figsize=None, # Size in inches; None: by the number of sets
        title=None, # Above the picture
        **kwargs    # More for `ood_report` where it is made now, such as `positive` or `near`
    )->Figure:
        "Histograms and ROC curves of one score, known images against unknown ones"
        if isinstance(unknown, Report):
            report = self._report(unknown, ood_report, kwargs)
        else:
            kwargs.setdefault('scores', ('msp' if score is None else score,))
            kwargs['unknown'] = unknown if isinstance(unknown, dict) else dict(unknown=unknown)
            report = self._report(None, ood_report, kwargs)
        return plot_ood(report, getattr(score, 'name', score), figsize=figsize, title=title)

    def plot_logit_norms(self, **kwargs)->Figure:
        "How large the logits became through training, as `LogitNorms` recorded it; `kwargs` of `plot_logit_norms`"
        return self._find(LogitNorms, 'how large the logits were after each epoch').plot(**kwargs)

    def plot_class_accuracy(self,
        report=None,# Result of `tail_report`, or a dict of several; None: made now, of this interpretation's images
        *,
        figsize=(9, 5.5), # Size in inches
        title=None, # Above the picture
        **kwargs    # More for `tail_report` where it is made now, such as `groups`
    )->Figure:
        "Accuracy of each class below how many training items it has"
        report = self._report(report, tail_report, kwargs)
        return plot_tails(report, figsize=figsize, title=title)
