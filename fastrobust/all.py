"Everything public: `from fastrobust.all import *` after `from fastai.vision.all import *`"
from fastrobust.basics import *
from fastrobust.losses import *
from fastrobust.ops import *
from fastrobust.models import *
from fastrobust.recording import *
from fastrobust.stages import *
from fastrobust.objective import *
from fastrobust.stripping import *
from fastrobust.data.arrays import *
from fastrobust.data.samples import *
from fastrobust.data.noise import *
from fastrobust.data.openset import *
from fastrobust.techniques.logitclip import *
from fastrobust.techniques.logitnorm import *
from fastrobust.techniques.odnl import *
from fastrobust.techniques.augmix import *
from fastrobust.techniques.augloss import *
