"""What only a GPU can show, in one command: `python -m benchmarks.gpu --out DIR`.

Each part is a module with `measure(machine)`, which yields a row after each measurement and may be stopped there, and
`limits(rows)`, what must hold. It needs torch, transformers, numpy, safetensors and tqdm, of other versions as well.
"""
