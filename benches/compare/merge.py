"""Times `cpift-engine merge` beside mergekit on the same folders, and compares what comes out.

    python benches/compare/merge.py --engine target/release/cpift-engine --models DIR [--rounds 3] [METHOD ...]

DIR has the folders base, t0, t1, ... of models near the base; --make writes them, random, with the shapes of TinyLlama
(1.1B parameters, bf16). Rounds alternate between the two programs; what they read is in the system's cache. Both write to DIR; what they wrote is removed. mergekit
does not flush what it writes: `sync` after it is timed too, since the engine's time includes that.

Needs torch, safetensors, PyYAML and mergekit (0.1.5).
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import time

METHODS = {
    "average": ("linear", ["--method", "average"]),
    "slerp": ("slerp", ["--method", "slerp", "--t", "0.3"]),
    "arithmetic": ("task_arithmetic", ["--method", "arithmetic"]),
    "ties": ("ties", ["--method", "ties", "--density", "0.3"]),
    "dare": ("dare_linear", ["--method", "dare", "--density", "0.3"]),
}


def make(folder, count):
    import torch
    from safetensors.torch import save_file

    hidden, inner, layers, vocabulary, keys = 2048, 5632, 22, 32000, 256
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}."
        shapes |= {
            name + "input_layernorm.weight": (hidden,),
            name + "mlp.down_proj.weight": (hidden, inner),
            name + "mlp.gate_proj.weight": (inner, hidden),
            name + "mlp.up_proj.weight": (inner, hidden),
            name + "post_attention_layernorm.weight": (hidden,),
            name + "self_attn.k_proj.weight": (keys, hidden),
            name + "self_attn.o_proj.weight": (hidden, hidden),
            name + "self_attn.q_proj.weight": (hidden, hidden),
            name + "self_attn.v_proj.weight": (keys, hidden),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": layers,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }
    generator = torch.Generator().manual_seed(1)
    base = {name: (torch.randn(shape, generator=generator) * 0.02).bfloat16() for name, shape in shapes.items()}

    def write(name, tensors):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config))

    write("base", base)
    for index in range(count):
        noise = lambda tensor: torch.randn(tensor.shape, generator=generator) * 0.002
        write(f"t{index}", {name: (tensor.float() + noise(tensor)).bfloat16() for name, tensor in base.items()})


def run(command, flush):
    """Seconds, and the largest resident memory in MiB, of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: {output}")
    if flush:
        os.sync()
    return time.monotonic() - began, usage.ru_maxrss / 1024, output


def warm(folders):
    """Brings what is read into the system's cache."""
    for folder in folders:
        for path in pathlib.Path(folder).glob("*.safetensors"):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def difference(one, other):
    """Elements that differ by more than a unit in the last place of bf16, and the largest difference."""
    from safetensors import safe_open

    def tensors(folder):
        return {
            name: file
            for path in sorted(folder.glob("*.safetensors"))
            for file in [safe_open(path, "pt")]
            for name in file.keys()
        }

    ours, theirs = tensors(one), tensors(other)
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    worst, beyond = 0.0, 0
    for name in ours:
        a, b = ours[name].get_tensor(name).float(), theirs[name].get_tensor(name).float()
        apart = (a - b).abs()
        worst = max(worst, apart.max().item())
        beyond += int((apart > b.abs().clamp(min=2**-14) * 2**-7).sum())
    return worst, beyond


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--engine", default="target/release/cpift-engine")
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=5, help="models beside the base; slerp takes one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--compare", action="store_true", help="also compare what both wrote, of the last round")
    options = parser.parse_args()
    if options.make:
        # In a process of its own: what a program takes at most counts what its parent held when it began.
        process = multiprocessing.Process(target=make, args=(options.models, options.count))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit("the models were not made")
    import yaml

    folder = options.models
    base = str(folder / "base")
    mergekit = str(pathlib.Path(sys.executable).with_name("mergekit-yaml"))
    for method in options.methods:
        name, arguments = METHODS[method]
        models = [str(folder / f"t{index}") for index in range(1 if method == "slerp" else options.count)]
        parameters = {} if method == "slerp" else {"weight": 1.0}
        if method in ("ties", "dare"):
            parameters["density"] = 0.3
        config = {
            "merge_method": name,
            "models": [{"model": model, "parameters": parameters} for model in models],
        }
        if method != "average":
            config["base_model"] = base
            arguments = arguments + ["--base", base]
        if method == "slerp":
            config["parameters"] = {"t": 0.3}
        path = folder / f"{method}.yml"
        path.write_text(yaml.dump(config))
        ours, theirs = folder / "out-engine", folder / "out-mergekit"
        times = {"engine": [], "mergekit": []}
        memory = {}
        for _ in range(options.rounds):
            for program in times:
                out = ours if program == "engine" else theirs
                shutil.rmtree(out, ignore_errors=True)
                os.sync()
                warm([*models, base])
                command = {
                    "engine": [options.engine, "merge", *arguments, *models, "--out", str(out)],
                    "mergekit": [mergekit, str(path), str(out), "--quiet"],
                }[program]
                seconds, resident, output = run(command, program == "mergekit")
                times[program].append(seconds)
                memory[program] = max(memory.get(program, 0), resident)
                if program == "engine":
                    said = output.strip().splitlines()[-1]
        best = {program: min(seconds) for program, seconds in times.items()}
        print(
            f"{method}: engine {best['engine']:.1f} s ({memory['engine']:.0f} MiB), "
            f"mergekit {best['mergekit']:.1f} s ({memory['mergekit']:.0f} MiB): "
            f"{best['mergekit'] / best['engine']:.1f} times as fast; {said}",
            flush=True,
        )
        print(f"  all: {({program: [round(s, 1) for s in seconds] for program, seconds in times.items()})}", flush=True)
        if options.compare:
            worst, beyond = difference(ours, theirs)
            print(f"  largest difference {worst:.2e}, {beyond} beyond a unit of bf16", flush=True)
        shutil.rmtree(ours, ignore_errors=True)
        shutil.rmtree(theirs, ignore_errors=True)


if __name__ == "__main__":
    main()
