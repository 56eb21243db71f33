#!/usr/bin/env bash
# Tests and measures this build on one GPU, what matters most first, in 13 minutes; only NVIDIA's driver is needed.
#
#     ./run.sh [--try] [--seconds N] [RESULTS_FOLDER]      everything, in N seconds (780 unless given)
#     ./run.sh --failed [...]                              again what has not passed, was not reached or was left out
#
# Parts, in this order, each with a limit of its own; after each comes a table:
#
#     devices    60 s   what the driver and the engine say; the self-tests of the kernels for compute capability 9.0
#     sm_80     150 s   every operation against its oracle by the kernels for all GPUs, a process for each test
#     sm_90a     75 s   products and attention by the kernels for 9.0 where the GPU is one, each size of heads by itself
#     sanitizer  60 s   small operations under compute-sanitizer, where it is installed
#     models     45 s   whole models against golden files, recorded steps as CUDA graphs, small jobs
#     seesaw    100 s   the example trained on the GPU and on the CPU, and their losses compared
#     kernels   140 s   bench kernels with cuBLAS beside it, then torch, where it is installed
#     step       60 s   train steps of 0.5B, then transformers' where it is installed
#     7B         90 s   20 steps of 7B with compact state, where memory and time are enough
#
# RESULTS_FOLDER (results/ beside this file) has PART/CHECK.out and .err with what programs said, and results.json,
# which is written anew after each part. Without --failed the parts of an earlier run there are removed first.
# DEVICE is the GPU, cuda:0 unless set, numbered as nvidia-smi does, or within CUDA_VISIBLE_DEVICES where that is set.
# JOBS is how many tests run side by side, 4 unless set.
#
# Where the self-tests break the GPU, the parts behind sm_90a run with CPIFT_HOPPER=off.
#
# --try does little of everything, on sizes that say nothing and in four times the time: to try this script, not the
# GPU. Its results are in results-try/.
set -uo pipefail
shopt -s nullglob
here=$(cd "$(dirname "$0")" && pwd)
again=false
try=false
seconds=780
while [ $# -gt 0 ]; do
    case $1 in
    --failed) again=true ;;
    --try) try=true ;;
    --seconds)
        seconds=${2:-}
        [[ $seconds =~ ^[0-9]+$ ]] || { echo "error: --seconds needs a number" >&2; exit 2; }
        shift
        ;;
    -*)
        echo "error: $1 is not known; see the head of $0" >&2
        exit 2
        ;;
    *) break ;;
    esac
    shift
done
mode=full
if $try; then mode=try; fi
results=${1:-$here/results$($try && echo -try)}
parts=(devices sm_80 sm_90a sanitizer models seesaw kernels step 7B)
engine=$here/programs/bin/cpift-engine
program=$here/programs/tests/workspace
shapes=$here/data/shapes
seesaw=$here/data/examples/seesaw
JOBS=${JOBS:-4}
# What acts a GPU here is no quick one.
slack=1
if $try; then slack=4 seconds=$((slack * seconds)); fi
end=$((SECONDS + seconds))

# The GPU is made the only one: tests take the first.
DEVICE=${DEVICE:-cuda:0}
if [[ ! $DEVICE =~ ^cuda(:([0-9]+))?$ ]]; then
    echo "error: DEVICE is $DEVICE; set it to cuda:0 or another number" >&2
    exit 2
