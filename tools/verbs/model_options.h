// What the verbs that use a model have in common.
#pragma once

#include <vector>

#include "engine/checkpoint/model_files.h"

namespace skippipe {

// How the model is cut: into so many even stages, or with 0 as its run did. Throws UsageError if no run did.
std::vector<int> cut_of(const ModelFiles& files, int stages);

// 0 stands for one per core.
int threads_or_all(int threads);

}  // namespace skippipe
