// What the verbs that use a model have in common.
#pragma once

#include <vector>

#include "engine/checkpoint/model_files.h"

namespace skippipe {

// How the model is cut: into so many even stages, or with 0 as its run did; one of no run is in one piece.
std::vector<int> cut_of(const ModelFiles& files, int stages);
// For those who want to leave stages out. Throws UsageError if cut_of has the model in one piece for want of an answer.
void require_cut(const ModelFiles& files, int stages);

// 0 stands for one per core.
int threads_or_all(int threads);

}  // namespace skippipe
