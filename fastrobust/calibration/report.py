"How far can a learner's confidence be trusted? `calibration_report`: as trained, and after temperature scaling"
# One forward pass. T is never fitted on the items it is scored on: 2-fold cross-fitting, or a
# loader of its own.
import math
import numpy as np, pandas as pd
import torch
from fastrobust.basics import plain_dl, robust_warn
from fastrobust.calibration.charts import draw_reliability, panels_of, size_of
from fastrobust.calibration.few import few_to_fit, few_to_score
from fastrobust.inference.fitting import cross_fit_logits, fit_temperature
from fastrobust.calibration.metrics import bins_table, brier_rows, classwise_ece, ece_mass, nll_rows
from fastrobust.calibration.temperature import (labelled_logits, stale_note, temperature_of,
                                                warn_fit_items)
from fastrobust.data.apart import share_items
from fastrobust.inference.notes import noisy_labels_note, trained_note
from fastrobust.metrics import gap_of, need_bins, width_bins
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import new_figure

__all__ = ['calibration_report']

_ME = 'calibration_report'
_RAW,_SCALED,_INSTALLED = 'as trained','temperature-scaled','installed T'
_DRAWS = 400    # Of the bootstrap and of the chance level of ECE

class _Row:
    "Everything of one row of the table, from its logits"
    def __init__(self, z, y, T, n_bins):
        p = z.softmax(1).numpy()
        y = y.numpy()
        self.T,self.n_bins = T,n_bins
        self.conf = p.max(1)
        self.right = (p.argmax(1) == y).astype(float)
        self.bin = width_bins(self.conf, n_bins)
        self.nll = nll_rows(z, torch.from_numpy(y))
        self.brier = brier_rows(p, y)
        self.numbers = dict(accuracy=self.right.mean(), ece=self.ece(),
                            ece_mass=ece_mass(p, y, n_bins),
                            classwise_ece=classwise_ece(p, y, n_bins),
                            brier=self.brier.mean(), nll=self.nll.mean(),
                            confidence=self.conf.mean(), T=T)

    def ece(self, ids=None, right=None):
        "ECE of the items `ids`, or with other outcomes `right`"
        if ids is None: ids = slice(None)
        if right is None: right = self.right
        return gap_of(self.bin[ids], self.conf[ids], right[ids], self.n_bins)

    def by_chance(self, rng):
        "ECEs of these confidences with outcomes drawn from them"
        n = len(self.conf)
        rights = ((rng.random(n) < self.conf).astype(float) for _ in range(_DRAWS))
        return [self.ece(right=right) for right in rights]

def _se(v): return float(np.std(v, ddof=1)/math.sqrt(len(v))) if len(v) > 1 else math.nan

def _facts(a, b, seed):
    "Paired differences b - a with standard errors, and the ECE that chance alone gives"
    rng = np.random.default_rng(seed)
    n = len(a.conf)
    draws = rng.integers(0, n, (_DRAWS, n))
    boot = np.array([[a.ece(ids), b.ece(ids)] for ids in draws])
    boot_a,boot_b = boot.T
    chance = b.by_chance(rng)
    sd = lambda v: float(np.std(v, ddof=1)) if n > 1 else math.nan
    ece_a,ece_b = a.numbers['ece'],b.numbers['ece']
    s = dict(ece=ece_a, ece_se=sd(boot_a), ece_scaled=ece_b, ece_scaled_se=sd(boot_b),
             ece_change=ece_b-ece_a, ece_change_se=sd(boot_b-boot_a),
             ece_by_chance=float(np.mean(chance)), ece_by_chance_sd=float(np.std(chance)))
    for k in ('nll', 'brier'):
        change = getattr(b, k)-getattr(a, k)
        s[f'{k}_change'] = float(change.mean())
        s[f'{k}_change_se'] = _se(change)
    return s

class CalibrationReport(Report):
    "Result of `calibration_report`: `table`, `summary`, and `bins`, the reliability table of each row"
    bins:pd.DataFrame
    def files(self): return {**super().files(), f'{self.name}_bins': self.bins}
    def formatted(self):
        t = self.table.copy()
        for k in t:
            spec = '{:.4g}' if k == 'T' else '{:.4f}'
            t[k] = t[k].map(spec.format)
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
        flatters = "" if stale else " If that T was fitted on these images, its row flatters it."
        yield (f"The learner predicts with T = {installed:.4g}: row {_INSTALLED!r}; {_RAW!r} is "
               f"without.{flatters}")
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
    T = temperature_of(learn)
    notes = noisy_labels_note(learn, dl, _ME)
    z,y = labelled_logits(learn, dl, _ME)
    z = z.double()
    stale = stale_note(learn)
    notes += trained_note(learn, dl, _ME) + stale
    if len(y) < 2:
        raise ValueError("calibration_report expected at least two images, got one. Give more.")

    if fit_dl is None:
        Ts,scaled = cross_fit_logits(z, y, n_folds, seed)
        notes += few_to_fit(z, y)
        how = (f"{n_folds}-fold cross-fitting: each part of these images scored with the T fitted "
               "on the others")
    else:
        fit_z,fit_y = labelled_logits(learn, fit_dl, _ME)
        Ts = np.array([fit_temperature(fit_z, fit_y)])
        scaled = z/Ts[0]
        how = f"fitted on the {len(fit_y)} images of `fit_dl`"
        notes += few_to_fit(fit_z, fit_y) + warn_fit_items(learn, fit_dl)
        scored = learn.dls.valid if dl is None else dl
        if share_items(plain_dl(fit_dl), plain_dl(scored)):
            notes.append("T is fitted on the images it is scored on: its row flatters it. Leave "
                         "`fit_dl` out for cross-fitting, or give other images.")
            robust_warn(f"{_ME}: {notes[-1]}")
    mean_T = float(np.exp(np.log(Ts).mean()))
    rows = {_RAW: _Row(z, y, 1., n_bins), _SCALED: _Row(scaled, y, mean_T, n_bins)}
    s = _summary(rows, Ts, how, seed)
    raw = rows[_RAW]
    notes += few_to_score(raw.right, raw.conf, lambda: raw.by_chance(np.random.default_rng(seed)))
    if T is not None: rows[_INSTALLED] = _Row(z/T, y, T, n_bins)
    table = pd.DataFrame({k: r.numbers for k,r in rows.items()}).T.rename_axis('predictions')
    title = (f"Calibration: ECE {s.ece:.4f} ± {s.ece_se:.4f} as trained, {s.ece_scaled:.4f} ± "
             f"{s.ece_scaled_se:.4f} with T = {s.temperature:.3g}")
    notes = [f"T: {how}; T = {s.T_folds}.", *_notes(s, n_bins, T, stale), *notes]
    rep = CalibrationReport(table, s, _draw, title=title, notes=notes, name='calibration')
    bins = {k: bins_table(r.conf, r.right, n_bins) for k,r in rows.items()}
    rep.bins = pd.concat(bins, names=['predictions'])
    return rep

def _summary(rows, Ts, how, seed):
    "The facts of the report: the two rows compared, T and how it was fitted"
    raw,scaled = rows[_RAW],rows[_SCALED]
    folds = ', '.join(f'{t:.4g}' for t in Ts)
    facts = dict(accuracy=raw.numbers['accuracy'], **_facts(raw, scaled, seed),
                 temperature=scaled.T, T_folds=folds, T_fitted=how,
                 images=len(raw.conf), n_bins=raw.n_bins)
    return pd.Series(facts, dtype=object)