fi
gpu=$((10#${BASH_REMATCH[2]:-0}))
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra visible <<<"$CUDA_VISIBLE_DEVICES"
    [ "$gpu" -lt ${#visible[@]} ] || { echo "error: CUDA_VISIBLE_DEVICES has no GPU for DEVICE $DEVICE" >&2; exit 2; }
    gpu=${visible[gpu]}
fi
export CUDA_DEVICE_ORDER=${CUDA_DEVICE_ORDER:-PCI_BUS_ID} CUDA_VISIBLE_DEVICES=$gpu DEVICE=cuda:0

# Results of one build, mode and GPU only.
build=$(cksum "$0" "$engine" "$program" | cut -d' ' -f1,2 | tr ' \n' -.)
stamp="build ${build%.}, mode $mode, GPU $gpu"
before=$(cat "$results/stamp" 2>/dev/null)
if $again; then
    [ -n "$before" ] || { echo "error: $results has no run whose failures could be repeated" >&2; exit 2; }
    [ "$before" = "$stamp" ] || { echo "error: $results is of $before; this is $stamp" >&2; exit 2; }
elif [ -z "$before" ] && [ -n "$(ls -A "$results" 2>/dev/null)" ]; then
    echo "error: $results is not empty and not of this script; name another folder" >&2
    exit 2
fi
mkdir -p "$results" || exit 2
results=$(cd "$results" && pwd)
cd "$results" || exit 2
if ! $again; then
    rm -rf "${parts[@]}" results.json
    echo "$stamp" >stamp || exit 2
fi

# A GPU that cannot be used is a failure; machine code that the driver makes is kept from process to process.
export CPIFT_TEST_CUDA=1 CPIFT_TESTS=$here/data/tests
export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$results/cache} CUDA_CACHE_MAXSIZE=4294967296
# Parts say which kernels they use.
unset CPIFT_HOPPER

# Begins part $1, which has $2 seconds.
part() {
    part=$1 part_end=$((SECONDS + slack * $2))
    [ "$part_end" -le "$end" ] || part_end=$((end > SECONDS ? end : SECONDS))
    mkdir -p "$part"
    echo
    echo "$part, $((part_end - SECONDS)) s"
}

# What came of check $1 of this part: passed, failed, crashed, killed, timeout, unreached, skipped; nothing where it was
# not made.
outcome() {
    local word=
    [ ! -f "$part/$1.outcome" ] || read -r word _ <"$part/$1.outcome"
    echo "$word"
}

# Makes check $1 with a limit of $2 seconds: the command behind them. Where `wanted` is set, its output has to match.
check() {
    local name=$1 limit=$2 begun=$SECONDS left=$((part_end - SECONDS)) status word
    shift 2
    ! $again || [ "$(outcome "$name")" != passed ] || return 0
    limit=$((slack * limit))
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -le 0 ]; then
        echo "unreached 0" >"$part/$name.outcome"
        rm -f "$part/$name.out" "$part/$name.err"
        return 1
    fi
    # Not the shell's own words on what it had to kill.
    (timeout -k 8 "$limit" "$@" >"$part/$name.out" 2>"$part/$name.err"; exit $?) 2>/dev/null
    status=$?
    case $status in
    0) word=passed ;;
    124) word=timeout ;;
    # What a limit has not stopped either, or what was killed before: most often by a machine short of memory.
    137) [ $((SECONDS - begun)) -ge "$limit" ] && word=timeout || word=killed ;;
    *) [ "$status" -gt 128 ] && word=crashed || word=failed ;;
    esac
    if [ "$word" = passed ] && [ -n "${wanted:-}" ] && ! grep -qE "$wanted" "$part/$name.out"; then
        word=failed status=1
        echo "exit status 0, but nothing it said matches $wanted" >>"$part/$name.err"
    fi
    [ "$word" != killed ] || echo "killed before its limit, perhaps for want of memory" >>"$part/$name.err"
    echo "$word $((SECONDS - begun))" >"$part/$name.outcome"
    return "$status"
}

# Leaves out check $1 for the reason $2.
skip() {
    echo "skipped 0" >"$part/$1.outcome"
    echo "$2" >"$part/$1.err"
    : >"$part/$1.out"
}

# Fails check $1 for the reason $2.
fail() {
    echo "failed 0" >"$part/$1.outcome"
    echo "$2" >"$part/$1.err"
    : >"$part/$1.out"
}

# Names of the program's tests, with further options; what it says of errors is added to tests.err.
list() {
    local status
    timeout -k 2 20 "$program" --list --format terse "$@" 2>>tests.err | sed -n 's/: test$//p'
    status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || [ -s tests.err ] || echo "$program --list: exit status $status" >tests.err
}

