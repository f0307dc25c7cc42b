#include "tools/verbs/model_options.h"

#include <algorithm>
#include <thread>

#include "base/error.h"

namespace skippipe {

std::vector<int> cut_of(const ModelFiles& files, int stages) {
  if (stages > 0) return even_layers_per_stage(files.config(), stages);
  if (files.manifest()) return files.manifest()->layers_per_stage;
  return {static_cast<int>(files.config().layers)};
}

void require_cut(const ModelFiles& files, int stages) {
  if (stages == 0 && !files.manifest())
    throw UsageError("{} is no checkpoint and has no stages to leave out: give --stages", files.folder().string());
}

int threads_or_all(int threads) {
  return threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace skippipe
