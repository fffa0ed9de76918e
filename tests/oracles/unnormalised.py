"""Sigmoid and ReLU weights. No package computes these on CPU, so torch in f64 states the formula, and
`check_goldens.py` states it a second time in numpy, in another form.

Goes out: sigmoid_*, relu_* goldens.
"""

import torch

from common import generator, qkv, write


def main():
    """Writes the whole family."""
    for kind, s, d in [("sigmoid", 33, 64), ("sigmoid", 129, 32), ("relu", 65, 32)]:
        name = f"{kind}_{s}_d{d}"
        q, k, v = qkv(generator(name), 1, 1 if s == 129 else 2, s, d)
        score = torch.einsum("bhid,bhjd->bhij", q.double(), k.double()) / d**0.5
        weight = torch.sigmoid(score - torch.log(torch.tensor(float(s), dtype=torch.float64))) if kind == "sigmoid" else torch.relu(score)
        o = torch.einsum("bhij,bhjd->bhid", weight.tril(), v.double())
        call = "torch.sigmoid(q k^T / sqrt(D) - log S).tril() @ v, f64" if kind == "sigmoid" else "torch.relu(q k^T / sqrt(D)).tril() @ v, f64"
        write(name, "sigmoid.attn", f"{kind}_attn", dict(B=1, H=q.shape[1], S=s, D=d), dict(q=q, k=k, v=v), dict(o=o), call)


if __name__ == "__main__":
    main()
