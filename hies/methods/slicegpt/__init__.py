"""SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024): the residual stream rotated to its principal axes and cut.

A norm without gain commutes with a rotation, so each block may see the residual in a basis of its own: the matrices
that read it and write it absorb the basis, and only the shortcuts between blocks become matrices. `bert.py` and
`llama.py` know the two ways to place the norms, `model.py` puts them together.
"""
