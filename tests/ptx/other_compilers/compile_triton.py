"""Compiles the kernels of kernels.py to PTX beside this file: `python compile_triton.py`. No GPU is needed."""
import os

os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernels

HERE = os.path.dirname(os.path.abspath(__file__))


def build(name, function, capability, signature, constants, divisible, **options):
    """Writes triton_NAME.sm_CAPABILITY.ptx; says what a launch needs."""
    names = function.arg_names
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(function, {**signature, **{name: "constexpr" for name in constants}}, constexprs=constants, attrs=attributes)
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with open(os.path.join(HERE, f"triton_{name}.sm_{capability}.ptx"), "w") as file:
        file.write(result.asm["ptx"])
    meta = result.metadata
    boxes = [entry["block_size"] for entry in getattr(meta, "tensordesc_meta", None) or []]
    print(f"{name}: {32 * meta.num_warps} threads, {meta.shared} bytes of shared memory, boxes {boxes}")


def descriptor(rows, columns):
    return f"tensordesc<bf16[{rows},{columns}]>"


buffers = dict(g="*fp32", p="*fp32", m="*fp32", v="*fp32", copy="*bf16")
numbers = ("most", "lr", "beta1", "beta2", "eps", "decay", "correction1", "correction2")
build("adamw", kernels.adamw, 80, dict(**buffers, squares="*fp32", n="i32", **{name: "fp32" for name in numbers}),
      dict(BLOCK=1024), tuple(buffers), num_warps=4)
sizes = dict(M="i32", N="i32", K="i32")
build("matmul_nn", kernels.matmul, 80, dict(a="*bf16", b="*bf16", c="*fp32", **sizes, am="i32", bk="i32", cm="i32"),
      dict(BM=128, BN=128, BK=64, ak=1, bn=1), ("a", "b", "c", "cm", "am", "bk"), num_warps=4, num_stages=3)
for kind, bm, bn, warps in (("nn", 64, 64, 8), ("tn", 128, 256, 8), ("nt", 128, 128, 4)):
    at, bt = kind[0] == "t", kind[1] == "t"
    a = descriptor(64, bm) if at else descriptor(bm, 64)
    b = descriptor(bn, 64) if bt else descriptor(64, bn)
    build(f"tma_{kind}_{bm}x{bn}w{warps}", kernels.matmul_tma_out, 90, dict(a=a, b=b, c="*fp32", cm="i32", K="i32"),
          dict(BM=bm, BN=bn, BK=64, AT=at, BT=bt), ("c", "cm"), num_warps=warps, num_stages=3)
tile = descriptor(128, 128)
build("attention128_128w8", kernels.attention, 90, dict(q=tile, k=tile, v=tile, out="*bf16", lse="*fp32", T="i32", scale="fp32"),
      dict(BM=128, BN=128, D=128, CAUSAL=True), ("out", "lse"), num_warps=8, num_stages=2)
