// Runs a fuzz target without libFuzzer: over each file of a corpus, and over damaged copies of it drawn from a seed.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "base/random.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A few bytes changed, a piece cut out or the end missing.
Bytes damaged(Bytes bytes, skippipe::Random& random) {
  if (bytes.empty()) return bytes;
  const auto at = [&] { return static_cast<std::ptrdiff_t>(random.below(bytes.size())); };
  switch (random.below(4)) {
    case 0:
      bytes.resize(static_cast<size_t>(at()));
      break;
    case 1: {
      const auto begin = bytes.begin() + at();
      bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(random.below(static_cast<uint64_t>(bytes.end() - begin))));
      break;
    }
    default:
      for (uint64_t i = random.below(4) + 1; i > 0; --i)
        bytes[static_cast<size_t>(at())] = static_cast<uint8_t>(random.below(256));
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kCopies = 500;
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " CORPUS\n";
    return 2;
  }
  size_t inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    const Bytes bytes = read(entry.path());
    skippipe::Random random(bytes.size());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    for (int i = 0; i < kCopies; ++i) {
      const Bytes copy = damaged(bytes, random);
      LLVMFuzzerTestOneInput(copy.data(), copy.size());
    }
    inputs += kCopies + 1;
  }
  std::cout << inputs << " inputs\n";
  return inputs == 0 ? 1 : 0;
}
