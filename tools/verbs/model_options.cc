#include "tools/verbs/model_options.h"

#include <algorithm>
#include <thread>

#include "base/error.h"

namespace skippipe {

std::vector<int> cut_of(const ModelFiles& files, int stages) {
  if (stages > 0) return even_layers_per_stage(files.config(), stages);
  if (files.manifest()) return files.manifest()->layers_per_stage;
  throw UsageError("the model is no checkpoint with stages: give --stages");
}

int threads_or_all(int threads) {
  return threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace skippipe
