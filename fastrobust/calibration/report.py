"How far can a learner's confidence be trusted? `calibration_report`: as trained, and after temperature scaling"
# One forward pass. T is never fitted on the items it is scored on:
# 2-fold cross-fitting, or a loader of its own.
import math
import numpy as np, pandas as pd
import torch
from fastrobust.basics import plain_dl, robust_warn
from fastrobust.calibration.charts import draw_reliability, panels_of, size_of
from fastrobust.calibration.metrics import bins_table, brier_rows, classwise_ece, ece_mass, nll_rows
from fastrobust.metrics import gap_of, need_bins, width_bins
from fastrobust.calibration.fitting import cross_fit_logits, fit_temperature
from fastrobust.calibration.temperature import (labelled_logits, stale_note, temperature_of,
                                                warn_fit_items)
from fastrobust.data.openset import share_items
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import new_figure
from fastrobust.inference.notes import noisy_labels_note, trained_note

__all__ = ['calibration_report']

_ME,_RAW,_SCALED,_INSTALLED = 'calibration_report','as trained','temperature-scaled','installed T'
_DRAWS = 400    # Of the bootstrap and of the chance level of ECE

class _Row:
    "Everything of one row of the table, from its logits"
    def __init__(self, z, y, T, n_bins):
        p,y = z.softmax(1).numpy(),y.numpy()
        self.T,self.n_bins = T,n_bins
        self.conf,self.right = p.max(1),(p.argmax(1) == y).astype(float)
        self.nll,self.brier = nll_rows(z, torch.from_numpy(y)),brier_rows(p, y)
        self.bin = width_bins(self.conf, n_bins)
        self.numbers = dict(accuracy=self.right.mean(), ece=gap_of(self.bin, self.conf, self.right, n_bins),
                            ece_mass=ece_mass(p, y, n_bins), classwise_ece=classwise_ece(p, y, n_bins),
                            brier=self.brier.mean(), nll=self.nll.mean(), confidence=self.conf.mean(), T=T)
    def ece(self, ids=None, right=None):
        "ECE of the items `ids`, or with other outcomes `right`"
        ids = slice(None) if ids is None else ids
        return gap_of(self.bin[ids], self.conf[ids], (self.right if right is None else right)[ids], self.n_bins)

def _se(v): return float(np.std(v, ddof=1)/math.sqrt(len(v))) if len(v) > 1 else math.nan

def _facts(a, b, seed):
    "Paired differences b - a with standard errors, and the ECE that chance alone gives"
    rng,n = np.random.default_rng(seed),len(a.conf)
    boot = np.array([[r.ece(ids) for r in (a, b)] for ids in rng.integers(0, n, (_DRAWS, n))])
    sd = lambda v: float(np.std(v, ddof=1)) if n > 1 else math.nan
    chance = [b.ece(right=(u < b.conf).astype(float)) for u in (rng.random(n) for _ in range(_DRAWS))]
    s = dict(ece=a.numbers['ece'], ece_se=sd(boot[:, 0]), ece_scaled=b.numbers['ece'], ece_scaled_se=sd(boot[:, 1]),
             ece_change=b.numbers['ece']-a.numbers['ece'], ece_change_se=sd(boot[:, 1]-boot[:, 0]),
             ece_by_chance=float(np.mean(chance)), ece_by_chance_sd=float(np.std(chance)))
    for k in ('nll', 'brier'): s |= {f'{k}_change': float((getattr(b, k)-getattr(a, k)).mean()),
                                     f'{k}_change_se': _se(getattr(b, k)-getattr(a, k))}
    return s

class CalibrationReport(Report):
    "Result of `calibration_report`: `table`, `summary`, and `bins`, the reliability table of each row"
    def files(self): return {**super().files(), f'{self.name}_bins': self.bins}
    def formatted(self):
        t = self.table.copy()
        for k in t: t[k] = t[k].map(('{:.4g}' if k == 'T' else '{:.4f}').format)
        return t

def _draw(rep, figsize=None, title=None):
    panels = panels_of(rep, None, None)
    return draw_reliability(new_figure(figsize or size_of(panels)), panels, title)

