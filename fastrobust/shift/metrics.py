"Numbers for distribution shift as pure functions: corruption errors, normalised or not"
# Every error is a fraction in [0,1]. Three quantities share the name "mCE" in print; here each has
# its own name.
from collections.abc import Mapping
import numpy as np
from fastrobust.basics import need_number
from fastrobust.images.corruptions.tables import CORRUPTIONS, listed

__all__ = ['mean_corruption_error', 'mce_alexnet', 'relative_mce', 'ice']

# Errors of AlexNet on ImageNet-C, the mean over five severities: the denominators of mCE
# Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261
ALEXNET = dict(gaussian_noise=.886428, shot_noise=.894468, impulse_noise=.922640,
               defocus_blur=.819880, glass_blur=.826268, motion_blur=.785948, zoom_blur=.798360,
               snow=.866816, frost=.826572, fog=.819324, brightness=.564592, contrast=.853204,
               elastic_transform=.646056, pixelate=.717840, jpeg_compression=.606500,
               speckle_noise=.845388, gaussian_blur=.787108, spatter=.717512, saturate=.658248)
ALEXNET_CLEAN = .435

# --- checks ---------------------------------------------------------------------------------------
def _fraction(v, name):
    "`v` as float64, refused unless finite and in [0,1]"
    a = np.asarray(v, dtype=np.float64)
    if not a.size or not np.isfinite(a).all():
        raise ValueError(f"`{name}` must be finite errors, got {v}. Leave out what was not "
                         "measured.")
    if a.min() < 0 or a.max() > 1:
        raise ValueError(f"`{name}` must be errors as fractions in [0,1], got {a.min():.4g} to "
                         f"{a.max():.4g}. Divide percentages by 100; of accuracies take 1 - "
                         "accuracy.")
    return a

def _means(errors, names, severities=None):
    "Mean error of each of `names`; `severities`: how many values a row must have, if it is no mean already"
    series = getattr(errors, 'ndim', 0) == 1 and hasattr(errors, 'index')
    if not isinstance(errors, Mapping) and not series:
        raise TypeError("expected `errors` as a dict name -> error, or -> errors of its "
                        f"severities, got a {type(errors).__name__}. A report has it: "
                        "`report.errors`.")
    errors = dict(errors)
    lost = [o for o in names if o not in errors]
    if lost:
        raise ValueError(f"expected errors of {len(names)} corruptions, got none of "
                         f"{', '.join(lost)}. Measure these too; a mean over fewer is another "
                         "number, to be had with `names=`.")
    out = []
    for k in names:
        a = _fraction(errors[k], f'errors[{k!r}]')
        if a.ndim > 1 or (severities and a.ndim and len(a) != severities):
            raise ValueError(f"`errors[{k!r}]` must be a mean over severities or "
                             f"{severities or 'some'} values, got shape {a.shape}. Measure every "
                             "severity.")
        out.append(a.mean())
    return np.array(out)

# --- corruption errors ----------------------------------------------------------------------------
def mean_corruption_error(
    errors,             # Name -> error in [0,1], or -> errors of its severities; dict or Series
    names=CORRUPTIONS   # Which count, each the same; the benchmark's 15. None: all that are given
)->float:               # In [0,1]
    "Plain mean of the errors, as quoted for CIFAR-C: no AlexNet in it"
    if names is not None and not len(names):
        raise ValueError("expected `names`, got none. Leave it out for the 15.")
    names = list(dict(errors)) if names is None else listed(names)
    return float(_means(errors, names).mean())

def mce_alexnet(
    errors  # Name of each of the 15 -> mean error over the five severities, in [0,1], or -> its five errors
)->float:   # In percent, as it is quoted: AlexNet has 100
    "mCE of ImageNet-C: mean over 15 corruptions of the error, each divided by that of AlexNet"
    e = _means(errors, CORRUPTIONS, 5)
    alexnet = np.array([ALEXNET[k] for k in CORRUPTIONS])
    return float(100*(e/alexnet).mean())

def relative_mce(
    errors,         # Name of each of the 15 -> mean error over the five severities, in [0,1], or -> its five errors
    clean:float     # Error on clean images, in [0,1]
)->float:           # In percent: AlexNet has 100
    "Relative mCE of ImageNet-C: as `mce_alexnet`, of what each error exceeds the clean one by"
    need_number('clean', clean)
    e = _means(errors, CORRUPTIONS, 5)
    c = float(_fraction(clean, 'clean'))
    alexnet = np.array([ALEXNET[k]-ALEXNET_CLEAN for k in CORRUPTIONS])
    return float(100*((e-c)/alexnet).mean())

def ice(
    clean:float,    # Error on clean images, in [0,1]
    errors          # Errors under corruptions nobody sees, in [0,1]: dict, list or array; six in the paper
)->float:           # A fraction: .05 is 5 %; below 0 where the corruptions help. Without clean errors NaN or inf
    "Imperceptible corruption error, (mean(errors) - clean)/clean, of Siedel et al., https://arxiv.org/abs/2305.05400"
    need_number('clean', clean)
    c = float(_fraction(clean, 'clean'))
    e = list(errors.values()) if isinstance(errors, Mapping) else list(errors)
    m = _fraction(e, 'errors').mean()
    if c: return float((m-c)/c)
    return float('nan') if m == 0 else float('inf')
