#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "engine/files/token_shards.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    const TokenShard shard(input.path());
    const TokenShardInfo& info = shard.info();
    if (info.tokens > size || info.documents > size) std::abort();
    for (uint64_t document = 0; document < info.documents; ++document) {
      if (shard.document_begin(document) >= info.tokens) std::abort();
    }
    std::vector<int32_t> tokens(info.tokens);
    shard.read(0, tokens);
    for (const int32_t token : tokens)
      if (token < 0 || static_cast<uint32_t>(token) >= info.vocabulary) std::abort();
  } catch (const FileError&) {
  }
  return 0;
}
