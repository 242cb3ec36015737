"One cell of a corruption report, all images under one corruption and severity: measured, kept on disk, found again"
import base64, csv
from pathlib import Path
from typing import NamedTuple
import numpy as np
import torch
from torch import Tensor
from fastrobust.inference.passes import wrong
from fastrobust.metrics import binned_gap
from fastrobust.reporting.report import saving

__all__ = []

class ShiftCell(NamedTuple):
    "What a learner got wrong among the images of one cell, and how well it knew"
    wrong:np.ndarray # Which predictions are wrong, bool (n,)
    ece:float        # Expected calibration error of the predicted class, 15 bins
    rms:float        # Root mean squared calibration error, 100 bins

    @property
    def error(self): return float(self.wrong.mean())

    @classmethod
    def of(cls, rows):
        "From what `keeper` kept: confidence and correctness (n,2)"
        conf,right = rows.double().numpy().T
        ece = binned_gap(conf, right, 15, 1)
        rms = binned_gap(conf, right, 100, 2)
        return cls(right == 0, ece, rms)

def _probabilities(p):
    "Whether every row of `p` is a distribution"
    return ((p.sum(1)-1).abs() < 1e-3).all() and not (p < 0).any()

def keeper(learn):
    "What to keep of a batch of logits: the confidence in the predicted class, and whether it is right (b,2)"
    act = getattr(learn.loss_func, 'activation', None)
    def keep(z, y):
        err = wrong(z, y)
        p = act(z).as_subclass(Tensor) if callable(act) else z
        if p.shape != z.shape or not _probabilities(p): p = z.softmax(1)
        best = z.argmax(1)[:, None]
        conf = p.gather(1, best)[:, 0]
        return torch.stack([conf, (~err).float()], 1)
    return keep

# --- kept on disk ---------------------------------------------------------------------------------
_COLUMNS = ['key', 'corruption', 'severity', 'n', 'error', 'ece', 'rms', 'wrong']

def _of_line(row, n):
    "Name, severity and cell of a line of `n` images; ValueError where it is damaged"
    _,name,severity,size,error,ece,rms,bits = row
    packed = np.frombuffer(base64.b64decode(bits), np.uint8)
    wrong = np.unpackbits(packed, count=n).astype(bool)
    cell = ShiftCell(wrong, float(ece), float(rms))
    if int(size) != n or not abs(cell.error-float(error)) < 1e-9:
        raise ValueError
    return name,int(severity),cell

class CellFile:
    "Finished cells in `folder`/corruption_cells.csv, appended one by one; cells of another key are left alone"
    def __init__(self,
        folder, # Made if missing; None: nothing is kept
    ):
        self.path = None if folder is None else Path(folder)/'corruption_cells.csv'
        if folder is None: return
        with saving(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = self.path.read_text() if self.path.exists() else ''
            with self.path.open('a', newline='') as f:
                if not text: csv.writer(f).writerow(_COLUMNS)
                elif text[-1] != '\n': f.write('\n')    # a line that was cut off stays alone

    def add(self, key, name, severity, cell):
        if self.path is None: return
        packed = np.packbits(cell.wrong).tobytes()
        bits = base64.b64encode(packed).decode()
        numbers = len(cell.wrong),cell.error,cell.ece,cell.rms
        with saving(self.path.parent), self.path.open('a', newline='') as f:
            csv.writer(f).writerow([key, name, severity, *numbers, bits])

    def read(self, key, n):
        """Cells of `key`, ((name, severity) -> ShiftCell), and how many there are of others: not of the same images and
        network normalised in another way, whose key goes on after a `-`. Damaged lines do not count"""
        if self.path is None: return {},0
        cells,others = {},0
        csv.field_size_limit(max(csv.field_size_limit(), 2**24))
        with self.path.open(newline='') as f:
            for row in list(csv.reader(f))[1:]:
                if len(row) != len(_COLUMNS): continue
                if row[0] != key:
                    others += row[0].split('-')[0] != key.split('-')[0]
                    continue
                try: name,severity,cell = _of_line(row, n)
                except ValueError: continue
                cells[name, severity] = cell
        return cells,others