# Names of tests that match $1, one of each module first: so the driver makes machine code of each module's kernels
# once. Nothing where none does.
names() {
    local all
    all=$(grep -E "$1" tests.list) || return 0
    awk -F:: '!seen[$1 $2]++' <<<"$all"
    awk -F:: 'seen[$1 $2]++' <<<"$all"
}

# Sets `chosen` to the names that match $1. None is a failure of check $2.
choose() {
    mapfile -t chosen < <(names "$1")
    rm -f "$part/$2".{outcome,out,err}
    [ ${#chosen[@]} = 0 ] || return 0
    fail "$2" "no test matches $1
$(<tests.err)"
    return 1
}

# Makes tests that match $1, each in a process of its own, several side by side.
tests() {
    local test chosen wanted=$ran
    choose "$1" list || return 1
    for test in "${chosen[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
        check "${test//::/.}" 90 "$program" --exact "$test" --test-threads 1 &
    done
    wait
}
# Of tests that passed; with none at all the program is content, too.
ran='^test result: ok\. [1-9]'

# Why check $1 has not passed, in a line.
reason() {
    local line
    line=$(grep -h -m1 -A1 'panicked at' "$part/$1.out" "$part/$1.err" 2>/dev/null | sed -n 2p)
    [ -n "$line" ] || line=$(grep -h -m1 '^exit status 0, but ' "$part/$1.err" 2>/dev/null)
    [ -n "$line" ] || line=$(grep -hv '^ *$' "$part/$1.err" "$part/$1.out" 2>/dev/null | tail -1)
    echo "${line:0:160}"
}

# What came of this part: a line for each module of tests and each other check, then what has not passed.
table() {
    local file name word spent
    printf '  %-34s %7s %7s %8s\n' check passed not seconds
    for file in "$part"/*.outcome; do
        name=$(basename "$file" .outcome)
        read -r word spent <"$file"
        echo "$name $word $spent"
    done | awk '{
        split($1, parts, "."); group = parts[1] (parts[2] == "" ? "" : "." parts[2])
        if (!(group in sum)) order[++count] = group
        if ($2 == "passed") passed[group]++; else others[group]++
        sum[group] += $3
    } END {
        for (i = 1; i <= count; i++) {
            g = order[i]; printf "  %-34s %7d %7d %8d\n", g, passed[g], others[g], sum[g]
        }
    }'
    for file in "$part"/*.outcome; do
        read -r word _ <"$file"
        name=$(basename "$file" .outcome)
        [ "$word" = passed ] || echo "  $word: $name: $(reason "$name")"
    done
    report
}

# Number $2 of a document in JSON.
number() { tr -d '\n' <"$1" | sed -n "s/.*\"$2\": *\([0-9.eE+-]*\).*/\1/p"; }

# A step's figures, if check $1 has passed.
step_line() {
    [ "$(outcome "$1")" = passed ] || return 0
    local out=$part/$1.out
    awk -v name="$1" -v tokens="$(number "$out" tokens_per_second)" -v ms="$(number "$out" step_ms)" \
        -v mfu="$(number "$out" mfu)" -v memory="$(number "$out" peak_memory_bytes)" 'BEGIN {
            printf "  %s: %.0f tokens a second, %.1f ms a step, ", name, tokens, ms
            printf "%.1f %% MFU, %.1f GiB\n", 100 * mfu, memory / 2^30 }'
}

# Whether python has what $1 names; if not, the reason is the last line of python.txt.
python_has() {
    local status
    timeout -k 2 20 python3 -c "import $1" >/dev/null 2>python.txt
    status=$?
    [[ ! $status =~ ^(124|137)$ ]] || echo "importing it took more than 20 s" >>python.txt
    return $status
}

# Holds losses of the run in $2 against those of $1: of every step, and of every measurement.
losses() {
    local run
    for run in "$1" "$2"; do
        tr ' ' _ <"$run/metrics.jsonl" | sed -n "$step_loss" >"$run.steps"
        tr -d ' \n' <"$run/scores.json" | grep -o '"loss":[^,}]*' | sed 's/"loss":/measured part: 0 /' >>"$run.steps"
        [ -s "$run.steps" ] || { echo "no losses in $run"; return 1; }
    done
    [ "$(wc -l <"$1.steps")" = "$(wc -l <"$2.steps")" ] || { echo "not as many losses in $2"; return 1; }
    paste -d' ' "$1.steps" "$2.steps" | awk '{
        if ($1 != $5 || $2 != $6 || $3 != $7) { print "other steps: " $0; wrong = 1; exit }
        # Not every awk compares what is none as a number.
        if ($4 !~ /^[0-9.eE+-]+$/ || $8 !~ /^[0-9.eE+-]+$/ || $4 == 0) { print "no loss: " $0; wrong = 1; exit }
        off = ($4 - $8) / $4; off = off < 0 ? -off : off
        if ($3 == 1 && $1 == "probe") { probes++; if (off > first) first = off }
        if (off > most[$1]) most[$1] = off
        if (!(off <= 0.05)) wrong = 1
    } END {
        if (!probes && !wrong) { print "there is no first step of a probe"; exit 1 }
        printf "largest difference in the first step of a probe: %.1e", first
        for (stage in most) printf "; %s: %.1e", stage, most[stage]
        print ""
        # Sums in another order; later steps go on from what differs.
        exit wrong || !(first <= 1e-4)
    }'
}
export -f losses
# Of a line of metrics.jsonl: stage, part, step and loss.
step_loss='s/^{"stage":"\([^"]*\)","part":"\([^"]*\)","step":\([0-9]*\),"steps":[0-9]*,"loss":\([^,]*\),.*'
export step_loss+='/\1 part:\2 \3 \4/p'

# Document $1 of check $2 of part $3; null where it is not whole.
document() {
    local part=$3
    if [[ "$(outcome "$2")" =~ ^(passed|timeout)$ && $(tail -c 2 "$1" 2>/dev/null) =~ \}$ ]]; then
        cat "$1"
    else
        echo null
    fi
}

