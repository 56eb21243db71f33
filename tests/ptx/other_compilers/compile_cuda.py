"""Compiles the CUDA C++ to PTX beside this file: `python compile_cuda.py FOLDER`, where FOLDER/bin/nvcc is."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CUDA = sys.argv[1]


def product(head, columns, tail):
    """A function that does one wgmma of so many columns on the sums d."""
    sums = columns // 2
    registers = ", ".join(f"%{place}" for place in range(sums))
    outputs = ", ".join(f'"+f"(d[{place}])' for place in range(sums))
    shape = f"m64n{columns}k16.f32.bf16.bf16"
    return f'''{head} {{
  asm volatile("wgmma.mma_async.sync.aligned.{shape} {{{registers}}}, %{sums}, %{sums + 1}, 1, 1, 1, {tail[0].format(sums + 2, sums + 3)};"
    : {outputs} : "l"(a), "l"(b){tail[1]});
}}
'''


def nvcc(source, out, architecture, folder, *defines):
    command = [f"{CUDA}/bin/nvcc", "-std=c++17", "-ptx", f"-arch={architecture}", f"-I{CUDA}/include", f"-I{folder}"]
    subprocess.run([*command, *defines, source, "-o", os.path.join(HERE, out)], cwd=HERE, check=True)


with tempfile.TemporaryDirectory() as folder:
    def include(name, text):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)

    nvcc("adamw.cu", "cuda_adamw.sm_80.ptx", "sm_80", folder)
    nvcc("generic.cu", "cuda_generic.sm_80.ptx", "sm_80", folder)
    for columns, kind in ((256, "nn"), (128, "nt")):
        head = "template <int TA, int TB> __device__ void product(float (&d)[N_TILE / 2], uint64_t a, uint64_t b)"
        include("wgmma_generated.inc", product(head, columns, ("%{}, %{}", ', "n"(TA), "n"(TB)')))
        across = int(kind == "nn")
        name = f"cuda_ring_{kind}_{columns}.sm_90a.ptx"
        nvcc("ring.cu", name, "sm_90a", folder, f"-DN_TILE={columns}", "-DA_MN=0", f"-DB_MN={across}")
    include("open_generated.inc", "".join(
        product(f"__device__ void wgmma{columns}(float* d, uint64_t a, uint64_t b)", columns, ("0, 1", ""))
        for columns in (16, 32, 64, 72, 80, 96, 112)))
    nvcc("open.cu", "cuda_open.sm_90a.ptx", "sm_90a", folder)
