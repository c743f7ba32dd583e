#!/bin/sh
# What lorad does on a CUDA card (bench/cuda.py), also on a machine that has torch and nothing else, and no network.
#
#   bench/cuda.sh [OPTIONS]        where lorad is installed: runs bench/cuda.py with them
#   bench/cuda.sh pack             on any machine with pip: puts what a bare one needs into .dev/site.tar.gz (Linux x86-64, Python 3.12)
#   bench/cuda.sh bare [OPTIONS]   on the bare machine, in the same folder: unpacks that and runs bench/cuda.py from it
#
# torch comes with the bare machine. bitsandbytes travels with its library for CUDA 13 alone: set CUDA=124, say, for another.
set -eu
cd "$(dirname "$0")/.."
CUDA="${CUDA:-130}"
# what is imported from torch on: no server is started there, but modules import it; cuda.py does without gguf, h11 and llguidance
WHEELS="accelerate annotated-types anyio apscheduler beautifulsoup4 bitsandbytes fastapi httpcore2 httpx2
huggingface_hub markdownify opentelemetry-api peft psutil pydantic pydantic_core PyYAML regex rich safetensors soupsieve
starlette structlog tokenizers transformers truststore typer typing-inspection tzlocal uvicorn watchdog"

case "${1:-}" in
pack)
    wheels=.dev/wheels
    rm -rf "$wheels" .dev/site
    mkdir -p "$wheels" .dev/site
    for name in $WHEELS; do
        # --no-deps does without constraints that name other packages; a package that is not pinned comes as it is
        pinned=$(grep -i "^$(echo "$name" | sed 's/_/[-_]/g')==" constraints.txt | head -1 || true)
        python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux2014_x86_64 --platform any -d "$wheels" "${pinned:-$name}"
    done
    for wheel in "$wheels"/*.whl; do
        python3 -m zipfile -e "$wheel" .dev/site
    done
    find .dev/site -name 'libbitsandbytes_*.so' ! -name "libbitsandbytes_cuda$CUDA.so" -delete
    find .dev/site -name tests -type d -prune -exec rm -r {} +
    tar -C .dev -czf .dev/site.tar.gz site
    rm -r .dev/site "$wheels"
    ls -l .dev
    ;;
bare)
    shift
    site=$(mktemp -d)
    tar -C "$site" -xzf .dev/site.tar.gz
    PYTHONPATH="$PWD/src:$site/site" exec python3 bench/cuda.py "$@"
    ;;
*)
    if [ -x .venv/bin/python ]; then exec .venv/bin/python bench/cuda.py "$@"; fi
    exec python3 bench/cuda.py "$@"
    ;;
esac