# Writes what there is so far to results.json, which is a whole document at any time.
report() {
    local file word spent separator=
    {
        printf '{"date":"%s","run":"%s","hopper":"%s","devices":' \
            "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$stamp" "$hopper_kernels"
        document devices/engine.out engine devices
        printf ',"checks":['
        for file in */*.outcome; do
            read -r word spent <"$file"
            printf '%s{"part":"%s","check":"%s","outcome":"%s","seconds":%s}' \
                "$separator" "${file%/*}" "$(basename "$file" .outcome)" "$word" "$spent"
            separator=,
        done
        printf '],"kernels":[%s,%s],"torch":' \
            "$(document kernels/bf16.out bf16 kernels)" "$(document kernels/f32.out f32 kernels)"
        document kernels/torch.json torch kernels
        printf ',"step":'
        document step/engine.out engine step
        printf ',"transformers":'
        document step/transformers.json transformers step
        printf ',"compact_7B":'
        document 7B/compact.out compact 7B
        echo '}'
    } | tr -d '\n' >results.json.part
    echo >>results.json.part
    mv results.json.part results.json
}

: >tests.err
list --ignored >tests.ignored
list | grep -vE 'on_the_stand_in_driver|_on_the_schedule$' | grep -vxF -f tests.ignored >tests.list

# Takes the place of what takes long.
hopper_tests='^ops::(linear|attention)::(in_bf16::|[a-z0-9_]+$)|^driver::hopper::(attention_of|gradients_of)'
filter= sizes=(--model 0.5B 7B --seconds 0.15) torch_sizes=(--model 0.5B 7B --seconds 0.1 --rounds 1)
step=(--config "$shapes/qwen2.5-0.5b.json" --batch 8 --length 2048)
large=(--config "$shapes/qwen2.5-7b.json" --batch 1 --length 2048)
recipe=$seesaw/recipe.toml
if $try; then
    hopper_tests='^driver::hopper::(attention_of|gradients_of)_heads_of_64'
    filter=rope sizes=(--filter adamw --tokens 16 --length 16 --parameters 5000 --seconds 0)
    torch_sizes=(--model 0.5B --tokens 16 --length 16 --parameters 50000 --seconds 0 --rounds 1)
    step=(--config "$shapes/tiny.json" --batch 2 --length 16)
    large=("${step[@]}")
    recipe=$seesaw/try.recipe.toml
    sed 's/^eval = .*/&\neval_limit = 1/' "$seesaw/small.recipe.toml" >"$recipe"
fi
torch_step=("${step[@]}" --steps 5 --rounds 1)

# Of the parts behind sm_90a, when they begin.
hopper_kernels=on
part devices 60
if command -v nvidia-smi >devices/nvidia-smi.txt; then
    check driver 20 nvidia-smi -q
else
    skip driver "there is no nvidia-smi"
fi
# What is read of its output is read anew with it.
[ "$(outcome usable)-$(outcome self-tests)" = passed-passed ] || rm -f devices/{engine,usable,self-tests,hopper-off}.*
check engine 40 "$engine" devices --json
usable='"name": *"cuda:0", *"usable": *true'
check usable 5 bash -c '! grep -E "$0" "$1" || exit 0; grep -o "\"cuda:0\".*" "$1"; exit 1' \
    "$usable" devices/engine.out
# A self-test that breaks the GPU leaves an error in the place of its description.
if [ "$(outcome usable)" != passed ]; then
    wanted=$usable check hopper-off 20 env CPIFT_HOPPER=off "$engine" devices --json
fi
check self-tests 5 bash -c 'text=$(grep -o ", compute .*" "$0") || { echo "no GPU was opened"; exit 1; }
    ! grep -o "without .*" <<<"$text"' devices/engine.out
grep -ho '"description": *"[^"]*"' devices/engine.out devices/hopper-off.out 2>/dev/null | sed 's/^"description": */  /'
capability=$(grep -hoE ', compute [0-9]+\.[0-9]+' devices/engine.out devices/hopper-off.out 2>/dev/null | head -1)
capability=${capability#, compute }
if [ -z "$capability" ]; then
    capability=$(timeout -k 2 10 nvidia-smi -i "$gpu" --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
        grep -xE -m1 '[0-9]+\.[0-9]+')
fi
table

part sm_80 150
export CPIFT_HOPPER=off
tests "^ops::.*$filter"
unset CPIFT_HOPPER
table

part sm_90a 75
rm -f sm_90a/{all,capability}.*
case $capability in
9.0) tests "$hopper_tests" ;;
'') fail capability "neither the engine nor nvidia-smi says the GPU's compute capability" ;;
*) skip all "the GPU has compute capability $capability" ;;
esac
if [ "$capability" = 9.0 ] && (
    part=devices
    [ "$(outcome usable)" != passed ] && [ "$(outcome hopper-off)" = passed ]
); then
    hopper_kernels=off
    export CPIFT_HOPPER=off
