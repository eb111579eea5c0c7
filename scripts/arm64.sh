#!/usr/bin/env bash
# The tests of the search on an emulated ARM processor, whose vectors are NEON's. Of no use for times.
#
#     apt-get install qemu-user-static        # Debian 12
#     scripts/arm64.sh [arguments of pytest]
#
# Python comes from Debian's packages for arm64 and the rest as wheels, unpacked into .cache/arm64:
# nothing is installed. Left out are jax, which these tests do not need, and tests that start another
# process, ask the system what lies in memory, or need scikit-learn. A first run compiles the kernels: ten
# minutes in all.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD/.cache/arm64

if [[ ! -d $here/site ]]; then
    rm -rf "$here"
    mkdir -p "$here"/{apt/lists/partial,apt/cache/archives/partial,debs}
    # Lists of packages of our own: the system is not told of another architecture.
    own=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State::lists=$here/apt/lists"
         -o "Dir::Cache=$here/apt/cache" -o Dir::State::status=/dev/null)
    apt-get "${own[@]}" update
    (cd "$here/debs" && apt-get "${own[@]}" download libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 \
        libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libpython3.11-minimal libpython3.11-stdlib \
        python3.11-minimal)
    for file in "$here"/debs/*.deb; do dpkg -x "$file" "$here/root"; done
    python3 -m pip download --only-binary=:all: --python-version 311 --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 -d "$here/wheels" numpy numba hypothesis pytest
    mkdir "$here/unpacked"
    for file in "$here"/wheels/*.whl; do python3 -m zipfile -e "$file" "$here/unpacked"; done
    # What tests/conftest.py gives, without jax, and fewer examples.
    cat > "$here/unpacked/without_jax.py" <<'PLUGIN'
import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "emulated", deadline=None, max_examples=8, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("emulated")


@pytest.fixture
def rng():
    return np.random.default_rng(2016)
PLUGIN
    mv "$here/unpacked" "$here/site"
fi

printf '[pytest]\n' > "$here/pytest.ini"
export PYTHONPATH=$here/site:$PWD:$PWD/tests PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR=$here/numba
[[ $# -gt 0 ]] || set -- tests/test_{vectors,hamming_kernels,codes,packing,scan,buckets,cells,index}.py \
    tests/test_{dealing,filters,index_items,ranking,rerank,storage}.py
exec qemu-aarch64-static -cpu neoverse-n1 -L "$here/root" "$here/root/usr/bin/python3.11" -m pytest \
    -q --noconftest -p no:cacheprovider -p without_jax -c "$here/pytest.ini" --rootdir="$PWD" \
    -k "not elsewhere and not forked and not plain_python and not on_other_machines and not scikit \
        and not come_into_memory" "$@"
