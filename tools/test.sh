#!/usr/bin/env bash
# Installs what is missing, builds, and runs all the tests. SKIPPIPE_PRESET chooses the CMake preset (default: release).
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh
preset=${SKIPPIPE_PRESET:-release}
cmake --preset "$preset" -DSKIPPIPE_TESTS=ON >/dev/null
cmake --build --preset "$preset"
ctest --preset "$preset" -j "$(nproc)"
