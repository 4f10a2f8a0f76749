"""Makes the goldens of package safetensors with the reference library.

usage: python make_goldens.py            writes golden.safetensors and golden.json beside this script
       python make_goldens.py FILE...    opens each file with the reference library and prints what is in it
needs: pip install safetensors==0.8.0 numpy
"""
import json, os, sys
import numpy as np
import safetensors
from safetensors.numpy import save
from safetensors import safe_open

here = os.path.dirname(os.path.abspath(__file__))
if len(sys.argv) > 1:
    for path in sys.argv[1:]:
        with safe_open(path, framework="numpy") as f:
            print(path, f.metadata())
            for name in f.keys():
                t = f.get_tensor(name)
                print(" ", name, t.dtype, t.shape, t.reshape(-1)[:4].tolist())
    sys.exit()

r = np.random.default_rng(7)
tensors = {
    "model.embed.weight": r.standard_normal((5, 3)).astype(np.float32),
    "model.norm \"é\"\n<&>": r.standard_normal(4).astype(np.float32),
    "half": r.standard_normal((2, 2, 2)).astype(np.float16),
    "ids": np.arange(-3, 4, dtype=np.int64),
    "double": r.standard_normal(3),
    "mask": np.array([True, False, True]),
    "bytes": np.arange(5, dtype=np.uint8),
    "scalar": np.array(42, dtype=np.int32),
    "empty": np.zeros((0, 3), dtype=np.float32),
}
blob = save(tensors, metadata={"format": "np"})
with open(os.path.join(here, "golden.safetensors"), "wb") as f:
    f.write(blob)
listing = {name: {"shape": list(t.shape), "hex": t.tobytes().hex()} for name, t in sorted(tensors.items())}
with open(os.path.join(here, "golden.json"), "w") as f:
    json.dump({"safetensors": safetensors.__version__, "numpy": np.__version__, "tensors": listing}, f, indent=1)
    f.write("\n")
