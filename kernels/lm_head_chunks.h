// The loop of the LM head, the same on every device: rows in blocks, and for each of them the vocabulary in chunks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/matrix.h"

namespace skippipe {

struct Range {
  int64_t begin, count;
};

// At most so many logits exist at a time.
struct ChunkShape {
  int64_t rows, columns;
};

// body(rows, chunk) for every block of rows, and within it every chunk of the vocabulary.
template <typename Body>
void for_each_chunk(int64_t rows, int64_t vocabulary, const ChunkShape& most, const Body& body) {
  for (int64_t n = 0; n < rows; n += most.rows)
    for (int64_t v = 0; v < vocabulary; v += most.columns)
      body(Range{n, std::min(most.rows, rows - n)}, Range{v, std::min(most.columns, vocabulary - v)});
}

template <typename Void>
BasicMatrix<Void> matrix_rows(const BasicTensor<Void>& x, Range rows) {
  return matrix_rows(x, rows.begin, rows.count);
}

}  // namespace skippipe
