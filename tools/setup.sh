#!/usr/bin/env bash
# Installs the Debian packages that skippipe needs to build, test and run the demo.
# Quick when nothing is missing; says what it will install before it does.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git   # build
  libucx-dev                                    # transport
  libdnnl-dev ocl-icd-opencl-dev opencl-c-headers  # CPU matrix products; its CMake package asks for OpenCL
  libsentencepiece-dev                          # tokenizer
  nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libspdlog-dev libfmt-dev libxxhash-dev
  libgtest-dev libgmock-dev libbenchmark-dev    # tests and benchmarks
  libboost-context-dev                          # tests that execute CUDA kernels on the CPU
  bible-kjv jq                                  # the demo: its text, its table
)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: these packages are missing, and there is neither root nor sudo to install them: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; echo "setup: '$*' failed" >&2; exit 1; }; }
run apt-get update
run apt-get install -y --no-install-recommends "${missing[@]}"