def _notes(s, n_bins, installed, stale):
    yield (f"{s.images} images, {n_bins} bins. ece: equally wide bins of the confidence in the "
           "predicted class; ece_mass: bins of equally many images; classwise_ece: mean over "
           "classes; brier: summed over classes, in [0,2]; nll in nats; confidence: its mean.")
    yield (f"{_SCALED} - {_RAW}, image by image: ECE {s.ece_change:+.4f} ± {s.ece_change_se:.4f} "
           f"(bootstrap), NLL {s.nll_change:+.4f} ± {s.nll_change_se:.4f}, Brier "
           f"{s.brier_change:+.4f} ± {s.brier_change_se:.4f}; ±: one standard error over images, T "
           "held fixed.")
    yield ("Perfectly calibrated confidences like the scaled ones would show an ECE of "
           f"{s.ece_by_chance:.4f} ± {s.ece_by_chance_sd:.4f} on so few images: differences of "
           "that size are chance.")
    if s.accuracy == 1:
        yield "Every image is right: no T is best, there is only a bound. Measure on more images."
    if installed:
        yield (f"The learner predicts with T = {installed:.4g}: row {_INSTALLED!r}; {_RAW!r} is without."
               + ("" if stale else " If that T was fitted on these images, its row flatters it."))
    yield ("This T is not LogitNorm's tau, which acts in training, nor the T of the energy and "
           "ODIN scores: none may be put in another's place.")

def calibration_report(
    learn,          # A Learner that classifies images; stays as it is, its recorder and random streams too
    dl=None,        # Loader with labels, of images not trained on; None: the validation set
    n_bins:int=15,  # Bins of confidence, 2 or more; 15 is usual
    *,
    fit_dl=None,    # Loader to fit T on, of other images; None: cross-fitting inside `dl`
    n_folds:int=2,  # Of the cross-fitting: each part is scored with the T of the others
    seed:int=0      # Of folds and bootstrap
)->CalibrationReport:
    "Accuracy, calibration errors, Brier score and NLL of the raw predictions and of temperature-scaled ones"
    need_bins(n_bins)
    T,notes = temperature_of(learn),noisy_labels_note(learn, dl, _ME)
    z,y = labelled_logits(learn, dl, _ME)
    z,stale = z.double(),stale_note(learn)
    notes += trained_note(learn, dl, _ME) + stale
    if len(y) < 2:
        raise ValueError("calibration_report expected at least two images, got one. Give more.")
    if fit_dl is None:
        Ts,scaled = cross_fit_logits(z, y, n_folds, seed)
        how = f"{n_folds}-fold cross-fitting: each part of these images scored with the T fitted on the others"
    else:
        fit_z,fit_y = labelled_logits(learn, fit_dl, _ME)
        Ts = np.array([fit_temperature(fit_z, fit_y)])
        scaled,how = z/Ts[0],f"fitted on the {len(fit_y)} images of `fit_dl`"
        notes += warn_fit_items(learn, fit_dl)
        if share_items(plain_dl(fit_dl), plain_dl(learn.dls.valid if dl is None else dl)):
            notes.append("T is fitted on the images it is scored on: its row flatters it. Leave "
                         "`fit_dl` out for cross-fitting, or give other images.")
            robust_warn(f"{_ME}: {notes[-1]}")
    rows = {_RAW: _Row(z, y, 1., n_bins), _SCALED: _Row(scaled, y, float(np.exp(np.log(Ts).mean())), n_bins)}
    if T is not None: rows[_INSTALLED] = _Row(z/T, y, T, n_bins)
    table = pd.DataFrame({k: r.numbers for k,r in rows.items()}).T.rename_axis('predictions')
    s = pd.Series({'accuracy': rows[_RAW].numbers['accuracy'], **_facts(rows[_RAW], rows[_SCALED], seed),
                   'temperature': rows[_SCALED].T, 'T_folds': ', '.join(f'{t:.4g}' for t in Ts), 'T_fitted': how,
                   'images': len(y), 'n_bins': n_bins}, dtype=object)
    title = (f"Calibration: ECE {s.ece:.4f} ± {s.ece_se:.4f} as trained, {s.ece_scaled:.4f} ± "
             f"{s.ece_scaled_se:.4f} with T = {s.temperature:.3g}")
    notes = [f"T: {how}; T = {s.T_folds}.", *_notes(s, n_bins, T, stale), *notes]
    rep = CalibrationReport(table, s, _draw, title=title, notes=notes, name='calibration')
    rep.bins = pd.concat({k: bins_table(r.conf, r.right, n_bins) for k,r in rows.items()}, names=['predictions'])
    return rep