fi
table
if [ $hopper_kernels = off ]; then
    echo
    echo "From here on with CPIFT_HOPPER=off: the GPU cannot be used with the kernels for 9.0, and can without them."
fi

part sanitizer 60
rm -f sanitizer/all.*
sanitizer=
for place in "$(command -v compute-sanitizer)" /usr/local/cuda*/bin/compute-sanitizer \
    /usr/local/cuda*/compute-sanitizer/compute-sanitizer; do
    [ -n "$sanitizer" ] || [ ! -x "$place" ] || sanitizer=$place
done
if [ -n "$sanitizer" ]; then
    for module in scale rope embedding gated_mlp output_gate rms_norm linear; do
        choose "^ops::$module::(in_f32|in_bf16)::(forward|products)" "list-$module" || continue
        for tool in memcheck racecheck; do
            wanted=$ran check "$tool-$module" 20 "$sanitizer" --tool "$tool" --error-exitcode 1 \
                "$program" --exact "${chosen[@]:0:2}" --test-threads 1
        done
    done
else
    skip all "compute-sanitizer is not installed"
fi
table

part models 45
golden='f32_on_gpus|bf16_on_gpus|ten_adamw_steps_in_bf16'
models="^(model::golden::($golden)|driver::recording::|jobs::gpu::cuda)"
! $try || models='^driver::recording::'
tests "$models"
table

