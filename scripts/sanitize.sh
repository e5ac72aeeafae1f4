#!/usr/bin/env bash
# Builds the native code with AddressSanitizer and UndefinedBehaviorSanitizer and runs its tests under them, then, where
# clang is installed, fuzzes the kernels for FUZZ_SECONDS (default 60).
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
site=build/sanitize/site
packages=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

$python -m pip install --quiet --upgrade --no-deps --target $site \
    -Ccmake.define.BYTELOOM_SANITIZE=ON -Cbuild-dir=build/sanitize/cmake .
# -S: without the .pth files of the environment, which would put the editable install first.
LD_PRELOAD="$(${CXX:-g++} -print-file-name=libasan.so) $(${CXX:-g++} -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$site:$packages:." \
    $python -S -m pytest -q -p no:cacheprovider -p no:xdist tests/tokenize/test_bpe.py tests/tokenize/test_inference.py \
    tests/tokenize/test_subword.py tests/tokenize/test_subword_tokenizer.py tests/tokenize/test_byte_model.py \
    tests/generate/test_suffix_tree.py tests/generate/test_ngram.py tests/compress/cache/test_merging.py \
    tests/tasks/test_identify_network.py tests/tokenize/test_words.py

if command -v clang++ >/dev/null; then
    for target in bpe segment lattice coding suffix ngram merge identify words; do
        clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Inative -pthread \
            native/fuzz/${target}_fuzz.cpp -o build/sanitize/${target}_fuzz
        mkdir -p build/sanitize/corpus/$target
        build/sanitize/${target}_fuzz -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -print_final_stats=1 \
            -artifact_prefix=build/sanitize/ build/sanitize/corpus/$target
    done
else
    echo "clang++ is not installed: the fuzz target was not run"
fi
