#!/usr/bin/env bash
# Runs the tests on this machine's GPU, then the benches; prints a table and writes results/results.json,
# with everything the programs said beside it.
#
#     ./run.sh [--tests-only] [--try] [RESULTS_FOLDER]
#
# --try does little of everything, on sizes that say nothing: to try this script, not the GPU.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tests_only=false
tests=''
steps=("llama-32m 4 256" "llama-32m 32 256" "llama-134m 2 512" "llama-134m 16 512")
step_options=(--steps 10)
kernel_options=()
compare_options=()
bench_options=(--warm-up-time 1 --measurement-time 2)
while [ $# -gt 0 ]; do
    case $1 in
    --tests-only) tests_only=true ;;
    --try)
        tests='rope'
        steps=("tiny 2 16")
        step_options=(--steps 2)
        kernel_options=(--filter adamw --tokens 16 --length 16 --parameters 5000 --seconds 0)
        compare_options=(--model 0.5B --tokens 16 --length 16 --parameters 50000 --seconds 0 --rounds 1 --steps 1
            --config "$here/data/shapes/tiny.json" --batch 1)
        bench_options=(--list)
        ;;
    *) break ;;
    esac
    shift
done
results=${1:-$here/results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
engine=$here/programs/bin/cpift-engine
export CPIFT_TEST_CUDA=1 CPIFT_TESTS=$here/data/tests SHAPES=$here/data/shapes DEVICE=${DEVICE:-cuda:0}
cd "$results" || exit 1

"$engine" devices | tee devices.txt
# Clocks, power limits, and who else is there.
nvidia-smi -q >nvidia-smi.txt 2>&1 || echo "no nvidia-smi"
devices=$("$engine" devices --json | tr -d '\n')
json="{\"date\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",\"devices\":$devices,\"tests\":["
failed=0
separator=
printf '%-28s %8s %8s %8s\n' test passed failed seconds
# Module by module, so that a crash or a hang costs the others nothing.
for program in "$here"/programs/tests/*; do
    all=$("$program" --list --format terse | sed -n 's/: test$//p')
    modules=$(sed -n 's/^\(.*::\)[^:]*$/\1/p' <<<"$all" |
        sed -E 's/^(([a-z0-9_]+::){1,2}).*/\1/; s/(in_f32|in_bf16)::$//' | sort -u | grep "$tests")
    # A program without modules is run whole.
    [ -n "$modules" ] || grep -q :: <<<"$all" || modules=whole
    for module in $modules; do
        [ "$module" != whole ] || module=
        name=$(basename "$program")${module:+-$(echo "${module%::}" | sed 's/::/-/g')}
        # By their whole names: the name of a module may stand in another's.
        mapfile -t names < <(grep "^$module" <<<"$all")
        start=$SECONDS
        timeout 900 "$program" --exact "${names[@]}" >"test-$name.txt" 2>&1
        status=$?
        passed=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "test-$name.txt" | tail -1)
        broken=$(sed -n 's/^test result: .* \([0-9]*\) failed.*/\1/p' "test-$name.txt" | tail -1)
        printf '%-28s %8s %8s %8s\n' "$name" "${passed:--}" "${broken:-crashed}" "$((SECONDS - start))"
        json+="$separator{\"name\":\"$name\",\"status\":$status,\"passed\":${passed:-0},\"failed\":${broken:-null}}"
        separator=,
        [ "$status" = 0 ] || failed=1
    done
done
json+="],\"steps\":["
kernels=null
comparison=null

if [ "$tests_only" = false ]; then
    separator=
    for shape in "${steps[@]}"; do
        read -r name batch length <<<"$shape"
        step=$("$engine" bench step --config "$SHAPES/$name.json" --batch "$batch" --length "$length" \
            "${step_options[@]}" --device "$DEVICE" --json 2>"step-$name-$batch.txt" | tr -d '\n')
        echo "step $name $batch×$length: ${step:-failed, see step-$name-$batch.txt}"
        json+="$separator{\"shape\":\"$name\",\"batch\":$batch,\"length\":$length,\"result\":${step:-null}}"
        separator=,
    done
    # The table for people, the document for results.json.
    for precision in f32 bf16; do
        timeout 900 "$engine" bench kernels --device "$DEVICE" --precision "$precision" \
            ${kernel_options[@]+"${kernel_options[@]}"} --json >"kernels-$precision.json" 2>"kernels-$precision.txt" || echo "kernels in $precision: see kernels-$precision.txt"
    done
    [ ! -s kernels-f32.json ] || [ ! -s kernels-bf16.json ] || kernels="[$(cat kernels-f32.json),$(cat kernels-bf16.json)]"
    # Beside PyTorch, where it is installed.
    if python3 -c 'import torch, transformers' 2>compare.txt; then
        timeout 1800 python3 "$here/data/compare/gpu.py" --engine "$engine" --json compare.json \
            ${compare_options[@]+"${compare_options[@]}"} 2>&1 | tee compare.txt
        [ ! -s compare.json ] || comparison=$(cat compare.json)
    else
        echo "no comparison with PyTorch: $(tail -1 compare.txt)"
    fi
    for program in "$here"/programs/benches/*; do
        name=$(basename "$program")
        timeout 600 "$program" --bench "${bench_options[@]}" >"bench-$name.txt" 2>&1
        grep -E "^[a-z].*(time:|thrpt:)|^ +(time|thrpt):" "bench-$name.txt"
    done
fi
json+="],\"kernels\":$kernels,\"comparison\":$comparison}"
echo "$json" >results.json
exit $failed
