"What a trained Learner can tell about its labels and how it holds under shift, as pictures beside fastai's own"
from fastai.interpret import ClassificationInterpretation
from fastrobust.evaluate.corruptionreport import corruption_report
from fastrobust.history import SampleHistory
from fastrobust.memorisation import Memorisation, plot_memorisation
from fastrobust.noiseplots import plot_label_issues, plot_loss_split, plot_noise_matrices
from fastrobust.report import Report
from fastrobust.shift.charts import plot_corruption_fan

__all__ = ['RobustInterpretation']

class RobustInterpretation(ClassificationInterpretation):
    "fastai's `ClassificationInterpretation` with pictures of label noise and shift; `from_learner(learn)` makes it"
    def _find(self, cls, why):
        found = next((cb for cb in self.learn.cbs if isinstance(cb, cls)), None)
        if found is not None: return found
        raise ValueError(f"expected a learner trained with {cls.__name__}, got one without: {why} is not known "
                         f"afterwards. Train with `cbs={cls.__name__}()`.")

    @property
    def _record(self): return getattr(self.learn.dls, 'noise', None)

    def plot_memorisation(self, **kwargs):
        "Curves of `Memorisation`, or of a `SampleHistory` on dls with known noise; `kwargs` of `plot_memorisation`"
        cbs = self.learn.cbs
        if any(isinstance(cb, SampleHistory) for cb in cbs) and not any(isinstance(cb, Memorisation) for cb in cbs):
            return plot_memorisation(self._find(SampleHistory, '').memorisation(), **kwargs)
        cb = self._find(Memorisation, 'what was memorised when')
        return cb.plot(**kwargs)

    def plot_loss_split(self,
        last=None,  # Mean loss of so many last epochs; None: of all
        **kwargs    # More for `plot_loss_split`
    ):
        "Losses of the training items in two groups, right and wrong labels apart where `dls.noise` tells them"
        h,rec = self._find(SampleHistory, 'the loss of every training item by epoch'),self._record
        return plot_loss_split(h.mean_loss(last), None if rec is None else rec.is_noisy | rec.is_open, **kwargs)

    def plot_label_issues(self,
        report=None,# Result of `noise_report`, or its table; None: what a `SampleHistory` suspects
        n=12,       # How many images
        **kwargs    # More for `plot_label_issues`
    ):
        "The images whose labels look most wrong, with given and suggested label"
        if report is None: report = self._find(SampleHistory, 'which labels look wrong').table()
        return plot_label_issues(report, self.learn.dls, n, **kwargs)

    def plot_noise_matrix(self,
        estimated=None, # Estimated T (c,c), rows = true class, or a report with such a `T`
        **kwargs        # More for `plot_noise_matrices`
    ):
        "Who was taken for whom: the true noise matrix where `dls.noise` knows it, beside the estimated one"
        rec,T = self._record,estimated.T if isinstance(estimated, Report) else estimated
        if rec is None and T is None:
            raise ValueError("expected dls with known noise (`dls.noise`) or an estimated matrix, got neither. Pass "
                             "`noise_report(..)` as `estimated`.")
        ms = {} if rec is None else dict(true=rec.T_empirical)
        if T is not None: ms['estimated'] = T
        return plot_noise_matrices(ms, self.vocab, **kwargs)

    def plot_corruptions(self,
        report=None,# Result of `corruption_report`; None: made now, of this interpretation's images
        figsize=(9, 6), # Size in inches
        title=None, # Above the picture
        **kwargs    # More for `corruption_report` where it is made now, such as `names` or `resume`
    ):
        "Accuracy by severity under each corruption, as a fan; returns a Figure"
        if report is None: report = corruption_report(self.learn, self.dl, **kwargs)
        elif kwargs:
            raise TypeError(f"expected `report`, or settings of a new one, got both ({', '.join(kwargs)}). Leave one "
                            "out.")
        return plot_corruption_fan(report, figsize, title)