part seesaw 100
# A run whose losses are wrong is made again.
! $again || [ "$(outcome losses)" = passed ] || rm -f seesaw/gpu.outcome
options=(--set model.precision=f32)
! $try || options+=(--set train.batch_size=2 --set train.steps=4 --set probe.steps=2 --set integrate.steps=2)
for device in gpu cpu; do
    $again && [ "$(outcome $device)" = passed ] || rm -rf "seesaw/run-$device"
done
check cpu 100 "$engine" train "$recipe" --device cpu --out seesaw/run-cpu "${options[@]}" &
check gpu 100 "$engine" train "$recipe" --device "$DEVICE" --out seesaw/run-gpu "${options[@]}"
wait
if [ "$(outcome cpu)-$(outcome gpu)" = passed-passed ]; then
    check losses 5 bash -c 'losses "$@"' losses seesaw/run-cpu seesaw/run-gpu
    cat seesaw/losses.out
else
    skip losses "there are no two runs to compare"
fi
table

part kernels 140
for precision in bf16 f32; do
    check "$precision" 60 "$engine" bench kernels --device "$DEVICE" --precision "$precision" "${sizes[@]}" --json
    # What was measured in time is there, too.
    [ ! -s "kernels/$precision.out" ] || tr -d '\n' <"kernels/$precision.out" | tr '{' '\n' | awk '
        function part(pattern, skipped) {
            return match($0, pattern) ? substr($0, RSTART + skipped, RLENGTH - skipped) : ""
        }
        function text(key) { return part("\"" key "\": *\"[^\"]*", length(key) + 4) }
        function value(key) { return part("\"" key "\": *[0-9.eE+-]+", length(key) + 3) }
        function flush() { if (name != "") printf "  %-34s %10.3f %8s %8s\n", name, ms, share, cublas }
        BEGIN { printf "  %-34s %10s %8s %8s\n", "kernel", "ms", "ceiling", "cuBLAS" }
        value("engine_share") != "" { cublas = sprintf("%.0f %%", 100 * value("engine_share")) }
        text("name") != "" { flush(); name = text("name"); ms = value("milliseconds"); cublas = share = "-" }
        value("share") != "" { share = sprintf("%.0f %%", 100 * value("share")) }
        END { flush() }'
done
if python_has torch; then
    check torch 75 python3 "$here/data/compare/gpu.py" --engine "$engine" --json kernels/torch.json \
        --parts linear attention adamw "${torch_sizes[@]}"
    sed -n '/torch ms/,$p' kernels/torch.out
else
    skip torch "python has no torch: $(tail -1 python.txt)"
fi
table

part step 60
check engine 40 "$engine" bench step "${step[@]}" --steps 5 --device "$DEVICE" --json
step_line engine
if python_has 'torch, transformers'; then
    check transformers 60 python3 "$here/data/compare/gpu.py" --engine "$engine" --json step/transformers.json \
        --parts step "${torch_step[@]}"
    sed -n '/torch ms/,$p' step/transformers.out
else
    skip transformers "python has no torch and transformers: $(tail -1 python.txt)"
fi
table

part 7B 90
# Weights alone take a while.
[ "$((part_end - SECONDS))" -ge 45 ] || part_end=$SECONDS
# With two steps to warm up they are 20.
check compact 90 "$engine" bench step "${large[@]}" --steps 18 --memory compact --device "$DEVICE" --json
step_line compact
table

echo
missing=$(grep -LE '^(passed|skipped)' ./*/*.outcome | wc -l)
echo "$((SECONDS - end + seconds)) s; $results/results.json; $missing checks have not passed"
[ "$missing" = 0 ]
