"The one door: `from fastrobust.all import *` after `from fastai.vision.all import *`"
# Each module's `__all__` is what it hands on here; the rest is imported from where it lives.

# Learners, recipes, data that comes along
from fastrobust.learner import *
from fastrobust.recipes import *
from fastrobust.stripping import *
from fastrobust.wiseft import *
from fastrobust.advice import *
from fastrobust.interpret import *
from fastrobust.samples import *
from fastrobust.nets import *

# Data
from fastrobust.data.arrays import *
from fastrobust.data.auxrows import *
from fastrobust.data.editing import *
from fastrobust.data.fromarrays import *
from fastrobust.data.holdout import *
from fastrobust.data.longtail import *
from fastrobust.data.openset import *
from fastrobust.data.phases import *
from fastrobust.data.published import *
from fastrobust.data.weighting import *

# Label noise to train on
from fastrobust.noise.block import *
from fastrobust.noise.human import *
from fastrobust.noise.imagenette import *
from fastrobust.noise.laws import *
from fastrobust.noise.matrices import *
from fastrobust.noise.record import *

# Losses
from fastrobust.lossfunctions import *
from fastrobust.losses import *

# Techniques, and what they are made of
from fastrobust.techniques.alasca import *
from fastrobust.techniques.augloss import *
from fastrobust.techniques.augmix import *
from fastrobust.techniques.bases.selection import *
from fastrobust.techniques.corruption import *
from fastrobust.techniques.coteaching import *
from fastrobust.techniques.decoupling import *
from fastrobust.techniques.elr import *
from fastrobust.techniques.jocor import *
from fastrobust.techniques.logitadjust import *
from fastrobust.techniques.logitclip import *
from fastrobust.techniques.logitnorm import *
from fastrobust.techniques.lpnoise import *
from fastrobust.techniques.odnl import *
from fastrobust.techniques.opensampling import *
from fastrobust.techniques.sampleweights import *
from fastrobust.techniques.smallloss import *
from fastrobust.training.callback import *
from fastrobust.training.keepbn import *
from fastrobust.training.objective import *
from fastrobust.training.technique import *

# Images: corruptions, AugMix, Lp noise
from fastrobust.images.augmixing import *
from fastrobust.images.corruptions.front import *
from fastrobust.images.corruptions.tables import *
from fastrobust.images.lpballs import *
from fastrobust.images.lpsets import *

# Label noise: find it, mend it
from fastrobust.labels.confident import *
from fastrobust.labels.crossval import *
from fastrobust.labels.fixing import *
from fastrobust.labels.frozen import *
from fastrobust.labels.history import *
from fastrobust.labels.issues import *
from fastrobust.labels.labelwave import *
from fastrobust.labels.memorisation import *
from fastrobust.labels.pictures import *
from fastrobust.labels.report import *
from fastrobust.labels.sheets import *
from fastrobust.labels.transition import *

# Distribution shift
from fastrobust.shift.augmixpicture import *
from fastrobust.shift.charts import *
from fastrobust.shift.corruptionreport import *
from fastrobust.shift.heatmaps import *
from fastrobust.shift.lpreport import *
from fastrobust.shift.metrics import *
from fastrobust.shift.pictures import *
from fastrobust.shift.publishedarrays import *
from fastrobust.shift.publishedfolders import *
from fastrobust.shift.result import *
from fastrobust.shift.separation import *

# Unknown images
from fastrobust.ood.charts import *
from fastrobust.ood.featurescores import *
from fastrobust.ood.heatmaps import *
from fastrobust.ood.logitnorms import *
from fastrobust.ood.logitscores import *
from fastrobust.ood.metrics import *
from fastrobust.ood.pictures import *
from fastrobust.ood.pytorchood import *
from fastrobust.ood.report import *
from fastrobust.ood.result import *

# Confidence
from fastrobust.calibration.charts import *
from fastrobust.calibration.metrics import *
from fastrobust.calibration.report import *
from fastrobust.calibration.temperature import *

# Rare classes
from fastrobust.tails.charts import *
from fastrobust.tails.report import *

# Heads in closed form, classes that come in phases
from fastrobust.inference.analytic import *
from fastrobust.inference.buffers import *
from fastrobust.inference.dual import *
from fastrobust.inference.recursion import *
from fastrobust.inference.ridge import *
from fastrobust.systems.acil.front import *
from fastrobust.systems.closedform import *
from fastrobust.systems.koopman.reports.bands import *
from fastrobust.systems.koopman.equations.burgers import *
from fastrobust.systems.koopman.data.fieldblock import *
from fastrobust.systems.koopman.fieldmetrics import *
from fastrobust.systems.koopman.data.fields import *
from fastrobust.systems.koopman.data.fieldshow import *
from fastrobust.systems.koopman.networks.fno import *
from fastrobust.systems.koopman.equations.gaussian import *
from fastrobust.systems.koopman.equations.kdv import *
from fastrobust.systems.koopman.networks.kno import *
from fastrobust.systems.koopman.learner import *
from fastrobust.systems.koopman.equations.linear import *
from fastrobust.systems.koopman.reports.meshreport import *
from fastrobust.systems.koopman.equations.navierstokes import *
from fastrobust.systems.koopman.files.readers import *
from fastrobust.systems.koopman.reports.rolloutreport import *
from fastrobust.systems.koopman.networks.semigroup import *
from fastrobust.systems.koopman.equations.shallowwater import *
from fastrobust.systems.koopman.reports.spectrum import *
from fastrobust.systems.koopman.reports.spectrumreport import *
from fastrobust.systems.koopman.reports.stress import *
from fastrobust.systems.koopman.networks.vitkno import *
from fastrobust.systems.tinymim.features import *
from fastrobust.systems.tinymim.learner import *
from fastrobust.systems.tinymim.mae import *
from fastrobust.systems.tinymim.maepicture import *
from fastrobust.systems.tinymim.masking import *
from fastrobust.systems.tinymim.mimdata import *
from fastrobust.systems.tinymim.mimic import *
from fastrobust.systems.tinymim.probe import *
from fastrobust.systems.tinymim.relations import *
from fastrobust.systems.tinymim.teachers import *
from fastrobust.systems.tinymim.tinyvit import *
from fastrobust.systems.video.attack.astfocus import *
from fastrobust.systems.video.attack.blackbox import *
from fastrobust.systems.video.attack.loop import *
from fastrobust.systems.video.attack.nes import *
from fastrobust.systems.video.block import *
from fastrobust.systems.video.clip import *
from fastrobust.systems.video.folders import *
from fastrobust.systems.video.learner import *
from fastrobust.systems.video.loaders import *
from fastrobust.systems.video.moving import *
from fastrobust.systems.video.networks import *
from fastrobust.systems.video.noise import *
from fastrobust.systems.video.reading import *
from fastrobust.systems.video.report import *
from fastrobust.systems.video.tfms import *

# Comparisons, reports, the audit
from fastrobust.compare.compare import *
from fastrobust.compare.mimstudy import *
from fastrobust.compare.tuning import *
from fastrobust.reporting.report import *
from fastrobust.audit.command import *
from fastrobust.basics import *
