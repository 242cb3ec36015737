"Runs of a benchmark, a line of JSON each: what is in the file already is not run again"
import json
from itertools import product
from pathlib import Path
import pandas as pd

def read(file):
    "The runs of a file, a row each"
    return pd.DataFrame([json.loads(o) for o in Path(file).read_text().splitlines()])

def run_all(
    out,        # File that a line is added to after each run; made if missing
    run,        # Function (**what) -> dict of what was found, with `what` in it
    **choices   # Name -> values, all combinations of which are run; the first name changes slowest
):
    "What is missing in the file, one run after the other"
    out,names = Path(out),list(choices)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {tuple(json.loads(o)[k] for k in names) for o in lines}
    for values in product(*choices.values()):
        if values in done: continue
        res = run(**dict(zip(names, values)))
        with out.open('a') as f: f.write(json.dumps(res)+'\n')
        print(*values, f"{res['accuracy']:.3f} {res['seconds']:.0f} s", flush=True)
